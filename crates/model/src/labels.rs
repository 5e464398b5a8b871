//! Labels, what may set them, and the patterns that select by them.

use std::collections::{BTreeMap, BTreeSet};

use regex::{Regex, RegexBuilder};
use serde::{Deserialize, Serialize};

/// Labels of a database or a document: key to value.
pub type Labels = BTreeMap<String, String>;

/// Longest label key, in bytes (AWS's own limit for a tag key is 128 characters).
pub const MAX_KEY: usize = 512;
/// Longest label value, in bytes (AWS: 256 characters).
pub const MAX_VALUE: usize = 1_024;
/// Most tags that a resource may carry before it is skipped (AWS: 50).
pub const MAX_TAGS: usize = 200;

/// The label keys that discovery owns: no tag can set them, whatever the matcher imports.
pub const OWNED_KEYS: [&str; 6] =
    ["account-id", "region", "engine", "engine-version", "endpoint-type", "vpc-id"];
/// Label keys with these prefixes are Keystile's own.
pub const OWNED_PREFIXES: [&str; 2] = ["keystile.dev/", "keystile.internal/"];

/// Whether a tag of this key may never become a label.
#[must_use]
pub fn is_owned(key: &str) -> bool {
    OWNED_KEYS.contains(&key) || OWNED_PREFIXES.iter().any(|prefix| key.starts_with(prefix))
}

/// The labels that a resource's tags give: only the imported keys, never an owned one; fixed labels of the
/// matcher come over them.
#[must_use]
pub fn imported(tags: &BTreeMap<String, String>, import: &BTreeSet<String>, fixed: &Labels) -> Labels {
    let mut labels: Labels = tags
        .iter()
        .filter(|(key, _)| import.contains(*key) && !is_owned(key))
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect();
    labels.extend(
        fixed.iter().filter(|(key, _)| !is_owned(key)).map(|(key, value)| (key.clone(), value.clone())),
    );
    labels
}

/// What is wrong with a resource's tags, if anything: too many, too long, or with control characters.
#[must_use]
pub fn tag_fault(tags: &BTreeMap<String, String>) -> Option<String> {
    if tags.len() > MAX_TAGS {
        return Some(format!("{} tags, at most {MAX_TAGS} are read", tags.len()));
    }
    tags.iter().find_map(|(key, value)| {
        if key.len() > MAX_KEY || value.len() > MAX_VALUE {
            Some(format!("tag {:?} is too long", key.chars().take(40).collect::<String>()))
        } else if key.chars().chain(value.chars()).any(char::is_control) {
            Some(format!("tag {:?} has control characters", key.chars().take(40).collect::<String>()))
        } else {
            None
        }
    })
}

/// One pattern of a selector: exact text, a glob with `*`, or `^regex$`.
#[derive(Debug, Clone)]
pub enum Pattern {
    /// Anything.
    Any,
    /// This text.
    Exact(String),
    /// A glob (`*` is any run of characters) or a regular expression, compiled.
    Regex(Box<Regex>),
}

/// Why a pattern was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{pattern:?} is no pattern: {reason}")]
pub struct PatternError {
    /// The refused pattern.
    pub pattern: String,
    /// Why, in words.
    pub reason: String,
}

impl Pattern {
    /// Reads `*`, `^regex$`, a text with `*` in it as a glob, anything else as exact text.
    ///
    /// # Errors
    /// [`PatternError`] for a regular expression that does not compile or compiles to over 64 KiB.
    pub fn parse(text: &str) -> Result<Self, PatternError> {
        if text == "*" {
            return Ok(Self::Any);
        }
        if text.starts_with('^') && text.ends_with('$') {
            return compile(text, text).map(|regex| Self::Regex(Box::new(regex)));
        }
        if !text.contains('*') {
            return Ok(Self::Exact(text.to_owned()));
        }
        let parts: Vec<String> = text.split('*').map(regex::escape).collect();
        compile(text, &format!("(?s)^{}$", parts.join(".*"))).map(|regex| Self::Regex(Box::new(regex)))
    }

    /// Whether the text fits. Case counts.
    #[must_use]
    pub fn matches(&self, text: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Exact(exact) => exact == text,
            Self::Regex(regex) => regex.is_match(text),
        }
    }
}

fn compile(shown: &str, pattern: &str) -> Result<Regex, PatternError> {
    RegexBuilder::new(pattern).size_limit(64 << 10).build().map_err(|error| PatternError {
        pattern: shown.chars().take(200).collect(),
        reason: error.to_string().lines().last().unwrap_or_default().to_owned(),
    })
}

