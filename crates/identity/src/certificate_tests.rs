//! What is issued says what it should, and passes for nothing else.

use std::sync::Arc;
use std::time::Duration;

use keystile_model::name::{DatabaseName, DbUserName};
use keystile_model::policy::CaKind;
use proptest::prelude::*;
use rustls::RootCertStore;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::WebPkiClientVerifier;

use super::*;
use crate::ca::{CA_LIFE_S, self_sign};
use crate::client::{ClientIdentity, IdentityError};
use crate::extract::Certificate;
use crate::host::HostIdentity;
use crate::signer::{CaSigner, FileSigner, SignError};

const NOW: i64 = 1_800_000_000;

struct World {
    signer: FileSigner,
    pem: String,
    der: Vec<u8>,
}

async fn ca(kind: CaKind) -> World {
    let signer = FileSigner::from_pem(&crate::key::generate().unwrap().private).unwrap();
    let made = self_sign("prod", kind, 1, &signer, NOW, Uuid::from_u128(7)).await.unwrap();
    World { signer, pem: made.pem, der: made.der }
}

fn subject() -> SubjectKey {
    SubjectKey::from_pem(&crate::key::generate().unwrap().public).unwrap()
}

async fn client(world: &World, route: Option<&Route>, ttl_s: u64) -> Issued {
    let authority = Authority::new(&world.pem, &world.signer).await.unwrap();
    let user = UserName::parse("ann@acme.example").unwrap();
    let key = subject();
    let request = ClientRequest { deployment: "prod", user: &user, route, key: &key, ttl_s };
    issue_client(&authority, &request, NOW, Uuid::from_u128(u128::MAX)).await.unwrap()
}

async fn host(world: &World) -> Issued {
    let authority = Authority::new(&world.pem, &world.signer).await.unwrap();
    let key = subject();
    let hosts = ["*.cache.acme.example".to_owned(), "localhost".to_owned(), "127.0.0.1".to_owned()];
    let request = HostRequest {
        deployment: "prod",
        group: "default",
        id: "p-1",
        hosts: &hosts,
        key: &key,
        ttl_s: 86_400,
    };
    issue_host(&authority, &request, NOW, Uuid::from_u128(9)).await.unwrap()
}

fn roots(world: &World) -> Arc<RootCertStore> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from(world.der.clone())).unwrap();
    Arc::new(roots)
}

fn passes_as_client(leaf: &Issued, world: &World, at: i64) -> bool {
    let verifier = WebPkiClientVerifier::builder_with_provider(roots(world), Arc::new(default_provider()))
        .build()
        .unwrap();
    let at = UnixTime::since_unix_epoch(Duration::from_secs(u64::try_from(at).unwrap()));
    verifier.verify_client_cert(&CertificateDer::from(leaf.der.clone()), &[], at).is_ok()
}

fn passes_as_server(leaf: &Issued, world: &World, name: &str) -> bool {
    let verifier = WebPkiServerVerifier::builder_with_provider(roots(world), Arc::new(default_provider()))
        .build()
        .unwrap();
    let at = UnixTime::since_unix_epoch(Duration::from_secs(u64::try_from(NOW).unwrap()));
    let name = ServerName::try_from(name.to_owned()).unwrap();
    verifier.verify_server_cert(&CertificateDer::from(leaf.der.clone()), &[], &name, &[], at).is_ok()
}

#[tokio::test]
async fn a_ca_certificate_is_what_it_should_be() {
    let world = ca(CaKind::User).await;
    let made = Certificate::from_pem(&world.pem).unwrap();
    assert!(made.is_ca);
    assert_eq!((made.not_before, made.not_after), (NOW - SKEW_S, NOW + CA_LIFE_S));
    assert!(!made.key_id.is_empty());
    assert!(made.pin().starts_with("sha256:") && made.pin().len() == 71);
    assert_eq!(crate::pin(&world.der).unwrap(), made.pin());
    let (_, parsed) = x509_parser::parse_x509_certificate(&world.der).unwrap();
    assert_eq!(parsed.subject().to_string(), "CN=prod user CA 1");
    let constraints = parsed.basic_constraints().unwrap().unwrap();
    assert!(constraints.critical && constraints.value.path_len_constraint == Some(0));
    let usage = parsed.key_usage().unwrap().unwrap();
    assert!(usage.critical && usage.value.key_cert_sign() && !usage.value.digital_signature());
    parsed.verify_signature(None).unwrap();
}

