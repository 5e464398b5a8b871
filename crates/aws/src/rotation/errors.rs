//! What AWS's errors mean to the machine.

use aws_sdk_sts::error::{ProvideErrorMetadata, SdkError};
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use keystile_model::rotation::ports::CallError;

use crate::credentials::{CredentialProblem, problem_within};

/// The error of a call of this action.
pub(super) fn call_error<E>(action: &str, error: &SdkError<E, HttpResponse>) -> CallError
where
    E: std::error::Error + ProvideErrorMetadata + 'static,
{
    match problem_within(error) {
        Some(problem @ (CredentialProblem::Refused { .. } | CredentialProblem::None(_))) => {
            return CallError::Denied(format!("{action}: {problem}"));
        }
        Some(CredentialProblem::Unavailable(why)) => return CallError::Unknown(format!("{action}: {why}")),
        None => {}
    }
    match error {
        SdkError::ServiceError(context) => {
            let (code, message) = (context.err().code(), context.err().message());
            of_code(
                action,
                context.raw().status().as_u16(),
                code.unwrap_or_default(),
                message.unwrap_or_default(),
            )
        }
        SdkError::ConstructionFailure(_) => {
            CallError::Refused(format!("{action}: the request cannot be made"))
        }
        SdkError::TimeoutError(_) => CallError::Unknown(format!("{action}: no answer in time")),
        SdkError::DispatchFailure(_) => CallError::Unknown(format!("{action}: no connection, or it was cut")),
        _ => CallError::Unknown(format!("{action}: an answer that cannot be read")),
    }
}

/// The meaning of a code, with or without `Exception` or `Fault` at its end. The message only tells apart what
/// the code does not.
fn of_code(action: &str, status: u16, code: &str, message: &str) -> CallError {
    let told = || format!("{action}: {}", if code.is_empty() { "an error without a code" } else { code });
    let bare = code.strip_suffix("Exception").or_else(|| code.strip_suffix("Fault")).unwrap_or(code);
    let deletion = message.to_ascii_lowercase().contains("deletion");
    match bare {
        "AccessDenied" | "UnauthorizedOperation" | "AuthorizationError" | "OptInRequired"
            if message.contains("KMS") =>
        {
            CallError::Key(told())
        }
        "AccessDenied"
        | "UnauthorizedOperation"
        | "AuthorizationError"
        | "OptInRequired"
        | "InvalidClientTokenId"
        | "UnrecognizedClient"
        | "ExpiredToken"
        | "SignatureDoesNotMatch"
        | "InvalidSignature"
        | "ServiceLinkedRoleNotFound" => CallError::Denied(told()),
        "Throttling"
        | "Throttled"
        | "TooManyRequests"
        | "RequestLimitExceeded"
        | "SlowDown"
        | "RequestThrottled" => CallError::Throttled(told()),
        "InvalidUserState" | "InvalidUserGroupState" | "InvalidACLState" => CallError::Busy(told()),
        "UserNotFound" | "ResourceNotFound" => CallError::NotFound(told()),
        "ResourceExists" => CallError::Exists(told()),
        "LimitExceeded" | "UserQuotaExceeded" | "ServiceQuotaExceeded" => CallError::Quota(told()),
        "DecryptionFailure" | "EncryptionFailure" => CallError::Key(told()),
        _ if bare.starts_with("KMS") => CallError::Key(told()),
        "InvalidRequest" if deletion => CallError::Scheduled(told()),
        "InvalidRequest" if message.contains("KMS") => CallError::Key(told()),
        "InvalidParameter" if action == "secretsmanager:UpdateSecretVersionStage" => CallError::Moved(told()),
        _ if status >= 500 => CallError::Unknown(told()),
        _ => CallError::Refused(told()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_of_both_spellings() {
        let marked = "You can't perform this operation on the secret because it was marked for deletion.";
        let taken =
            "You can't create this secret because a secret with this name is already scheduled for deletion.";
        let stage = "secretsmanager:UpdateSecretVersionStage";
        for (action, status, code, message, kind) in [
            ("elasticache:ModifyUser", 400, "InvalidUserState", "", "busy"),
            ("memorydb:UpdateUser", 400, "InvalidUserStateFault", "", "busy"),
            ("elasticache:ModifyUser", 404, "UserNotFound", "", "not-found"),
            ("memorydb:UpdateUser", 400, "UserNotFoundFault", "", "not-found"),
            ("elasticache:ModifyUser", 400, "Throttling", "", "throttled"),
            ("memorydb:UpdateUser", 400, "ThrottlingException", "", "throttled"),
            ("elasticache:ModifyUser", 503, "RequestLimitExceeded", "", "throttled"),
            ("elasticache:ModifyUser", 403, "AccessDenied", "", "denied"),
            ("elasticache:ModifyUser", 400, "InvalidParameterValue", "Passwords …", "refused"),
            ("elasticache:ModifyUser", 500, "InternalFailure", "", "unknown"),
            ("secretsmanager:GetSecretValue", 400, "ResourceNotFoundException", "", "not-found"),
            ("secretsmanager:GetSecretValue", 400, "InvalidRequestException", marked, "scheduled"),
            ("secretsmanager:CreateSecret", 400, "InvalidRequestException", taken, "scheduled"),
            ("secretsmanager:CreateSecret", 400, "InvalidRequestException", "odd", "refused"),
            ("secretsmanager:PutSecretValue", 400, "ResourceExistsException", "", "exists"),
            ("secretsmanager:PutSecretValue", 400, "LimitExceededException", "", "quota"),
            ("secretsmanager:PutSecretValue", 400, "EncryptionFailure", "", "key"),
            (
                "secretsmanager:GetSecretValue",
                400,
                "AccessDeniedException",
                "Access to KMS is not allowed",
                "key",
            ),
            (
                "secretsmanager:GetSecretValue",
                400,
                "AccessDeniedException",
                "is not authorized to perform",
                "denied",
            ),
            (stage, 400, "InvalidParameterException", "", "moved"),
            ("secretsmanager:PutSecretValue", 400, "InvalidParameterException", "", "refused"),
            ("secretsmanager:PutSecretValue", 500, "InternalServiceError", "", "unknown"),
            ("secretsmanager:PutSecretValue", 503, "", "", "unknown"),
        ] {
            let error = of_code(action, status, code, message);
            assert_eq!(error.kind(), kind, "{action} {code} {message}");
            assert!(error.to_string().contains(action));
            assert!(message.is_empty() || !error.to_string().contains(message), "messages are not passed on");
        }
    }
}
