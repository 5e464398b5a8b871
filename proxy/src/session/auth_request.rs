//! What `AUTH` and `HELLO` ask for. Pure.

use std::borrow::Cow;

/// Who a client says that it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credentials {
    /// The user name; none for `AUTH password`.
    pub user: Option<String>,
    /// Whether the password is a proof of a workload (`ks1.…`). Nothing else of it is kept.
    pub proof: bool,
}

/// A HELLO, taken apart.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Hello {
    /// The version as sent.
    pub version: Option<Vec<u8>>,
    /// `AUTH user password`.
    pub auth: Option<(String, Vec<u8>)>,
    /// `SETNAME name`.
    pub name: Option<Vec<u8>>,
}

/// Prefix of a workload's proof.
const PROOF: &[u8] = b"ks1.";

impl Hello {
    /// Who it says that the client is.
    #[must_use]
    pub fn credentials(&self) -> Option<Credentials> {
        let (user, password) = self.auth.as_ref()?;
        Some(Credentials { user: Some(user.clone()), proof: password.starts_with(PROOF) })
    }

    /// The same without AUTH, or with another user's name in it.
    #[must_use]
    pub fn request(&self, auth: Option<(&str, &[u8])>) -> Vec<u8> {
        let mut args: Vec<&[u8]> = vec![b"HELLO"];
        if let Some(version) = &self.version {
            args.push(version);
            if let Some((user, password)) = auth {
                args.extend([b"AUTH".as_slice(), user.as_bytes(), password]);
            }
            if let Some(name) = &self.name {
                args.extend([b"SETNAME".as_slice(), name]);
            }
        }
        let mut out = Vec::new();
        keystile_resp::encode::request(&mut out, &args);
        out
    }
}

/// Reads the arguments of a HELLO, its name included.
///
/// # Errors
/// The text of the server's error.
pub fn hello(args: &[Cow<'_, [u8]>]) -> Result<Hello, String> {
    let mut hello = Hello::default();
    let mut rest = args.get(1..).unwrap_or_default().iter();
    let Some(version) = rest.next() else { return Ok(hello) };
    if version.is_empty() || !version.iter().all(u8::is_ascii_digit) {
        return Err("Protocol version is not an integer or out of range".to_owned());
    }
    hello.version = Some(version.to_vec());
    while let Some(option) = rest.next() {
        if option.eq_ignore_ascii_case(b"AUTH")
            && let (Some(user), Some(password)) = (rest.next(), rest.next())
        {
            hello.auth = Some((text(user), password.to_vec()));
        } else if option.eq_ignore_ascii_case(b"SETNAME")
            && let Some(name) = rest.next()
        {
            hello.name = Some(name.to_vec());
        } else {
            return Err(format!("Syntax error in HELLO option '{}'", text(option)));
        }
    }
    Ok(hello)
}

/// The same in a session, where the server has the words for a version that is none: it looks at that first, so
/// nothing else is read then.
///
/// # Errors
/// As [`hello`].
pub fn hello_in_session(args: &[Cow<'_, [u8]>]) -> Result<Hello, String> {
    match args.get(1).map(AsRef::as_ref) {
        Some(other) if !matches!(other, b"2" | b"3") => {
            Ok(Hello { version: Some(other.to_vec()), ..Hello::default() })
        }
        _ => hello(args),
    }
}

/// Reads the arguments of an AUTH, its name included.
///
/// # Errors
/// The text of the server's error.
pub fn auth(args: &[Cow<'_, [u8]>]) -> Result<Credentials, String> {
    match args {
        [_, password] => Ok(Credentials { user: None, proof: password.starts_with(PROOF) }),
        [_, user, password] => Ok(Credentials { user: Some(text(user)), proof: password.starts_with(PROOF) }),
        [_] | [] => Err("wrong number of arguments for 'auth' command".to_owned()),
        _ => Err("syntax error".to_owned()),
    }
}

/// A user's name as text, cut at the longest name that there may be and a database behind it.
fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).chars().take(512).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args<'a>(words: &[&'a str]) -> Vec<Cow<'a, [u8]>> {
        words.iter().map(|word| Cow::Borrowed(word.as_bytes())).collect()
    }

    #[test]
    fn hello_in_every_form() {
        assert_eq!(hello(&args(&["HELLO"])).unwrap(), Hello::default());
        let full = hello(&args(&["hello", "3", "auth", "iam-ro", "x", "setname", "me"])).unwrap();
        assert_eq!(full.credentials().unwrap().user.as_deref(), Some("iam-ro"));
        assert_eq!(full.request(None), b"*4\r\n$5\r\nHELLO\r\n$1\r\n3\r\n$7\r\nSETNAME\r\n$2\r\nme\r\n");
        assert!(hello(&args(&["HELLO", "three"])).unwrap_err().contains("not an integer"));
        for bad in [vec!["HELLO", "3", "AUTH", "u"], vec!["HELLO", "3", "SETNAME"], vec!["HELLO", "3", "X"]] {
            assert!(hello(&args(&bad)).unwrap_err().contains("Syntax error in HELLO"), "{bad:?}");
        }
    }

    #[test]
    fn auth_in_every_form() {
        assert_eq!(auth(&args(&["AUTH", "p"])).unwrap(), Credentials { user: None, proof: false });
        assert!(auth(&args(&["AUTH", "u@d", "ks1.abc"])).unwrap().proof);
        assert!(auth(&args(&["AUTH"])).is_err() && auth(&args(&["AUTH", "a", "b", "c"])).is_err());
    }
}
