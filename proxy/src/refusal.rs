//! Why a client gets no session: one variant for each decision, with the code, the words and the metric.
//!
//! The words say what, why, and what to do next, in one line.

use keystile_model::decide::DenyKind;

/// A refusal. [`Refusal::line`] is what the client reads as the answer to its first command.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No certificate.
    #[error(
        "not signed in: this proxy asks for a client certificate; run 'keystile login', then connect \
             with 'keystile db connect', or with the files that 'keystile db config' prints"
    )]
    NotSignedIn,
    /// A workload's proof, which is not taken yet.
    #[error(
        "workload proofs in AUTH are not taken yet by this version: connect with a certificate of \
             'keystile db config'"
    )]
    ProofNotYet,
    /// A certificate that makes nobody of its holder.
    #[error("{0}; run 'keystile login' again")]
    Certificate(String),
    /// The proxy has no policy yet.
    #[error("the proxy has not loaded its policy yet ({0}): try again in a moment")]
    NotReady(String),
    /// What the proxy knows is too old.
    #[error(
        "the proxy's policy feed is {age_s} s old, over 60 s, so no new sessions begin: {why}; try again, \
             or tell whoever runs Keystile"
    )]
    StalePolicy {
        /// Its age in seconds.
        age_s: u64,
        /// Why, as far as it is known.
        why: String,
    },
    /// Which database?
    #[error("{0}")]
    Route(String),
    /// Which db user? An answer of the client's may follow.
    #[error("name the database user: {0}")]
    NameDbUser(String),
    /// No such database.
    #[error("there is no database {0:?}; 'keystile db ls' lists those that you may reach")]
    UnknownDatabase(String),
    /// The db user is none that can sign in there.
    #[error("{0}")]
    DbUser(String),
    /// The decision was no.
    #[error("access denied: {reason} (rule: {rule})")]
    Denied {
        /// What sort of no.
        kind: DenyKind,
        /// The rule that decided.
        rule: String,
        /// Why.
        reason: String,
    },
    /// A limit is reached.
    #[error("{text}")]
    Limit {
        /// Which: `proxy`, `user`, `database` or `failed_sign_ins`, as in the metric.
        limit: &'static str,
        /// What, why and what to do.
        text: String,
    },
    /// It is allowed, and this version cannot do it.
    #[error("{0}")]
    Unsupported(String),
    /// The cache's name does not resolve.
    #[error(
        "cannot reach {database}: DNS does not resolve {host} ({why}); the cache may be gone: \
             run 'keystile discover run', or check the proxy's VPC"
    )]
    Dns {
        /// The database.
        database: String,
        /// Its host.
        host: String,
        /// Why.
        why: String,
    },
    /// The cache does not take the connection.
    #[error(
        "cannot reach {database}: connecting to {address} {why}; check that the cache is up and that its \
             security group lets the proxy in"
    )]
    Connect {
        /// The database.
        database: String,
        /// Where.
        address: String,
        /// Why.
        why: String,
    },
    /// TLS with the cache failed.
    #[error(
        "cannot reach {database}: TLS with {address} failed: {why}; check that the cache has encryption in transit, \
             and whose CA signed its certificate"
    )]
    Tls {
        /// The database.
        database: String,
        /// Where.
        address: String,
        /// Why.
        why: String,
    },
    /// The cache refused the AUTH.
    #[error("{0}")]
    Auth(String),
    /// What Secrets Manager should hold cannot be had.
    #[error("{0}")]
    Secret(String),
    /// No IAM token could be made.
    #[error("cannot sign in to {database} as {db_user}: {why}")]
    Token {
        /// The database.
        database: String,
        /// The db user.
        db_user: String,
        /// Why.
        why: String,
    },
    /// The address is none that credentials may go to.
    #[error("{database} is not dialled: {why}")]
    HostRule {
        /// The database.
        database: String,
        /// Why.
        why: String,
    },
    /// What the client sent is no RESP.
    #[error("{0}")]
    Protocol(String),
}

impl Refusal {
    /// The error code that begins the line.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::NotSignedIn | Self::ProofNotYet | Self::Certificate(_) | Self::NameDbUser(_) => "NOAUTH",
            Self::Denied { .. } | Self::DbUser(_) => "NOPERM",
            _ => "ERR",
        }
    }

    /// The word for metrics and for `error` in the audit.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::NotSignedIn | Self::ProofNotYet => "not_signed_in",
            Self::Certificate(_) => "certificate",
            Self::NotReady(_) => "not_ready",
            Self::StalePolicy { .. } => "stale_policy",
            Self::Route(_) | Self::NameDbUser(_) => "route",
            Self::UnknownDatabase(_) => "unknown_database",
            Self::DbUser(_) => "db_user",
            Self::Denied { kind: DenyKind::Locked, .. } => "locked",
            Self::Denied { kind: DenyKind::UnknownUser, .. } => "unknown_user",
            Self::Denied { .. } => "denied",
            Self::Limit { .. } => "limit",
            Self::Unsupported(_) => "unsupported",
            Self::Dns { .. } => "dns",
            Self::Connect { .. } => "connect",
            Self::Tls { .. } => "tls",
            Self::Auth(_) => "auth",
            Self::Secret(_) => "secret",
            Self::Token { .. } => "token",
            Self::HostRule { .. } => "host_rule",
            Self::Protocol(_) => "protocol",
        }
    }

    /// The rule that decided, where there is one.
    #[must_use]
    pub fn rule(&self) -> &str {
        if let Self::Denied { rule, .. } = self { rule } else { "" }
    }

    /// Whether it is a failed sign-in: nobody that we know, as far as can be told.
    #[must_use]
    pub fn is_failed_sign_in(&self) -> bool {
        matches!(self.kind(), "not_signed_in" | "certificate" | "unknown_user")
    }

    /// Whether the cache is at fault, or the way to it, and not the client.
    #[must_use]
    pub fn is_of_the_cache(&self) -> bool {
        matches!(self.kind(), "dns" | "connect" | "tls" | "auth" | "secret" | "token" | "host_rule")
    }

    /// Whether an AUTH of the client's may still make it right.
    #[must_use]
    pub fn may_continue(&self) -> bool {
        matches!(self, Self::NameDbUser(_))
    }

    /// The RESP error.
    #[must_use]
    pub fn line(&self) -> Vec<u8> {
        let mut out = Vec::new();
        match self {
            Self::Protocol(text) => keystile_resp::encode::error(&mut out, "ERR", text),
            other => {
                let code = format!("{} keystile:", other.code());
                keystile_resp::encode::error(&mut out, &code, &other.to_string());
            }
        }
        out
    }
}
