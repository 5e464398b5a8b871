//! A CA's key in KMS: `ECC_NIST_P256`, `SIGN_VERIFY`. The key never leaves KMS; a digest goes there and a
//! signature comes back.

use async_trait::async_trait;
use aws_config::SdkConfig;
use aws_sdk_kms::Client;
use aws_sdk_kms::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_kms::primitives::Blob;
use aws_sdk_kms::types::{MessageType, SigningAlgorithmSpec};
use keystile_identity::signer::{CaSigner, SignError};
use sha2::{Digest, Sha256};
use tokio::sync::OnceCell;

/// What KMS says when trying again helps.
const PASSING: [&str; 5] = [
    "ThrottlingException",
    "KeyUnavailableException",
    "DependencyTimeoutException",
    "KMSInternalException",
    "LimitExceededException",
];

/// A CA's key, by its ARN.
pub struct KmsSigner {
    client: Client,
    key: String,
    /// A KMS key never changes its public half, so it is asked for once.
    public_key: OnceCell<Vec<u8>>,
}

impl std::fmt::Debug for KmsSigner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KmsSigner").field("key", &self.key).finish_non_exhaustive()
    }
}

impl KmsSigner {
    /// Takes a key's ARN. Asks nothing yet.
    #[must_use]
    pub fn new(config: &SdkConfig, key: &str) -> Self {
        Self { client: Client::new(config), key: key.to_owned(), public_key: OnceCell::new() }
    }
}

#[async_trait]
impl CaSigner for KmsSigner {
    async fn public_key(&self) -> Result<Vec<u8>, SignError> {
        let fetch = || async {
            let answer =
                self.client.get_public_key().key_id(&self.key).send().await.map_err(|e| sorted(&e))?;
            let key = answer
                .public_key
                .ok_or_else(|| SignError::Refused("KMS answered no public key".to_owned()))?;
            Ok(key.into_inner())
        };
        self.public_key.get_or_try_init(fetch).await.cloned()
    }

    async fn sign(&self, message: &[u8]) -> Result<Vec<u8>, SignError> {
        let answer = self
            .client
            .sign()
            .key_id(&self.key)
            .message(Blob::new(Sha256::digest(message).to_vec()))
            .message_type(MessageType::Digest)
            .signing_algorithm(SigningAlgorithmSpec::EcdsaSha256)
            .send()
            .await
            .map_err(|error| sorted(&error))?;
        let signature =
            answer.signature.ok_or_else(|| SignError::Refused("KMS answered no signature".to_owned()))?;
        Ok(signature.into_inner())
    }

    fn key(&self) -> &str {
        &self.key
    }
}

fn sorted<E: ProvideErrorMetadata, R>(error: &SdkError<E, R>) -> SignError {
    match error.code() {
        None => SignError::Unavailable("KMS does not answer".to_owned()),
        Some(code) if PASSING.contains(&code) => SignError::Unavailable(format!("KMS says {code}")),
        Some(code) => SignError::Refused(format!("KMS says {code}")),
    }
}