/// One value or a list of them, as documents spell it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum OneOrMany {
    /// `env: prod`
    One(String),
    /// `env: [prod, staging]`
    Many(Vec<String>),
}

impl OneOrMany {
    /// The values as a slice.
    #[must_use]
    pub fn values(&self) -> &[String] {
        match self {
            Self::One(value) => std::slice::from_ref(value),
            Self::Many(values) => values,
        }
    }
}

/// A selector as documents spell it: every key must be there (AND), the values of a key are alternatives
/// (OR). Empty selects nothing; `"*": "*"` selects all.
pub type SelectorSpec = BTreeMap<String, OneOrMany>;

/// A compiled selector.
#[derive(Debug, Clone, Default)]
pub struct LabelSelector {
    any: bool,
    keys: Vec<(String, Vec<Pattern>)>,
}

impl LabelSelector {
    /// Compiles a selector.
    ///
    /// # Errors
    /// [`PatternError`] for a pattern that does not compile, or `*` as a key with anything but `*`.
    pub fn compile(spec: &SelectorSpec) -> Result<Self, PatternError> {
        let mut selector = Self::default();
        for (key, values) in spec {
            if key == "*" {
                if values.values().iter().any(|value| value == "*") {
                    selector.any = true;
                    continue;
                }
                return Err(PatternError {
                    pattern: "*".to_owned(),
                    reason: "the key '*' only goes with the value '*'".to_owned(),
                });
            }
            let patterns =
                values.values().iter().map(|text| Pattern::parse(text)).collect::<Result<_, _>>()?;
            selector.keys.push((key.clone(), patterns));
        }
        Ok(selector)
    }

    /// Whether the labels fit: every key is there with one of its values.
    #[must_use]
    pub fn matches(&self, labels: &Labels) -> bool {
        if self.keys.is_empty() {
            return self.any;
        }
        self.keys.iter().all(|(key, patterns)| {
            labels.get(key).is_some_and(|value| patterns.iter().any(|pattern| pattern.matches(value)))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Keys with their alternatives.
    type Spec<'a> = &'a [(&'a str, &'a [&'a str])];

    fn selector(pairs: Spec<'_>) -> LabelSelector {
        let spec = pairs
            .iter()
            .map(|(key, values)| {
                ((*key).to_owned(), OneOrMany::Many(values.iter().map(|v| (*v).to_owned()).collect()))
            })
            .collect();
        LabelSelector::compile(&spec).unwrap()
    }

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn selection() {
        let prod = labels(&[("env", "prod"), ("team", "shop")]);
        let table: &[(Spec<'_>, bool)] = &[
            (&[], false),
            (&[("*", &["*"])], true),
            (&[("env", &["prod"])], true),
            (&[("env", &["dev", "prod"])], true),
            (&[("env", &["pr*"])], true),
            (&[("env", &["*o*"])], true),
            (&[("env", &["^(dev|prod)$"])], true),
            (&[("env", &["^de.$"])], false),
            (&[("env", &["prod"]), ("team", &["pay"])], false),
            (&[("env", &["*"]), ("owner", &["*"])], false),
            (&[("*", &["*"]), ("team", &["pay"])], false),
            (&[("env", &["Prod"])], false),
            (&[("env", &["p.od"])], false),
        ];
        for (spec, expected) in table {
            assert_eq!(selector(spec).matches(&prod), *expected, "{spec:?}");
        }
    }

    #[test]
    fn a_regex_cannot_be_huge() {
        assert!(Pattern::parse("^(a{1000}){1000}$").is_err());
        assert!(Pattern::parse("^($").is_err());
    }

    #[test]
    fn owned_keys_cannot_be_imported() {
        let tags = labels(&[("env", "dev"), ("account-id", "1"), ("keystile.dev/x", "y"), ("other", "z")]);
        let import = ["env", "account-id", "keystile.dev/x"].iter().map(|k| (*k).to_owned()).collect();
        assert_eq!(imported(&tags, &import, &labels(&[("region", "x")])), labels(&[("env", "dev")]));
    }

    #[test]
    fn faults_of_tags() {
        assert_eq!(tag_fault(&labels(&[("env", "prod")])), None);
        assert!(tag_fault(&labels(&[("env", "a\nb")])).is_some());
        let many: Labels = (0..10_000).map(|i| (i.to_string(), String::new())).collect();
        assert!(tag_fault(&many).unwrap().contains("10000 tags"));
    }
}
