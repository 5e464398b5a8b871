//! `keystile-bench`: the programs behind `make bench`. `load` asks and checks, `relay` is the floor that the
//! proxy is compared with, `certificates` makes what the relay needs. `tests/bench/run` starts them, reads
//! what they cost, and prints the table; of what is here only `decide` measures anything.

mod certificates;
mod decide;
mod load;
mod relay;
mod tls;

use std::io::Write as _;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// The programs behind `make bench`.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Make a CA, and a server's and a client's certificate.
    Certificates(certificates::Arguments),
    /// Forward bytes between two TLS connections and look at none of them.
    Relay(relay::Arguments),
    /// Send requests and check every reply.
    Load(load::Arguments),
    /// Measure decisions under a large policy.
    Decide,
}

/// One thread each: generator, relay, proxy and server share few cores.
#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let done = match Arguments::parse().verb {
        Verb::Certificates(arguments) => certificates::run(&arguments),
        Verb::Relay(arguments) => relay::run(&arguments).await,
        Verb::Load(arguments) => load::run(&arguments).await,
        Verb::Decide => decide::run(),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "{error:#}");
            ExitCode::FAILURE
        }
    }
}
