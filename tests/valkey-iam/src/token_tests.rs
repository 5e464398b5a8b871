//! The checker against the signed vectors, and each single change of a token refused with its reason.

use std::collections::HashMap;

use serde::Deserialize;

use super::*;

#[derive(Clone, Deserialize)]
struct Vector {
    name: String,
    service: String,
    cluster: String,
    user: String,
    region: String,
    access_key: String,
    secret_key: String,
    session_token: Option<String>,
    serverless: bool,
    time: String,
    expires: i64,
    token: String,
}

const HOME: &str = "123456789012";

fn vectors() -> Vec<Vector> {
    let text = include_str!("../../fixtures/iam_token_vectors.jsonl");
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

impl Vector {
    fn signed_at(&self) -> i64 {
        unix_seconds(&self.time).unwrap()
    }

    fn target(&self) -> Target {
        Target {
            service: self.service.clone(),
            name: self.cluster.to_ascii_lowercase(),
            region: self.region.clone(),
            account: HOME.into(),
            serverless: self.serverless,
        }
    }

    fn key(&self) -> Key {
        Key {
            secret: self.secret_key.clone(),
            session_token: self.session_token.clone(),
            expires_at: None,
            arn: "arn:aws:iam::123456789012:user/someone".into(),
            connect_accounts: vec![HOME.into()],
        }
    }

    fn keys(&self) -> Keys {
        Keys { keys: HashMap::from([(self.access_key.clone(), self.key())]) }
    }

    fn check(&self, token: &str, now: i64) -> Result<(), Refusal> {
        check(token.as_bytes(), &self.user, &self.target(), &self.keys(), now)
    }
}

#[test]
fn every_vector_passes_while_it_is_good() {
    let vectors = vectors();
    assert_eq!(vectors.len(), 14);
    for vector in &vectors {
        for age in [-300, 0, vector.expires] {
            let now = vector.signed_at() + age;
            assert_eq!(vector.check(&vector.token, now), Ok(()), "{} at age {age}", vector.name);
        }
    }
}

#[test]
fn the_order_of_parameters_has_no_meaning() {
    for vector in vectors() {
        let (name, query) = vector.token.split_once("/?").unwrap();
        let mut pairs: Vec<&str> = query.split('&').collect();
        pairs.reverse();
        let turned = format!("{name}/?{}", pairs.join("&"));
        assert_eq!(vector.check(&turned, vector.signed_at()), Ok(()), "{}", vector.name);
    }
}

#[test]
fn a_token_is_refused_before_and_after_its_time() {
    for vector in vectors() {
        for age in [-301, vector.expires + 1, 86_400] {
            let refusal = vector.check(&vector.token, vector.signed_at() + age).unwrap_err();
            assert!(matches!(refusal, Refusal::Time(_)), "{} at age {age}: {refusal}", vector.name);
        }
    }
}

/// Whatever character of a token is changed, it is no longer good.
#[test]
fn every_single_changed_character_is_refused() {
    for vector in vectors() {
        for position in 0..vector.token.len() {
            let mut bytes = vector.token.clone().into_bytes();
            bytes[position] = if bytes[position] == b'1' { b'2' } else { b'1' };
            let changed = String::from_utf8(bytes).unwrap();
            assert!(vector.check(&changed, vector.signed_at()).is_err(), "{changed}");
        }
    }
}

#[test]
fn each_parameter_must_be_there_once() {
    for vector in vectors() {
        let (name, query) = vector.token.split_once("/?").unwrap();
        let pairs: Vec<&str> = query.split('&').collect();
        for index in 0..pairs.len() {
            let mut without = pairs.clone();
            without.remove(index);
            let mut twice = pairs.clone();
            twice.push(pairs[index]);
            for changed in [without, twice] {
                let token = format!("{name}/?{}", changed.join("&"));
                assert!(vector.check(&token, vector.signed_at()).is_err(), "{token}");
            }
        }
        let extra = format!("{}&X-Amz-Extra=1", vector.token);
        let refusal = vector.check(&extra, vector.signed_at()).unwrap_err();
        assert!(matches!(refusal, Refusal::Parameters(_)), "{refusal}");
    }
}

#[test]
fn a_good_token_for_something_else_is_refused() {
    for vector in vectors() {
        let now = vector.signed_at();
        let (keys, user, token) = (vector.keys(), vector.user.as_str(), vector.token.as_bytes());
        let elsewhere = |change: &dyn Fn(&mut Target)| {
            let mut target = vector.target();
            change(&mut target);
            check(token, user, &target, &keys, now).unwrap_err()
        };
        assert!(matches!(elsewhere(&|t| t.name = "other".into()), Refusal::Name(_)));
        assert!(matches!(elsewhere(&|t| t.region = "ap-south-1".into()), Refusal::Scope(_)));
        assert!(matches!(elsewhere(&|t| t.service = "s3".into()), Refusal::Scope(_)));
        assert!(matches!(elsewhere(&|t| t.serverless = !t.serverless), Refusal::ResourceType));
        assert!(matches!(elsewhere(&|t| t.account = "210987654321".into()), Refusal::NotAllowed(_)));
        let refusal = check(token, "somebody", &vector.target(), &keys, now).unwrap_err();
        assert!(matches!(refusal, Refusal::User(_)));
    }
}

#[test]
fn the_key_must_be_known_alive_right_and_allowed() {
    for vector in vectors() {
        let now = vector.signed_at();
        let with = |change: &dyn Fn(&mut Key)| {
            let mut key = vector.key();
            change(&mut key);
            let keys = Keys { keys: HashMap::from([(vector.access_key.clone(), key)]) };
            check(vector.token.as_bytes(), &vector.user, &vector.target(), &keys, now).unwrap_err()
        };
        assert!(matches!(with(&|k| k.secret = "other".into()), Refusal::Signature(_)));
        assert!(matches!(with(&|k| k.session_token = Some("other".into())), Refusal::SessionToken(_)));
        assert!(matches!(with(&|k| k.expires_at = Some(now as f64)), Refusal::KeyExpired(_)));
        assert!(matches!(with(&|k| k.connect_accounts.clear()), Refusal::NotAllowed(_)));
        if vector.session_token.is_some() {
            assert!(matches!(with(&|k| k.session_token = None), Refusal::SessionToken(_)));
        }
        let nobody = Keys::default();
        let refusal = check(vector.token.as_bytes(), &vector.user, &vector.target(), &nobody, now);
        assert!(matches!(refusal, Err(Refusal::UnknownKey(_))));
    }
}

#[test]
fn what_is_no_token_is_refused() {
    let vector = &vectors()[0];
    for text in ["", "password", "orders/?", "orders/?Action", "orders/?Action=con%nect", "orders/?a=b+c"] {
        let refusal = vector.check(text, vector.signed_at()).unwrap_err();
        assert!(matches!(refusal, Refusal::Unreadable(_)), "{text:?}: {refusal}");
    }
    let long = format!("{}&a={}", vector.token, "x".repeat(MAX_LENGTH));
    assert_eq!(vector.check(&long, vector.signed_at()), Err(Refusal::Unreadable("it is too long")));
}
