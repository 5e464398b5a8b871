//! The `keystile` command: reads the line, runs one verb, and says what went wrong with the right exit code.
//! What verbs do is in `verbs`; local ones start no runtime and no network.

mod access;
mod args;
mod client;
mod context;
mod environment;
mod failure;
mod home;
mod keys;
mod output;
mod route;
mod session;
mod table;
mod tunnel;
mod verbs;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::ValueEnum as _;

use crate::args::{OutputArgs, Verb};
use crate::context::Context;
use crate::environment::Environment;
use crate::failure::{Failure, exit};
use crate::home::{Config, Home};
use crate::output::{Format, Output};

fn main() -> ExitCode {
    let line: Vec<OsString> = std::env::args_os().collect();
    let code = match args::parse(line.clone()) {
        Ok((cli, flags)) => run(cli.verb, flags),
        Err(error) => misread(&error, args::asks_for_json(&line)),
    };
    ExitCode::from(code)
}

/// Runs a verb and shows its failure.
fn run(verb: Verb, flags: OutputArgs) -> u8 {
    let environment = Environment::of_process();
    let format = flags.format.or_else(|| named_format(environment.var("KEYSTILE_FORMAT")));
    let bold = output::wants_bold(flags.color, &environment);
    let output = Output { format: format.unwrap_or_default(), file: flags.out, bold };
    let json_errors = format == Some(Format::Json);
    match dispatch(verb, environment, output, format.is_none()) {
        Ok(code) => code,
        Err(failure) => {
            show(&failure, json_errors);
            failure.exit
        }
    }
}

fn dispatch(
    verb: Verb,
    environment: Environment,
    output: Output,
    format_is_open: bool,
) -> Result<u8, Failure> {
    match verb {
        Verb::Version => return verbs::about::version(&output),
        Verb::Completion { shell } => return verbs::about::completion(shell, &output),
        _ => {}
    }
    let home = Home::locate(&environment)?;
    let config: Config = home.read_config()?;
    let mut context = Context { environment, home, config, output };
    if format_is_open && let Some(format) = named_format(context.config.format.as_deref()) {
        context.output.format = format;
    }
    verbs::run(&context, verb)
}

fn named_format(name: Option<&str>) -> Option<Format> {
    name.and_then(|name| Format::from_str(name, true).ok())
}

fn show(failure: &Failure, json: bool) {
    let text = if json { failure.json() } else { failure.text() };
    output::say(text.trim_end());
}

/// A line that clap did not take, or `--help` and `--version`, which it takes for errors too.
fn misread(error: &clap::Error, json: bool) -> u8 {
    if !error.use_stderr() {
        return match output::print(error.render().to_string().as_bytes()) {
            Ok(()) => exit::OK,
            Err(_) => exit::FAILURE,
        };
    }
    if json {
        let text = error.render().to_string();
        let message = text.lines().next().unwrap_or_default().trim_start_matches("error: ");
        show(&Failure::usage(message).next("keystile --help"), true);
    } else {
        output::say(error.render().to_string().trim_end());
    }
    exit::USAGE
}
