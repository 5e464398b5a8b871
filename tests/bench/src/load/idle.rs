//! Many connections, each used once and then silent; afterwards every one must still answer.

use anyhow::{Context as _, Result, ensure};
use serde_json::json;

use super::connection::Target;
use super::{say, step};

/// How many.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// How many connections.
    #[arg(long)]
    connections: usize,
}

/// Holds them between the two steps; at the last one each is asked again.
pub(super) async fn run(target: &Target, arguments: &Arguments) -> Result<()> {
    ensure!(arguments.connections > 0, "no connection would be made");
    let dialer = target.dialer(false)?;
    let mut open = Vec::with_capacity(arguments.connections);
    for _ in 0..arguments.connections {
        let mut connection = dialer.connect().await?;
        connection.ping().await?;
        open.push(connection);
    }
    step("ready")?;
    step("done")?;
    for (number, connection) in open.iter_mut().enumerate() {
        connection.ping().await.with_context(|| format!("connection {number} after its silence"))?;
    }
    say(&json!({ "connections": open.len() }).to_string())
}
