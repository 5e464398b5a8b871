//! Why a client's bytes can never become a request, in the server's own words.

use thiserror::Error;

/// A protocol error of the client. The text follows `-ERR ` in the reply; the connection closes after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum RequestError {
    /// The count behind `*` is no number, or above the limit.
    #[error("Protocol error: invalid multibulk length")]
    InvalidMultibulkLength,
    /// More arguments than a client may send before it signed in.
    #[error("Protocol error: unauthenticated multibulk length")]
    UnauthenticatedMultibulkLength,
    /// The count behind `*` has more digits than a number.
    #[error("Protocol error: too big mbulk count string")]
    MultibulkCountTooLong,
    /// An argument does not begin with `$`.
    #[error("Protocol error: expected '$', got '{}'", .0.escape_ascii())]
    ExpectedBulk(u8),
    /// The length behind `$` is no number, negative, or above the limit.
    #[error("Protocol error: invalid bulk length")]
    InvalidBulkLength,
    /// A longer bulk than a client may send before it signed in.
    #[error("Protocol error: unauthenticated bulk length")]
    UnauthenticatedBulkLength,
    /// The length behind `$` has more digits than a number.
    #[error("Protocol error: too big bulk count string")]
    BulkCountTooLong,
    /// A bulk is not followed by CRLF. The server would not look; two readings of one stream are not safe here.
    #[error("Protocol error: expected CRLF after a bulk string")]
    MissingCrlf,
    /// An inline request is longer than the limit.
    #[error("Protocol error: too big inline request")]
    InlineTooLong,
    /// A request is longer than the limit.
    #[error("Protocol error: too big request")]
    RequestTooLong,
    /// The quotes of an inline request do not match.
    #[error("Protocol error: unbalanced quotes in request")]
    UnbalancedQuotes,
    /// A NUL in an inline request, at which the server would stop reading.
    #[error("Protocol error: NUL byte in inline request")]
    NulInInline,
    /// More bytes than a client may send before it signed in.
    #[error("Protocol error: too many bytes before authentication")]
    TooMuchBeforeAuth,
    /// Somebody speaks HTTP, perhaps a browser that was sent here by a hostile page.
    #[error("Protocol error: this port does not speak HTTP")]
    Http,
}

impl RequestError {
    /// Whether the bytes could be a request where more is allowed.
    #[must_use]
    pub const fn is_limit(self) -> bool {
        matches!(
            self,
            Self::InvalidMultibulkLength
                | Self::UnauthenticatedMultibulkLength
                | Self::InvalidBulkLength
                | Self::UnauthenticatedBulkLength
                | Self::InlineTooLong
                | Self::RequestTooLong
                | Self::TooMuchBeforeAuth
        )
    }
}
