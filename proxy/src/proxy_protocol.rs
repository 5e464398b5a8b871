//! The PROXY protocol, version 2: the client's address as a load balancer tells it.
//!
//! Only from networks that the settings name, and there it must come: a header from anybody else would let a
//! client choose the address that the audit shows.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use tokio::io::{AsyncRead, AsyncReadExt as _};

const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
/// Longest header that is read behind the first 16 bytes; those of AWS have about 100.
const MOST: usize = 1_024;

/// Why a connection's beginning is no header.
#[derive(Debug, thiserror::Error)]
pub enum HeaderError {
    /// It ended or broke.
    #[error("the connection ended in its PROXY header: {0}")]
    Io(#[from] std::io::Error),
    /// It is something else.
    #[error("no PROXY protocol v2 header, from a network that KEYSTILE_PROXY_PROTOCOL names")]
    Malformed,
}

/// Reads the header. `None` for a health check of the load balancer's own (LOCAL).
///
/// # Errors
/// [`HeaderError`]; the connection is of no use then.
pub async fn read(stream: &mut (impl AsyncRead + Unpin)) -> Result<Option<SocketAddr>, HeaderError> {
    let mut head = [0; 16];
    stream.read_exact(&mut head).await?;
    let length = usize::from(u16::from_be_bytes([head[14], head[15]]));
    if head[..12] != SIGNATURE || length > MOST {
        return Err(HeaderError::Malformed);
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await?;
    source(head[12], head[13], &body)
}

fn source(version_command: u8, family: u8, body: &[u8]) -> Result<Option<SocketAddr>, HeaderError> {
    match (version_command, family) {
        (0x20, _) => Ok(None),
        (0x21, 0x11) => match body {
            [a, b, c, d, _, _, _, _, high, low, ..] => Ok(Some(SocketAddr::new(
                IpAddr::V4(Ipv4Addr::new(*a, *b, *c, *d)),
                u16::from_be_bytes([*high, *low]),
            ))),
            _ => Err(HeaderError::Malformed),
        },
        (0x21, 0x21) => {
            let address = body.first_chunk::<16>().ok_or(HeaderError::Malformed)?;
            let port =
                body.get(32..34).and_then(|port| port.first_chunk::<2>()).ok_or(HeaderError::Malformed)?;
            Ok(Some(SocketAddr::new(IpAddr::V6(Ipv6Addr::from(*address)), u16::from_be_bytes(*port))))
        }
        _ => Err(HeaderError::Malformed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_and_nonsense_is_not() {
        let v4 = [10, 0, 0, 7, 10, 0, 0, 1, 0x30, 0x39, 0x18, 0xeb];
        assert_eq!(source(0x21, 0x11, &v4).unwrap().unwrap(), "10.0.0.7:12345".parse().unwrap());
        let mut v6 = [0; 36];
        v6[15] = 1;
        v6[33] = 9;
        assert_eq!(source(0x21, 0x21, &v6).unwrap().unwrap(), "[::1]:9".parse().unwrap());
        assert!(source(0x20, 0x00, &[]).unwrap().is_none());
        for (version, family, length) in
            [(0x11, 0x11, 12), (0x21, 0x31, 12), (0x21, 0x11, 9), (0x21, 0x21, 20)]
        {
            assert!(source(version, family, &v6[..length]).is_err(), "{version:x} {family:x} {length}");
        }
    }
}
