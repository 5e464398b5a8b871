//! The generator and the relay with a server that answers as it is told: what is right passes through the
//! relay, and one wrong byte, an error, a lost connection or a missing certificate ends the generator.
#![allow(clippy::unwrap_used, clippy::panic, reason = "what the ground lacks ends the test")]

use std::io::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::time::Duration;

use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

/// Ends a program that the test started, however the test ends.
struct Program(Child);

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn bench() -> Command {
    Command::new(env!("CARGO_BIN_EXE_keystile-bench"))
}

fn certificates() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    assert!(bench().arg("certificates").arg(folder.path()).status().unwrap().success());
    folder
}

/// A server that answers each read with the same bytes, or hangs up.
async fn server(folder: &Path, answer: Option<&'static [u8]>) -> SocketAddr {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let chain = vec![CertificateDer::from_pem_file(folder.join("server.pem")).unwrap()];
    let key = PrivateKeyDer::from_pem_file(folder.join("server.key")).unwrap();
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let mut client = acceptor.accept(client).await.unwrap();
                let mut asked = [0; 4096];
                while client.read(&mut asked).await.unwrap_or(0) > 0 {
                    let Some(answer) = answer else { return };
                    client.write_all(answer).await.unwrap();
                }
            });
        }
    });
    address
}

async fn relay(folder: &Path, server: SocketAddr) -> (Program, SocketAddr) {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let child = bench()
        .args(["relay", "--listen", &free.to_string(), "--server", &format!("localhost:{}", server.port())])
        .args(["--cert".as_ref(), folder.join("server.pem").as_os_str()])
        .args(["--key".as_ref(), folder.join("server.key").as_os_str()])
        .args(["--client-ca".as_ref(), folder.join("ca.pem").as_os_str()])
        .args(["--server-ca".as_ref(), folder.join("ca.pem").as_os_str()])
        .spawn()
        .unwrap();
    let program = Program(child);
    for _ in 0..500 {
        if TcpStream::connect(free).await.is_ok() {
            return (program, free);
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("the relay does not listen");
}

/// Sets up a few connections; both steps are said beforehand.
async fn load(folder: &Path, address: SocketAddr, with_certificate: bool) -> Output {
    let mut command = bench();
    command.args(["load", "--addr", &address.to_string(), "--server-name", "localhost"]);
    command.args(["--limit-seconds", "20", "--ca"]).arg(folder.join("ca.pem"));
    if with_certificate {
        command.arg("--cert").arg(folder.join("client.pem")).arg("--key").arg(folder.join("client.key"));
    }
    command.args(["setup", "--connections", "4", "--concurrency", "2"]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let run = move || {
        let mut child = command.spawn().unwrap();
        // A generator that has failed already no longer reads.
        let _ = child.stdin.take().unwrap().write_all(b"\n\n");
        child.wait_with_output().unwrap()
    };
    tokio::task::spawn_blocking(run).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn right_answers_pass_through_the_relay() {
    let made = certificates();
    let folder = made.path();
    let server = server(folder, Some(b"+PONG\r\n")).await;
    let (_program, relay) = relay(folder, server).await;
    let done = load(folder, relay, true).await;
    let said = String::from_utf8(done.stdout).unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    assert!(said.starts_with("ready\ndone\n{") && said.contains("\"connections\":4"), "{said}");

    let refused = load(folder, relay, false).await;
    assert!(!refused.status.success(), "the relay let a client without a certificate in");
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_is_wrong_ends_the_generator() {
    let made = certificates();
    let folder = made.path();
    for (answer, words) in [
        (Some(b"+PONK\r\n".as_slice()), "a wrong byte in the replies: K"),
        (Some(b"-NOPERM no\r\n"), "an error in the replies: -NOPERM no"),
        (Some(b"+PONG\r\n+PONG\r\n"), "7 bytes nobody asked for"),
        (None, "close"),
    ] {
        let server = server(folder, answer).await;
        let done = load(folder, server, false).await;
        let said = String::from_utf8(done.stderr).unwrap();
        assert!(!done.status.success() && said.contains(words), "{answer:?}: {said}");
    }
}
