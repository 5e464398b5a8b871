//! The CAs, and proxies' certificates until proxies join by themselves.

use keystile_api::{CaCertificateView, CaStatus, HostCertAnswer, HostCertRequest};
use keystile_identity::Certificate;
use keystile_identity::certificate::{HostRequest, MAX_HOSTS, is_dns_name, issue_host};
use keystile_model::audit::EventKind;
use keystile_model::policy::CaKind;
use serde_json::{Value, json};

use super::rfc3339;
use crate::app::{Call, bundle};
use crate::failure::{Failure, internal};
use crate::handler::json as answer;

/// Life of a host certificate unless asked for, in seconds: 30 days.
const HOST_TTL_S: u64 = 30 * 24 * 3_600;
/// The longest: 90 days.
const MAX_HOST_TTL_S: u64 = 90 * 24 * 3_600;

/// `GET /v1/ca`.
pub(super) fn status(call: &Call<'_>) -> Result<Value, Failure> {
    answer(&CaStatus { certificates: views(call)? })
}

/// The certificates of both CAs, the user CA's first, by generation.
pub(super) fn views(call: &Call<'_>) -> Result<Vec<CaCertificateView>, Failure> {
    let mut views = Vec::new();
    for kind in [CaKind::User, CaKind::Host] {
        for stored in call.policy.ca_certificates(kind) {
            let read = Certificate::from_pem(&stored.pem).map_err(|error| {
                tracing::error!(%error, ca = stored.id(), "a CA's certificate cannot be read");
                internal("a CA's certificate cannot be read")
            })?;
            views.push(CaCertificateView {
                ca: kind.as_str().to_owned(),
                generation: stored.generation,
                pin: read.pin(),
                certificate: stored.pem.clone(),
                not_before: rfc3339(read.not_before),
                not_after: rfc3339(read.not_after),
                signing: stored.signing,
            });
        }
    }
    views.sort_by(|a, b| b.ca.cmp(&a.ca).then(a.generation.cmp(&b.generation)));
    Ok(views)
}

/// `POST /v1/ca/host-cert`.
pub(super) async fn host_certificate(call: &Call<'_>) -> Result<Value, Failure> {
    let made = issue(call).await;
    if let Err(failure) = &made {
        let user = call.user.name.as_str();
        let details = vec![("kind", json!("ca")), ("ca", json!("host"))];
        crate::audit::refused(call.app, call.request, EventKind::PolicyDenied, user, failure, details);
    }
    answer(&made?)
}

async fn issue(call: &Call<'_>) -> Result<HostCertAnswer, Failure> {
    call.authorize("ca", "sign")?;
    let wanted: HostCertRequest = call.request.json()?;
    let app = call.app;
    let key = super::session::public_key(&wanted.public_key)?;
    let id = if wanted.id.is_empty() { (app.ids)().to_string() } else { wanted.id };
    let hosts = names(call, &wanted.names)?;
    let ttl_s = wanted.ttl_s.unwrap_or(HOST_TTL_S);
    if ttl_s == 0 || ttl_s > MAX_HOST_TTL_S {
        return Err(Failure::bad("a host certificate lives 1 second to 90 days"));
    }
    let authority = app.authority(&call.policy, CaKind::Host).await?;
    let request = HostRequest {
        deployment: &call.settings.deployment,
        group: &wanted.group,
        id: &id,
        hosts: &hosts,
        key: &key,
        ttl_s,
    };
    let issued = issue_host(&authority, &request, call.now, (app.ids)()).await?;
    let user = call.user.name.as_str();
    let mut event = crate::audit::event(app, call.request, EventKind::CertificateIssued, user, true);
    for (key, value) in [
        ("ca", json!("host")),
        ("group", json!(wanted.group)),
        ("proxy", json!(id)),
        ("names", json!(hosts)),
        ("serial", json!(issued.serial)),
        ("valid_until", json!(rfc3339(issued.not_after))),
    ] {
        event.details.insert(key.to_owned(), value);
    }
    app.audit.write(&event);
    Ok(HostCertAnswer {
        certificate: issued.pem,
        valid_until: rfc3339(issued.not_after),
        host_ca: bundle(&call.policy, CaKind::Host),
    })
}

/// The names that every proxy has, and those asked for that belong to the deployment.
fn names(call: &Call<'_>, asked: &[String]) -> Result<Vec<String>, Failure> {
    let (domain, config) = (&call.settings.domain, &call.app.config);
    if asked.len() > MAX_HOSTS {
        return Err(Failure::bad(format!("a host certificate has at most {MAX_HOSTS} names")));
    }
    let proxy = config.proxy_host().unwrap_or_default().to_owned();
    let mut names = vec![format!("*.{domain}"), domain.clone()];
    let mut add = |name: String| {
        if !names.contains(&name) {
            names.push(name);
        }
    };
    add(proxy.clone());
    if config.allow_loopback {
        ["localhost", "127.0.0.1", "::1"].into_iter().for_each(|name| add(name.to_owned()));
    }
    for name in asked {
        let inside = is_dns_name(name) && (name == domain || name.ends_with(&format!(".{domain}")));
        let loopback = config.allow_loopback && ["localhost", "127.0.0.1", "::1"].contains(&name.as_str());
        if !(inside || loopback || *name == proxy) {
            let shown: String = name.chars().take(100).collect();
            return Err(Failure::bad(format!("{shown:?} is no name of this deployment's proxies"))
                .why(format!("names end in .{domain}, or are the proxy address's host")));
        }
        add(name.clone());
    }
    Ok(names)
}
