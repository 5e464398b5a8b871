//! The two proxies, with the environment that the task definition would give them.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use http_body_util::Empty;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;

use super::{DEPLOYMENT, Ground, POLICY_TABLE, RUNTIME_TABLE, admin};
use crate::fixture::HOME_REGION;
use crate::world::environment::Environment;
use crate::world::proxies;

/// How long a proxy may take to load the policy.
const PATIENCE: Duration = Duration::from_secs(20);

/// Starts both, waits until they are ready, and says where they are.
pub(super) async fn start(ground: &Ground<'_>, environment: &mut Environment) -> Result<()> {
    let cache_ca = environment.value("CACHE_CA_FILE").context("the caches have no CA")?.to_owned();
    for (index, (port, metrics)) in ground.ports.proxies.iter().enumerate() {
        let number = index + 1;
        let running = proxies::start(
            ground.paths,
            number,
            *port,
            proxy_environment(ground, *port, *metrics, &cache_ca),
        )
        .await?;
        let address = format!("127.0.0.1:{port}");
        let prefix =
            if number == 1 { "KEYSTILE_PROXY".to_owned() } else { format!("KEYSTILE_PROXY{number}") };
        environment.set(&format!("{prefix}_ADDR"), address);
        environment.set(&format!("{prefix}_PID"), running.pid.to_string());
        if number == 1 {
            environment.set("KEYSTILE_METRICS_URL", format!("http://127.0.0.1:{metrics}/metrics"));
        }
    }
    environment
        .set("KEYSTILE_CA_FILE", admin::certificate_folder(ground).join("ca.pem").display().to_string());
    for (_, metrics) in &ground.ports.proxies {
        ready(*metrics).await?;
    }
    Ok(())
}

fn proxy_environment(
    ground: &Ground<'_>,
    port: u16,
    metrics: u16,
    cache_ca: &str,
) -> BTreeMap<String, String> {
    let folder = admin::certificate_folder(ground);
    let file = |name: &str| folder.join(name).display().to_string();
    let pairs = [
        ("KEYSTILE_LISTEN", format!("127.0.0.1:{port}")),
        ("KEYSTILE_METRICS_LISTEN", format!("127.0.0.1:{metrics}")),
        ("KEYSTILE_ADVERTISE_ADDR", format!("127.0.0.1:{port}")),
        ("KEYSTILE_DEPLOYMENT", DEPLOYMENT.to_owned()),
        ("KEYSTILE_GROUP", "default".to_owned()),
        ("KEYSTILE_POLICY_TABLE", POLICY_TABLE.to_owned()),
        ("KEYSTILE_RUNTIME_TABLE", RUNTIME_TABLE.to_owned()),
        ("KEYSTILE_HOST_CERT_FILE", file("cert.pem")),
        ("KEYSTILE_HOST_KEY_FILE", file("key.pem")),
        ("KEYSTILE_CACHE_CA_FILE", cache_ca.to_owned()),
        ("KEYSTILE_ALLOW_LOOPBACK", "on".to_owned()),
        ("KEYSTILE_AUDIT_FILE", ground.audit_file().display().to_string()),
        // All clients of the world come from one address.
        ("KEYSTILE_FAILED_SIGN_INS_PER_MINUTE", "10000".to_owned()),
        ("KEYSTILE_IAM_LIFE_S", ground.iam_life_s.to_string()),
        ("RUST_LOG", "info".to_owned()),
        ("AWS_REGION", HOME_REGION.to_owned()),
        ("AWS_ENDPOINT_URL", ground.front.endpoint_url.clone()),
        ("AWS_EC2_METADATA_DISABLED", "true".to_owned()),
        // As Fargate hands a task its role.
        (
            "AWS_CONTAINER_CREDENTIALS_FULL_URI",
            format!("{}/credentials/keystile-proxy", ground.front.control_url),
        ),
        ("AWS_CONTAINER_AUTHORIZATION_TOKEN", ground.front.control_token.clone()),
    ];
    pairs.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

async fn ready(metrics: u16) -> Result<()> {
    let url: http::Uri = format!("http://127.0.0.1:{metrics}/readyz").parse()?;
    let client: Client<_, Empty<bytes::Bytes>> = Client::builder(TokioExecutor::new()).build_http();
    let end = tokio::time::Instant::now() + PATIENCE;
    loop {
        let answer = client.get(url.clone()).await;
        if answer.as_ref().is_ok_and(|answer| answer.status().is_success()) {
            return Ok(());
        }
        if tokio::time::Instant::now() > end {
            bail!(
                "{url} does not become ready: {:?}",
                answer.map(|answer| answer.status()).context("no answer")
            );
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
