//! The function over its ports: what a call has in its hands.

use std::sync::Arc;

use async_trait::async_trait;
use keystile_identity::ca::Authority;
use keystile_identity::signer::CaSigner;
use keystile_model::decide::{Decision, Request as Asked, Subject, decide};
use keystile_model::policy::{CaCertificate, CaKind, Policy, Settings};
use keystile_model::store::{Clock, PolicyStore, RuntimeStore};
use keystile_model::user::User;
use keystile_state::snapshot::Snapshot;
use uuid::Uuid;

use crate::audit::AuditSink;
use crate::config::Config;
use crate::failure::{Failure, internal};
use crate::request::Request;

/// Another function of the deployment: discovery, or rotation.
#[async_trait]
pub(crate) trait Job: Send + Sync {
    /// Sends the event and waits for the answer.
    async fn run(&self, event: &serde_json::Value) -> Result<serde_json::Value, Failure>;
}

/// Everything that lives as long as the process.
pub(crate) struct App {
    pub(crate) config: Config,
    pub(crate) store: Arc<dyn PolicyStore>,
    pub(crate) runtime: Arc<dyn RuntimeStore>,
    pub(crate) user_ca: Arc<dyn CaSigner>,
    pub(crate) host_ca: Arc<dyn CaSigner>,
    pub(crate) discovery: Arc<dyn Job>,
    pub(crate) rotation: Arc<dyn Job>,
    pub(crate) audit: Arc<dyn AuditSink>,
    pub(crate) clock: Arc<dyn Clock>,
    /// Random ids.
    pub(crate) ids: fn() -> Uuid,
    pub(crate) snapshot: Snapshot,
}

impl App {
    pub(crate) fn now(&self) -> i64 {
        self.clock.now().unix_timestamp()
    }

    pub(crate) fn signer(&self, ca: CaKind) -> &dyn CaSigner {
        match ca {
            CaKind::User => self.user_ca.as_ref(),
            CaKind::Host => self.host_ca.as_ref(),
        }
    }

    /// The CA that new certificates are signed with.
    pub(crate) async fn authority(&self, policy: &Policy, ca: CaKind) -> Result<Authority<'_>, Failure> {
        let certificate = signing_certificate(policy, ca)
            .ok_or_else(|| internal(&format!("there is no signing {} CA", ca.as_str())))?;
        Ok(Authority::new(&certificate.pem, self.signer(ca)).await?)
    }
}

pub(crate) fn signing_certificate(policy: &Policy, ca: CaKind) -> Option<&Arc<CaCertificate>> {
    policy.ca_certificates(ca).filter(|certificate| certificate.signing).max_by_key(|c| c.generation)
}

/// Certificates of a CA, PEM, one after the other.
pub(crate) fn bundle(policy: &Policy, ca: CaKind) -> String {
    policy.ca_certificates(ca).map(|certificate| certificate.pem.as_str()).collect()
}

/// One request of somebody we know.
pub(crate) struct Call<'a> {
    pub(crate) app: &'a App,
    pub(crate) request: &'a Request,
    pub(crate) policy: Arc<Policy>,
    pub(crate) settings: Arc<Settings>,
    pub(crate) user: Arc<User>,
    /// Unix seconds.
    pub(crate) now: i64,
}

impl Call<'_> {
    pub(crate) fn subject(&self) -> Subject {
        Subject { user: self.user.name.clone(), issued_at: None }
    }

    pub(crate) fn decide(&self, asked: Asked<'_>) -> Decision {
        decide(&self.policy, &self.subject(), asked, self.now)
    }

    /// Refuses unless the caller has the right.
    pub(crate) fn authorize(&self, resource: &str, verb: &str) -> Result<(), Failure> {
        authorize(&self.policy, &self.subject(), resource, verb, self.now)
    }

    pub(crate) fn roles(&self) -> Vec<String> {
        self.user.roles.iter().map(ToString::to_string).collect()
    }
}

/// Refuses unless the subject has the right by this policy.
pub(crate) fn authorize(
    policy: &Policy,
    subject: &Subject,
    resource: &str,
    verb: &str,
    now: i64,
) -> Result<(), Failure> {
    let decision = decide(policy, subject, Asked::Administer { resource, verb }, now);
    if decision.is_allowed() {
        return Ok(());
    }
    Err(Failure::denied(format!("you may not {verb} {resource}"), &decision)
        .next(format!("ask an editor for a role with rules: resources [{resource}], verbs [{verb}]")))
}
