//! The certificates that the CAs issue: for people and workloads, and for proxies.

use std::net::IpAddr;

use keystile_model::name::UserName;
use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, KeyUsagePurpose, SanType};
use uuid::Uuid;

use crate::ca::{Authority, IssueError, Issued, common_name};
use crate::name::{Name, Route, is_proxy_part};
use crate::public_key::SubjectKey;

/// How far back certificates are dated, for clocks that go slow, in seconds.
pub const SKEW_S: i64 = 60;
/// Most names of a host certificate.
pub const MAX_HOSTS: usize = 50;

/// What a client certificate is to say.
#[derive(Debug, Clone)]
pub struct ClientRequest<'a> {
    /// The deployment.
    pub deployment: &'a str,
    /// The user.
    pub user: &'a UserName,
    /// The one route that it opens; none for a certificate that opens whatever the roles allow.
    pub route: Option<&'a Route>,
    /// The holder's key.
    pub key: &'a SubjectKey,
    /// Life from now, in seconds.
    pub ttl_s: u64,
}

/// What a host certificate is to say.
#[derive(Debug, Clone)]
pub struct HostRequest<'a> {
    /// The deployment.
    pub deployment: &'a str,
    /// The proxy group.
    pub group: &'a str,
    /// The proxy's id.
    pub id: &'a str,
    /// DNS names, maybe with `*.` in front, and addresses.
    pub hosts: &'a [String],
    /// The proxy's key.
    pub key: &'a SubjectKey,
    /// Life from now, in seconds.
    pub ttl_s: u64,
}

/// Issues a client certificate, from [`SKEW_S`] before `now` to `now` + the wanted life.
///
/// # Errors
/// [`IssueError`] when the CA's key does not sign or the life does not fit.
pub async fn issue_client(
    ca: &Authority<'_>,
    request: &ClientRequest<'_>,
    now: i64,
    serial: Uuid,
) -> Result<Issued, IssueError> {
    let mut names = vec![Name::User(request.user.clone())];
    names.extend(request.route.cloned().map(Name::Route));
    let mut params = leaf(request.user.as_str(), ExtendedKeyUsagePurpose::ClientAuth);
    params.subject_alt_names =
        names.iter().map(|name| uri(name, request.deployment)).collect::<Result<_, _>>()?;
    ca.issue(params, &request.key.spki, life(now, request.ttl_s)?, serial).await
}

/// Issues a proxy's certificate.
///
/// # Errors
/// [`IssueError`] when a name cannot stand in it, the CA's key does not sign, or the life does not fit.
pub async fn issue_host(
    ca: &Authority<'_>,
    request: &HostRequest<'_>,
    now: i64,
    serial: Uuid,
) -> Result<Issued, IssueError> {
    for (what, part) in [("group", request.group), ("id", request.id)] {
        if !is_proxy_part(part) {
            return Err(IssueError::Request(format!(
                "{part:?} is no proxy {what}: use 1 to 64 letters, digits and hyphens"
            )));
        }
    }
    if request.hosts.is_empty() || request.hosts.len() > MAX_HOSTS {
        return Err(IssueError::Request(format!("a host certificate has 1 to {MAX_HOSTS} names")));
    }
    let proxy = Name::Proxy { group: request.group.to_owned(), id: request.id.to_owned() };
    let mut params = leaf(&format!("{} {}", request.group, request.id), ExtendedKeyUsagePurpose::ServerAuth);
    params.subject_alt_names.push(uri(&proxy, request.deployment)?);
    for host in request.hosts {
        params.subject_alt_names.push(host_name(host)?);
    }
    ca.issue(params, &request.key.spki, life(now, request.ttl_s)?, serial).await
}

/// Whether a text is a DNS name that a certificate may have: letters, digits, hyphens and dots in lower case,
/// labels of 1 to 63, at most 253 in all, one `*.` in front at most and never of a top-level name.
#[must_use]
pub fn is_dns_name(text: &str) -> bool {
    let name = text.strip_prefix("*.").unwrap_or(text);
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let labels = name.split('.').count();
    // An all-numeric last label would read as an address.
    let numeric = name.rsplit('.').next().is_some_and(|last| last.bytes().all(|b| b.is_ascii_digit()));
    text.len() <= 253 && name.split('.').all(label) && !numeric && (name == text || labels >= 2)
}

fn leaf(subject: &str, usage: ExtendedKeyUsagePurpose) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = common_name(subject);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![usage];
    params
}

fn uri(name: &Name, deployment: &str) -> Result<SanType, IssueError> {
    let text = name.to_uri(deployment);
    if Name::from_uri(&text, deployment).as_ref() != Ok(name) {
        return Err(IssueError::Request("the name cannot stand in a certificate".to_owned()));
    }
    text.try_into().map(SanType::URI).map_err(|error: rcgen::Error| IssueError::Request(error.to_string()))
}

fn host_name(text: &str) -> Result<SanType, IssueError> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok(SanType::IpAddress(address));
    }
    if !is_dns_name(text) {
        return Err(IssueError::Request(format!("{text:?} is no DNS name and no address")));
    }
    text.to_owned()
        .try_into()
        .map(SanType::DnsName)
        .map_err(|error: rcgen::Error| IssueError::Request(error.to_string()))
}

fn life(now: i64, ttl_s: u64) -> Result<(i64, i64), IssueError> {
    let ttl = i64::try_from(ttl_s).map_err(|_| IssueError::Life("it is too long"))?;
    if ttl == 0 {
        return Err(IssueError::Life("it is empty"));
    }
    let end = now.checked_add(ttl).ok_or(IssueError::Life("it is too long"))?;
    Ok((now - SKEW_S, end))
}

#[cfg(test)]
#[path = "certificate_tests.rs"]
mod tests;
