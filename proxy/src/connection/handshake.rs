//! From accept to a TLS session: the client's true address, and the handshake.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::TcpStream;
use tokio::time::timeout;

use super::farewell::{judged_by_source, note_refusal};
use crate::app::Shared;
use crate::audit::Facts;
use crate::proxy_protocol;
use crate::refusal::Refusal;
use crate::session::leg::Leg;
use crate::upstream::host_rule;

pub(super) fn facts(shared: &Shared, remote: SocketAddr) -> Facts {
    Facts::new(
        Arc::clone(&shared.clock),
        Arc::clone(&shared.deployment),
        Arc::clone(&shared.proxy_id),
        remote.to_string(),
    )
}

/// The client's address: what a load balancer of ours says, else the one that is seen.
pub(super) async fn told_address(
    shared: &Shared,
    tcp: &mut TcpStream,
    seen: SocketAddr,
) -> Option<SocketAddr> {
    let ip = seen.ip().to_canonical();
    if !shared.config.proxy_protocol.iter().any(|network| host_rule::contains(network, ip)) {
        return Some(seen);
    }
    match timeout(shared.config.handshake_timeout, proxy_protocol::read(tcp)).await {
        Ok(Ok(told)) => Some(told.unwrap_or(seen)),
        Ok(Err(error)) => {
            tracing::debug!(%error, %seen, "closed a connection");
            None
        }
        Err(_) => None,
    }
}

pub(super) async fn handshake(
    shared: &Shared,
    tcp: TcpStream,
    facts: &mut Facts,
    remote: SocketAddr,
) -> Option<Leg> {
    let leg = match timeout(shared.config.first_byte_timeout, Leg::hear(tcp, &shared.tls)).await {
        Ok(Ok(begun)) => timeout(shared.config.handshake_timeout, begun.shake_hands()).await,
        Ok(Err(error)) => Ok(Err(error)),
        // Somebody who says nothing at all: a scanner, or a pool that was opened and forgotten.
        Err(_) => {
            shared.metrics.limits.add("first_byte");
            return None;
        }
    };
    let leg = match leg {
        Ok(Ok(leg)) => leg,
        Ok(Err(error)) => {
            failed(shared, facts, remote, &error);
            return None;
        }
        Err(_) => {
            shared.metrics.handshakes.add("timeout");
            shared.metrics.limits.add("handshake");
            return None;
        }
    };
    shared.metrics.handshakes.add(if leg.resumed() { "resumed" } else { "full" });
    Some(leg)
}

/// TLS has closed the connection with an alert: there is nobody to tell, but a certificate is written down.
fn failed(shared: &Shared, facts: &mut Facts, remote: SocketAddr, error: &std::io::Error) {
    shared.metrics.handshakes.add("failed");
    tracing::debug!(%error, %remote, "a client's TLS handshake failed");
    let fault = error.get_ref().and_then(|inner| inner.downcast_ref());
    if let Some(rustls::Error::InvalidCertificate(fault)) = fault {
        let refusal = Refusal::Certificate(format!("the client certificate does not count: {fault}"));
        let refusal = judged_by_source(shared, refusal, remote);
        note_refusal(shared, facts, &refusal);
    }
}
