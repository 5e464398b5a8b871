//! Where clients come in: the sockets, the places that there are, and who is turned away.

use std::net::{SocketAddr, TcpListener as StdListener};
use std::sync::Arc;
use std::time::Duration;

use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use crate::app::Shared;
use crate::clock::unix_ms;
use crate::config::Config;
use crate::connection;
use crate::throttle::Throttle;
use crate::upstream;

/// Connections over the limit that are told so at a time; those beyond are closed without a word.
const MOST_TURNED_AWAY: usize = 64;
/// The pause after a failed accept: the process may be out of files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Connections that may wait to be accepted, for each socket; the kernel may allow less.
const BACKLOG: i32 = 4_096;

/// So many sockets at one address; the kernel spreads new connections over them.
///
/// # Errors
/// Of the operating system, such as an address in use.
pub fn listeners(address: SocketAddr, count: usize) -> std::io::Result<Vec<StdListener>> {
    let first = listener(address)?;
    // Port 0 means any free one, but the same for all.
    let address = first.local_addr()?;
    let others = (1..count).map(|_| listener(address));
    std::iter::once(Ok(first)).chain(others).collect()
}

fn listener(address: SocketAddr) -> std::io::Result<StdListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // A restart must not wait for connections of the process before.
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.set_nonblocking(true)?;
    upstream::tune(&SockRef::from(&socket));
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// How many connections there may be, over all workers.
#[derive(Debug, Clone)]
pub struct Places {
    connections: Arc<Semaphore>,
    farewells: Arc<Semaphore>,
    failed: Arc<Throttle>,
}

impl Places {
    /// As many as the settings say.
    #[must_use]
    pub fn new(config: &Config) -> Self {
        Self {
            connections: Arc::new(Semaphore::new(config.max_connections)),
            farewells: Arc::new(Semaphore::new(MOST_TURNED_AWAY)),
            failed: Arc::new(Throttle::new(30)),
        }
    }
}

/// Accepts connections for ever, each a task of this runtime.
pub async fn accept_all(shared: &Arc<Shared>, places: &Places, listener: &TcpListener) {
    loop {
        let (tcp, remote) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                if let Some(times) = places.failed.tell(unix_ms(shared.clock.now())) {
                    tracing::error!(
                        %error,
                        times,
                        open = shared.metrics.connections_open.value(),
                        "cannot accept connections: if it is 'too many open files', raise the task's nofile \
                         limit or lower KEYSTILE_MAX_CONNECTIONS"
                    );
                }
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        shared.metrics.connections.add(1);
        let Ok(place) = Arc::clone(&places.connections).try_acquire_owned() else {
            if let Ok(place) = Arc::clone(&places.farewells).try_acquire_owned() {
                let shared = Arc::clone(shared);
                tokio::spawn(async move {
                    let _place = place;
                    connection::turn_away(&shared, tcp, remote).await;
                });
            } else {
                connection::note_limit(shared, "proxy", "");
            }
            continue;
        };
        let shared = Arc::clone(shared);
        tokio::spawn(async move {
            let _place = place;
            shared.metrics.connections_open.add(1);
            let metrics = Arc::clone(&shared.metrics);
            connection::serve(shared, tcp, remote).await;
            metrics.connections_open.add(-1);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_sockets_share_one_address() {
        let listeners = listeners("127.0.0.1:0".parse().unwrap(), 3).unwrap();
        let addresses: Vec<_> = listeners.iter().map(|listener| listener.local_addr().unwrap()).collect();
        assert_eq!(addresses.len(), 3);
        assert!(addresses.iter().all(|address| *address == addresses[0] && address.port() != 0));
    }

    #[test]
    fn what_is_accepted_is_tuned() {
        let listener = listener("127.0.0.1:0".parse().unwrap()).unwrap();
        let _client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        listener.set_nonblocking(false).unwrap();
        let (accepted, _) = listener.accept().unwrap();
        let socket = SockRef::from(&accepted);
        assert!(socket.tcp_nodelay().unwrap() && socket.keepalive().unwrap());
        let other = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let _client = std::net::TcpStream::connect(other.local_addr().unwrap()).unwrap();
        assert!(!SockRef::from(&other.accept().unwrap().0).keepalive().unwrap());
    }
}
