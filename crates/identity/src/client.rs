//! Who holds a client certificate. The TLS library has verified its signature before this is asked.

use keystile_model::name::UserName;

use crate::extract::Certificate;
use crate::name::{Name, NameFault};

pub use crate::name::Route;

/// The holder of a client certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientIdentity {
    /// The user.
    pub user: UserName,
    /// The one route that it opens, if it is a routed certificate.
    pub route: Option<Route>,
    /// First moment, in Unix seconds. Certificates are dated [`crate::certificate::SKEW_S`] back.
    pub not_before: i64,
    /// Last moment, in Unix seconds.
    pub not_after: i64,
    /// Serial number, lower-case hex.
    pub serial: String,
    /// Key identifier of the CA's key that signed it, lower-case hex: compare with
    /// [`Certificate::key_id`] of the CA's certificates.
    pub issuer_key_id: String,
}

/// Why a certificate makes nobody of its holder. The texts are fit for a client.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// No certificate, or one that cannot be read.
    #[error("the certificate cannot be read")]
    Malformed,
    /// A CA's certificate, or one that is not for this use alone.
    #[error("the certificate is not for {0}")]
    Usage(&'static str),
    /// No name, two of a kind, or a name of another kind.
    #[error("the certificate does not name exactly one {0}")]
    Names(&'static str),
    /// A name that is not one of ours, or of another deployment.
    #[error("the certificate is not for this deployment: {0}")]
    Foreign(#[from] NameFault),
    /// Its life has not begun.
    #[error("the certificate is not valid yet: check the clocks")]
    NotYet,
    /// Its life is over.
    #[error("the certificate has expired")]
    Expired,
}

impl ClientIdentity {
    /// Reads who holds a certificate of the user CA.
    ///
    /// # Errors
    /// [`IdentityError`] unless it is for client authentication alone, names exactly one user and at most
    /// one route, all of this deployment, and nothing else.
    pub fn from_der(der: &[u8], deployment: &str) -> Result<Self, IdentityError> {
        let certificate = Certificate::from_der(der)?;
        if certificate.is_ca || !certificate.client_auth || certificate.server_auth || certificate.other_usage
        {
            return Err(IdentityError::Usage("clients"));
        }
        if certificate.other_names > 0 || !certificate.hosts.is_empty() {
            return Err(IdentityError::Names("user"));
        }
        let (mut user, mut route) = (None, None);
        for uri in &certificate.uris {
            let twice = match Name::from_uri(uri, deployment)? {
                Name::User(name) => user.replace(name).is_some(),
                Name::Route(opened) => route.replace(opened).is_some(),
                Name::Proxy { .. } => return Err(IdentityError::Usage("clients")),
            };
            if twice {
                return Err(IdentityError::Names("user and at most one route"));
            }
        }
        Ok(Self {
            user: user.ok_or(IdentityError::Names("user"))?,
            route,
            not_before: certificate.not_before,
            not_after: certificate.not_after,
            serial: certificate.serial,
            issuer_key_id: certificate.issuer_key_id,
        })
    }

    /// Checks the certificate's life; `now` in Unix seconds. The last second still counts.
    ///
    /// # Errors
    /// [`IdentityError::NotYet`] and [`IdentityError::Expired`].
    pub fn check_validity(&self, now: i64) -> Result<(), IdentityError> {
        check_life(self.not_before, self.not_after, now)
    }

    /// When the certificate was issued, in Unix seconds: what a reset of the user is compared with.
    #[must_use]
    pub fn issued_at(&self) -> i64 {
        self.not_before + crate::certificate::SKEW_S
    }
}

pub(crate) fn check_life(not_before: i64, not_after: i64, now: i64) -> Result<(), IdentityError> {
    if now < not_before {
        Err(IdentityError::NotYet)
    } else if now > not_after {
        Err(IdentityError::Expired)
    } else {
        Ok(())
    }
}
