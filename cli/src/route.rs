//! Credentials of single routes: asked for, kept in files for clients that read them, or only in memory.

use std::path::PathBuf;
use std::sync::Arc;

use keystile_api::{RouteAnswer, RouteRequest};
use rustls::ClientConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use secrecy::{ExposeSecret as _, SecretString};
use serde::Serialize;

use crate::access::Access;
use crate::context::Context;
use crate::failure::Failure;
use crate::home;
use crate::keys::Pair;

/// Longest key file, in bytes.
const MAX_KEY: u64 = 16 * 1024;

/// A route that is open to us.
#[derive(Debug)]
pub(crate) struct Route {
    /// What the access function said; the proxy's address is the one to dial.
    pub(crate) answer: RouteAnswer,
    key: SecretString,
}

/// Where a client finds a route: the stable shape of `db config`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Settings {
    /// The proxy.
    pub(crate) host: String,
    /// Its port.
    pub(crate) port: u16,
    /// The file of the CA that signs proxies.
    pub(crate) ca: PathBuf,
    /// The file of the certificate that opens the route.
    pub(crate) cert: PathBuf,
    /// The file of its key.
    pub(crate) key: PathBuf,
    /// The TLS server name.
    pub(crate) server_name: String,
    /// The database.
    pub(crate) database: String,
    /// The db user.
    pub(crate) db_user: String,
    /// End of the certificate.
    pub(crate) valid_until: String,
}

impl Route {
    /// Asks for a route, with a key made for it alone. The access function decides first.
    pub(crate) async fn ask(
        context: &Context,
        access: &Access,
        database: &str,
        db_user: Option<&str>,
    ) -> Result<Self, Failure> {
        Self::ask_with(context, access, database, db_user, Pair::generate()?).await
    }

    /// Asks for a route and keeps it in files. A key that is there already is used again, so that a client
    /// which reads certificate and key one after the other never finds two that do not belong together.
    pub(crate) async fn keep(
        context: &Context,
        access: &Access,
        database: &str,
        db_user: Option<&str>,
    ) -> Result<(Self, Settings), Failure> {
        let kept = db_user.map(|user| context.home.route(database, user).join("key.pem"));
        let kept = kept.and_then(|path| home::read_text(&path, MAX_KEY).ok().flatten());
        let pair = match kept.and_then(|text| Pair::read(&text)) {
            Some(pair) => pair,
            None => Pair::generate()?,
        };
        let mut route = Self::ask_with(context, access, database, db_user, pair).await?;
        if db_user.is_none() {
            // Only now is the db user known; perhaps that route has a key.
            let path = context.home.route(&route.answer.database, &route.answer.db_user).join("key.pem");
            if let Some(pair) = home::read_text(&path, MAX_KEY)?.and_then(|text| Pair::read(&text)) {
                let user = route.answer.db_user.clone();
                route = Self::ask_with(context, access, database, Some(&user), pair).await?;
            }
        }
        let settings = route.write(context)?;
        Ok((route, settings))
    }

    async fn ask_with(
        context: &Context,
        access: &Access,
        database: &str,
        db_user: Option<&str>,
        pair: Pair,
    ) -> Result<Self, Failure> {
        let request = RouteRequest {
            database: database.to_owned(),
            db_user: db_user.map(str::to_owned),
            public_key: pair.public,
            ttl_s: None,
        };
        let mut answer: RouteAnswer = access.post("/v1/route", &request).await?;
        answer.proxy_address = context.proxy_address(&answer.proxy_address);
        Ok(Self { answer, key: pair.private })
    }

