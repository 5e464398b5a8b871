//! The credentials of a person who types a command, and the signature on a request to a Function URL.
//!
//! Either the SDK's whole chain, or, where a folder of its own is named, the profile files in it and
//! nothing else of the environment. Makes no request to Keystile itself and keeps nothing on disk.

use std::path::Path;
use std::sync::Arc;

use aws_config::profile::ProfileFileCredentialsProvider;
use aws_config::provider_config::ProviderConfig;
use aws_config::{BehaviorVersion, Region};
use aws_credential_types::Credentials;
use aws_credential_types::provider::SharedCredentialsProvider;
use aws_runtime::env_config::file::{EnvConfigFileKind, EnvConfigFiles};
use aws_sigv4::http_request::{PayloadChecksumKind, SignableBody, SignableRequest, SigningSettings, sign};
use keystile_model::store::Clock;
use time::OffsetDateTime;

use crate::credentials::{CachedCredentials, CredentialProblem};

/// Who is typing.
#[derive(Clone, Debug)]
pub struct Caller {
    credentials: Option<CachedCredentials>,
    region: Option<String>,
}

impl Caller {
    /// Finds out where credentials come from; asks no service where `region` is given. With `only_from`
    /// (a folder like `~/.aws`) its default profile alone counts, whatever the environment says.
    pub async fn find(only_from: Option<&Path>, region: Option<String>, clock: Arc<dyn Clock>) -> Self {
        let mut loader = aws_config::defaults(BehaviorVersion::latest());
        if let Some(region) = &region {
            loader = loader.region(Region::new(region.clone()));
        }
        if let Some(folder) = only_from {
            let files = profile_files(folder);
            // A profile that assumes a role calls STS, and takes the region for that from here alone.
            let region = match region.map(Region::new) {
                Some(region) => Some(region),
                None => profile_region(files.clone()).await,
            };
            let provider = ProfileFileCredentialsProvider::builder()
                .configure(&ProviderConfig::without_region().with_region(region))
                .profile_files(files.clone())
                .profile_name("default")
                .build();
            loader = loader.profile_files(files).profile_name("default").credentials_provider(provider);
        }
        let config = loader.load().await;
        let chain: Option<SharedCredentialsProvider> = config.credentials_provider();
        Self {
            credentials: chain.map(|chain| CachedCredentials::chain(chain, clock)),
            region: config.region().map(|region| region.as_ref().to_owned()),
        }
    }

    /// The region that was given or found.
    #[must_use]
    pub fn region(&self) -> Option<&str> {
        self.region.as_deref()
    }

    /// Credentials that are good now.
    ///
    /// # Errors
    /// [`CredentialProblem`]: none anywhere, or a source that fails.
    pub async fn credentials(&self) -> Result<Credentials, CredentialProblem> {
        match &self.credentials {
            Some(source) => source.current().await,
            None => Err(CredentialProblem::None("no source of credentials is configured".to_owned())),
        }
    }
}

/// The region of the default profile, read without looking for credentials.
async fn profile_region(files: EnvConfigFiles) -> Option<Region> {
    let loader = aws_config::defaults(BehaviorVersion::latest()).no_credentials();
    let config = loader.profile_files(files).profile_name("default").load().await;
    config.region().cloned()
}

/// Only the files that are there: the SDK takes a named file that is missing for an error, and a set
/// without any for a bug; so an empty one comes first.
fn profile_files(folder: &Path) -> EnvConfigFiles {
    let mut files = EnvConfigFiles::builder().with_contents(EnvConfigFileKind::Config, "");
    for (kind, name) in
        [(EnvConfigFileKind::Config, "config"), (EnvConfigFileKind::Credentials, "credentials")]
    {
        let path = folder.join(name);
        if path.is_file() {
            files = files.with_file(kind, path);
        }
    }
    files.build()
}

