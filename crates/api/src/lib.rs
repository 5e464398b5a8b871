//! What the command and functions/access say to each other: versioned JSON over a Function URL with AWS_IAM.
//!
//! | method and path | body | answer | right |
//! | --- | --- | --- | --- |
//! | `POST /v1/login` | [`LoginRequest`] | [`LoginAnswer`] | a mapped caller |
//! | `GET /v1/status` | – | [`StatusAnswer`] | a mapped caller |
//! | `GET /v1/databases` | – | [`DatabaseList`] | a mapped caller; sees what its roles allow |
//! | `GET /v1/databases/NAME` | – | [`DatabaseView`] | as above |
//! | `POST /v1/route` | [`RouteRequest`] | [`RouteAnswer`] | the decision on that route |
//! | `GET /v1/documents/KIND` | – | [`DocumentList`] | `list` on KIND |
//! | `GET /v1/documents/KIND/NAME` | – | a document | `read` on KIND |
//! | `PUT /v1/documents/KIND/NAME` | a document | [`WriteAnswer`] | `create` and `update` on KIND |
//! | `DELETE /v1/documents/KIND/NAME` | – | [`WriteAnswer`] | `delete` on KIND |
//! | `POST /v1/discover/run` | [`DiscoverRequest`] | the report | `run` on `discovery` |
//! | `GET /v1/discover/status` | – | the report | `read` on `discovery` |
//! | `POST /v1/rotation/run` | [`RotateRequest`] | the tick's report | `run` on `rotation` |
//! | `GET /v1/rotation/status` | – | [`RotationList`] | `read` on `rotation` |
//! | `POST /v1/rotation/pause`, `…/resume` | [`RotationTarget`] | [`RotationList`] | `update` on `rotation` |
//! | `POST /v1/rotation/lock` | [`RotationTarget`] | [`RotationList`] | `lock` on `rotation` |
//! | `GET /v1/ca` | – | [`CaStatus`] | a mapped caller |
//! | `POST /v1/ca/host-cert` | [`HostCertRequest`] | [`HostCertAnswer`] | `sign` on `ca` |
//!
//! An error is an [`ErrorBody`] with the HTTP status of its [`ErrorCode`].

use std::collections::BTreeMap;

use keystile_model::document::Document;
use keystile_model::labels::Labels;
use keystile_model::policy::LockTarget;
use keystile_model::removals::Removals;
use serde::{Deserialize, Serialize};

/// Largest request body, in bytes.
pub const MAX_BODY: usize = 1024 * 1024;

/// Asks for a certificate of the caller's own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LoginRequest {
    /// SubjectPublicKeyInfo of the key made on the person's machine, PEM.
    pub public_key: String,
    /// Wanted life in seconds; the deployment's and the roles' limits come over it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl_s: Option<u64>,
}

/// What a person holds after signing in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoginAnswer {
    /// The certificate, PEM.
    pub certificate: String,
    /// Who the caller is.
    pub status: StatusAnswer,
}

/// Who the caller is, and where things are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusAnswer {
    /// The user.
    pub user: String,
    /// Its roles.
    pub roles: Vec<String>,
    /// End of the certificate in this answer, RFC 3339; empty where there is none.
    #[serde(default)]
    pub valid_until: String,
    /// The deployment's name.
    pub deployment: String,
    /// The control plane's version.
    pub version: String,
    /// `host:port` of the proxies.
    pub proxy_address: String,
    /// `<database>.<domain>` is the TLS server name of a route.
    pub domain: String,
    /// Certificates of the host CA, PEM, one after the other: what a client trusts proxies by.
    pub host_ca: String,
    /// Pins of the CAs: `sha256:<hex>` of each certificate's public key.
    pub ca_pins: Vec<String>,
}

