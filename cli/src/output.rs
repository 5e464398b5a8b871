//! Where data and talk go, and in which form. Data is written once, at the end, so that a verb that
//! fails leaves no half of it.

use std::io::Write as _;
use std::path::PathBuf;

use serde::Serialize;

use crate::environment::Environment;
use crate::failure::Failure;
use crate::home;

/// The form of data.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    /// For people.
    #[default]
    Text,
    /// For scripts; the shapes are stable.
    Json,
    /// The same as YAML.
    Yaml,
}

/// When to colour.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Color {
    /// On a terminal, unless NO_COLOR or TERM=dumb.
    #[default]
    Auto,
    /// Also into a pipe.
    Always,
    /// Not at all.
    Never,
}

/// Where data goes and how it looks.
#[derive(Debug, Clone, Default)]
pub(crate) struct Output {
    /// The form.
    pub(crate) format: Format,
    /// A file instead of standard output.
    pub(crate) file: Option<PathBuf>,
    /// Whether headers are bold.
    pub(crate) bold: bool,
}

impl Output {
    /// Writes a verb's data: `text` for people, `value` for scripts.
    pub(crate) fn emit(&self, value: &impl Serialize, text: impl FnOnce() -> String) -> Result<(), Failure> {
        match self.format {
            Format::Text => self.write(text()),
            Format::Json => self.write(json(value)?),
            Format::Yaml => self.write(yaml(value)?),
        }
    }

    /// Writes data as it is.
    pub(crate) fn write(&self, data: impl AsRef<[u8]>) -> Result<(), Failure> {
        match &self.file {
            // It may be a token or the path to a key: nobody else's business.
            Some(path) => home::write_private(path, data.as_ref()),
            None => print(data.as_ref()),
        }
    }
}

/// Writes to standard output. A reader that has gone away (`| head`) is no failure.
pub(crate) fn print(data: &[u8]) -> Result<(), Failure> {
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(data).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Failure::failed("the output could not be written").why(error.to_string()))
        }
        _ => Ok(()),
    }
}

/// Talk, on standard error; whether anybody listens does not matter.
pub(crate) fn say(text: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}

/// Whether to use bold text.
pub(crate) fn wants_bold(color: Color, environment: &Environment) -> bool {
    match color {
        Color::Always => true,
        Color::Never => false,
        Color::Auto if environment.var("NO_COLOR").is_some() => false,
        Color::Auto if environment.var("CLICOLOR_FORCE").is_some_and(|value| value != "0") => true,
        Color::Auto => environment.stdout_is_terminal && environment.var("TERM") != Some("dumb"),
    }
}

fn json(value: &impl Serialize) -> Result<String, Failure> {
    let text = serde_json::to_string_pretty(value);
    text.map(|text| text + "\n").map_err(|error| Failure::failed("no JSON of that").why(error.to_string()))
}

/// YAML by way of JSON, so that both have the same fields.
pub(crate) fn yaml(value: &impl Serialize) -> Result<String, Failure> {
    let refused = |error: &dyn std::fmt::Display| Failure::failed("no YAML of that").why(error.to_string());
    let value = serde_json::to_value(value).map_err(|error| refused(&error))?;
    let mut text = serde_saphyr::to_string(&value).map_err(|error| refused(&error))?;
    if !text.ends_with('\n') {
        text.push('\n');
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colour_follows_the_flag_then_the_environment() {
        let terminal = |vars: &[(&str, &str)]| {
            let mut environment = Environment::of(vars);
            environment.stdout_is_terminal = true;
            environment
        };
        assert!(wants_bold(Color::Auto, &terminal(&[])));
        assert!(!wants_bold(Color::Auto, &terminal(&[("NO_COLOR", "1")])));
        assert!(!wants_bold(Color::Auto, &terminal(&[("TERM", "dumb")])));
        assert!(!wants_bold(Color::Auto, &Environment::of(&[])));
        assert!(wants_bold(Color::Auto, &Environment::of(&[("CLICOLOR_FORCE", "1")])));
        assert!(wants_bold(Color::Always, &terminal(&[("NO_COLOR", "1")])));
        assert!(!wants_bold(Color::Never, &terminal(&[])));
    }

    #[test]
    fn yaml_reads_back() {
        let value = serde_json::json!({"name": "a: b", "list": ["*", "true", "1"], "map": {"x": null}});
        let back: serde_json::Value = serde_saphyr::from_str(&yaml(&value).unwrap()).unwrap();
        assert_eq!(back, value);
    }
}
