//! Whoever is turned away learns why, and so do the log, the metrics and the audit.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use keystile_model::audit::EventKind;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::handshake::{facts, handshake, told_address};
use crate::app::Shared;
use crate::audit::{Facts, Particulars};
use crate::clock::unix_ms;
use crate::preamble::Preamble;
use crate::refusal::Refusal;
use crate::session::leg::Leg;

/// How long a refused client's first command is waited for.
pub(super) const FIRST_WORDS: Duration = Duration::from_secs(1);
/// How long the refusal may take to leave, and the client to close.
pub(super) const FAREWELL: Duration = Duration::from_secs(2);

/// Tells a client that the proxy has as many connections as it may. Nobody asks who it is.
pub async fn turn_away(shared: &Arc<Shared>, mut tcp: TcpStream, remote: SocketAddr) {
    note_limit(shared, "proxy", "");
    let Some(remote) = told_address(shared, &mut tcp, remote).await else { return };
    let Some(mut client) = handshake(shared, tcp, &mut facts(shared, remote), remote).await else { return };
    let refusal = Refusal::Limit {
        limit: "proxy",
        text: format!(
            "this proxy has {} connections, the most that it takes (KEYSTILE_MAX_CONNECTIONS): try again in a \
             moment, and close connections that you do not need",
            shared.config.max_connections
        ),
    };
    say(&mut client, Preamble::default(), &refusal).await;
}

/// Counts a connection that a limit turned away, and tells of it now and then.
pub fn note_limit(shared: &Shared, limit: &'static str, who: &str) {
    shared.metrics.limits.add(limit);
    shared.metrics.refusals.add("limit");
    if let Some(times) = shared.limit_log.tell(unix_ms(shared.clock.now())) {
        tracing::warn!(
            limit,
            who,
            times,
            "limits turn clients away: see keystile_limit_refusals_total for which, and docs/RUNBOOK.md"
        );
    }
}

/// Writes a refusal down, says why, and closes so that it arrives.
pub(super) async fn refuse(
    shared: &Shared,
    client: &mut Leg,
    preamble: Preamble,
    facts: &mut Facts,
    refusal: Refusal,
    remote: SocketAddr,
) {
    let refusal = judged_by_source(shared, refusal, remote);
    note_refusal(shared, facts, &refusal);
    say(client, preamble, &refusal).await;
}

/// A failed sign-in of an address that fails too often becomes a refusal of its own.
pub(super) fn judged_by_source(shared: &Shared, refusal: Refusal, remote: SocketAddr) -> Refusal {
    if !refusal.is_failed_sign_in() {
        return refusal;
    }
    let Err(wait_s) = shared.failed_sign_ins.fail(remote.ip(), unix_ms(shared.clock.now())) else {
        return refusal;
    };
    Refusal::Limit {
        limit: "failed_sign_ins",
        text: format!(
            "too many failed sign-ins from {} (more than {} a minute): wait {wait_s} s; the last one failed \
             because: {refusal}",
            remote.ip(),
            shared.config.failed_sign_ins_per_minute
        ),
    }
}

pub(super) fn note_refusal(shared: &Shared, facts: &mut Facts, refusal: &Refusal) {
    let about = facts.about();
    tracing::debug!(user = %about.user, kind = refusal.kind(), %refusal, "refused a client");
    if let Refusal::Limit { limit, .. } = refusal {
        let who = match *limit {
            "failed_sign_ins" => about.remote.clone(),
            "database" => about.database.as_ref().map(|known| known.name.to_string()).unwrap_or_default(),
            _ => about.user.clone(),
        };
        note_limit(shared, limit, &who);
        if *limit == "failed_sign_ins" {
            // Its own failures fill the audit up to the limit, and no further.
            return;
        }
    } else {
        shared.metrics.refusals.add(refusal.kind());
    }
    let particulars = Particulars {
        error: refusal.kind(),
        message: &refusal.to_string(),
        rule: refusal.rule(),
        ..Particulars::default()
    };
    shared.sink.send(&facts.event(EventKind::SessionStart, false, &particulars));
}

/// Says why, once the client has asked anything, and closes so that it arrives.
async fn say(client: &mut Leg, mut preamble: Preamble, refusal: &Refusal) {
    let _ = timeout(FIRST_WORDS, preamble.any(client)).await;
    if client.write(&refusal.line()).is_ok() {
        let _ = timeout(FAREWELL, client.shut()).await;
        let _ = timeout(FAREWELL, client.discard()).await;
    }
}
