//! The tunnel: a plain port or socket of this machine whose connections are carried to the proxy over TLS.
//! Each gets a TLS connection of its own; the route's certificate is renewed before it ends.

mod gate;
mod greeting;
mod way;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use secrecy::{ExposeSecret as _, SecretString};
use serde_json::json;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, UnixListener};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;

use crate::args::RouteArgs;
use crate::context::Context;
use crate::failure::Failure;
use crate::output::{Format, say};
use crate::tunnel::gate::{Gate, Verdict};
use crate::tunnel::greeting::Heard;
use crate::tunnel::way::Way;

/// Most connections at once.
const MAX_CONNECTIONS: usize = 1_024;
/// Bytes that are held for each direction of a connection.
const BUFFER: usize = 32 * 1024;
/// How long the proxy may take to answer first: it signs in to the cache meanwhile.
const ANSWER: Duration = Duration::from_secs(30);
/// How long a client may take to give the password.
const PATIENCE: Duration = Duration::from_secs(10);

/// Where the tunnel listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Door {
    /// A port on 127.0.0.1; 0 takes a free one.
    Port(u16),
    /// A Unix socket, for this user alone.
    Socket(PathBuf),
}

enum Listener {
    Port(TcpListener),
    Socket(UnixListener, PathBuf),
}

trait Plain: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Plain for T {}

/// Opens the tunnel, says so in one line, and carries connections until a signal comes.
pub(crate) async fn run(
    context: &Context,
    args: &RouteArgs,
    door: Door,
    guarded: bool,
) -> Result<(), Failure> {
    let way = Arc::new(Way::open(context.clone(), &args.name, args.db_user.as_deref()).await?);
    let password = if guarded { Some(Arc::new(made_up_password()?)) } else { None };
    let mut interrupted = listen_for(SignalKind::interrupt())?;
    let mut terminated = listen_for(SignalKind::terminate())?;
    let listener = Listener::bind(&door).await?;
    let greeting: Option<Arc<[u8]>> = listener.port().map(|port| greeting::request("127.0.0.1", port).into());
    announce(context, &way, &listener, password.as_deref())?;
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            _ = interrupted.recv() => break,
            _ = terminated.recv() => break,
            Some(_) = connections.join_next() => {}
            accepted = listener.accept(), if connections.len() < MAX_CONNECTIONS => match accepted {
                Ok(client) => {
                    let (way, password, greeting) = (Arc::clone(&way), password.clone(), greeting.clone());
                    connections.spawn(async move {
                        carry(client, &way, password.as_deref(), greeting.as_deref()).await;
                    });
                }
                // Out of file descriptors, most likely: it passes when connections end.
                Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            },
        }
    }
    listener.close();
    say("Tunnel closed.");
    Ok(())
}

impl Listener {
    async fn bind(door: &Door) -> Result<Self, Failure> {
        match door {
            Door::Port(port) => {
                let bound = TcpListener::bind(("127.0.0.1", *port)).await;
                bound.map(Self::Port).map_err(|error| {
                    Failure::failed(format!("port {port} of 127.0.0.1 cannot be opened"))
                        .why(error.to_string())
                        .next("another --port, or none for a free one")
                })
            }
            Door::Socket(path) => bind_socket(path),
        }
    }

    async fn accept(&self) -> std::io::Result<Box<dyn Plain>> {
        match self {
            Self::Port(listener) => {
                let (client, _) = listener.accept().await?;
                client.set_nodelay(true)?;
                Ok(Box::new(client))
            }
            Self::Socket(listener, _) => Ok(Box::new(listener.accept().await?.0)),
        }
    }

    /// The port, where it is one.
    fn port(&self) -> Option<u16> {
        match self {
            Self::Port(listener) => listener.local_addr().ok().map(|address| address.port()),
            Self::Socket(..) => None,
        }
    }

    fn close(self) {
        if let Self::Socket(_, path) = self {
            let _ = std::fs::remove_file(path);
        }
    }
}

