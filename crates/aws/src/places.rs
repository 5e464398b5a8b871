//! Clients by place: an account, by the role that reaches it, and a region.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use aws_config::SdkConfig;
use keystile_model::cloud::Place;

use crate::config::AwsConfig;

/// A set of clients for each place, made when it is first asked for: a client keeps connections, and a role's
/// credentials.
#[derive(Debug)]
pub(crate) struct Places<C> {
    config: AwsConfig,
    made: Mutex<HashMap<Place, Arc<C>>>,
}

impl<C> Places<C> {
    /// On this configuration; asks nobody yet.
    pub(crate) fn new(config: AwsConfig) -> Self {
        Self { config, made: Mutex::default() }
    }

    /// The configuration of our own account and region.
    pub(crate) fn home(&self) -> &SdkConfig {
        self.config.home()
    }

    /// The clients of a place, which `make` makes of its configuration.
    pub(crate) fn clients(&self, place: &Place, make: impl FnOnce(&SdkConfig) -> C) -> Arc<C> {
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        let clients = made
            .entry(place.clone())
            .or_insert_with(|| Arc::new(make(&self.config.access(place.role.as_ref(), &place.region))));
        Arc::clone(clients)
    }
}
