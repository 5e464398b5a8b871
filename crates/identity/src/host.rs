//! Which proxy holds a host certificate. The TLS library has verified its signature before this is asked.

use crate::client::{IdentityError, check_life};
use crate::extract::Certificate;
use crate::name::Name;

/// The holder of a host certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostIdentity {
    /// The proxy group.
    pub group: String,
    /// The proxy's id within the group.
    pub id: String,
    /// DNS names and addresses.
    pub hosts: Vec<String>,
    /// First moment, in Unix seconds.
    pub not_before: i64,
    /// Last moment, in Unix seconds.
    pub not_after: i64,
    /// Key identifier of the CA's key that signed it, lower-case hex.
    pub issuer_key_id: String,
}

impl HostIdentity {
    /// Reads which proxy holds a certificate of the host CA.
    ///
    /// # Errors
    /// [`IdentityError`] unless it is for servers alone and names exactly one proxy of this deployment.
    pub fn from_der(der: &[u8], deployment: &str) -> Result<Self, IdentityError> {
        let certificate = Certificate::from_der(der)?;
        if certificate.is_ca || !certificate.server_auth || certificate.client_auth || certificate.other_usage
        {
            return Err(IdentityError::Usage("proxies"));
        }
        let [uri] = certificate.uris.as_slice() else { return Err(IdentityError::Names("proxy")) };
        let Name::Proxy { group, id } = Name::from_uri(uri, deployment)? else {
            return Err(IdentityError::Usage("proxies"));
        };
        Ok(Self {
            group,
            id,
            hosts: certificate.hosts,
            not_before: certificate.not_before,
            not_after: certificate.not_after,
            issuer_key_id: certificate.issuer_key_id,
        })
    }

    /// Checks the certificate's life; `now` in Unix seconds.
    ///
    /// # Errors
    /// [`IdentityError::NotYet`] and [`IdentityError::Expired`].
    pub fn check_validity(&self, now: i64) -> Result<(), IdentityError> {
        check_life(self.not_before, self.not_after, now)
    }
}
