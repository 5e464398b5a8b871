//! Failures as people and scripts see them: what, why, the next command to run, and an exit code.

use keystile_api::{ErrorCode, ErrorDetail};
use serde_json::json;

/// Exit codes; docs/CLI.md explains them.
pub(crate) mod exit {
    /// All well.
    pub(crate) const OK: u8 = 0;
    /// Something failed.
    pub(crate) const FAILURE: u8 = 1;
    /// The command line, a document or the configuration is wrong, or a choice has to be made.
    pub(crate) const USAGE: u8 = 2;
    /// No such thing.
    pub(crate) const NOT_FOUND: u8 = 3;
    /// Sign in first.
    pub(crate) const SIGN_IN: u8 = 4;
    /// A rule says no.
    pub(crate) const DENIED: u8 = 5;
    /// The access function, a proxy or a cache is out of reach.
    pub(crate) const UNREACHABLE: u8 = 7;
    /// Ctrl-C.
    pub(crate) const INTERRUPTED: u8 = 130;
}

/// A failure that ends the command. Small, because every result carries room for one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure(Box<Told>);

/// What a failure tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Told {
    /// The exit code.
    pub(crate) exit: u8,
    /// A stable word for scripts.
    pub(crate) code: String,
    /// What happened.
    pub(crate) message: String,
    /// Why; may be empty.
    pub(crate) why: String,
    /// The rule that decided; may be empty.
    pub(crate) rule: String,
    /// Command lines to run next.
    pub(crate) next: Vec<String>,
    /// What can be chosen.
    pub(crate) choices: Vec<String>,
}

impl Failure {
    fn new(exit: u8, code: &str, message: impl Into<String>) -> Self {
        Self(Box::new(Told {
            exit,
            code: code.to_owned(),
            message: message.into(),
            why: String::new(),
            rule: String::new(),
            next: Vec::new(),
            choices: Vec::new(),
        }))
    }

    /// Exit 1.
    pub(crate) fn failed(message: impl Into<String>) -> Self {
        Self::new(exit::FAILURE, "failure", message)
    }

    /// Exit 2.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::new(exit::USAGE, "usage", message)
    }

    /// Exit 3.
    pub(crate) fn not_found(message: impl Into<String>) -> Self {
        Self::new(exit::NOT_FOUND, "not_found", message)
    }

    /// Exit 4.
    pub(crate) fn sign_in(message: impl Into<String>) -> Self {
        Self::new(exit::SIGN_IN, "sign_in", message)
    }

    /// Exit 5.
    pub(crate) fn denied(message: impl Into<String>) -> Self {
        Self::new(exit::DENIED, "denied", message)
    }

    /// Exit 7.
    pub(crate) fn unreachable(message: impl Into<String>) -> Self {
        Self::new(exit::UNREACHABLE, "unreachable", message)
    }

    /// Exit 130.
    pub(crate) fn interrupted() -> Self {
        Self::new(exit::INTERRUPTED, "interrupted", "interrupted")
    }

    /// What the access function said.
    pub(crate) fn answered(detail: ErrorDetail) -> Self {
        Self(Box::new(Told {
            exit: detail.code.exit_code(),
            code: code_word(detail.code),
            message: printable(&detail.message),
            why: printable(&detail.why),
            rule: printable(&detail.rule),
            next: detail.next.iter().map(|line| printable(line)).collect(),
            choices: detail.choices.iter().map(|choice| printable(choice)).collect(),
        }))
    }

    /// Says why.
    pub(crate) fn why(mut self, why: impl Into<String>) -> Self {
        self.why = why.into();
        self
    }

    /// Says what to run next.
    pub(crate) fn next(mut self, line: impl Into<String>) -> Self {
        self.next.push(line.into());
        self
    }

    /// The lines for people.
    pub(crate) fn text(&self) -> String {
        let mut text = format!("error: {}\n", self.message);
        let why = match (self.why.as_str(), self.rule.as_str()) {
            ("", "") => String::new(),
            (why, "") => why.to_owned(),
            ("", rule) => format!("rule {rule}"),
            (why, rule) if why.contains(rule) => why.to_owned(),
            (why, rule) => format!("{why} (rule {rule})"),
        };
        if !why.is_empty() {
            text.push_str(&format!("  why   {why}\n"));
        }
        if !self.choices.is_empty() {
            text.push_str(&format!("  of    {}\n", self.choices.join(", ")));
        }
        for line in &self.next {
            text.push_str(&format!("  next  {line}\n"));
        }
        text
    }

    /// The same for scripts.
    pub(crate) fn json(&self) -> String {
        let mut error = json!({
            "code": self.code,
            "message": self.message,
            "why": self.why,
            "rule": self.rule,
            "next": self.next,
        });
        if !self.choices.is_empty() {
            error["choices"] = json!(self.choices);
        }
        format!("{}\n", json!({ "error": error }))
    }
}

impl std::ops::Deref for Failure {
    type Target = Told;

    fn deref(&self) -> &Told {
        &self.0
    }
}

impl std::ops::DerefMut for Failure {
    fn deref_mut(&mut self) -> &mut Told {
        &mut self.0
    }
}

fn code_word(code: ErrorCode) -> String {
    match serde_json::to_value(code) {
        Ok(serde_json::Value::String(word)) => word,
        _ => "failure".to_owned(),
    }
}

/// Text from elsewhere for a terminal: without control characters, which could move its cursor.
pub(crate) fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn detail(code: ErrorCode) -> ErrorDetail {
        ErrorDetail {
            code,
            message: "Denied: bob may not reach orders".to_owned(),
            why: "no allow rule matched\u{1b}[2J".to_owned(),
            rule: "dev/allow".to_owned(),
            next: vec!["keystile db ls".to_owned()],
            choices: Vec::new(),
        }
    }

    #[test]
    fn three_lines_without_control_characters() {
        let text = Failure::answered(detail(ErrorCode::Denied)).text();
        assert_eq!(
            text,
            "error: Denied: bob may not reach orders\n  why   no allow rule matched [2J (rule dev/allow)\n  next  keystile db ls\n"
        );
    }

    #[test]
    fn the_twin_has_every_field() {
        let json: serde_json::Value =
            serde_json::from_str(&Failure::answered(detail(ErrorCode::NotMapped)).json()).unwrap();
        assert_eq!(json["error"]["code"], "not_mapped");
        assert_eq!(json["error"]["rule"], "dev/allow");
        assert_eq!(json["error"]["next"][0], "keystile db ls");
    }

    #[test]
    fn each_code_has_its_exit() {
        let exits = [
            (ErrorCode::BadRequest, 2),
            (ErrorCode::Ambiguous, 2),
            (ErrorCode::NotFound, 3),
            (ErrorCode::NotMapped, 5),
            (ErrorCode::Denied, 5),
            (ErrorCode::Unavailable, 7),
            (ErrorCode::Conflict, 1),
            (ErrorCode::Internal, 1),
        ];
        for (code, exit) in exits {
            assert_eq!(Failure::answered(detail(code)).exit, exit, "{code:?}");
        }
        let own = [
            (Failure::failed(""), 1),
            (Failure::usage(""), 2),
            (Failure::not_found(""), 3),
            (Failure::sign_in(""), 4),
            (Failure::denied(""), 5),
            (Failure::unreachable(""), 7),
            (Failure::interrupted(), 130),
        ];
        for (failure, exit) in own {
            assert_eq!(failure.exit, exit);
        }
    }
}
