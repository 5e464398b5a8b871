//! Matchers: what discovery looks for.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::arn::Arn;
use crate::database::{AssumeRole, CacheAuth, DatabaseKind, Hub};
use crate::labels::{Labels, SelectorSpec};
use crate::role::Span;
use crate::rotation::{MAX_PERIOD_S, MIN_PERIOD_S};

/// The body (`spec`) of a matcher document.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MatcherSpec {
    /// `elasticache`, `elasticache-serverless`, `memorydb`.
    pub types: BTreeSet<DatabaseKind>,
    /// Region names, or `*` for every region that the account has enabled.
    pub regions: BTreeSet<String>,
    /// Which resources, by their tags. Empty matches nothing; `"*": "*"` all.
    #[serde(default)]
    pub tags: SelectorSpec,
    /// Tag keys that become labels.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub import_tags: BTreeSet<String>,
    /// Labels that everything it finds gets; they come over tags.
    #[serde(default, skip_serializing_if = "Labels::is_empty")]
    pub labels: Labels,
    /// How databases that it finds are signed in to.
    #[serde(default)]
    pub auth: CacheAuth,
    /// The role of another account to look through.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub assume_role_arn: Option<Arn>,
    /// What that role's trust policy asks for. Made by Keystile when a role is given without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub external_id: Option<String>,
    /// A hub role to go through, where the account's role trusts that one and not ours. Its external id is
    /// sent as given: none is made for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub through: Option<Hub>,
    /// Whether users tagged `teleport.dev/managed` count as managed.
    #[serde(default)]
    pub adopt_teleport: bool,
    /// How often managed users of what it covers get a new password: 15 minutes (the default) to 90 days. Of
    /// several matchers that cover a user the shortest holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rotate_every: Option<Span>,
}

/// A matcher with its name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Matcher {
    /// Unique among matchers; their order is by name.
    pub name: String,
    /// A word for people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// What it looks for.
    pub spec: MatcherSpec,
}

impl MatcherSpec {
    /// Checks what serde cannot: something to look for, region names, a role's service, a legal external id.
    ///
    /// # Errors
    /// [`MatcherError`] with the words for the person who wrote it.
    pub fn check(&self) -> Result<(), MatcherError> {
        let shape = |text: String| Err(MatcherError::Shape(text));
        if self.types.is_empty() {
            return shape("types is empty: name elasticache, elasticache-serverless or memorydb".to_owned());
        }
        if self.types.contains(&DatabaseKind::Static) {
            return shape("type static is not discovered: create a document of kind db instead".to_owned());
        }
        if self.regions.is_empty() {
            return shape("regions is empty: name regions, or '*' for all that the account has".to_owned());
        }
        let plain = |region: &String| {
            region.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        };
        if let Some(region) = self.regions.iter().find(|region| *region != "*" && !plain(region)) {
            return shape(format!("{region:?} is no region"));
        }
        self.check_roles().map_err(MatcherError::Shape)?;
        if let Some(period) = self.rotate_every
            && !(MIN_PERIOD_S..=MAX_PERIOD_S).contains(&period.seconds)
        {
            return shape("rotate_every is 15m to 90d: Secrets Manager keeps 100 versions a day".to_owned());
        }
        crate::labels::LabelSelector::compile(&self.tags)?;
        Ok(())
    }

    fn check_roles(&self) -> Result<(), String> {
        let Some(arn) = &self.assume_role_arn else {
            return match (&self.external_id, &self.through) {
                (Some(_), _) => Err("external_id goes with assume_role_arn".to_owned()),
                (None, Some(_)) => {
                    Err("through goes with assume_role_arn: the role behind the hub".to_owned())
                }
                (None, None) => Ok(()),
            };
        };
        check_role("", arn, self.external_id.as_deref())?;
        let Some(hub) = &self.through else { return Ok(()) };
        if hub.assume_role_arn == *arn {
            return Err(format!("through names {arn} itself: name the hub role that {arn} trusts"));
        }
        check_role("through: ", &hub.assume_role_arn, hub.external_id.as_deref())
    }

