//! The first connection to a database, and those to the nodes of its cluster.

use std::sync::Arc;

use keystile_model::database::{Database, Endpoint, EndpointType};

use crate::admission::{Admission, Plan};
use crate::app::Shared;
use crate::cluster::{Dial, Dialing};
use crate::refusal::Refusal;
use crate::session::leg::Leg;
use crate::upstream::host_rule;

/// The first connection to the cache: in cluster mode to the node of commands without a key, if that is known and
/// answers, else to the endpoint, which leads to any node.
pub(super) async fn dial_first(
    shared: &Arc<Shared>,
    admission: &Admission,
    networks: &[String],
) -> (Result<Leg, Refusal>, Endpoint) {
    let database = &admission.database;
    if is_cluster(database)
        && let map = shared.maps.of(database)
        && map.is_told()
        && let Some(home) = map.load().home().filter(|home| **home != database.endpoint)
        && let Ok(server) = node_dialer(shared, admission, networks.to_vec()).dial(home).await
    {
        return (Ok(server), home.clone());
    }
    let dialed = shared.dialer.dial(database, &admission.db_user, &admission.plan, networks).await;
    (dialed, database.endpoint.clone())
}

/// Whether sessions keep links to the nodes of a cluster. The reader endpoint of a serverless cache is one server to
/// whoever speaks to it.
pub(super) fn is_cluster(database: &Database) -> bool {
    database.cluster_mode && database.endpoint_type != EndpointType::Reader
}

pub(super) fn node_dialer(shared: &Arc<Shared>, admission: &Admission, networks: Vec<String>) -> NodeDialer {
    NodeDialer {
        shared: Arc::clone(shared),
        database: Arc::clone(&admission.database),
        db_user: admission.db_user.clone(),
        plan: admission.plan.clone(),
        networks,
    }
}

/// Opens a session's connections to the nodes of its cluster.
pub(super) struct NodeDialer {
    shared: Arc<Shared>,
    database: Arc<Database>,
    db_user: String,
    plan: Plan,
    networks: Vec<String>,
}

impl Dial for NodeDialer {
    fn may_dial(&self, node: &Endpoint) -> bool {
        host_rule::check_node(&self.database, node, self.shared.dialer.allow_loopback).is_ok()
    }

    fn dial(&self, node: &Endpoint) -> Dialing {
        let shared = Arc::clone(&self.shared);
        let database = Database { endpoint: node.clone(), ..Database::clone(&self.database) };
        let allowed = host_rule::check_node(&self.database, node, shared.dialer.allow_loopback);
        let (db_user, plan, networks) = (self.db_user.clone(), self.plan.clone(), self.networks.clone());
        Box::pin(async move {
            allowed?;
            shared
                .dialer
                .dial(&database, &db_user, &plan, &networks)
                .await
                .map_err(|refusal| refusal.to_string())
        })
    }
}
