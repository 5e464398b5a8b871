//! `db connect`: the client that is installed, or the built-in one.

use std::io::IsTerminal as _;

use crate::access::Access;
use crate::args::RouteArgs;
use crate::client::{self, external};
use crate::context::{Context, wait};
use crate::failure::{Failure, exit};
use crate::output::say;
use crate::route::{Route, with_lines};

/// Opens a route and talks through it. Gives the exit code of what was run.
pub(crate) fn run(context: &Context, args: &RouteArgs, command: &[String]) -> Result<u8, Failure> {
    let user = args.db_user.as_deref();
    let forced = external::Choice::named(context.environment.var("KEYSTILE_CLIENT"))?;
    let one_command = !command.is_empty();
    let (route, settings) = wait(async {
        let access = Access::open(context).await?;
        // The built-in client runs single commands, so that their exit codes do not depend on what is installed.
        if forced == Some(external::Choice::BuiltIn) || (one_command && forced.is_none()) {
            Ok((Route::ask(context, &access, &args.name, user).await?, None))
        } else {
            let (route, settings) = Route::keep(context, &access, &args.name, user).await?;
            Ok((route, Some(settings)))
        }
    })
    .map_err(|failure| with_lines(failure, |user| lines(args, user, command)))?;
    if let Some(settings) = settings
        && let Some(found) = external::find(forced, &route.answer.engine)?
    {
        return Err(external::replace(&found, &settings, command));
    }
    if one_command {
        return client::one(context, &route, command);
    }
    let failed = if context.environment.stdin_is_terminal && std::io::stdout().is_terminal() {
        let answer = &route.answer;
        say(&format!(
            "Connected to {} as {}, until {}.",
            answer.database, answer.db_user, answer.valid_until
        ));
        client::converse(&route)?;
        false
    } else {
        client::batch(context, &route)?
    };
    Ok(if failed { exit::FAILURE } else { exit::OK })
}

fn lines(args: &RouteArgs, user: &str, command: &[String]) -> String {
    let mut line = format!("keystile db connect {} --db-user {user}", args.name);
    if !command.is_empty() {
        let words: Vec<_> = command.iter().map(|word| super::databases::quoted(word)).collect();
        line.push_str(&format!(" -- {}", words.join(" ")));
    }
    line
}