    /// The role to assume, with its external id and the hub before it.
    #[must_use]
    pub fn assume_role(&self) -> Option<AssumeRole> {
        self.assume_role_arn.clone().map(|arn| AssumeRole {
            arn,
            external_id: self.external_id.clone(),
            through: self.through.clone(),
        })
    }
}

/// `at` says where in the document the two stand.
fn check_role(at: &str, arn: &Arn, external_id: Option<&str>) -> Result<(), String> {
    if !(arn.service() == "iam" && arn.resource().starts_with("role/") && arn.account().len() == 12) {
        return Err(format!("{at}assume_role_arn {arn} is no IAM role"));
    }
    let legal = |id: &str| {
        (2..=1_224).contains(&id.len())
            && id.chars().all(|c| c.is_ascii_alphanumeric() || "_+=,.@:/-".contains(c))
    };
    if external_id.is_some_and(|id| !legal(id)) {
        return Err(format!("{at}external_id must be 2 to 1,224 of letters, digits and _+=,.@:/-"));
    }
    Ok(())
}

/// Why a matcher was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MatcherError {
    /// No types, no regions, or a static kind.
    #[error("matcher: {0}")]
    Shape(String),
    /// A tag selector that does not compile.
    #[error("matcher tags: {0}")]
    Tags(#[from] crate::labels::PatternError),
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const SPOKE: &str = "arn:aws:iam::210987654321:role/keystile-discovery";
    const HUB: &str = "arn:aws:iam::123456789012:role/keystile-hub";

    fn spec(roles: serde_json::Value) -> MatcherSpec {
        let mut spec = json!({"types": ["memorydb"], "regions": ["*"], "tags": {"*": "*"}});
        spec.as_object_mut().unwrap().extend(roles.as_object().unwrap().clone());
        serde_json::from_value(spec).unwrap()
    }

    #[test]
    fn roles_that_can_be_assumed() {
        let role = |roles| spec(roles).assume_role();
        assert_eq!(role(json!({})), None);
        let direct = role(json!({"assume_role_arn": SPOKE, "external_id": "abc"})).unwrap();
        assert_eq!((direct.external_id.as_deref(), direct.through), (Some("abc"), None));
        let chained = json!({"assume_role_arn": SPOKE, "external_id": "abc",
            "through": {"assume_role_arn": HUB, "external_id": "def"}});
        assert!(spec(chained.clone()).check().is_ok());
        let hub = role(chained).unwrap().through.unwrap();
        assert_eq!((hub.assume_role_arn.as_str(), hub.external_id.as_deref()), (HUB, Some("def")));
        let trusting = json!({"assume_role_arn": SPOKE, "through": {"assume_role_arn": HUB}});
        assert!(spec(trusting).check().is_ok(), "a hub may ask for no external id");
    }

    #[test]
    fn roles_that_cannot() {
        let user = "arn:aws:iam::123456789012:user/alice";
        for (roles, words) in [
            (json!({"external_id": "abc"}), "external_id goes with assume_role_arn"),
            (json!({"through": {"assume_role_arn": HUB}}), "through goes with assume_role_arn"),
            (
                json!({"assume_role_arn": user}),
                "assume_role_arn arn:aws:iam::123456789012:user/alice is no IAM role",
            ),
            (json!({"assume_role_arn": SPOKE, "external_id": "a b"}), "external_id must be"),
            (
                json!({"assume_role_arn": SPOKE, "through": {"assume_role_arn": user}}),
                "through: assume_role_arn",
            ),
            (
                json!({"assume_role_arn": SPOKE, "through": {"assume_role_arn": HUB, "external_id": "x"}}),
                "through: external_id must be",
            ),
            (json!({"assume_role_arn": SPOKE, "through": {"assume_role_arn": SPOKE}}), "itself"),
        ] {
            let error = spec(roles).check().unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
    }

    #[test]
    fn a_document_without_a_hub_is_written_as_before() {
        let written = serde_json::to_value(spec(json!({"assume_role_arn": SPOKE}))).unwrap();
        assert!(written.get("through").is_none());
    }
}