/// A database as the caller sees it: the stable shape of `keystile db ls --format json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DatabaseView {
    /// Its name.
    pub name: String,
    /// A word for people.
    pub description: String,
    /// `elasticache`, `elasticache-serverless`, `memorydb`, `static`.
    pub kind: String,
    /// `redis` or `valkey`.
    pub engine: String,
    /// As AWS reports it.
    pub engine_version: String,
    /// `primary`, `reader`, `configuration`, `cluster`, `serverless`, `node`.
    pub endpoint_type: String,
    /// `rediss://host:port`.
    pub uri: String,
    /// Region, or empty.
    pub region: String,
    /// Account, or empty.
    pub account_id: String,
    /// Labels.
    pub labels: Labels,
    /// What the caller may use: names, `["*"]` for all.
    pub db_users: Vec<String>,
    /// `ok`, `degraded`, `unreachable`, `unknown`.
    pub health: String,
    /// The short alias.
    #[serde(default)]
    pub alias: String,
    /// How it is signed in to: `auto` (as the db user says: IAM or a managed password), `pass-through`, `secret`
    /// or `none`.
    #[serde(default)]
    pub auth: String,
    /// Warnings about how it is configured.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

/// The databases that the caller may reach.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DatabaseList {
    /// By name.
    pub databases: Vec<DatabaseView>,
    /// How many there are in all, with those that the caller may not reach.
    pub total: usize,
}

/// Asks for a certificate of one route.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RouteRequest {
    /// Name or alias.
    pub database: String,
    /// The db user; none takes the only one allowed, or the database's default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub db_user: Option<String>,
    /// SubjectPublicKeyInfo, PEM.
    pub public_key: String,
    /// Wanted life in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl_s: Option<u64>,
}

/// A certificate that opens one route.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteAnswer {
    /// The certificate, PEM.
    pub certificate: String,
    /// Its end, RFC 3339.
    pub valid_until: String,
    /// The database's name (never the alias).
    pub database: String,
    /// The db user.
    pub db_user: String,
    /// `redis` or `valkey`: which client to start.
    pub engine: String,
    /// The TLS server name.
    pub server_name: String,
    /// Where to connect, `host:port`.
    pub proxy_address: String,
    /// Certificates of the host CA, PEM.
    pub host_ca: String,
}

/// Documents of one kind, by name.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DocumentList {
    /// The documents.
    pub documents: Vec<Document>,
}

/// What a write did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WriteAnswer {
    /// `created`, `updated`, `unchanged` or `removed`.
    pub outcome: String,
    /// The feed's revision after it.
    pub revision: u64,
    /// What the person should know: fields without a meaning, names that are not enforced.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

/// Runs discovery now.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DiscoverRequest {
    /// Plan only.
    #[serde(default)]
    pub dry_run: bool,
    /// With `dry_run`: these matchers instead of the stored ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub matchers: Option<Vec<Document>>,
    /// Scopes that may lose more than a fifth in this run.
    #[serde(default, skip_serializing_if = "Removals::is_braked")]
    pub allow_removals: Removals,
}

/// Asks for a tick of rotation now.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RotateRequest {
    /// Tell of this db user only, by name, id or ARN; with `force` its turn alone is due.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub db_user: Option<String>,
    /// Turns are due now.
    #[serde(default)]
    pub force: bool,
    /// Change no password: say what is queued and who would be taken over.
    #[serde(default)]
    pub dry_run: bool,
    /// More users than a fifth of a place may lose their tag at once.
    #[serde(default)]
    pub allow_removals: bool,
}

/// Names a managed db user, or all.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RotationTarget {
    /// Its name, id or ARN; all managed users without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub db_user: Option<String>,
}

/// How managed db users stand.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RotationList {
    /// One for each.
    pub users: Vec<keystile_model::rotation::row::RotationStatus>,
}

/// A certificate of a CA.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CaCertificateView {
    /// `user` or `host`.
    pub ca: String,
    /// Counts the CA's keys.
    pub generation: u32,
    /// `sha256:<hex>` of its public key.
    pub pin: String,
    /// PEM.
    pub certificate: String,
    /// First and last moment, RFC 3339.
    pub not_before: String,
    /// See `not_before`.
    pub not_after: String,
    /// Whether new certificates are signed with it.
    pub signing: bool,
}

