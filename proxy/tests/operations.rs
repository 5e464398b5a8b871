//! What whoever runs the proxy relies on: certificates that renew, limits that hold, addresses and audit lines.
#![allow(
    missing_docs,
    unreachable_pub,
    dead_code,
    clippy::unwrap_used,
    clippy::panic,
    reason = "all of it is tests"
)]

mod support;

use std::sync::atomic::Ordering;
use std::time::Duration;

use secrecy::ExposeSecret as _;
use support::{Pair, World, wait_until};

fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(test);
}

/// The certificate that the proxy shows to a client.
async fn shown(world: &World) -> Vec<u8> {
    let client = world.connect(None, "localhost").await;
    client.stream.get_ref().1.peer_certificates().unwrap()[0].to_vec()
}

fn is(shown: &[u8], pair: &Pair) -> bool {
    use rustls::pki_types::pem::PemObject as _;
    rustls::pki_types::CertificateDer::from_pem_slice(pair.issued.pem.as_bytes()).unwrap().as_ref() == shown
}

fn metric(text: &str, name: &str) -> i64 {
    let line =
        text.lines().find(|line| line.starts_with(&format!("{name} "))).unwrap_or_else(|| panic!("{name}"));
    line.rsplit(' ').next().unwrap().parse().unwrap()
}

#[test]
fn host_certificate_files_are_read_again_and_a_bad_one_changes_nothing() {
    run(async {
        let world = World::start(&[]).await;
        let first = shown(&world).await;
        let path = |name: &str| world.dir.path().join(name);
        let next = world.host_certificate(2 * 86_400).await;
        // The certificate alone: the key does not fit it, so the old pair stays.
        std::fs::write(path("host.crt"), &next.issued.pem).unwrap();
        let metrics = std::sync::Arc::clone(&world.shared.metrics);
        wait_until("the misfit was seen", || metrics.certificate_reloads_failed.value() == 1).await;
        assert_eq!(shown(&world).await, first);
        std::fs::write(path("host.key"), next.key.private.expose_secret()).unwrap();
        wait_until("the new pair is in use", || metrics.certificate_reloads.value() == 1).await;
        assert!(is(&shown(&world).await, &next));
        let left = metric(&world.http("/metrics").await, "keystile_host_certificate_seconds_left");
        assert!((172_700..=172_800).contains(&left), "{left}");
    });
}

#[test]
fn a_host_certificate_in_a_secret_is_read_again_after_ten_minutes() {
    run(async {
        let files = [("KEYSTILE_HOST_CERT_FILE", ""), ("KEYSTILE_HOST_KEY_FILE", "")];
        let world = World::start(&[files[0], files[1], ("KEYSTILE_HOST_CERT_SECRET", "host")]).await;
        let metrics = std::sync::Arc::clone(&world.shared.metrics);
        let first = shown(&world).await;
        assert_eq!(world.secrets.asked.load(Ordering::Relaxed), 1);
        // Away: the old one stays, told once however often it is asked.
        *world.secrets.pair.lock().unwrap() = None;
        for asked in [2, 3] {
            world.clock.advance(601);
            wait_until("it was asked", || world.secrets.asked.load(Ordering::Relaxed) == asked).await;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert_eq!(metrics.certificate_reloads_failed.value(), 1);
        assert_eq!(shown(&world).await, first);
        let next = world.host_certificate(3 * 86_400).await;
        *world.secrets.pair.lock().unwrap() =
            Some((next.issued.pem.clone(), next.key.private.expose_secret().to_owned()));
        world.clock.advance(601);
        wait_until("the new one is in use", || metrics.certificate_reloads.value() == 1).await;
        assert!(is(&shown(&world).await, &next));
        // The same again is nothing new.
        world.clock.advance(601);
        wait_until("it was asked", || world.secrets.asked.load(Ordering::Relaxed) == 5).await;
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert_eq!(metrics.certificate_reloads.value(), 1);
    });
}
