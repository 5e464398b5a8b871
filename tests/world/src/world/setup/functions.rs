//! The functions as the template deploys them: names, roles, environment.

use std::collections::BTreeMap;

use anyhow::Result;

use super::cloud::Cloud;
use super::{DEPLOYMENT, DOMAIN, Ground, POLICY_TABLE, RUNTIME_TABLE};
use crate::fixture::{ADMIN_ARN, HOME_ACCOUNT};
use crate::lambda::{Deployed, FunctionSpec};
use crate::world::paths::replace_file;

/// Writes `functions.json`, which is what the front's Lambda service reads.
pub(super) fn deploy(ground: &Ground<'_>, cloud: &Cloud) -> Result<()> {
    let mut access = common(ground);
    access.extend(pairs(&[
        ("KEYSTILE_BOOTSTRAP_ADMIN_ARN", ADMIN_ARN),
        ("KEYSTILE_TRUSTED_ACCOUNTS", HOME_ACCOUNT),
        ("KEYSTILE_PROXY_ADDRESS", &format!("127.0.0.1:{}", ground.ports.proxies[0].0)),
        ("KEYSTILE_DOMAIN", DOMAIN),
        ("KEYSTILE_USER_CA_KEY", &cloud.user_ca),
        ("KEYSTILE_HOST_CA_KEY", &cloud.host_ca),
        ("KEYSTILE_DISCOVER_FUNCTION", "keystile-discover"),
        ("KEYSTILE_ROTATE_FUNCTION", "keystile-rotate"),
        ("KEYSTILE_STATIC_NETWORKS", "127.0.0.0/8"),
    ]));
    // Turn after turn: a proxy that still holds the password of two turns ago reads afresh.
    let mut rotate = common(ground);
    rotate.extend(pairs(&[("KEYSTILE_PASSWORD_HELD_S", "0")]));
    let function = |name: &str, env, timeout_s, warm| FunctionSpec {
        name: name.to_owned(),
        function_name: format!("keystile-{name}"),
        binary: ground.paths.binaries.join(format!("keystile-{name}")),
        role: format!("keystile-{name}"),
        env,
        timeout_s,
        warm,
        log: Some(ground.paths.log(name)),
    };
    let deployed = Deployed {
        functions: vec![
            function("discover", common(ground), 300, false),
            function("sync-labels", common(ground), 120, false),
            function("rotate", rotate, 60, false),
            function("access", access, 320, true),
        ],
    };
    replace_file(&ground.paths.local.join("front/functions.json"), &serde_json::to_vec_pretty(&deployed)?)
}

/// What the template's Globals give, and what makes the local world local.
fn common(ground: &Ground<'_>) -> BTreeMap<String, String> {
    pairs(&[
        ("KEYSTILE_DEPLOYMENT", DEPLOYMENT),
        ("KEYSTILE_POLICY_TABLE", POLICY_TABLE),
        ("KEYSTILE_RUNTIME_TABLE", RUNTIME_TABLE),
        ("KEYSTILE_ACCOUNT_ID", HOME_ACCOUNT),
        ("KEYSTILE_ALLOW_LOOPBACK", "on"),
        ("KEYSTILE_AUDIT_FILE", &ground.audit_file().display().to_string()),
        ("RUST_LOG", "info"),
    ])
}

fn pairs(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}
