//! Certificates of CAs that the tests make.

use keystile_identity::ca::{Authority, Issued, self_sign};
use keystile_identity::certificate::{ClientRequest, HostRequest, issue_client, issue_host};
use keystile_identity::client::Route;
use keystile_identity::key::{NewKey, generate};
use keystile_identity::public_key::SubjectKey;
use keystile_identity::signer::FileSigner;
use keystile_model::name::{DatabaseName, DbUserName, UserName};
use keystile_model::policy::CaKind;
use uuid::Uuid;

use super::DOMAIN;

pub struct Ca {
    pub pem: String,
    signer: FileSigner,
}

impl Ca {
    pub async fn new(kind: CaKind) -> Self {
        let key = generate().unwrap();
        let signer = FileSigner::from_pem(&key.private).unwrap();
        let pem = self_sign("test", kind, 1, &signer, now(), Uuid::new_v4()).await.unwrap().pem;
        Self { pem, signer }
    }
}

pub fn now() -> i64 {
    time::OffsetDateTime::now_utc().unix_timestamp()
}

/// A certificate and its key.
pub struct Pair {
    pub issued: Issued,
    pub key: NewKey,
}

/// A certificate of another CA that nobody trusts.
pub async fn foreign_certificate(user: &str) -> Pair {
    client_certificate(&Ca::new(CaKind::User).await, user, None, 3_600).await
}

pub async fn client_certificate(ca: &Ca, user: &str, route: Option<(&str, &str)>, ttl_s: u64) -> Pair {
    let key = generate().unwrap();
    let subject = SubjectKey::from_der(&key.public_der).unwrap();
    let route = route.map(|(database, db_user)| Route {
        database: DatabaseName::parse(database).unwrap(),
        db_user: DbUserName::parse(db_user).unwrap(),
    });
    let user = UserName::parse(user).unwrap();
    let request =
        ClientRequest { deployment: "test", user: &user, route: route.as_ref(), key: &subject, ttl_s };
    let authority = Authority::new(&ca.pem, &ca.signer).await.unwrap();
    let issued = issue_client(&authority, &request, now(), Uuid::new_v4()).await.unwrap();
    Pair { issued, key }
}

pub async fn host_certificate(ca: &Ca, ttl_s: u64) -> Pair {
    let key = generate().unwrap();
    let subject = SubjectKey::from_der(&key.public_der).unwrap();
    let hosts = ["localhost".to_owned(), "127.0.0.1".to_owned(), format!("*.{DOMAIN}")];
    let request =
        HostRequest { deployment: "test", group: "default", id: "one", hosts: &hosts, key: &subject, ttl_s };
    let authority = Authority::new(&ca.pem, &ca.signer).await.unwrap();
    let issued = issue_host(&authority, &request, now(), Uuid::new_v4()).await.unwrap();
    Pair { issued, key }
}
