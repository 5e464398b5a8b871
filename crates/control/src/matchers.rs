//! Matchers made ready: in their order, compiled, with the account that each looks at.

use keystile_model::cloud::Tags;
use keystile_model::database::{AssumeRole, DatabaseKind};
use keystile_model::document::Document;
use keystile_model::labels::LabelSelector;
use keystile_model::matcher::{Matcher, MatcherSpec};

/// A matcher made ready.
#[derive(Debug, Clone)]
pub struct ReadyMatcher {
    /// Its place in the order.
    pub index: usize,
    /// Its name.
    pub name: String,
    /// What it looks for.
    pub spec: MatcherSpec,
    /// Its tags, compiled.
    pub selector: LabelSelector,
    /// The account that it looks at.
    pub account: String,
}

impl ReadyMatcher {
    /// The role that it looks through.
    #[must_use]
    pub fn role(&self) -> Option<AssumeRole> {
        self.spec.assume_role()
    }

    /// Whether it covers this account, region and type.
    #[must_use]
    pub fn covers(&self, account: &str, region: &str, kind: DatabaseKind) -> bool {
        self.account == account
            && self.spec.types.contains(&kind)
            && (self.spec.regions.contains("*") || self.spec.regions.contains(region))
    }

    /// Whether it wants a resource with these tags.
    #[must_use]
    pub fn wants(&self, tags: &Tags) -> bool {
        self.selector.matches(tags)
    }
}

/// All matchers in their order (by name), and a sentence for each that cannot be used.
#[must_use]
pub fn ready(mut matchers: Vec<Matcher>, home_account: &str) -> (Vec<ReadyMatcher>, Vec<String>) {
    matchers.sort_by(|a, b| a.name.cmp(&b.name));
    let mut good = Vec::new();
    let mut broken = Vec::new();
    for matcher in matchers {
        let compiled = matcher
            .spec
            .check()
            .map_err(|error| error.to_string())
            .and_then(|()| LabelSelector::compile(&matcher.spec.tags).map_err(|error| error.to_string()));
        match compiled {
            Ok(selector) => good.push(ReadyMatcher {
                index: good.len(),
                account: matcher
                    .spec
                    .assume_role_arn
                    .as_ref()
                    .map_or_else(|| home_account.to_owned(), |arn| arn.account().to_owned()),
                name: matcher.name,
                spec: matcher.spec,
                selector,
            }),
            Err(error) => broken.push(format!("matcher {} cannot be used: {error}", matcher.name)),
        }
    }
    (good, broken)
}

/// A matcher from its document.
///
/// # Errors
/// A sentence for the person who wrote it.
pub fn from_document(document: Document) -> Result<Matcher, String> {
    if document.kind != "matcher" {
        return Err(format!("document {} is of kind {}, not matcher", document.metadata.name, document.kind));
    }
    let name = document.metadata.name;
    let spec: MatcherSpec =
        serde_json::from_value(document.spec).map_err(|error| format!("matcher {name}: {error}"))?;
    spec.check().map_err(|error| format!("matcher {name}: {error}"))?;
    Ok(Matcher { name, description: document.metadata.description, spec })
}
