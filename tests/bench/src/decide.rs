//! What a decision costs that begins a session, under a policy of a large company.

use std::hint::black_box;
use std::io::Write as _;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use keystile_model::decide::{Request, Subject, decide};
use keystile_model::feed::Entity;
use keystile_model::name::UserName;
use keystile_model::policy::Policy;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

const ROLES: usize = 1_000;
const DATABASES: usize = 5_000;
/// Environments, and teams: what roles select by.
const ENVIRONMENTS: usize = 5;
const TEAMS: usize = 200;
/// Roles of the users that are looked at.
const HELD: [usize; 3] = [3, 20, ROLES];
/// Decisions in one sample, and samples: the quickest counts, the others were disturbed.
const DECISIONS: usize = 1_000;
const SAMPLES: usize = 9;

/// Prints an array of pairs: how many roles the user holds, and microseconds for a decision.
pub(crate) fn run() -> Result<()> {
    let policy = policy()?;
    let mut seen = Vec::new();
    for held in HELD {
        seen.push((held, quickest(&policy, held)?));
    }
    writeln!(std::io::stdout(), "{}", json!(seen)).context("cannot print")
}

fn read<T: DeserializeOwned>(document: Value) -> Result<T> {
    serde_json::from_value(document).context("the bench's own document is not one of today's")
}

fn policy() -> Result<Policy> {
    let mut entities = Vec::new();
    for number in 0..ROLES {
        // The last one of each user's is the one that lets it in.
        let labels = json!({
            "team": format!("team-{}", number % TEAMS),
            "env": [format!("env-{}", number % ENVIRONMENTS), "^stage-[0-9]+$"],
        });
        entities.push(Entity::Role(Box::new(read(json!({
            "name": format!("role-{number}"), "version": "ks1", "description": "",
            "allow": { "db_labels": labels, "db_users": ["iam-ro", "app-*"], "db_commands": ["+@read", "-keys"] },
            "deny": { "db_labels": { "class": "secret" }, "db_users": ["*"] },
            "options": { "client_idle_timeout": "30m" },
        }))?)));
    }
    for number in 0..DATABASES {
        entities.push(Entity::Database(Box::new(read(json!({
            "name": format!("cache-{number}"), "kind": "elasticache", "engine": "valkey",
            "endpoint_type": "primary", "resource_id": format!("cache-{number}"),
            "endpoint": { "host": "localhost", "port": 6379 },
            "labels": {
                "team": format!("team-{}", number % TEAMS), "env": format!("env-{}", number % ENVIRONMENTS),
                "class": "plain", "region": "us-east-1", "engine": "valkey",
            },
        }))?)));
    }
    for held in HELD {
        let roles: Vec<_> = (0..held).map(|number| format!("role-{number}")).collect();
        entities.push(Entity::User(read(json!({ "name": format!("user-{held}"), "roles": roles }))?));
    }
    Ok(Policy::new(entities))
}

fn quickest(policy: &Policy, held: usize) -> Result<f64> {
    let subject = Subject { user: UserName::parse(format!("user-{held}"))?, issued_at: Some(1) };
    let last = (held - 1) % TEAMS;
    let mut best = f64::INFINITY;
    for _ in 0..SAMPLES {
        let began = Instant::now();
        for turn in 0..DECISIONS {
            let name = format!("cache-{}", last + TEAMS * (turn % (DATABASES / TEAMS)));
            let database = policy.database(black_box(&name)).context("a database is gone")?;
            let request = Request::Connect { database, db_user: "iam-ro" };
            let decision = decide(policy, &subject, black_box(request), 2);
            ensure!(black_box(decision).is_allowed(), "user-{held} does not get to {name}");
        }
        #[expect(clippy::cast_precision_loss, reason = "a thousand")]
        let each = began.elapsed().as_secs_f64() * 1e6 / DECISIONS as f64;
        best = best.min(each);
    }
    Ok(best)
}