/// A request before it is signed.
#[derive(Clone, Copy, Debug)]
pub struct Unsigned<'a> {
    /// In capitals.
    pub method: &'a str,
    /// The whole URL, its path escaped as it will be sent.
    pub url: &'a str,
    /// `content-type` and the like; `host` is added by the signer.
    pub headers: &'a [(&'a str, &'a str)],
    /// The whole body.
    pub body: &'a [u8],
    /// The region of the scope.
    pub region: &'a str,
    /// The service of the scope: `lambda` for a Function URL.
    pub service: &'a str,
}

/// A request that cannot be signed: a URL or a header that is none.
#[derive(Debug, thiserror::Error)]
#[error("the request cannot be signed: {0}")]
pub struct SignError(String);

/// The headers to add to a request: date, hash, session token, signature. Pure.
///
/// # Errors
/// [`SignError`] for a URL or a header that is none.
pub fn sign_request(
    credentials: &Credentials,
    request: &Unsigned<'_>,
    now: OffsetDateTime,
) -> Result<Vec<(String, String)>, SignError> {
    let refused = |error: &dyn std::fmt::Display| SignError(error.to_string());
    let mut settings = SigningSettings::default();
    settings.payload_checksum_kind = PayloadChecksumKind::XAmzSha256;
    let identity = credentials.clone().into();
    let params = aws_sigv4::sign::v4::SigningParams::builder()
        .identity(&identity)
        .region(request.region)
        .name(request.service)
        .time(now.into())
        .settings(settings)
        .build()
        .map_err(|error| refused(&error))?;
    let signable = SignableRequest::new(
        request.method,
        request.url,
        request.headers.iter().copied(),
        SignableBody::Bytes(request.body),
    )
    .map_err(|error| refused(&error))?;
    let (instructions, _) = sign(signable, &params.into()).map_err(|error| refused(&error))?.into_parts();
    Ok(instructions.headers().map(|(name, value)| (name.to_owned(), value.to_owned())).collect())
}

#[cfg(test)]
mod tests {
    use keystile_model::store::Clock;
    use time::macros::datetime;

    use super::*;

    struct Noon;

    impl Clock for Noon {
        fn now(&self) -> OffsetDateTime {
            datetime!(2026-01-01 12:00 UTC)
        }
    }

    #[tokio::test]
    async fn a_folder_of_its_own_is_the_only_source() {
        let folder = std::env::temp_dir().join(format!("keystile-callers-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let text = "[default]\naws_access_key_id = AKIDFILE\naws_secret_access_key = secret\n";
        std::fs::write(folder.join("credentials"), text).unwrap();
        let caller = Caller::find(Some(&folder), Some("eu-west-1".to_owned()), Arc::new(Noon)).await;
        let found = caller.credentials().await.unwrap();
        std::fs::remove_dir_all(&folder).unwrap();
        assert_eq!(found.access_key_id(), "AKIDFILE");
        assert_eq!(caller.region(), Some("eu-west-1"));
    }

    #[test]
    fn signs_what_is_sent() {
        let credentials = Credentials::new("AKID", "secret", Some("token".to_owned()), None, "test");
        let request = Unsigned {
            method: "POST",
            url: "https://x.lambda-url.us-east-1.on.aws/v1/login",
            headers: &[("content-type", "application/json")],
            body: b"{}",
            region: "us-east-1",
            service: "lambda",
        };
        let headers = sign_request(&credentials, &request, Noon.now()).unwrap();
        let value = |name: &str| headers.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str()).unwrap();
        assert_eq!(value("x-amz-date"), "20260101T120000Z");
        assert_eq!(value("x-amz-security-token"), "token");
        let authorization = value("authorization");
        assert!(
            authorization.contains("Credential=AKID/20260101/us-east-1/lambda/aws4_request"),
            "{authorization}"
        );
        assert!(
            authorization.contains("content-type;host;x-amz-content-sha256;x-amz-date;x-amz-security-token")
        );
        let other = Unsigned { body: b"{ }", ..request };
        assert_ne!(sign_request(&credentials, &other, Noon.now()).unwrap(), headers);
    }
}
