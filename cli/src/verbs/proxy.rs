//! `proxy db`: a local end of a route, or the files for a client that does its own TLS.

use crate::args::{Proxy, ProxyDb};
use crate::context::{Context, wait_through};
use crate::failure::Failure;
use crate::route::with_lines;
use crate::tunnel::{self, Door};
use crate::verbs::databases;

/// Runs `proxy …`.
pub(crate) fn run(context: &Context, verb: Proxy) -> Result<(), Failure> {
    let Proxy::Db(args) = verb;
    if !args.tunnel {
        let settings = databases::settings(context, &args.route, "proxy db")?;
        return context.output.emit(&settings, || databases::facts(&settings));
    }
    let door = match &args.unix {
        Some(path) => Door::Socket(path.clone()),
        None => Door::Port(args.port.unwrap_or(0)),
    };
    let opened = wait_through(tunnel::run(context, &args.route, door, !args.no_password));
    opened.map_err(|failure| with_lines(failure, |user| line(&args, user)))
}

fn line(args: &ProxyDb, user: &str) -> String {
    let port = args.port.map(|port| format!(" --port {port}")).unwrap_or_default();
    format!("keystile proxy db {} --db-user {user} --tunnel{port}", args.route.name)
}
