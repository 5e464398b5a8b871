//! The verbs, one file a group. Each asks, renders and returns an exit code.

pub(crate) mod about;
mod aws;
mod ca;
mod connect;
pub(crate) mod databases;
mod discover;
mod documents;
mod locks;
mod login;
mod proxy;
mod report;
mod roles;
mod rotate;
mod static_databases;
mod users;

use crate::args::{Db, Verb};
use crate::context::Context;
use crate::failure::{Failure, exit};
use crate::session;

/// Runs a verb. All but the few that make or need no session exit with 4 before they reach the network
/// when nobody is signed in.
pub(crate) fn run(context: &Context, verb: Verb) -> Result<u8, Failure> {
    let is_open = matches!(verb, Verb::Login(_) | Verb::Logout | Verb::Status | Verb::Aws(_));
    if !is_open {
        session::required(context)?;
    }
    match verb {
        Verb::Db(Db::Connect { route, command }) => return connect::run(context, &route, &command),
        Verb::Login(login) => login::login(context, &login),
        Verb::Logout => login::logout(context),
        Verb::Status => login::status(context),
        Verb::Version => return about::version(&context.output),
        Verb::Completion { shell } => return about::completion(shell, &context.output),
        Verb::Db(db) => databases::run(context, db),
        Verb::Proxy(proxy) => proxy::run(context, proxy),
        Verb::Users(users) => users::run(context, users),
        Verb::Roles(roles) => roles::run(context, roles),
        Verb::Locks(locks) => locks::run(context, locks),
        Verb::Create { file } => documents::create(context, &file),
        Verb::Get { what } => documents::show(context, &what),
        Verb::Edit { what, file } => documents::edit(context, &what, file.as_deref()),
        Verb::Rm { what } => documents::remove(context, &what),
        Verb::Discover(discover) => discover::run(context, discover),
        Verb::Rotate(rotate) => rotate::run(context, rotate),
        Verb::Ca(ca) => ca::run(context, ca),
        Verb::Aws(aws) => aws::run(context, aws),
    }
    .map(|()| exit::OK)
}
