//! A DynamoDB to test against: ministack as a child of the test process.

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_credential_types::Credentials;
use aws_credential_types::provider::SharedCredentialsProvider;

/// A running ministack; it ends with this value.
pub(crate) struct Ministack {
    child: Child,
    port: u16,
    _folder: tempfile::TempDir,
}

impl Drop for Ministack {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

impl Ministack {
    /// Starts one, or says why this test is skipped. With `KEYSTILE_REQUIRE_WORLD=1` a missing one fails.
    pub(crate) async fn start() -> Option<Self> {
        let Some(binary) = binary() else {
            assert_ne!(
                std::env::var("KEYSTILE_REQUIRE_WORLD").as_deref(),
                Ok("1"),
                "ministack is missing: set KEYSTILE_MINISTACK or make target/local/venv"
            );
            println!("skipped: no ministack (KEYSTILE_MINISTACK, or target/local/venv/bin/ministack)");
            return None;
        };
        let folder = tempfile::tempdir().unwrap();
        let port = keystile_free_ports::take().unwrap();
        let child = Command::new(binary)
            .env_clear()
            .env("PATH", std::env::var("PATH").unwrap_or_default())
            .env("HOME", folder.path())
            .env("TMPDIR", folder.path())
            .env("BIND_HOST", "127.0.0.1")
            .env("IOT_MTLS_ENABLED", "0")
            .env("GATEWAY_PORT", port.to_string())
            .env("MINISTACK_ACCOUNT_ID", "123456789012")
            .env("LOG_LEVEL", "WARNING")
            .current_dir(folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let started = Self { child, port, _folder: folder };
        started.wait().await;
        Some(started)
    }

    async fn wait(&self) {
        let began = Instant::now();
        while tokio::net::TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).await.is_err() {
            assert!(began.elapsed() < Duration::from_secs(60), "ministack did not start");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// What a client of it is built from.
    pub(crate) fn config(&self) -> SdkConfig {
        config(self.port)
    }
}

/// A configuration whose DynamoDB is at this port.
pub(crate) fn config(port: u16) -> SdkConfig {
    let keys = Credentials::new("test", "test", None, None, "test");
    SdkConfig::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new("us-east-1"))
        .credentials_provider(SharedCredentialsProvider::new(keys))
        .endpoint_url(format!("http://127.0.0.1:{port}"))
        .build()
}

fn binary() -> Option<PathBuf> {
    let local = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../target/local/venv/bin/ministack");
    std::env::var_os("KEYSTILE_MINISTACK").map(PathBuf::from).into_iter().chain([local]).find(|p| p.exists())
}