    fn write(&self, context: &Context) -> Result<Settings, Failure> {
        let answer = &self.answer;
        let (host, port) = host_and_port(&answer.proxy_address)?;
        let folder = context.home.route(&answer.database, &answer.db_user);
        let file = |name: &str| folder.join(name);
        home::write_private(&file("key.pem"), self.key.expose_secret().as_bytes())?;
        home::write_private(&file("ca.pem"), answer.host_ca.as_bytes())?;
        home::write_private(&file("cert.pem"), answer.certificate.as_bytes())?;
        Ok(Settings {
            host,
            port,
            ca: file("ca.pem"),
            cert: file("cert.pem"),
            key: file("key.pem"),
            server_name: answer.server_name.clone(),
            database: answer.database.clone(),
            db_user: answer.db_user.clone(),
            valid_until: answer.valid_until.clone(),
        })
    }

    /// TLS to the proxy with the route's certificate; trusts the host CA and nothing else.
    pub(crate) fn tls(&self) -> Result<(Arc<ClientConfig>, ServerName<'static>), Failure> {
        let bad = |what: &str, why: &dyn std::fmt::Display| {
            Failure::failed(format!("the {what} from the access function is unusable")).why(why.to_string())
        };
        let mut roots = rustls::RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(self.answer.host_ca.as_bytes()) {
            let certificate = certificate.map_err(|error| bad("host CA", &error))?;
            roots.add(certificate).map_err(|error| bad("host CA", &error))?;
        }
        let chain: Vec<_> = CertificateDer::pem_slice_iter(self.answer.certificate.as_bytes())
            .collect::<Result<_, _>>()
            .map_err(|error| bad("certificate", &error))?;
        let key = PrivateKeyDer::from_pem_slice(self.key.expose_secret().as_bytes())
            .map_err(|error| bad("key", &error))?;
        let name = ServerName::try_from(self.answer.server_name.clone())
            .map_err(|error| bad("server name", &error))?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| bad("TLS configuration", &error))?
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, key)
            .map_err(|error| bad("certificate", &error))?;
        Ok((Arc::new(config), name))
    }
}

/// `host:port`, `[v6]:port`.
pub(crate) fn host_and_port(address: &str) -> Result<(String, u16), Failure> {
    let parts = address.rsplit_once(':').and_then(|(host, port)| {
        let host = host.trim_start_matches('[').trim_end_matches(']');
        (!host.is_empty()).then_some((host.to_owned(), port.parse().ok()?))
    });
    parts.ok_or_else(|| {
        Failure::failed(format!("{address:?} is no address of a proxy"))
            .why("the deployment, or KEYSTILE_PROXY_ADDR, must give host:port")
    })
}

/// Adds to an ambiguous answer the lines to type; a choice is quoted for the shell that they are pasted into.
pub(crate) fn with_lines(mut failure: Failure, line: impl Fn(&str) -> String) -> Failure {
    if failure.code != "ambiguous" || failure.choices.is_empty() {
        return failure;
    }
    failure.next = failure
        .choices
        .iter()
        .take(10)
        .map(|choice| line(&crate::verbs::databases::quoted(choice)))
        .collect();
    failure
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        assert_eq!(host_and_port("a:1").unwrap(), ("a".to_owned(), 1));
        assert_eq!(host_and_port("[::1]:6379").unwrap(), ("::1".to_owned(), 6379));
        for bad in ["", "a", "a:", ":1", "a:99999"] {
            assert_eq!(host_and_port(bad).unwrap_err().exit, 1, "{bad}");
        }
    }

    #[test]
    fn an_ambiguous_answer_gets_the_lines_to_type() {
        let mut failure = Failure::usage("name one");
        failure.code = "ambiguous".to_owned();
        failure.choices = vec!["iam-ro".to_owned(), "iam-rw".to_owned(), "x;$(id)".to_owned()];
        let with = with_lines(failure, |user| format!("keystile db connect orders --db-user {user}"));
        assert_eq!(with.next[1], "keystile db connect orders --db-user iam-rw");
        assert_eq!(with.next[2], "keystile db connect orders --db-user 'x;$(id)'");
        assert_eq!(with_lines(Failure::usage("x"), |_| unreachable!()), Failure::usage("x"));
    }
}
