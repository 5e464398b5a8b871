//! functions/access: signs people in, decides on routes, and changes policy. Behind a Function URL with AWS_IAM.
//!
//! An event becomes a [`request::Request`]; [`handler`] finds out who calls and hands a [`app::Call`] to one
//! of [`routes`]. Documents are read and checked in [`documents`], and every write goes through [`change`].

mod app;
mod audit;
mod bootstrap;
mod change;
mod config;
mod documents;
mod failure;
mod handler;
mod network;
mod request;
mod routes;
#[cfg(test)]
mod tests;
mod wire;

use std::sync::Arc;

use lambda_runtime::{LambdaEvent, service_fn};
use serde_json::Value;

#[tokio::main]
async fn main() -> Result<(), lambda_runtime::Error> {
    tracing_subscriber::fmt().json().with_writer(std::io::stderr).with_max_level(tracing::Level::INFO).init();
    let app = match wire::app().await {
        Ok(app) => Arc::new(app),
        Err(error) => {
            tracing::error!("cannot start: {error:#}");
            return Err(error.into());
        }
    };
    lambda_runtime::run(service_fn(move |event: LambdaEvent<Value>| {
        let app = Arc::clone(&app);
        async move { Ok::<_, lambda_runtime::Error>(handler::handle(&app, event.payload).await) }
    }))
    .await
}
