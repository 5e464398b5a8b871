//! Which scopes a run of discovery may empty past its brake: a person's word, for that one run. Pure.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::report::ScopeId;

/// Most scopes that one word may name.
const MAX_SCOPES: usize = 100;
/// The word for all of them.
const ALL: &str = "all";

/// What the brake on removals lets pass.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Wire", into = "Wire")]
pub enum Removals {
    /// Nothing: the brake holds everywhere.
    #[default]
    Braked,
    /// Removals of these scopes.
    Of(BTreeSet<ScopeId>),
    /// All removals.
    All,
}

/// `true`, `false`, or a list of words.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Wire {
    Whole(bool),
    Words(Vec<String>),
}

impl TryFrom<Wire> for Removals {
    type Error = String;

    fn try_from(wire: Wire) -> Result<Self, String> {
        match wire {
            Wire::Whole(false) => Ok(Self::Braked),
            Wire::Whole(true) => Ok(Self::All),
            Wire::Words(words) => Self::parse(&words),
        }
    }
}

impl From<Removals> for Wire {
    fn from(removals: Removals) -> Self {
        Self::Words(removals.words())
    }
}

impl Removals {
    /// From words: `all`, or scopes as `ACCOUNT/REGION/TYPE`.
    ///
    /// # Errors
    /// A sentence that names the word which is neither.
    pub fn parse(words: &[String]) -> Result<Self, String> {
        if words.len() > MAX_SCOPES {
            return Err(format!("at most {MAX_SCOPES} scopes can be named: use {ALL:?}"));
        }
        if words.iter().any(|word| word == ALL) {
            return Ok(Self::All);
        }
        let scopes = words.iter().map(|word| word.parse()).collect::<Result<BTreeSet<ScopeId>, _>>()?;
        Ok(if scopes.is_empty() { Self::Braked } else { Self::Of(scopes) })
    }

    /// As [`Removals::parse`] reads them; none where the brake holds.
    #[must_use]
    pub fn words(&self) -> Vec<String> {
        match self {
            Self::Braked => Vec::new(),
            Self::Of(scopes) => scopes.iter().map(ScopeId::path).collect(),
            Self::All => vec![ALL.to_owned()],
        }
    }

    /// Whether the brake holds everywhere.
    #[must_use]
    pub fn is_braked(&self) -> bool {
        *self == Self::Braked
    }

    /// Whether this scope may lose whatever is gone.
    #[must_use]
    pub fn allow(&self, scope: &ScopeId) -> bool {
        match self {
            Self::Braked => false,
            Self::Of(scopes) => scopes.contains(scope),
            Self::All => true,
        }
    }

    /// The scopes that are named one by one.
    pub fn named(&self) -> impl Iterator<Item = &ScopeId> {
        let scopes = if let Self::Of(scopes) = self { Some(scopes) } else { None };
        scopes.into_iter().flatten()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn scope(kind: &str) -> ScopeId {
        ScopeId { account: "123456789012".into(), region: "us-east-1".into(), kind: kind.into() }
    }

    #[test]
    fn what_was_named_and_nothing_else() {
        let word = |json| serde_json::from_value::<Removals>(json);
        let one = word(json!(["123456789012/us-east-1/elasticache"])).unwrap();
        assert!(one.allow(&scope("elasticache")));
        assert!(!one.allow(&scope("elasticache-users")) && !one.allow(&scope("memorydb")));
        for all in [json!(true), json!(["all"]), json!(["123456789012/us-east-1/memorydb", "all"])] {
            assert_eq!(word(all).unwrap(), Removals::All);
        }
        for none in [json!(false), json!([])] {
            assert!(word(none).unwrap().is_braked());
        }
        for bad in [
            "",
            "All",
            "orders",
            "123456789012",
            "1/us-east-1/elasticache",
            "123456789012/*/elasticache",
            "123456789012/us-east-1/static",
            "123456789012/us-east-1/elasticache/x",
        ] {
            let error = word(json!([bad])).unwrap_err().to_string();
            assert!(error.contains("ACCOUNT/REGION/TYPE"), "{bad}: {error}");
        }
        assert!(word(json!(vec!["123456789012/us-east-1/memorydb"; 101])).is_err());
    }

    #[test]
    fn written_as_it_is_read() {
        for removals in [Removals::Braked, Removals::Of([scope("memorydb")].into()), Removals::All] {
            let json = serde_json::to_value(&removals).unwrap();
            assert_eq!(serde_json::from_value::<Removals>(json).unwrap(), removals);
        }
    }
}
