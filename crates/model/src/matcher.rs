//! Matchers: what discovery looks for.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::arn::Arn;
use crate::database::{AssumeRole, CacheAuth, DatabaseKind};
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
        if let Some(arn) = &self.assume_role_arn
            && !(arn.service() == "iam" && arn.resource().starts_with("role/") && arn.account().len() == 12)
        {
            return shape(format!("assume_role_arn {arn} is no IAM role"));
        }
        if self.external_id.is_some() && self.assume_role_arn.is_none() {
            return shape("external_id goes with assume_role_arn".to_owned());
        }
        if let Some(id) = &self.external_id
            && !((2..=1_224).contains(&id.len())
                && id.chars().all(|c| c.is_ascii_alphanumeric() || "_+=,.@:/-".contains(c)))
        {
            return shape("external_id must be 2 to 1,224 of letters, digits and _+=,.@:/-".to_owned());
        }
        if let Some(period) = self.rotate_every
            && !(MIN_PERIOD_S..=MAX_PERIOD_S).contains(&period.seconds)
        {
            return shape("rotate_every is 15m to 90d: Secrets Manager keeps 100 versions a day".to_owned());
        }
        crate::labels::LabelSelector::compile(&self.tags)?;
        Ok(())
    }

    /// The role to assume, with its external id.
    #[must_use]
    pub fn assume_role(&self) -> Option<AssumeRole> {
        self.assume_role_arn.clone().map(|arn| AssumeRole { arn, external_id: self.external_id.clone() })
    }
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
