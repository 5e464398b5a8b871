//! The configuration file and the ACL file of one node. Pure text.

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use super::certificates::Certificates;
use super::layout::{HOST, NodePlan};
use crate::fixture::{CacheUser, Kind, Passwords, Resource, TEST_ADMIN, acl_rules};

/// What ElastiCache allows clients at most is 65,000; this is what a test may open here.
pub(super) const MAX_CLIENTS: u64 = 25_000;
/// So much sooner than the default of 15 s does a cluster see that a node has died.
const NODE_TIMEOUT_MS: u32 = 2_000;

/// What a node's configuration is made of, beside its plan.
pub(super) struct Surroundings<'a> {
    pub(super) resource: &'a Resource,
    pub(super) folder: &'a Path,
    pub(super) certificates: &'a Certificates,
    pub(super) passwords: &'a Passwords,
    pub(super) module: &'a Path,
    pub(super) keys_file: &'a Path,
    pub(super) users_file: &'a Path,
    pub(super) iam_life: Duration,
}

/// The text of `valkey.conf`. Only directives that 7.2 knows as well.
pub(super) fn node_configuration(plan: &NodePlan, around: &Surroundings<'_>) -> String {
    let mut lines = vec![
        "bind 127.0.0.1 -::1".to_owned(),
        "port 0".to_owned(),
        format!("tls-port {}", plan.node.port),
        format!("tls-cert-file {}", around.certificates.certificate.display()),
        format!("tls-key-file {}", around.certificates.key.display()),
        format!("tls-ca-cert-file {}", around.certificates.ca.display()),
        "tls-auth-clients no".to_owned(),
        "tls-replication yes".to_owned(),
        "tls-cluster yes".to_owned(),
        format!("maxclients {MAX_CLIENTS}"),
        "save \"\"".to_owned(),
        "appendonly no".to_owned(),
        "daemonize no".to_owned(),
        "shutdown-timeout 0".to_owned(),
        "repl-diskless-sync-delay 0".to_owned(),
        // A cluster lists a replica once its offset has moved, which the first of these pings does.
        "repl-ping-replica-period 1".to_owned(),
        format!("dir {}", around.folder.display()),
        format!("aclfile {}", around.folder.join("users.acl").display()),
        format!("masteruser {TEST_ADMIN}"),
        format!("masterauth {}", around.passwords.test_admin),
        module_line(around),
    ];
    match (plan.bus_port, plan.primary_port) {
        (Some(bus), _) => lines.extend([
            "cluster-enabled yes".to_owned(),
            "cluster-config-file nodes.conf".to_owned(),
            format!("cluster-port {bus}"),
            format!("cluster-node-timeout {NODE_TIMEOUT_MS}"),
            "cluster-require-full-coverage no".to_owned(),
            "cluster-allow-replica-migration no".to_owned(),
            format!("cluster-announce-hostname {HOST}"),
            "cluster-preferred-endpoint-type hostname".to_owned(),
        ]),
        (None, Some(primary)) => lines.push(format!("replicaof 127.0.0.1 {primary}")),
        (None, None) => {}
    }
    lines.join("\n") + "\n"
}

fn module_line(around: &Surroundings<'_>) -> String {
    let Resource { kind, id, region, account, .. } = around.resource;
    let service = if *kind == Kind::MemoryDb { "memorydb" } else { "elasticache" };
    let serverless = if *kind == Kind::Serverless { "yes" } else { "no" };
    format!(
        "loadmodule {} service {service} name {id} region {region} account {account} serverless {serverless} \
         keys-file {} users-file {} life-ms {}",
        around.module.display(),
        around.keys_file.display(),
        around.users_file.display(),
        around.iam_life.as_millis()
    )
}

/// The text of the ACL file: the users of the cache's group, and the one for checks behind the proxy.
pub(super) fn acl_file<'a>(users: impl Iterator<Item = &'a CacheUser>, passwords: &Passwords) -> String {
    let mut text = format!("user {TEST_ADMIN} reset on >{} ~* &* +@all\n", passwords.test_admin);
    for user in users {
        let _ = writeln!(text, "user {} {}", user.name, acl_rules(&user.auth, &user.access).join(" "));
    }
    text
}

/// Whether a user belongs to a cache's group: same account and region, and the same service.
pub(super) fn is_of(user: &CacheUser, resource: &Resource) -> bool {
    let memorydb = resource.kind == Kind::MemoryDb;
    user.account == resource.account && user.region == resource.region && user.memorydb == memorydb
}
