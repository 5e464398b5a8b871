//! One listed cache: does it give databases, which, or why not. Pure.

use std::collections::BTreeMap;

use keystile_model::arn::Arn;
use keystile_model::cloud::{CacheRecord, Tags, host_fault};
use keystile_model::database::{Database, DatabaseKind, Endpoint, EndpointType, Engine, Node};
use keystile_model::labels::{self, Labels};
use keystile_model::name::DatabaseName;

use super::seen::{Detail, SeenCache, SeenScope, SeenTags};
use crate::matchers::ReadyMatcher;

/// Statuses in which a cache does not serve.
const NOT_SERVING: [&str; 4] = ["creating", "deleting", "create-failed", "deleted"];
/// Longest id of any type of cache.
const MAX_ID: usize = 50;
/// Longest description that is kept, in characters.
const MAX_DESCRIPTION: usize = 256;
/// The one label of ours that a matcher may fix.
const DEFAULT_DB_USER: &str = "keystile.dev/default-db-user";

/// What a listed cache comes to.
#[derive(Debug)]
pub(crate) enum Verdict<'a> {
    /// It gives databases.
    Wanted(Wanted<'a>),
    /// It gives none. `gone` says whether databases that it gave before go too: only where AWS plainly says
    /// that they cannot be, never where we could not tell.
    Skipped { reason: String, gone: bool },
}

/// A cache that gives databases.
#[derive(Debug)]
pub(crate) struct Wanted<'a> {
    pub(crate) arn: Arn,
    pub(crate) id: DatabaseName,
    pub(crate) matcher: &'a ReadyMatcher,
    pub(crate) tags: &'a Tags,
    pub(crate) engine: Engine,
    pub(crate) reader: Option<&'a Endpoint>,
    pub(crate) endpoint: &'a Endpoint,
    pub(crate) record: &'a CacheRecord,
    pub(crate) detail: Option<&'a Detail>,
    pub(crate) allow_loopback: bool,
}

/// Judges a cache. `known` is what it gave before.
pub(crate) fn judge<'a>(
    scope: &SeenScope,
    cache: &'a SeenCache,
    matchers: &'a [ReadyMatcher],
    known: Option<&BTreeMap<EndpointType, &Database>>,
    allow_loopback: bool,
) -> Verdict<'a> {
    let keep = |reason: String| Verdict::Skipped { reason, gone: false };
    let gone = |reason: &str| Verdict::Skipped { reason: reason.to_owned(), gone: true };
    let record = &cache.record;
    let arn = match own_arn(scope, record) {
        Ok(arn) => arn,
        Err(reason) => return keep(reason),
    };
    let id = match own_id(record) {
        Ok(id) => id,
        Err(reason) => return keep(reason),
    };
    let engine_word = cache.detail.as_ref().map(|d| d.engine.as_str()).filter(|_| record.engine.is_empty());
    let known_engine = known.and_then(|k| k.values().next()).map(|d| d.engine);
    let engine = match engine_word.unwrap_or(&record.engine).to_ascii_lowercase().as_str() {
        "redis" => Engine::Redis,
        "valkey" => Engine::Valkey,
        // A MemoryDB cluster's record may lack it: those are Redis OSS.
        "" if record.kind == DatabaseKind::Memorydb => Engine::Redis,
        "" => match known_engine {
            Some(engine) => engine,
            None => return keep("engine unknown".to_owned()),
        },
        other => return gone(&format!("engine {}", plain(other, 40))),
    };
    let status = record.status.to_ascii_lowercase();
    if NOT_SERVING.contains(&status.as_str()) {
        return keep(format!("status {status}"));
    }
    if !record.tls {
        return gone("tls disabled");
    }
    let Some(endpoint) = record.endpoint.as_ref().filter(|e| !e.host.is_empty() && e.port != 0) else {
        return keep("no endpoint".to_owned());
    };
    let hosts = [Some(endpoint), record.reader.as_ref()];
    if let Some(fault) = hosts.into_iter().flatten().find_map(|e| host_fault(&e.host, allow_loopback)) {
        return keep(fault);
    }
    let SeenTags::Read(tags) = &cache.tags else {
        return keep("tags unread".to_owned());
    };
    if let Some(fault) = labels::tag_fault(tags) {
        return keep(fault);
    }
    let covering = matchers.iter().filter(|m| m.covers(&scope.id.account, &scope.id.region, scope.kind));
    let Some(matcher) = covering.into_iter().find(|m| m.wants(tags)) else {
        return gone("no matcher wants its tags");
    };
    if cache.detail.is_none() && known.is_none() {
        return keep("engine version unread".to_owned());
    }
    Verdict::Wanted(Wanted {
        arn,
        id,
        matcher,
        tags,
        engine,
        reader: reader_of(record),
        endpoint,
        record,
        detail: cache.detail.as_ref(),
        allow_loopback,
    })
}

fn own_arn(scope: &SeenScope, record: &CacheRecord) -> Result<Arn, String> {
    if record.arn.is_empty() {
        return Err("no ARN".to_owned());
    }
    let arn = Arn::parse(record.arn.clone()).map_err(|_| "bad ARN".to_owned())?;
    if arn.account() == scope.id.account && arn.region() == scope.id.region {
        Ok(arn)
    } else {
        Err("ARN of another account or region".to_owned())
    }
}

fn own_id(record: &CacheRecord) -> Result<DatabaseName, String> {
    if record.id.len() > MAX_ID {
        return Err(format!("bad id: {} bytes, at most {MAX_ID} are legal", record.id.len()));
    }
    DatabaseName::parse(record.id.to_ascii_lowercase()).map_err(|error| format!("bad id: {error}"))
}