fn bind_socket(path: &Path) -> Result<Listener, Failure> {
    use std::os::unix::fs::{DirBuilderExt as _, FileTypeExt as _, PermissionsExt as _};
    let refused =
        |why: String| Failure::failed(format!("socket {} cannot be opened", path.display())).why(why);
    // One that nobody listens on is left over from a tunnel that was killed. A plain file refuses a
    // connection too, and is not ours to remove.
    let is_socket = std::fs::symlink_metadata(path).is_ok_and(|facts| facts.file_type().is_socket());
    if is_socket
        && std::os::unix::net::UnixStream::connect(path)
            .is_err_and(|e| e.kind() == std::io::ErrorKind::ConnectionRefused)
    {
        let _ = std::fs::remove_file(path);
    }
    // A socket is as open as the umask says from the moment it is bound: so it is bound in a folder of our
    // own, closed, and only then linked to its place, where nothing may be yet.
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let draft = parent.join(format!(".ks-{}", &uuid::Uuid::new_v4().simple().to_string()[..12]));
    let bound = std::fs::DirBuilder::new().mode(0o700).create(&draft).and_then(|()| {
        let inner = draft.join("s");
        let listener = UnixListener::bind(&inner)?;
        std::fs::set_permissions(&inner, std::fs::Permissions::from_mode(0o600))?;
        std::fs::hard_link(&inner, path)?;
        Ok(listener)
    });
    let _ = std::fs::remove_dir_all(&draft);
    bound
        .map(|listener| Listener::Socket(listener, path.to_owned()))
        .map_err(|error| refused(error.to_string()))
}

fn announce(
    context: &Context,
    way: &Way,
    listener: &Listener,
    password: Option<&SecretString>,
) -> Result<(), Failure> {
    let (database, db_user) = way.names();
    let password = password.map(|password| password.expose_secret());
    let mut value = json!({ "database": database, "db_user": db_user });
    let place = match listener {
        Listener::Port(listener) => {
            let port = listener.local_addr().map(|address| address.port());
            let port = port.map_err(|error| Failure::failed("the port is unknown").why(error.to_string()))?;
            value["host"] = json!("127.0.0.1");
            value["port"] = json!(port);
            format!("127.0.0.1:{port}")
        }
        Listener::Socket(_, path) => {
            value["unix"] = json!(path);
            path.display().to_string()
        }
    };
    if let Some(password) = password {
        value["password"] = json!(password);
    }
    match context.output.format {
        // One line in every form, so that a script can wait for it.
        Format::Json => context.output.write(format!("{value}\n"))?,
        Format::Yaml => context.output.emit(&value, String::new)?,
        Format::Text => {
            let guard =
                password.map_or_else(|| "no password".to_owned(), |password| format!("password: {password}"));
            context.output.write(format!("{place} -> {database} ({db_user})  {guard}\n"))?;
        }
    }
    if password.is_some() {
        say("The password is for this tunnel only. Ctrl-C closes it.");
    } else {
        say("Everybody on this machine can use it. Ctrl-C closes it.");
    }
    Ok(())
}

/// Carries one connection to its end. What goes wrong before the way is open is said to the client.
async fn carry(
    mut client: Box<dyn Plain>,
    way: &Way,
    password: Option<&SecretString>,
    greeting: Option<&[u8]>,
) {
    let gate = Gate::new(password.map(|password| password.expose_secret()));
    let Some((reply, forward)) = admit(&mut client, gate).await else { return };
    let mut proxy = match way.dial().await {
        Ok(proxy) => proxy,
        Err(failure) => {
            let mut text = Vec::new();
            let why = if failure.why.is_empty() { String::new() } else { format!(": {}", failure.why) };
            keystile_resp::encode::error(&mut text, "ERR", &format!("keystile: {}{why}", failure.message));
            let _ = client.write_all(&text).await;
            let _ = client.shutdown().await;
            return;
        }
    };
    let first = [greeting.unwrap_or_default(), &forward].concat();
    if client.write_all(&reply).await.is_err() || proxy.write_all(&first).await.is_err() {
        return;
    }
    if greeting.is_some()
        && (proxy.flush().await.is_err() || swallow(&mut proxy, &mut client).await.is_none())
    {
        let _ = client.shutdown().await;
        return;
    }
    // Either side may go away at any time: that is how connections end.
    let _ = proxy.flush().await;
    let _ = tokio::io::copy_bidirectional_with_sizes(&mut client, &mut proxy, BUFFER, BUFFER).await;
}