#[tokio::test]
async fn a_client_certificate_says_who_holds_it() {
    let users = ca(CaKind::User).await;
    let route = Route {
        database: DatabaseName::parse("orders").unwrap(),
        db_user: DbUserName::parse("iam-ro").unwrap(),
    };
    let made = client(&users, Some(&route), 3_600).await;
    let identity = ClientIdentity::from_der(&made.der, "prod").unwrap();
    assert_eq!(identity.user.as_str(), "ann@acme.example");
    assert_eq!(identity.route, Some(route));
    assert_eq!((identity.not_before, identity.not_after), (NOW - 60, NOW + 3_600));
    assert_eq!(identity.issued_at(), NOW);
    assert_eq!(identity.issuer_key_id, Certificate::from_der(&users.der).unwrap().key_id);
    assert_eq!(identity.serial, made.serial);
    assert_eq!(made.serial.len(), 32);
    assert!(passes_as_client(&made, &users, NOW));
    assert_eq!(client(&users, None, 60).await.not_after, NOW + 60);
}

#[tokio::test]
async fn life_is_checked_at_its_ends() {
    let users = ca(CaKind::User).await;
    let made = client(&users, None, 3_600).await;
    let identity = ClientIdentity::from_der(&made.der, "prod").unwrap();
    assert_eq!(identity.check_validity(NOW - 61), Err(IdentityError::NotYet));
    identity.check_validity(NOW - 60).unwrap();
    identity.check_validity(NOW + 3_600).unwrap();
    assert_eq!(identity.check_validity(NOW + 3_601), Err(IdentityError::Expired));
    assert!(!passes_as_client(&made, &users, NOW + 3_601));
    assert!(!passes_as_client(&made, &users, NOW - 61));
}

#[tokio::test]
async fn a_certificate_of_one_ca_never_passes_for_the_other() {
    let (users, hosts) = (ca(CaKind::User).await, ca(CaKind::Host).await);
    let other_users = ca(CaKind::User).await;
    let (person, proxy) = (client(&users, None, 60).await, host(&hosts).await);
    assert!(passes_as_server(&proxy, &hosts, "orders.cache.acme.example"));
    assert!(passes_as_server(&proxy, &hosts, "127.0.0.1"));
    assert!(!passes_as_server(&proxy, &hosts, "cache.acme.example"));
    assert!(!passes_as_server(&proxy, &users, "localhost"));
    assert!(!passes_as_client(&proxy, &hosts, NOW));
    assert!(!passes_as_client(&proxy, &users, NOW));
    assert!(!passes_as_client(&person, &hosts, NOW));
    assert!(!passes_as_client(&person, &other_users, NOW));
    assert!(!passes_as_server(&person, &users, "localhost"));
    // Even signed by the wrong CA's key, the usages and the names keep them apart.
    let (wrong_person, wrong_proxy) = (client(&hosts, None, 60).await, host(&users).await);
    assert!(!passes_as_client(&wrong_person, &users, NOW));
    assert!(!passes_as_client(&wrong_proxy, &users, NOW));
    assert!(!passes_as_server(&wrong_person, &hosts, "localhost"));
    assert_eq!(ClientIdentity::from_der(&proxy.der, "prod"), Err(IdentityError::Usage("clients")));
    assert_eq!(HostIdentity::from_der(&person.der, "prod"), Err(IdentityError::Usage("proxies")));
    assert_eq!(ClientIdentity::from_der(&users.der, "prod"), Err(IdentityError::Usage("clients")));
    let read = HostIdentity::from_der(&proxy.der, "prod").unwrap();
    assert_eq!((read.group.as_str(), read.id.as_str()), ("default", "p-1"));
    assert_eq!(read.hosts, ["*.cache.acme.example", "localhost", "127.0.0.1"]);
}

#[tokio::test]
async fn another_deployment_is_refused() {
    let users = ca(CaKind::User).await;
    let made = client(&users, None, 60).await;
    assert!(matches!(ClientIdentity::from_der(&made.der, "stage"), Err(IdentityError::Foreign(_))));
}

/// Signs any names with any usages, as a buggy or hostile issuer would.
async fn forged(uris: &[&str], usages: &[ExtendedKeyUsagePurpose], dns: Option<&str>) -> Vec<u8> {
    let users = ca(CaKind::User).await;
    let authority = Authority::new(&users.pem, &users.signer).await.unwrap();
    let mut params = leaf("x", ExtendedKeyUsagePurpose::ClientAuth);
    params.extended_key_usages = usages.to_vec();
    params.subject_alt_names =
        uris.iter().map(|uri| SanType::URI((*uri).to_owned().try_into().unwrap())).collect();
    params.subject_alt_names.extend(dns.map(|name| SanType::DnsName(name.to_owned().try_into().unwrap())));
    authority.issue(params, &subject().spki, (NOW, NOW + 60), Uuid::from_u128(1)).await.unwrap().der
}

