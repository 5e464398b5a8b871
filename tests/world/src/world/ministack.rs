//! ministack, which carries DynamoDB, KMS, STS, IAM, Secrets Manager and more behind the front.

use std::time::Duration;

use anyhow::{Result, bail};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::paths::Paths;
use super::process::{Running, Spec};
use crate::fixture::HOME_ACCOUNT;
use crate::packages::Packages;

/// How long it may take to answer. It takes under a second.
const PATIENCE: Duration = Duration::from_secs(30);

/// Starts it on loopback alone, with signature checks, and waits until it answers.
///
/// # Errors
/// When it does not start or does not answer; the error names its log.
pub async fn start(paths: &Paths, packages: &Packages, port: u16) -> Result<Running> {
    let home = paths.local.join("ministack");
    let _ = std::fs::remove_dir_all(&home);
    std::fs::create_dir_all(&home)?;
    let folder = home.display().to_string();
    let spec = Spec::new("ministack", packages.ministack())
        // Without these two it listens on every interface, the second time with MQTT on port 8883.
        .env("BIND_HOST", "127.0.0.1")
        .env("IOT_MTLS_ENABLED", "0")
        .env("GATEWAY_PORT", port.to_string())
        .env("AUTH", "true")
        .env("MINISTACK_ACCOUNT_ID", HOME_ACCOUNT)
        .env("LOG_LEVEL", "WARNING")
        .env("HOME", &folder)
        .env("TMPDIR", &folder)
        .env("PYTHONUNBUFFERED", "1");
    let running = Running::start(paths, spec)?;
    let end = tokio::time::Instant::now() + PATIENCE;
    while !is_healthy(port).await {
        if !running.is_alive() || tokio::time::Instant::now() > end {
            bail!("ministack does not answer; see {}:\n{}", running.log.display(), running.last_lines());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(running)
}

async fn is_healthy(port: u16) -> bool {
    let ask = async {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
        stream.write_all(b"GET /_ministack/health HTTP/1.0\r\nHost: localhost\r\n\r\n").await?;
        let mut answer = [0; 12];
        stream.read_exact(&mut answer).await?;
        std::io::Result::Ok(answer.ends_with(b" 200"))
    };
    matches!(tokio::time::timeout(Duration::from_secs(2), ask).await, Ok(Ok(true)))
}
