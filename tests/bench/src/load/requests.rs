//! A closed loop: each connection sends a batch, waits for all its replies, and sends the next.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use clap::ValueEnum;
use serde_json::json;
use tokio::task::JoinSet;

use super::connection::{Connection, Target};
use super::data::{Dataset, Random};
use super::{percentile_us, say, step, store};

/// So many of the written keys are read again.
const READ_BACK: usize = 100;

/// What is sent.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Which command.
    #[arg(long)]
    op: Op,
    #[command(flatten)]
    dataset: Dataset,
    /// Connections, each with a loop of its own.
    #[arg(long)]
    connections: usize,
    /// Requests in a batch.
    #[arg(long, default_value_t = 1)]
    pipeline: usize,
    /// No batch starts later than this.
    #[arg(long)]
    seconds: f64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Op {
    Get,
    Set,
}

/// What is sent and what must come back, by the key's number.
struct Script {
    requests: Vec<Vec<u8>>,
    replies: Vec<Vec<u8>>,
}

impl Script {
    fn new(op: Op, dataset: &Dataset) -> Self {
        let numbers = 0..dataset.keys;
        match op {
            Op::Get => Self {
                requests: numbers.clone().map(|number| dataset.get(number)).collect(),
                replies: numbers.map(|number| dataset.bulk(number)).collect(),
            },
            Op::Set => Self {
                requests: numbers.clone().map(|number| dataset.set(number)).collect(),
                replies: numbers.map(|_| b"+OK\r\n".to_vec()).collect(),
            },
        }
    }
}

/// Which key is next.
enum Order {
    /// Any, for GET.
    Random(Random),
    /// From the first on, for SET, so that it is known which keys were written.
    Ascending(usize),
}

impl Order {
    fn next(&mut self, keys: usize) -> usize {
        match self {
            Self::Random(random) => random.below(keys),
            Self::Ascending(at) => {
                let number = *at % keys;
                *at += 1;
                number
            }
        }
    }
}

/// Runs the loops between the two steps.
pub(super) async fn run(target: &Target, arguments: &Arguments) -> Result<()> {
    let Arguments { op, dataset, connections, pipeline, seconds } = arguments;
    ensure!(*connections > 0 && *pipeline > 0 && dataset.keys > 0, "nothing would be sent");
    let length = Duration::try_from_secs_f64(*seconds).context("--seconds")?;
    let script = Arc::new(Script::new(*op, dataset));
    let dialer = target.dialer(false)?;
    let mut open = Vec::new();
    for _ in 0..*connections {
        let mut connection = dialer.connect().await?;
        connection.ping().await?;
        open.push(connection);
    }

    step("ready")?;
    let started = Instant::now();
    let mut loops = JoinSet::new();
    for (seed, connection) in (0_u64..).zip(open) {
        let order = if *op == Op::Get { Order::Random(Random::new(seed)) } else { Order::Ascending(0) };
        loops.spawn(drive(connection, Arc::clone(&script), order, *pipeline, started + length));
    }
    let (mut open, mut latencies) = (Vec::new(), Vec::new());
    while let Some(ended) = loops.join_next().await {
        let (connection, mut seen) = ended??;
        open.push(connection);
        latencies.append(&mut seen);
    }
    let seconds = started.elapsed().as_secs_f64();
    step("done")?;

    if *op == Op::Set {
        // Each loop wrote from the first key on, so the first keys are written if anything was.
        let written = (latencies.len() / connections * pipeline).min(dataset.keys).min(READ_BACK);
        let connection = open.first_mut().context("no connection is left")?;
        store::read_back(connection, dataset, written.max(1)).await?;
    }
    latencies.sort_unstable();
    say(&json!({
        "requests": latencies.len() * pipeline,
        "seconds": seconds,
        "p50_us": percentile_us(&latencies, 50),
        "p99_us": percentile_us(&latencies, 99),
    })
    .to_string())
}

/// One loop. Gives back its connection, still open, and how long each batch took.
async fn drive(
    mut connection: Connection,
    script: Arc<Script>,
    mut order: Order,
    pipeline: usize,
    until: Instant,
) -> Result<(Connection, Vec<Duration>)> {
    let keys = script.requests.len();
    let (mut batch, mut expected, mut latencies) = (Vec::new(), Vec::new(), Vec::new());
    let mut now = Instant::now();
    while now < until {
        batch.clear();
        expected.clear();
        for _ in 0..pipeline {
            let number = order.next(keys);
            batch.extend_from_slice(&script.requests[number]);
            expected.extend_from_slice(&script.replies[number]);
        }
        let sent = Instant::now();
        connection.ask(&batch, &expected).await?;
        now = Instant::now();
        latencies.push(now - sent);
    }
    Ok((connection, latencies))
}
