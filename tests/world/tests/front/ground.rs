//! A front of its own for each test, before a ministack of its own, without servers.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_credential_types::Credentials as SdkCredentials;
use keystile_world::fixture::{HOME_ACCOUNT, Passwords, Resource, resources};
use keystile_world::front::{Credentials, FrontConfig, FrontHandle, serve};
use keystile_world::packages::Packages;
use keystile_world::servers::{Options, start};
use keystile_world::world::ports::Ports;
use keystile_world::world::process::Running;
use keystile_world::world::{Paths, ministack};
use rustix::process::Signal;

/// How long a change takes in these tests.
pub(crate) const DELAY: Duration = Duration::from_millis(600);

pub(crate) struct Ground {
    pub(crate) front: FrontHandle,
    pub(crate) paths: Paths,
    pub(crate) passwords: Passwords,
}

impl Ground {
    pub(crate) async fn new() -> Self {
        Self::with_fleet(None).await
    }

    pub(crate) async fn with_fleet(fleet: Option<usize>) -> Self {
        Self::start(fleet, &[]).await
    }

    /// With real servers behind some caches of the home account.
    pub(crate) async fn with_servers(caches: &[&str]) -> Self {
        Self::start(None, caches).await
    }

    async fn start(fleet: Option<usize>, caches: &[&str]) -> Self {
        let checkout = Paths::of_checkout();
        let paths = checkout.beside(std::env::temp_dir().join(format!("front-{}", uuid::Uuid::new_v4())));
        let packages = Packages::locate(&paths.packages).expect("run `keystile-world packages` first");
        let port = Ports::new(None).take().unwrap();
        ministack::start(&paths, &packages, port).await.unwrap();
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let passwords = Passwords::generate();
        let manifest =
            if caches.is_empty() { None } else { Some(servers(&paths, &packages, &passwords, caches).await) };
        let config = FrontConfig {
            update_delay: DELAY,
            fleet,
            manifest,
            ..FrontConfig::new(paths.local.join("front"), address, passwords.clone())
        };
        let front = serve(config).await.unwrap();
        Self { front, paths, passwords }
    }

    /// The configuration of an IAM user of the home account.
    pub(crate) async fn user(&self, name: &str) -> SdkConfig {
        self.config(self.front.users[name].clone(), "us-east-1").await
    }

    pub(crate) async fn admin(&self) -> SdkConfig {
        self.user("keystile-admin").await
    }

    pub(crate) async fn config(&self, credentials: Credentials, region: &'static str) -> SdkConfig {
        let env = credentials.env();
        let part = |name: &str| env.get(name).cloned();
        let credentials = SdkCredentials::new(
            part("AWS_ACCESS_KEY_ID").unwrap(),
            part("AWS_SECRET_ACCESS_KEY").unwrap(),
            part("AWS_SESSION_TOKEN"),
            None,
            "test",
        );
        self.sdk(credentials, region).await
    }

    pub(crate) async fn sdk(&self, credentials: SdkCredentials, region: &'static str) -> SdkConfig {
        aws_config::defaults(BehaviorVersion::latest())
            .endpoint_url(&self.front.endpoint_url)
            .region(Region::new(region))
            .credentials_provider(credentials)
            .load()
            .await
    }

    /// The second account's configuration, by assuming its role.
    pub(crate) async fn abroad(&self) -> SdkConfig {
        let sts = aws_sdk_sts::Client::new(&self.admin().await);
        let role = sts
            .assume_role()
            .role_arn("arn:aws:iam::210987654321:role/keystile-discovery")
            .role_session_name("test")
            .external_id("keystile-test")
            .send()
            .await
            .unwrap();
        let got = role.credentials().unwrap();
        let token = Some(got.session_token().to_owned());
        let credentials =
            SdkCredentials::new(got.access_key_id(), got.secret_access_key(), token, None, "test");
        self.sdk(credentials, "eu-west-1").await
    }

    pub(crate) fn keys_file(&self) -> serde_json::Value {
        let bytes = std::fs::read(self.paths.local.join("front/keys.json")).unwrap();
        serde_json::from_slice(&bytes).unwrap()
    }

    pub(crate) fn folder(&self) -> PathBuf {
        self.paths.local.clone()
    }

    /// Orders a fault.
    pub(crate) async fn order(&self, order: serde_json::Value) {
        let (status, body) = http("POST", &self.front.faults_url, &[], order.to_string()).await;
        assert_eq!(status, 200, "{body}");
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        for process in Running::all(&self.paths) {
            process.signal(Signal::KILL);
        }
        let _ = std::fs::remove_dir_all(&self.paths.local);
    }
}

async fn servers(paths: &Paths, packages: &Packages, passwords: &Passwords, caches: &[&str]) -> PathBuf {
    let wanted = |r: &Resource| r.account == HOME_ACCOUNT && caches.contains(&r.id.as_str());
    let options = Options {
        resources: resources(&packages.version, 0).into_iter().filter(wanted).collect(),
        passwords: passwords.clone(),
        iam_life: Duration::from_secs(43_200),
    };
    let mut ports = Ports::new(None);
    start(paths, packages, &options, &mut ports, |_| {}).await.unwrap();
    paths.manifest()
}

/// One plain request.
pub(crate) async fn http(
    method: &str,
    url: &str,
    headers: &[(String, String)],
    body: String,
) -> (u16, String) {
    use http_body_util::{BodyExt, Full};
    use hyper_util::client::legacy::Client;
    let client = Client::builder(hyper_util::rt::TokioExecutor::new()).build_http();
    let mut request = http::Request::builder().method(method).uri(url);
    for (name, value) in headers {
        request = request.header(name, value);
    }
    let answer = client.request(request.body(Full::new(bytes::Bytes::from(body))).unwrap()).await.unwrap();
    let status = answer.status().as_u16();
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    (status, String::from_utf8(body.to_vec()).unwrap())
}
