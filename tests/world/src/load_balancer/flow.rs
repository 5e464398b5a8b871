//! One connection through the load balancer: bytes both ways, until an end, an error, or silence.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::time::Instant;

use super::{Settings, reset};

const BUFFER: usize = 64 * 1024;
const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";

/// Carries one connection to its end.
pub(super) async fn carry(
    mut client: TcpStream,
    from: SocketAddr,
    mut target: TcpStream,
    settings: &Settings,
) -> io::Result<()> {
    client.set_nodelay(true)?;
    target.set_nodelay(true)?;
    if settings.proxy_protocol {
        target.write_all(&proxy_header(from, client.local_addr()?)).await?;
    }
    let activity = Activity::start();
    let forgotten = {
        let (client_read, client_write) = client.split();
        let (target_read, target_write) = target.split();
        tokio::select! {
            done = async {
                tokio::try_join!(
                    pump(client_read, target_write, &activity),
                    pump(target_read, client_write, &activity),
                )
            } => { done?; false }
            () = activity.silent_for(settings.idle_s) => true,
        }
    };
    if forgotten {
        tokio::join!(refuse_the_next_byte(client), refuse_the_next_byte(target));
    }
    Ok(())
}

async fn pump(mut from: ReadHalf<'_>, mut to: WriteHalf<'_>, activity: &Activity) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER];
    loop {
        let read = from.read(&mut buffer).await?;
        if read == 0 {
            return to.shutdown().await;
        }
        activity.note();
        to.write_all(&buffer[..read]).await?;
    }
}

/// A flow that was forgotten: nobody is told, and whoever sends is answered with a reset.
async fn refuse_the_next_byte(mut stream: TcpStream) {
    let mut byte = [0];
    let _ = stream.read(&mut byte).await;
    reset(&stream);
}

/// When the last byte passed, in milliseconds since the start.
struct Activity {
    start: Instant,
    last: AtomicU64,
}

impl Activity {
    fn start() -> Self {
        Self { start: Instant::now(), last: AtomicU64::new(0) }
    }

    fn note(&self) {
        let passed = u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last.store(passed, Ordering::Relaxed);
    }

    /// Returns once nothing has passed for so many seconds; never without a limit.
    async fn silent_for(&self, seconds: Option<f64>) {
        let Some(limit) = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()) else {
            return std::future::pending().await;
        };
        loop {
            let end = self.start + Duration::from_millis(self.last.load(Ordering::Relaxed)) + limit;
            if Instant::now() >= end {
                return;
            }
            tokio::time::sleep_until(end).await;
        }
    }
}

/// Proxy protocol, version 2: signature, PROXY, TCP over IPv4 or IPv6, both addresses and ports.
pub(super) fn proxy_header(from: SocketAddr, to: SocketAddr) -> Vec<u8> {
    let mut header = SIGNATURE.to_vec();
    header.push(0x21);
    match (from, to) {
        (SocketAddr::V4(from), SocketAddr::V4(to)) => {
            header.extend([0x11, 0, 12]);
            header.extend(from.ip().octets());
            header.extend(to.ip().octets());
        }
        (from, to) => {
            let wide = |address: SocketAddr| match address {
                SocketAddr::V4(v4) => v4.ip().to_ipv6_mapped().octets(),
                SocketAddr::V6(v6) => v6.ip().octets(),
            };
            header.extend([0x21, 0, 36]);
            header.extend(wide(from));
            header.extend(wide(to));
        }
    }
    header.extend(from.port().to_be_bytes());
    header.extend(to.port().to_be_bytes());
    header
}
