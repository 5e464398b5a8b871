//! `version` and `completion`: what the command knows without any file or network.

use clap_complete::Shell;
use serde_json::json;

use crate::args;
use crate::failure::{Failure, exit};
use crate::output::Output;

const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Prints the version.
pub(crate) fn version(output: &Output) -> Result<u8, Failure> {
    output.emit(&json!({ "name": "keystile", "version": VERSION }), || format!("keystile {VERSION}\n"))?;
    Ok(exit::OK)
}

/// Prints a shell's completions.
pub(crate) fn completion(shell: Shell, output: &Output) -> Result<u8, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut args::command(), "keystile", &mut script);
    output.write(script)?;
    Ok(exit::OK)
}
