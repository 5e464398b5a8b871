//! Amazon resource names: parts, and who a caller's ARN is.

use serde::{Deserialize, Serialize};

/// A parsed ARN. The partition is kept as given: nothing here builds `arn:aws:` by hand.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Arn {
    text: String,
    /// Byte offsets of the parts: partition, service, region, account, resource.
    parts: [usize; 5],
}

/// Why a text is no ARN.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no ARN: expected arn:partition:service:region:account:resource")]
pub struct ArnError {
    /// The refused text, cut to 200 characters.
    pub text: String,
}

impl Arn {
    /// Takes `arn:partition:service:region:account:resource`; region and account may be empty.
    ///
    /// # Errors
    /// [`ArnError`] when a part is missing, the text is over 2,048 bytes, or it has control characters.
    pub fn parse(text: impl Into<String>) -> Result<Self, ArnError> {
        let text = text.into();
        let mut parts = [0; 5];
        let mut found = 0;
        for (index, _) in text.match_indices(':').take(5) {
            parts[found] = index + 1;
            found += 1;
        }
        let arn = Self { text, parts };
        let legal = found == 5
            && arn.text.len() <= 2_048
            && arn.text.starts_with("arn:")
            && !arn.partition().is_empty()
            && !arn.service().is_empty()
            && !arn.resource().is_empty()
            && !arn.text.chars().any(char::is_control);
        if legal { Ok(arn) } else { Err(ArnError { text: arn.text.chars().take(200).collect() }) }
    }

    fn part(&self, index: usize) -> &str {
        &self.text[self.parts[index]..self.parts[index + 1] - 1]
    }

    /// `aws`, `aws-cn`, `aws-us-gov`, …
    #[must_use]
    pub fn partition(&self) -> &str {
        self.part(0)
    }

    /// `elasticache`, `memorydb`, `iam`, …
    #[must_use]
    pub fn service(&self) -> &str {
        self.part(1)
    }

    /// `us-east-1`, or empty.
    #[must_use]
    pub fn region(&self) -> &str {
        self.part(2)
    }

    /// Twelve digits, or empty.
    #[must_use]
    pub fn account(&self) -> &str {
        self.part(3)
    }

    /// All after the fifth colon: `replicationgroup:orders`, `cluster/ledger`, `user/alice`.
    #[must_use]
    pub fn resource(&self) -> &str {
        &self.text[self.parts[4]..]
    }

    /// The resource's type and id, split once at the first `:` or `/`.
    #[must_use]
    pub fn resource_parts(&self) -> (&str, &str) {
        self.resource().split_once([':', '/']).unwrap_or((self.resource(), ""))
    }

    /// The whole text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The name that a caller's ARN is matched by: `assumed-role/R/session` becomes the role's ARN
    /// `arn:P:iam::ACCOUNT:role/R` (STS drops the role's path, so no path can be told), and the session's
    /// name comes second. Anything else stays as it is.
    #[must_use]
    pub fn principal(&self) -> (Arn, Option<String>) {
        if self.service() == "sts"
            && let Some(rest) = self.resource().strip_prefix("assumed-role/")
        {
            let (role, session) = rest.split_once('/').unwrap_or((rest, ""));
            let text = format!("arn:{}:iam::{}:role/{role}", self.partition(), self.account());
            if let Ok(arn) = Arn::parse(text) {
                return (arn, Some(session.to_owned()));
            }
        }
        (self.clone(), None)
    }
}

impl std::fmt::Display for Arn {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text)
    }
}

impl TryFrom<String> for Arn {
    type Error = ArnError;
    fn try_from(text: String) -> Result<Self, ArnError> {
        Self::parse(text)
    }
}

impl From<Arn> for String {
    fn from(arn: Arn) -> String {
        arn.text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts() {
        let arn = Arn::parse("arn:aws:elasticache:us-east-1:123456789012:replicationgroup:orders").unwrap();
        assert_eq!(arn.partition(), "aws");
        assert_eq!(arn.service(), "elasticache");
        assert_eq!(arn.region(), "us-east-1");
        assert_eq!(arn.account(), "123456789012");
        assert_eq!(arn.resource_parts(), ("replicationgroup", "orders"));
        let memorydb = Arn::parse("arn:aws-cn:memorydb:cn-north-1:1:cluster/ledger").unwrap();
        assert_eq!(memorydb.resource_parts(), ("cluster", "ledger"));
    }

    #[test]
    fn refused() {
        for bad in ["", "orders", "arn:aws:iam", "arn:::::", "arn:aws:iam::1:", "arn:aws:iam::1:a\nb"] {
            assert!(Arn::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn assumed_roles_become_their_role() {
        let arn = Arn::parse("arn:aws:sts::123456789012:assumed-role/checkout/i-1").unwrap();
        let (principal, session) = arn.principal();
        assert_eq!(principal.as_str(), "arn:aws:iam::123456789012:role/checkout");
        assert_eq!(session.as_deref(), Some("i-1"));
    }
}