/// Takes the proxy's answer to the greeting away; what follows it goes to the client. `None`: the connection
/// is at its end, and the client has the words why.
async fn swallow(proxy: &mut (impl AsyncRead + Unpin), client: &mut Box<dyn Plain>) -> Option<()> {
    let deadline = tokio::time::Instant::now() + ANSWER;
    let (mut heard, mut buffer) = (Vec::new(), vec![0; 4 * 1024]);
    loop {
        let read = tokio::time::timeout_at(deadline, proxy.read(&mut buffer)).await;
        match read {
            Ok(Ok(count)) if count > 0 => heard.extend_from_slice(buffer.get(..count)?),
            _ => {
                let _ = client.write_all(&heard).await;
                return None;
            }
        }
        match greeting::read(&heard) {
            Heard::More => {}
            Heard::Answered(rest) => return client.write_all(rest).await.ok(),
            Heard::Refused => {
                client.write_all(&heard).await.ok()?;
                // The rest of the words; the proxy closes behind them.
                let _ = tokio::time::timeout_at(deadline, tokio::io::copy(proxy, client)).await;
                return None;
            }
        }
    }
}

/// What the gate lets through, if it does.
async fn admit(client: &mut Box<dyn Plain>, mut gate: Gate) -> Option<(Vec<u8>, Vec<u8>)> {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    let mut buffer = vec![0; 4 * 1024];
    loop {
        let read = tokio::time::timeout_at(deadline, client.read(&mut buffer)).await;
        let bytes = match read {
            Ok(Ok(count)) if count > 0 => buffer.get(..count)?,
            _ => return None,
        };
        match gate.take(bytes) {
            Verdict::Wait { reply } => client.write_all(&reply).await.ok()?,
            Verdict::Open { reply, forward } => return Some((reply, forward)),
            Verdict::Close { reply } => {
                let _ = client.write_all(&reply).await;
                let _ = client.shutdown().await;
                return None;
            }
        }
    }
}

/// 32 characters of 6 bits each.
fn made_up_password() -> Result<SecretString, Failure> {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut bytes = [0; 32];
    rustls::crypto::aws_lc_rs::default_provider()
        .secure_random
        .fill(&mut bytes)
        .map_err(|_| Failure::failed("this machine gives no random numbers"))?;
    let text: String = bytes.iter().map(|byte| char::from(LETTERS[usize::from(byte % 64)])).collect();
    Ok(SecretString::from(text))
}

fn listen_for(kind: SignalKind) -> Result<tokio::signal::unix::Signal, Failure> {
    signal(kind).map_err(|error| Failure::failed("signals cannot be heard").why(error.to_string()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[tokio::test]
    async fn a_socket_is_for_its_owner_and_takes_nobody_s_place() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tunnel.sock");
        let Ok(Listener::Socket(first, _)) = bind_socket(&path) else { panic!("no socket") };
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left beside it");
        // It is in use, so another tunnel is refused; once it is abandoned its place is taken.
        let (client, accepted) = tokio::join!(tokio::net::UnixStream::connect(&path), first.accept());
        assert!(client.is_ok() && accepted.is_ok());
        assert!(bind_socket(&path).is_err());
        drop(first);
        assert!(bind_socket(&path).is_ok());
        let file = folder.path().join("file");
        std::fs::write(&file, "mine").unwrap();
        assert!(bind_socket(&file).is_err());
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "mine");
    }
}
