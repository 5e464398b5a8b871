//! What goes wrong, as the caller reads it: what, why, what next. Nothing of our insides is in it; those are
//! logged under the request's id.

use keystile_api::{ErrorBody, ErrorCode, ErrorDetail};
use keystile_identity::ca::IssueError;
use keystile_identity::signer::SignError;
use keystile_model::decide::Decision;
use keystile_model::store::StoreError;

/// An error answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure(Box<ErrorDetail>);

impl Failure {
    pub(crate) fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self(Box::new(ErrorDetail {
            code,
            message: message.into(),
            why: String::new(),
            rule: String::new(),
            next: Vec::new(),
            choices: Vec::new(),
        }))
    }

    pub(crate) fn bad(message: impl Into<String>) -> Self {
        Self::new(ErrorCode::BadRequest, message)
    }

    pub(crate) fn not_found(message: impl Into<String>) -> Self {
        Self::new(ErrorCode::NotFound, message)
    }

    pub(crate) fn conflict(message: impl Into<String>) -> Self {
        Self::new(ErrorCode::Conflict, message)
    }

    /// A refusal by [`keystile_model::decide`].
    pub(crate) fn denied(message: impl Into<String>, decision: &Decision) -> Self {
        let mut failure = Self::new(ErrorCode::Denied, message);
        if let Decision::Deny { rule, reason, .. } = decision {
            failure.0.rule.clone_from(rule);
            failure.0.why.clone_from(reason);
        }
        failure
    }

    pub(crate) fn why(mut self, why: impl Into<String>) -> Self {
        self.0.why = why.into();
        self
    }

    pub(crate) fn next(mut self, line: impl Into<String>) -> Self {
        self.0.next.push(line.into());
        self
    }

    pub(crate) fn choices(mut self, choices: Vec<String>) -> Self {
        self.0.choices = choices;
        self
    }

    pub(crate) fn detail(&self) -> &ErrorDetail {
        &self.0
    }

    pub(crate) fn code(&self) -> ErrorCode {
        self.0.code
    }

    pub(crate) fn into_body(self) -> ErrorBody {
        ErrorBody { error: *self.0 }
    }
}

const AGAIN: &str = "try again in a few seconds";

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::NotSetUp(_) => not_set_up(),
            StoreError::Unavailable(inside) => {
                tracing::warn!(inside, "the store is out of reach");
                Self::new(ErrorCode::Unavailable, "the deployment's store is out of reach").next(AGAIN)
            }
            StoreError::Refused(inside) => {
                tracing::error!(inside, "the store refused us");
                internal("the deployment's store refused the access function")
            }
            StoreError::Unreadable { key, reason } => {
                tracing::error!(key, reason, "an item cannot be read");
                internal("the deployment's store holds an item that this version cannot read")
                    .next("upgrade the control plane, or look at its log")
            }
        }
    }
}

impl From<IssueError> for Failure {
    fn from(error: IssueError) -> Self {
        match error {
            IssueError::Sign(SignError::Unavailable(inside)) => {
                tracing::warn!(inside, "the CA's key is out of reach");
                Self::new(ErrorCode::Unavailable, "the CA's key is out of reach").next(AGAIN)
            }
            IssueError::Request(text) => Self::bad(text),
            IssueError::Life(text) => Self::bad(format!("no certificate of that life: {text}")),
            IssueError::Sign(SignError::Refused(inside)) => {
                tracing::error!(inside, "the CA's key cannot be used");
                internal("the CA's key cannot be used")
            }
            IssueError::Ca(inside) => {
                tracing::error!(inside, "the CA's certificate does not fit");
                internal("the CA's certificate does not fit its key")
            }
        }
    }
}

pub(crate) fn internal(message: &str) -> Failure {
    Failure::new(ErrorCode::Internal, message).why("the control plane's log has the details")
}

pub(crate) fn not_set_up() -> Failure {
    Failure::new(ErrorCode::Unavailable, "the deployment has not been set up")
        .why("its bootstrap admin has not signed in yet")
        .next("sign in with the credentials of the template's BootstrapAdminArn: keystile login")
}