/// The CAs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CaStatus {
    /// By CA and generation.
    pub certificates: Vec<CaCertificateView>,
}

/// Asks for a proxy's certificate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HostCertRequest {
    /// The proxy group.
    pub group: String,
    /// The proxy's id within the group; a random one if empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub id: String,
    /// SubjectPublicKeyInfo, PEM.
    pub public_key: String,
    /// More DNS names or addresses, beside the group's own (`*.<domain>` and the proxy address's host).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub names: Vec<String>,
    /// Wanted life in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl_s: Option<u64>,
}

/// A proxy's certificate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostCertAnswer {
    /// The certificate, PEM.
    pub certificate: String,
    /// Its end, RFC 3339.
    pub valid_until: String,
    /// Certificates of the host CA, PEM.
    pub host_ca: String,
}

/// What sort of error it is; decides the HTTP status and the command's exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorCode {
    /// The request is malformed or a document is illegal. 400; exit 2.
    BadRequest,
    /// The caller is nobody here. 403; exit 5.
    NotMapped,
    /// A rule says no. 403; exit 5.
    Denied,
    /// No such database, document or route. 404; exit 3.
    NotFound,
    /// A choice has to be made, such as a db user. 409; exit 2.
    Ambiguous,
    /// Somebody changed it meanwhile, or it would break a rule of the house. 409; exit 1.
    Conflict,
    /// Too large. 413; exit 2.
    TooLarge,
    /// AWS or the store is out of reach; try again. 503; exit 7.
    Unavailable,
    /// Ours. 500; exit 1.
    Internal,
}

impl ErrorCode {
    /// The HTTP status.
    #[must_use]
    pub fn status(self) -> u16 {
        match self {
            Self::BadRequest => 400,
            Self::NotMapped | Self::Denied => 403,
            Self::NotFound => 404,
            Self::Ambiguous | Self::Conflict => 409,
            Self::TooLarge => 413,
            Self::Unavailable => 503,
            Self::Internal => 500,
        }
    }

    /// The command's exit code.
    #[must_use]
    pub fn exit_code(self) -> u8 {
        match self {
            Self::BadRequest | Self::Ambiguous | Self::TooLarge => 2,
            Self::NotMapped | Self::Denied => 5,
            Self::NotFound => 3,
            Self::Unavailable => 7,
            Self::Conflict | Self::Internal => 1,
        }
    }
}

/// The body of an error answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// The error.
    pub error: ErrorDetail,
}

/// An error in three lines: what, why, what next.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorDetail {
    /// What sort.
    pub code: ErrorCode,
    /// What happened.
    pub message: String,
    /// Why.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub why: String,
    /// The rule that decided, for denials.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub rule: String,
    /// What to do next: command lines.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub next: Vec<String>,
    /// Choices, for `ambiguous`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub choices: Vec<String>,
}

/// The `spec` of a `user` document.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UserSpec {
    /// Roles that it holds.
    #[serde(default)]
    pub roles: Vec<String>,
    /// Traits.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub traits: BTreeMap<String, Vec<String>>,
}

/// The `spec` of an `arn_rule` document; its name is free, by default the ARN with `/` and `:` kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ArnRuleSpec {
    /// The IAM user or role.
    pub arn: String,
    /// Who that is.
    pub user: String,
    /// Whether the session's name is the identity.
    #[serde(default)]
    pub sso: bool,
    /// To pin the unique id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unique_id: Option<String>,
}

/// The `spec` of a `lock` document.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LockSpec {
    /// What is locked; the given parts must all match.
    pub target: LockTarget,
    /// What the person who is refused reads.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// When it ends, RFC 3339; never, if it is not there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<String>,
}
