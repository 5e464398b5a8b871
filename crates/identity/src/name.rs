//! The `keystile://` names in certificates: written in one way only, and read only when written that way.

use keystile_model::name::{DatabaseName, DbUserName, UserName};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

/// The scheme of all our names.
pub const SCHEME: &str = "keystile://";
/// Longest name that is read, in bytes: three times the longest parts, and room.
const MAX_BYTES: usize = 4_096;
/// What stays as it is in a part: RFC 3986's unreserved characters.
const PART: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// A database and a db user: what one routed certificate opens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// The database.
    pub database: DatabaseName,
    /// The db user.
    pub db_user: DbUserName,
}

/// One of our names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Name {
    /// A person or a workload.
    User(UserName),
    /// The one route that the certificate opens.
    Route(Route),
    /// A proxy.
    Proxy {
        /// Its group.
        group: String,
        /// Its id within the group.
        id: String,
    },
}

/// Why a text is none of our names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NameFault {
    /// It is of another deployment.
    #[error("it names another deployment")]
    Deployment,
    /// It is spelled in another way, or of an unknown kind.
    #[error("it holds a name that this version does not know")]
    Unknown,
}

impl Name {
    /// The name as it stands in a certificate.
    #[must_use]
    pub fn to_uri(&self, deployment: &str) -> String {
        let deployment = encode(deployment);
        match self {
            Self::User(user) => format!("{SCHEME}{deployment}/user/{}", encode(user.as_str())),
            Self::Route(route) => format!(
                "{SCHEME}{deployment}/route/{}/{}",
                encode(route.database.as_str()),
                encode(route.db_user.as_str())
            ),
            Self::Proxy { group, id } => {
                format!("{SCHEME}{deployment}/proxy/{}/{}", encode(group), encode(id))
            }
        }
    }

    /// Reads a name. Only the exact text that [`Name::to_uri`] would write is taken.
    ///
    /// # Errors
    /// [`NameFault`] for anything else.
    pub fn from_uri(uri: &str, deployment: &str) -> Result<Self, NameFault> {
        if uri.len() > MAX_BYTES {
            return Err(NameFault::Unknown);
        }
        let rest = uri.strip_prefix(SCHEME).ok_or(NameFault::Unknown)?;
        let (authority, path) = rest.split_once('/').ok_or(NameFault::Unknown)?;
        if decode(authority)? != deployment {
            return Err(NameFault::Deployment);
        }
        let parts = path.split('/').map(decode).collect::<Result<Vec<_>, _>>()?;
        let name = match parts.as_slice() {
            [kind, name] if kind == "user" => {
                Self::User(UserName::parse(name.as_str()).map_err(|_| NameFault::Unknown)?)
            }
            [kind, database, db_user] if kind == "route" => Self::Route(Route {
                database: DatabaseName::parse(database.as_str()).map_err(|_| NameFault::Unknown)?,
                db_user: DbUserName::parse(db_user.as_str()).map_err(|_| NameFault::Unknown)?,
            }),
            [kind, group, id] if kind == "proxy" && is_proxy_part(group) && is_proxy_part(id) => {
                Self::Proxy { group: group.clone(), id: id.clone() }
            }
            _ => return Err(NameFault::Unknown),
        };
        if name.to_uri(deployment) == uri { Ok(name) } else { Err(NameFault::Unknown) }
    }
}

/// Whether a text can be a proxy group's name or a proxy's id: 1 to 64 of letters, digits and hyphens,
/// beginning and ending with a letter or a digit.
#[must_use]
pub fn is_proxy_part(text: &str) -> bool {
    (1..=64).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
        && !text.starts_with('-')
        && !text.ends_with('-')
}

/// Whether a text can be a deployment's name: 1 to 63 of lower-case letters, digits and hyphens, beginning
/// and ending with a letter or a digit.
#[must_use]
pub fn is_deployment(text: &str) -> bool {
    is_proxy_part(text) && text.len() <= 63 && !text.bytes().any(|b| b.is_ascii_uppercase())
}

fn encode(part: &str) -> String {
    utf8_percent_encode(part, PART).to_string()
}

fn decode(part: &str) -> Result<String, NameFault> {
    percent_decode_str(part).decode_utf8().map(std::borrow::Cow::into_owned).map_err(|_| NameFault::Unknown)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn only_the_exact_spelling_is_read() {
        let user = Name::User(UserName::parse("ann@acme.example").unwrap());
        assert_eq!(user.to_uri("prod"), "keystile://prod/user/ann%40acme.example");
        for bad in [
            "keystile://prod/user/ann@acme.example",
            "keystile://prod/user/%61nn",
            "keystile://prod/user/a/b",
            "keystile://prod/user/",
            "keystile://prod/user/a%00",
            "keystile://prod/user/a%0a",
            "keystile://prod/user/%ff",
            "keystile://prod//user/a",
            "keystile://prod/user/a/",
            "keystile://prod/user/a?x=1",
            "keystile://prod/user/a#x",
            "keystile://prod/admin/a",
            "keystile://prod",
            "KEYSTILE://prod/user/a",
            "https://prod/user/a",
            "keystile://prod/route/orders/a%20b",
            "keystile://prod/route/Orders/ro",
            "keystile://prod/route/*/ro",
            "keystile://prod/proxy/default/*",
        ] {
            assert_eq!(Name::from_uri(bad, "prod"), Err(NameFault::Unknown), "{bad}");
        }
        assert_eq!(Name::from_uri("keystile://other/user/ann", "prod"), Err(NameFault::Deployment));
        assert_eq!(Name::from_uri("keystile:///user/ann", "prod"), Err(NameFault::Deployment));
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_again(
            user in "[a-zA-Z0-9][a-zA-Z0-9_:@+=,-]{0,60}",
            database in "[a-z][a-z0-9-]{0,40}[a-z0-9]",
            db_user in "[^\\s\\p{C}]{1,40}",
            deployment in "[a-z][a-z0-9]{0,20}",
        ) {
            let user = Name::User(UserName::parse(user).unwrap());
            prop_assert_eq!(Name::from_uri(&user.to_uri(&deployment), &deployment), Ok(user));
            let route = Name::Route(Route {
                database: DatabaseName::parse(database).unwrap(),
                db_user: DbUserName::parse(db_user).unwrap(),
            });
            let uri = route.to_uri(&deployment);
            prop_assert!(uri.bytes().all(|b| b.is_ascii_graphic()));
            prop_assert_eq!(Name::from_uri(&uri, &deployment), Ok(route));
        }

        #[test]
        fn any_text_is_refused_or_means_itself(text in ".{0,80}") {
            let uri = format!("keystile://prod/{text}");
            if let Ok(name) = Name::from_uri(&uri, "prod") {
                prop_assert_eq!(name.to_uri("prod"), uri);
            }
        }
    }
}
