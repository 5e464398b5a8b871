//! What proxies write when rotate asks them to prove a version: one record for each proxy group and user, in
//! the runtime table, into which the group's proxies merge what each saw.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::VersionId;
use crate::arn::Arn;
use crate::database::{Database, Endpoint};
use crate::store::RuntimeKey;

/// Longest life of a record, in seconds, after its last write: a day.
pub const PROOF_KEPT_S: i64 = 24 * 3_600;

/// The partition of a proxy group's proofs. Only that group's task role writes it, and rotate reads it.
#[must_use]
pub fn proofs(group: &str) -> String {
    format!("proof#{group}")
}

/// The key of a group's record about a user. A proxy reads it, merges what it saw and writes it back on
/// condition of the version that it read; a record of another version is replaced.
#[must_use]
pub fn proof_key(group: &str, arn: &Arn) -> RuntimeKey {
    RuntimeKey::new(proofs(group), arn.as_str())
}

/// The nodes of a database where a password is proved, as [`ProofRecord::nodes`] names them: its servers as
/// far as discovery knows where they are, else its endpoint.
#[must_use]
pub fn endpoints(database: &Database) -> Vec<&Endpoint> {
    let nodes: Vec<&Endpoint> = database.nodes.iter().filter_map(|node| node.endpoint.as_ref()).collect();
    if nodes.is_empty() { vec![&database.endpoint] } else { nodes }
}

/// How a login ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LoginOutcome {
    /// `+OK`.
    Ok,
    /// `WRONGPASS`.
    Refused,
    /// The node did not answer, or with something else.
    Unreachable,
    /// Not tried.
    Untried,
}

/// What one proxy saw at one node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeProof {
    /// The login with the version that was asked for.
    pub pending: LoginOutcome,
    /// The login with the current version.
    pub current: LoginOutcome,
    /// The proxy's id.
    pub proxy: String,
    /// When, in Unix seconds by the proxy's clock.
    pub at: i64,
}

/// What a group's proxies saw.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProofRecord {
    /// The version that was proved.
    pub version: VersionId,
    /// By node, `host:port` as discovery has it ([`crate::database::Endpoint`]'s text); of a cache whose nodes
    /// are not known (a serverless one) its endpoint. At most 500.
    pub nodes: BTreeMap<String, NodeProof>,
}

impl ProofRecord {
    /// Takes in what a proxy saw: one success a node is enough and is kept.
    pub fn merge(&mut self, node: impl Into<String>, seen: NodeProof) {
        match self.nodes.entry(node.into()) {
            std::collections::btree_map::Entry::Occupied(mut held) => {
                if held.get().pending != LoginOutcome::Ok {
                    held.insert(seen);
                }
            }
            std::collections::btree_map::Entry::Vacant(free) => {
                free.insert(seen);
            }
        }
    }
}

/// What all groups' records say of a version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Proven {
    /// No proxy wrote anything about it.
    Silent,
    /// Nodes are missing or unreachable; none refused it.
    Partly,
    /// Every node took it.
    Everywhere,
    /// A node refused it, and takes the current one (or that was not tried).
    Refused,
    /// A node refused both: somebody else changed the password.
    BothRefused,
}

/// Judges records of several groups: `needed` are the nodes that discovery knows; without any, those that the
/// records name.
#[must_use]
pub fn judge(records: &[ProofRecord], version: &VersionId, needed: &BTreeSet<String>) -> Proven {
    let mut merged = ProofRecord { version: version.clone(), nodes: BTreeMap::new() };
    for record in records.iter().filter(|record| record.version == *version) {
        for (node, seen) in &record.nodes {
            merged.merge(node.clone(), seen.clone());
        }
    }
    let seen = |node: &String| merged.nodes.get(node).map(|seen| (seen.pending, seen.current));
    let of_interest: Vec<&String> =
        if needed.is_empty() { merged.nodes.keys().collect() } else { needed.iter().collect() };
    let answers: Vec<_> = of_interest.into_iter().map(seen).collect();
    let refused = |both: bool| {
        answers.iter().flatten().any(|(pending, current)| {
            *pending == LoginOutcome::Refused && (*current == LoginOutcome::Refused) == both
        })
    };
    if merged.nodes.is_empty() {
        Proven::Silent
    } else if refused(true) {
        Proven::BothRefused
    } else if refused(false) {
        Proven::Refused
    } else if answers.iter().all(|answer| answer.is_some_and(|(pending, _)| pending == LoginOutcome::Ok)) {
        Proven::Everywhere
    } else {
        Proven::Partly
    }
}

/// How the last promotion was proved; kept in the row and shown by `keystile rotate status`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proof {
    /// The version that was promoted.
    pub version: VersionId,
    /// `everywhere` is proved; `silent` and `partly` are unproven.
    pub outcome: Proven,
    /// When it was judged, in Unix seconds.
    pub at: i64,
    /// How long the user had been `active` by then, in seconds.
    pub active_s: i64,
    /// Nodes that took it.
    pub nodes_ok: u32,
    /// Nodes that should have.
    pub nodes: u32,
    /// Nodes that did not, at most ten.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub missing: Vec<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(pending: LoginOutcome, current: LoginOutcome) -> NodeProof {
        NodeProof { pending, current, proxy: "p".to_owned(), at: 1 }
    }

    fn record(version: &str, nodes: &[(&str, LoginOutcome, LoginOutcome)]) -> ProofRecord {
        let nodes = nodes.iter().map(|(node, p, c)| ((*node).to_owned(), seen(*p, *c))).collect();
        ProofRecord { version: VersionId::new(version), nodes }
    }

    #[test]
    fn one_success_a_node_is_enough() {
        use LoginOutcome::{Ok, Refused, Unreachable, Untried};
        let needed: BTreeSet<String> = ["a:1".to_owned(), "b:1".to_owned()].into();
        let verdict = |records: &[ProofRecord]| judge(records, &VersionId::new("v"), &needed);
        assert_eq!(verdict(&[]), Proven::Silent);
        assert_eq!(verdict(&[record("old", &[("a:1", Ok, Ok), ("b:1", Ok, Ok)])]), Proven::Silent);
        assert_eq!(verdict(&[record("v", &[("a:1", Ok, Ok)])]), Proven::Partly);
        let split =
            [record("v", &[("a:1", Ok, Ok)]), record("v", &[("b:1", Ok, Untried), ("a:1", Refused, Ok)])];
        assert_eq!(verdict(&split), Proven::Everywhere);
        let lone = record("v", &[("a:1", Ok, Ok), ("b:1", Unreachable, Unreachable)]);
        assert_eq!(verdict(std::slice::from_ref(&lone)), Proven::Partly);
        assert_eq!(verdict(&[record("v", &[("a:1", Refused, Ok), ("b:1", Ok, Ok)])]), Proven::Refused);
        assert_eq!(verdict(&[record("v", &[("a:1", Refused, Refused)])]), Proven::BothRefused);
        let unknown = BTreeSet::new();
        assert_eq!(judge(&[lone], &VersionId::new("v"), &unknown), Proven::Partly);
        let whole = record("v", &[("x:1", Ok, Ok)]);
        assert_eq!(judge(&[whole], &VersionId::new("v"), &unknown), Proven::Everywhere);
    }

    #[test]
    fn a_success_is_not_forgotten() {
        let mut held = record("v", &[("a:1", LoginOutcome::Ok, LoginOutcome::Ok)]);
        held.merge("a:1", seen(LoginOutcome::Refused, LoginOutcome::Ok));
        assert_eq!(held.nodes["a:1"].pending, LoginOutcome::Ok);
    }
}
