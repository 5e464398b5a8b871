//! Who a client's certificate says that it is.

use std::sync::Arc;
use std::time::Duration;

use keystile_identity::client::ClientIdentity;
use rustls::pki_types::{CertificateDer, UnixTime};

use crate::app::Shared;
use crate::refusal::Refusal;
use crate::session::leg::Leg;

/// Who the client's certificate says that it is. After a resumed handshake, where TLS verified nothing, the
/// chain is verified again: its CA may have gone.
pub(super) fn identify(
    shared: &Shared,
    client: &Leg,
    cold: bool,
) -> Result<Option<Arc<ClientIdentity>>, Refusal> {
    let Some(chain) = client.peer_certificates() else { return Ok(None) };
    let Some(end) = chain.first() else { return Ok(None) };
    if client.resumed() || cold {
        verify_again(shared, chain)?;
    }
    let holder = shared.identities.holder(end, shared.clock.now().unix_timestamp());
    holder.map(Some).map_err(|error| Refusal::Certificate(error.to_string()))
}

fn verify_again(shared: &Shared, chain: &[CertificateDer<'_>]) -> Result<(), Refusal> {
    let now = u64::try_from(shared.clock.now().unix_timestamp()).unwrap_or(0);
    shared.verifier.verify(chain, UnixTime::since_unix_epoch(Duration::from_secs(now))).map_err(|_| {
        Refusal::Certificate("the certificate is signed by no CA that counts any more".to_owned())
    })
}
