//! What DynamoDB's errors mean to a caller of the port.

use aws_sdk_dynamodb::error::{DisplayErrorContext, ProvideErrorMetadata, SdkError};
use aws_sdk_dynamodb::operation::transact_write_items::TransactWriteItemsError;
use keystile_model::store::{CommitError, StoreError};

/// Codes that say "you may not", now and at the next attempt.
const REFUSED: [&str; 9] = [
    "AccessDeniedException",
    "AccessDenied",
    "UnrecognizedClientException",
    "InvalidClientTokenId",
    "InvalidSignatureException",
    "IncompleteSignatureException",
    "MissingAuthenticationTokenException",
    "ExpiredTokenException",
    "ValidationException",
];

/// Maps an error of any operation. `table` names the feed or table that the caller knows.
pub(super) fn store_error<E, R>(table: &'static str, error: &SdkError<E, R>) -> StoreError
where
    E: ProvideErrorMetadata + std::error::Error + 'static,
    R: std::fmt::Debug,
{
    let Some(code) = error.code() else {
        return StoreError::Unavailable(without_answer(error));
    };
    let text = format!("{code}: {}", error.message().unwrap_or("no message"));
    if code == "ResourceNotFoundException" {
        StoreError::NotSetUp(table)
    } else if REFUSED.contains(&code) {
        StoreError::Refused(text)
    } else {
        StoreError::Unavailable(text)
    }
}

fn without_answer<E, R>(error: &SdkError<E, R>) -> String
where
    E: std::error::Error + 'static,
    R: std::fmt::Debug,
{
    match error {
        SdkError::TimeoutError(_) => "it did not answer in time".to_owned(),
        other => DisplayErrorContext(other).to_string(),
    }
}

/// What to do about a transaction that was not answered with success.
#[derive(Debug)]
pub(super) enum Verdict {
    /// The head's condition failed: somebody else was faster, or an attempt of ours was.
    Beaten,
    /// Another transaction is under way on one of the items; it may be tried again.
    Contended(StoreError),
    /// No answer, or a throttled one; it may have been written.
    Unsure(StoreError),
    /// It will never be written so.
    Never(CommitError),
}

/// Reads a failed transaction.
pub(super) fn verdict<R: std::fmt::Debug>(
    table: &'static str,
    error: &SdkError<TransactWriteItemsError, R>,
) -> Verdict {
    if let Some(TransactWriteItemsError::TransactionCanceledException(cancelled)) = error.as_service_error() {
        let reasons = cancelled.cancellation_reasons();
        let codes: Vec<&str> = reasons.iter().filter_map(|reason| reason.code()).collect();
        let text = reasons.iter().filter_map(|reason| reason.message()).collect::<Vec<_>>().join("; ");
        return cancelled_verdict(&codes, text);
    }
    match store_error(table, error) {
        StoreError::Unavailable(text) => Verdict::Unsure(StoreError::Unavailable(text)),
        StoreError::Refused(text) if text.starts_with("ValidationException") => {
            Verdict::Never(CommitError::Illegal(text))
        }
        other => Verdict::Never(other.into()),
    }
}

/// Reads the reasons of a cancelled transaction, one code for each action, `None` for one without fault. The
/// head's is the only condition, so a failed one is the head's.
fn cancelled_verdict(codes: &[&str], text: String) -> Verdict {
    if codes.contains(&"ConditionalCheckFailed") {
        Verdict::Beaten
    } else if codes.iter().any(|code| ["ValidationError", "ItemCollectionSizeLimitExceeded"].contains(code)) {
        Verdict::Never(CommitError::Illegal(text))
    } else {
        let faults: Vec<&str> = codes.iter().copied().filter(|code| *code != "None").collect();
        Verdict::Contended(StoreError::Unavailable(format!("cancelled ({}): {text}", faults.join(", "))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons() {
        let read = |codes: &[&str]| cancelled_verdict(codes, String::new());
        assert!(matches!(read(&["None", "None", "ConditionalCheckFailed"]), Verdict::Beaten));
        assert!(matches!(read(&["TransactionConflict", "None", "ConditionalCheckFailed"]), Verdict::Beaten));
        assert!(matches!(read(&["None", "TransactionConflict"]), Verdict::Contended(_)));
        assert!(matches!(read(&["ThrottlingError", "None"]), Verdict::Contended(_)));
        assert!(matches!(read(&["ValidationError", "None"]), Verdict::Never(CommitError::Illegal(_))));
        assert!(matches!(read(&[]), Verdict::Contended(_)));
    }
}