#[tokio::test]
async fn odd_certificates_are_refused() {
    use ExtendedKeyUsagePurpose::{Any, ClientAuth, ServerAuth};
    let ann = "keystile://prod/user/ann";
    let (orders, carts) = ("keystile://prod/route/orders/ro", "keystile://prod/route/carts/ro");
    let table: &[(&[&str], &[ExtendedKeyUsagePurpose], Option<&str>)] = &[
        (&[], &[ClientAuth], None),
        (&[orders], &[ClientAuth], None),
        (&[ann, ann], &[ClientAuth], None),
        (&[ann, "keystile://prod/user/bob"], &[ClientAuth], None),
        (&[ann, orders, carts], &[ClientAuth], None),
        (&[ann, orders, orders], &[ClientAuth], None),
        (&[ann, "keystile://prod/group/admins"], &[ClientAuth], None),
        (&[ann, "keystile://stage/user/ann"], &[ClientAuth], None),
        (&[ann, "https://acme.example/"], &[ClientAuth], None),
        (&[ann, "keystile://prod/proxy/default/p-1"], &[ClientAuth], None),
        (&["keystile://prod/user/*"], &[ClientAuth], None),
        (&["keystile://prod/user/a%00b"], &[ClientAuth], None),
        (&[ann], &[ClientAuth, ServerAuth], None),
        (&[ann], &[ServerAuth], None),
        (&[ann], &[Any], None),
        (&[ann], &[], None),
        (&[ann], &[ClientAuth], Some("ann.acme.example")),
    ];
    for (uris, usages, dns) in table {
        let der = forged(uris, usages, *dns).await;
        assert!(ClientIdentity::from_der(&der, "prod").is_err(), "{uris:?} {usages:?} {dns:?}");
    }
    assert!(ClientIdentity::from_der(&forged(&[ann, orders], &[ClientAuth], None).await, "prod").is_ok());
}

#[tokio::test]
async fn a_ca_certificate_of_another_key_does_not_sign() {
    let (users, hosts) = (ca(CaKind::User).await, ca(CaKind::Host).await);
    let error = Authority::new(&users.pem, &hosts.signer).await.unwrap_err();
    assert!(matches!(error, IssueError::Ca(_)), "{error}");
    let leaf = client(&users, None, 60).await;
    assert!(Authority::new(&leaf.pem, &users.signer).await.is_err());
}

/// Answers another key's signature, as a misconfigured KMS alias would.
struct Liar(FileSigner, FileSigner);

#[async_trait::async_trait]
impl CaSigner for Liar {
    async fn public_key(&self) -> Result<Vec<u8>, SignError> {
        self.0.public_key().await
    }
    async fn sign(&self, message: &[u8]) -> Result<Vec<u8>, SignError> {
        self.1.sign(message).await
    }
    fn key(&self) -> &'static str {
        "liar"
    }
}

#[tokio::test]
async fn a_signature_that_does_not_verify_is_never_handed_out() {
    let liar = Liar(ca(CaKind::User).await.signer, ca(CaKind::User).await.signer);
    let error = self_sign("prod", CaKind::User, 1, &liar, NOW, Uuid::from_u128(1)).await.unwrap_err();
    assert!(matches!(error, IssueError::Ca(_)), "{error}");
}

#[tokio::test]
async fn lives_that_do_not_fit_are_refused() {
    let users = ca(CaKind::User).await;
    let authority = Authority::new(&users.pem, &users.signer).await.unwrap();
    let (user, key) = (UserName::parse("ann").unwrap(), subject());
    for ttl_s in [0, u64::MAX, u64::try_from(CA_LIFE_S).unwrap() + 1] {
        let request = ClientRequest { deployment: "prod", user: &user, route: None, key: &key, ttl_s };
        let error = issue_client(&authority, &request, NOW, Uuid::from_u128(1)).await.unwrap_err();
        assert!(matches!(error, IssueError::Life(_)), "{ttl_s}: {error}");
    }
}

#[test]
fn dns_names() {
    for good in ["localhost", "cache.acme.example", "*.cache.acme.example", "a-1.b"] {
        assert!(is_dns_name(good), "{good}");
    }
    for bad in ["", "*", "*.example", "a.*.b", "**.a.b", "A.b", "a..b", ".a", "a.", "-a.b", "a b", "1.2.3.4"]
    {
        assert!(!is_dns_name(bad), "{bad}");
    }
    assert!(!is_dns_name(&format!("{}.example", "a".repeat(64))));
    assert!(!is_dns_name(&"a.".repeat(127)));
}

proptest! {
    #[test]
    fn any_bytes_are_no_certificate(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        prop_assert!(ClientIdentity::from_der(&bytes, "prod").is_err());
    }
}

#[tokio::test]
async fn a_cut_or_grown_certificate_is_refused() {
    let made = client(&ca(CaKind::User).await, None, 60).await.der;
    for end in 0..made.len() {
        assert!(ClientIdentity::from_der(&made[..end], "prod").is_err(), "{end}");
    }
    let mut grown = made.clone();
    grown.push(0);
    assert!(ClientIdentity::from_der(&grown, "prod").is_err());
}
