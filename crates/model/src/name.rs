//! Names that people type: what is a legal one, and newtypes so that two kinds cannot be swapped.

use serde::{Deserialize, Serialize};

/// Longest name of a database, in bytes.
pub const MAX_DATABASE_NAME: usize = 128;
/// Longest name of a user, a role or a db user, in bytes.
pub const MAX_NAME: usize = 256;

/// Why a name was refused. The text is fit for a person.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Empty.
    #[error("a {kind} needs a name")]
    Empty {
        /// What was being named.
        kind: &'static str,
    },
    /// Longer than the limit.
    #[error("the {kind} name is {length} bytes long; at most {limit} are allowed")]
    TooLong {
        /// What was being named.
        kind: &'static str,
        /// Bytes given.
        length: usize,
        /// Bytes allowed.
        limit: usize,
    },
    /// A character that is not allowed in it.
    #[error("{name:?} is no {kind} name: use {rule}")]
    Shape {
        /// What was being named.
        kind: &'static str,
        /// The refused name, escaped when shown.
        name: String,
        /// The rule in words.
        rule: &'static str,
    },
}

macro_rules! name_type {
    ($(#[$doc:meta])* $type:ident, $kind:literal, $limit:expr, $rule:literal, $check:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $type(String);

        impl $type {
            /// Checks and takes a name.
            ///
            /// # Errors
            /// [`NameError`] when it is empty, too long, or has a character that is not allowed.
            pub fn parse(text: impl Into<String>) -> Result<Self, NameError> {
                let text = text.into();
                if text.is_empty() {
                    return Err(NameError::Empty { kind: $kind });
                }
                if text.len() > $limit {
                    return Err(NameError::TooLong { kind: $kind, length: text.len(), limit: $limit });
                }
                let check: fn(&str) -> bool = $check;
                if !check(&text) {
                    return Err(NameError::Shape { kind: $kind, name: text, rule: $rule });
                }
                Ok(Self(text))
            }

            /// The text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl std::fmt::Display for $type {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl TryFrom<String> for $type {
            type Error = NameError;
            fn try_from(text: String) -> Result<Self, NameError> {
                Self::parse(text)
            }
        }

        impl From<$type> for String {
            fn from(name: $type) -> String {
                name.0
            }
        }

        impl AsRef<str> for $type {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl std::borrow::Borrow<str> for $type {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
    };
}

name_type!(
    /// The name of a database: `^[a-z][a-z0-9-]*$`, no hyphen at the end.
    DatabaseName,
    "database",
    MAX_DATABASE_NAME,
    "lower-case letters, digits and hyphens, beginning with a letter and not ending in a hyphen",
    |text| {
        text.starts_with(|c: char| c.is_ascii_lowercase())
            && !text.ends_with('-')
            && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
    }
);

name_type!(
    /// The name that a cache's own ACL knows a user by (what AUTH is given). Compared exactly.
    DbUserName,
    "db user",
    MAX_NAME,
    "printable characters without blanks",
    |text| text.chars().all(|c| !c.is_control() && !c.is_whitespace())
);

name_type!(
    /// The name of a role.
    RoleName,
    "role",
    MAX_NAME,
    "letters, digits and - _ . : @, beginning with a letter or a digit",
    plain_name
);

name_type!(
    /// The name of a person or a workload that connects.
    UserName,
    "user",
    MAX_NAME,
    "letters, digits and - _ . : @ + = ,, beginning with a letter or a digit",
    plain_name
);

name_type!(
    /// The name of a matcher, a lock, a proxy or another document.
    DocumentName,
    "document",
    MAX_NAME,
    "letters, digits and - _ . : @, beginning with a letter or a digit",
    plain_name
);

fn plain_name(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && !text.contains("..")
        && text.chars().all(|c| c.is_ascii_alphanumeric() || "-_.:@+=,".contains(c))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn database_names() {
        for good in ["orders", "a", "orders-elasticache-eu-west-1-210987654321"] {
            assert!(DatabaseName::parse(good).is_ok(), "{good}");
        }
        for bad in ["", "Orders", "1orders", "orders-", "or ders", "or.ders", "ördërs", &"a".repeat(129)] {
            assert!(DatabaseName::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_refusal_escapes_what_it_shows() {
        let error = DatabaseName::parse("a\u{1b}[31m").unwrap_err().to_string();
        assert!(!error.contains('\u{1b}'), "{error}");
    }

    #[test]
    fn role_names_have_no_path_parts() {
        assert!(RoleName::parse("../x").is_err());
        assert!(RoleName::parse("a..b").is_err());
        assert!(RoleName::parse("%2f").is_err());
        assert!(RoleName::parse("dev").is_ok());
    }
}
