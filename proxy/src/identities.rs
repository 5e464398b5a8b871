//! Who holds which certificate, read once: clients come back with the same one for hours.

use std::sync::Arc;

use keystile_identity::client::{ClientIdentity, IdentityError};

use crate::tls::Remembered;

/// What certificates say. That a certificate says so makes it nobody's word: whether it counts is the
/// verifier's to know, and whether it still lives is asked each time.
#[derive(Debug)]
pub struct Identities {
    deployment: Arc<str>,
    read: Remembered<Arc<ClientIdentity>>,
}

impl Identities {
    /// Of certificates of this deployment.
    #[must_use]
    pub fn new(deployment: Arc<str>) -> Self {
        Self { deployment, read: Remembered::default() }
    }

    /// The holder of a certificate, given in DER, at this moment in Unix seconds.
    ///
    /// # Errors
    /// As [`ClientIdentity::from_der`] and [`ClientIdentity::check_validity`].
    pub fn holder(&self, der: &[u8], now: i64) -> Result<Arc<ClientIdentity>, IdentityError> {
        let identity = match self.read.get(der) {
            Some(identity) => identity,
            None => self.read(der)?,
        };
        identity.check_validity(now)?;
        Ok(identity)
    }

    fn read(&self, der: &[u8]) -> Result<Arc<ClientIdentity>, IdentityError> {
        let identity = Arc::new(ClientIdentity::from_der(der, &self.deployment)?);
        self.read.put(der, Arc::clone(&identity));
        Ok(identity)
    }
}

#[cfg(test)]
mod tests {
    use keystile_identity::ca::{Authority, self_sign};
    use keystile_identity::certificate::{ClientRequest, issue_client};
    use keystile_identity::key::generate;
    use keystile_identity::public_key::SubjectKey;
    use keystile_identity::signer::FileSigner;
    use keystile_model::name::UserName;
    use keystile_model::policy::CaKind;
    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject as _;
    use uuid::Uuid;

    use super::*;

    const NOW: i64 = 1_800_000_000;

    async fn certificates(users: &[&str]) -> Vec<CertificateDer<'static>> {
        let ca_key = generate().unwrap();
        let signer = FileSigner::from_pem(&ca_key.private).unwrap();
        let ca = self_sign("test", CaKind::User, 1, &signer, NOW, Uuid::new_v4()).await.unwrap().pem;
        let authority = Authority::new(&ca, &signer).await.unwrap();
        let key = generate().unwrap();
        let key = SubjectKey::from_der(&key.public_der).unwrap();
        let mut all = Vec::new();
        for user in users {
            let user = UserName::parse(*user).unwrap();
            let request =
                ClientRequest { deployment: "test", user: &user, route: None, key: &key, ttl_s: 600 };
            let issued = issue_client(&authority, &request, NOW, Uuid::new_v4()).await.unwrap();
            all.push(CertificateDer::from_pem_slice(issued.pem.as_bytes()).unwrap());
        }
        all
    }

    #[tokio::test]
    async fn each_is_read_once_and_keeps_its_own_holder() {
        let identities = Identities::new("test".into());
        let all = certificates(&["alice", "bob"]).await;
        let first = identities.holder(&all[0], NOW).unwrap();
        assert_eq!(first.user.as_str(), "alice");
        assert_eq!(identities.holder(&all[1], NOW).unwrap().user.as_str(), "bob");
        assert!(Arc::ptr_eq(&first, &identities.holder(&all[0], NOW).unwrap()));
    }

    #[tokio::test]
    async fn a_life_is_looked_at_each_time() {
        let identities = Identities::new("test".into());
        let all = certificates(&["alice"]).await;
        assert!(identities.holder(&all[0], NOW).is_ok());
        assert!(matches!(identities.holder(&all[0], NOW + 601), Err(IdentityError::Expired)));
        assert!(matches!(identities.holder(&all[0], NOW - 86_400), Err(IdentityError::NotYet)));
        assert!(identities.holder(&all[0], NOW).is_ok());
    }

    #[tokio::test]
    async fn what_makes_nobody_of_its_holder_is_not_kept() {
        let other = Identities::new("other".into());
        let all = certificates(&["alice"]).await;
        assert!(other.holder(&all[0], NOW).is_err());
        assert!(other.holder(b"no certificate", NOW).is_err());
        assert_eq!(other.read.len(), 0);
    }
}
