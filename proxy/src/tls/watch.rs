//! Keeps the host certificate fresh, and says in time that it ends.

use std::sync::Arc;
use std::time::Duration;

use keystile_model::store::Clock;

use super::host_certificate::{HostCertificate, Look};
use crate::metrics::Metrics;

/// How often the certificate is looked at. A secret is asked far less often than this.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// How often an end that comes near is told, and one that has passed, in seconds.
const TELL_EVERY_S: i64 = 86_400;
const TELL_ENDED_EVERY_S: i64 = 3_600;

/// Looks for ever.
pub async fn run(certificate: Arc<HostCertificate>, clock: Arc<dyn Clock>, metrics: Arc<Metrics>) {
    let mut told_at = None;
    loop {
        let now = clock.now().unix_timestamp();
        match certificate.refresh(now).await {
            Look::Same => {}
            Look::New => {
                metrics.certificate_reloads.add(1);
                told_at = None;
                tracing::info!(
                    seconds_left = certificate.life().not_after - now,
                    "the host certificate was read anew"
                );
            }
            Look::Kept(error) => {
                metrics.certificate_reloads_failed.add(1);
                tracing::warn!(
                    %error,
                    seconds_left = certificate.life().not_after - now,
                    "the new host certificate cannot be used: keeping the old one until its end"
                );
            }
        }
        tell(&certificate, &metrics, &mut told_at, now);
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Sets the metric, and warns where the end is near and that was not said lately.
fn tell(certificate: &HostCertificate, metrics: &Metrics, told_at: &mut Option<i64>, now: i64) {
    let left = certificate.life().not_after - now;
    metrics.certificate_left_s.set(left);
    let every = if left <= 0 { TELL_ENDED_EVERY_S } else { TELL_EVERY_S };
    if left > certificate.life().warn_below_s() || told_at.is_some_and(|at| now - at < every) {
        return;
    }
    *told_at = Some(now);
    let next = "issue another with 'keystile ca host-cert' and put it where this one is";
    if left <= 0 {
        tracing::error!(seconds_ago = -left, next, "the host certificate has ended: no client can connect");
    } else {
        tracing::warn!(seconds_left = left, next, "the host certificate ends soon");
    }
}