/// A replication group has a reader endpoint even without a replica, where it leads to the primary: it is
/// offered only where there is more than one node.
fn reader_of(record: &CacheRecord) -> Option<&Endpoint> {
    let reader = record.reader.as_ref().filter(|e| !e.host.is_empty() && e.port != 0)?;
    match record.kind {
        DatabaseKind::Elasticache if record.cluster_mode || record.nodes.len() < 2 => None,
        DatabaseKind::Elasticache | DatabaseKind::ElasticacheServerless => Some(reader),
        DatabaseKind::Memorydb | DatabaseKind::Static => None,
    }
}

impl Wanted<'_> {
    /// The database of one of its endpoints. What was known keeps the labels that came from its tags: those
    /// are label sync's from then on.
    pub(crate) fn database(&self, name: DatabaseName, reader: bool, known: Option<&Database>) -> Database {
        let record = self.record;
        let spec = &self.matcher.spec;
        let endpoint_type = self.endpoint_type(reader);
        let endpoint = if reader { self.reader.unwrap_or(self.endpoint) } else { self.endpoint };
        let (version, vpc_id) = self.version_and_vpc(known);
        let mut labels = match known {
            None => labels::imported(self.tags, &spec.import_tags, &spec.labels),
            Some(known) => kept_labels(known, spec),
        };
        labels
            .extend(spec.labels.get(DEFAULT_DB_USER).map(|user| (DEFAULT_DB_USER.to_owned(), user.clone())));
        let owned = [
            ("account-id", self.arn.account()),
            ("region", self.arn.region()),
            ("engine", self.engine.as_str()),
            ("engine-version", &version),
            ("endpoint-type", endpoint_type.as_str()),
            ("vpc-id", &vpc_id),
            ("keystile.dev/cloud", "aws"),
            ("keystile.dev/kind", record.kind.as_str()),
        ];
        labels.extend(
            owned
                .into_iter()
                .filter(|(_, value)| !value.is_empty())
                .map(|(key, value)| (key.to_owned(), value.to_owned())),
        );
        Database {
            name,
            description: plain(&record.description, MAX_DESCRIPTION),
            kind: record.kind,
            engine: self.engine,
            engine_version: version,
            endpoint_type,
            endpoint: endpoint.clone(),
            arn: Some(self.arn.clone()),
            resource_id: self.id.to_string(),
            region: self.arn.region().to_owned(),
            account_id: self.arn.account().to_owned(),
            labels,
            cluster_mode: record.cluster_mode,
            groups: record.groups.clone(),
            auth: spec.auth.clone(),
            assume_role: self.matcher.role(),
            matcher: self.matcher.name.clone(),
            import_tags: spec.import_tags.clone(),
            fixed_labels: spec.labels.clone(),
            nodes: self.nodes(known),
            ca: None,
        }
    }

    /// Its nodes, in order of their ids. With cluster mode on only the members' own records say where a node
    /// listens; between two readings of those the known address stays. Hosts that are not AWS's are dropped.
    fn nodes(&self, known: Option<&Database>) -> Vec<Node> {
        let mut nodes = self.record.nodes.clone();
        nodes.sort_by(|a, b| a.id.cmp(&b.id));
        for node in &mut nodes {
            let listed = || self.detail.and_then(|detail| detail.node_endpoints.get(&node.id)).cloned();
            let kept = || {
                let same = known.into_iter().flat_map(|d| &d.nodes).find(|before| before.id == node.id);
                same.and_then(|before| before.endpoint.clone())
            };
            let endpoint = node.endpoint.take().or_else(listed).or_else(kept);
            node.endpoint = endpoint.filter(|e| host_fault(&e.host, self.allow_loopback).is_none());
        }
        nodes
    }

    fn endpoint_type(&self, reader: bool) -> EndpointType {
        match self.record.kind {
            _ if reader => EndpointType::Reader,
            DatabaseKind::Elasticache if self.record.cluster_mode => EndpointType::Configuration,
            DatabaseKind::Elasticache => EndpointType::Primary,
            DatabaseKind::ElasticacheServerless => EndpointType::Serverless,
            DatabaseKind::Memorydb => EndpointType::Cluster,
            DatabaseKind::Static => EndpointType::Node,
        }
    }

    fn version_and_vpc(&self, known: Option<&Database>) -> (String, String) {
        match (self.detail, known) {
            (Some(detail), _) => (plain(&detail.engine_version, 40), plain(&detail.vpc_id, 40)),
            (None, Some(known)) => {
                (known.engine_version.clone(), known.labels.get("vpc-id").cloned().unwrap_or_default())
            }
            (None, None) => (String::new(), String::new()),
        }
    }
}

/// Labels of a known database that discovery leaves alone, and the matcher's fixed ones. A key that is no
/// longer imported goes; one that is newly imported comes with the next label sync.
fn kept_labels(known: &Database, spec: &keystile_model::matcher::MatcherSpec) -> Labels {
    let from_tags: Labels = known
        .labels
        .iter()
        .filter(|(key, value)| {
            // A label that the old matcher fixed and the new one does not is no tag's.
            known.fixed_labels.get(*key) != Some(*value) || spec.labels.get(*key) == Some(*value)
        })
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect();
    let mut import = spec.import_tags.clone();
    import.extend(spec.labels.keys().cloned());
    labels::imported(&from_tags, &import, &spec.labels)
}

/// Without control characters, and cut.
pub(crate) fn plain(text: &str, limit: usize) -> String {
    text.chars().filter(|c| !c.is_control()).take(limit).collect()
}
