//! A real Valkey with TLS.

use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::{PATIENCE, TOKEN};

pub struct Valkey {
    child: Child,
    pub port: u16,
}

impl Drop for Valkey {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Valkey {
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

/// The server that `KEYSTILE_TEST_SERVER` names; else the built Valkey, or what the machine has, with the folder of its
/// libraries.
pub fn valkey_server() -> Command {
    if let Some(other) = std::env::var_os("KEYSTILE_TEST_SERVER") {
        return Command::new(other);
    }
    let built = packages().join("bin/valkey-server");
    let mut command = Command::new(if built.exists() { built } else { PathBuf::from("valkey-server") });
    let libraries = packages().join("lib").join(format!("{}-linux-gnu", std::env::consts::ARCH));
    command.env("LD_LIBRARY_PATH", libraries);
    command
}

/// What the servers are: of the fixture, or what `KEYSTILE_TEST_SERVER` says of itself.
pub fn engine_version() -> String {
    if std::env::var_os("KEYSTILE_TEST_SERVER").is_none() {
        return "8.0".to_owned();
    }
    let told = valkey_server().arg("--version").output().unwrap().stdout;
    let told = String::from_utf8(told).unwrap();
    told.split(' ').find_map(|word| word.strip_prefix("v=")).unwrap().to_owned()
}

/// The first number of that.
pub fn engine_major() -> u32 {
    engine_version().split('.').next().and_then(|major| major.parse().ok()).unwrap()
}

fn packages() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../target/local/pkgs/usr")
}

/// A port that no server and no outgoing connection takes.
pub fn free_port() -> u16 {
    keystile_free_ports::take().unwrap()
}

/// Waits until a server listens at a port. A server that ended says why with its last words.
pub fn wait_for_server(child: &mut Child, port: u16, log: &Path) {
    let start = Instant::now();
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        let ended = child.try_wait().unwrap();
        if ended.is_some() || start.elapsed() > PATIENCE {
            let log = std::fs::read_to_string(log).unwrap_or_default();
            panic!("no server listens at {port} (its end: {ended:?}):\n{log}");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The users of the fixture.
pub fn acl_lines() -> String {
    let connection = "-@all +@read +@connection +@transaction +@pubsub +acl|whoami +cluster|slots";
    format!(
        "user default off\nuser iam-ro on >{TOKEN} ~* &* {connection}\n\
         user iam-rw on >{TOKEN} ~* &* {connection} +@write +@scripting -@dangerous\n\
         user iam-min on >{TOKEN} ~* -@all +@read\n\
         user iam-admin on >{TOKEN} ~* &* +@all\nuser own on >their-own ~* &* +@all\n"
    )
}

/// Starts a Valkey with TLS and the users of the fixture; its certificate is its own CA.
pub fn start_valkey(dir: &Path) -> Valkey {
    start_valkey_with(dir, &acl_lines())
}

/// Starts a Valkey with TLS and these lines of configuration; `cache.crt` in the folder is its CA,
/// made unless it is there.
pub fn start_valkey_with(dir: &Path, lines: &str) -> Valkey {
    if !dir.join("cache.crt").exists() {
        let own = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        std::fs::write(dir.join("cache.crt"), own.cert.pem()).unwrap();
        std::fs::write(dir.join("cache.key"), own.signing_key.serialize_pem()).unwrap();
    }
    let port = free_port();
    let config = format!(
        "port 0\ntls-port {port}\nbind 127.0.0.1 ::1\ntls-cert-file {0}/cache.crt\ntls-key-file {0}/cache.key\n\
         tls-ca-cert-file {0}/cache.crt\ntls-auth-clients no\nsave \"\"\ndir {0}\nlogfile {0}/log\n{lines}",
        dir.display()
    );
    std::fs::write(dir.join("valkey.conf"), config).unwrap();
    let mut child = valkey_server()
        .arg(dir.join("valkey.conf"))
        .stdout(Stdio::null())
        .spawn()
        .unwrap_or_else(|error| panic!("valkey-server: {error}; run `make up` once: it fetches Valkey"));
    wait_for_server(&mut child, port, &dir.join("log"));
    Valkey { child, port }
}
