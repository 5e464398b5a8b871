//! Faults that a test orders, and the record of all calls.
//!
//! Owns which call fails how, and what is told of each call afterwards. It refuses orders that it
//! does not understand: a misspelt fault must not pass for "nothing went wrong".

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use super::wire::{ApiError, Call, Protocol};
use super::writes::Touched;

/// Calls that are kept; older ones fall out, so that a world left running does not grow for ever.
const CALLS_KEPT: usize = 200_000;

/// What happens to a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fault {
    /// Refused as one call too many; nothing happens.
    Throttle,
    /// Answered with an internal error; nothing happens.
    ErrorBefore,
    /// Refused as a call that the caller has no right to; nothing happens.
    Denied,
    /// Refused as over a limit of the account or resource; nothing happens.
    Quota,
    /// It takes effect, and is answered with an internal error.
    ErrorAfter,
    /// It takes effect after the ordered seconds.
    Slow,
    /// It takes effect, and the connection is closed without an answer.
    Drop,
}

/// An order: the next `count` calls of `op` fail so.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Order {
    /// `service:Operation`, perhaps ending in `*`.
    pub op: String,
    /// What happens.
    pub fault: Fault,
    /// How many calls.
    #[serde(default = "one")]
    pub count: u32,
    /// The length of `slow`.
    #[serde(default = "two")]
    pub seconds: f64,
}

fn one() -> u32 {
    1
}

fn two() -> f64 {
    2.0
}

impl Order {
    fn fits(&self, call: &Call) -> bool {
        let name = format!("{}:{}", call.service, call.operation);
        match self.op.strip_suffix('*') {
            Some(start) => name.starts_with(start),
            None => name == self.op,
        }
    }
}

/// One call, as it is told to tests.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Recorded {
    /// The service, spelled as in fault operations.
    pub service: String,
    /// The operation.
    pub operation: String,
    /// The caller's account; empty for a caller that is not known.
    pub account: String,
    /// The region of the signature's scope.
    pub region: String,
    /// The caller's ARN; empty for a caller that is not known.
    pub caller: String,
    /// The table, or the most telling id or ARN.
    pub resource: String,
    /// When it came, RFC 3339 in UTC with milliseconds.
    pub time: String,
    /// The HTTP status of the answer; 0 where none was sent.
    pub status: u16,
    /// Of a DynamoDB call: the actions that IAM checks, with leading keys.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub parts: Vec<Touched>,
}

/// Orders and records.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    orders: Mutex<Vec<Order>>,
    calls: Mutex<VecDeque<Recorded>>,
}

impl Faults {
    /// Takes an order. Fails where it makes no sense.
    pub(crate) fn order(&self, order: Order) -> Result<(), String> {
        if !order.op.contains(':') {
            return Err(format!(
                "op '{}' is not service:Operation, such as elasticache:ModifyUser or dynamodb:*",
                order.op
            ));
        }
        if order.count == 0 || !(0.0..=600.0).contains(&order.seconds) {
            return Err("count must be at least 1, seconds 0 to 600".into());
        }
        lock(&self.orders).push(order);
        Ok(())
    }

    /// Forgets all orders.
    pub(crate) fn clear(&self) {
        lock(&self.orders).clear();
    }

    /// Uses up one of the oldest fitting order: what happens, and the seconds of `slow`.
    pub(crate) fn take(&self, call: &Call) -> Option<(Fault, f64)> {
        let mut orders = lock(&self.orders);
        let at = orders.iter().position(|order| order.fits(call))?;
        let order = orders.get_mut(at)?;
        let taken = (order.fault, order.seconds);
        order.count -= 1;
        if order.count == 0 {
            orders.remove(at);
        }
        Some(taken)
    }

    /// Notes a call.
    pub(crate) fn record(&self, call: Recorded) {
        let mut calls = lock(&self.calls);
        if calls.len() == CALLS_KEPT {
            calls.pop_front();
        }
        calls.push_back(call);
    }

    /// All calls since the start or the last [`Self::forget_calls`], oldest first.
    #[must_use]
    pub(crate) fn calls(&self) -> Vec<Recorded> {
        lock(&self.calls).iter().cloned().collect()
    }

    /// Forgets all calls.
    pub(crate) fn forget_calls(&self) {
        lock(&self.calls).clear();
    }
}

/// The error of an ordered fault, in the words that the SDK knows as such.
#[must_use]
pub(crate) fn fault_error(fault: Fault, call: &Call) -> ApiError {
    if fault == Fault::Denied {
        let (status, code) = match call.protocol {
            Protocol::Json => (400, "AccessDeniedException"),
            Protocol::RestJson => (403, "AccessDeniedException"),
            Protocol::Query | Protocol::RestXml => (403, "AccessDenied"),
        };
        let message = format!("User is not authorized to perform: {}:{}", call.service, call.operation);
        return ApiError::new(status, code, message);
    }
    if fault == Fault::Quota {
        let code = match call.service.as_str() {
            "secretsmanager" => "LimitExceededException",
            "memorydb" => "UserQuotaExceededFault",
            "elasticache" => "UserQuotaExceeded",
            _ => "ServiceQuotaExceededException",
        };
        return ApiError::new(400, code, "The request would exceed a limit (an ordered fault).");
    }
    if fault != Fault::Throttle {
        let code = match (call.service.as_str(), call.protocol) {
            ("secretsmanager", _) => "InternalServiceError",
            (_, Protocol::Json) => "InternalServerError",
            _ => "InternalFailure",
        };
        return ApiError::new(
            500,
            code,
            "The request processing has failed because of an unknown error (an ordered fault).",
        );
    }
    let (status, code) = match (call.service.as_str(), call.protocol) {
        ("tagging", _) => (400, "ThrottledException"),
        (_, Protocol::Json) => (400, "ThrottlingException"),
        (_, Protocol::RestJson) => (429, "TooManyRequestsException"),
        (_, Protocol::RestXml) => (503, "SlowDown"),
        (_, Protocol::Query) => (400, "Throttling"),
    };
    ApiError::new(status, code, "Rate exceeded")
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(service: &str, operation: &str) -> Call {
        Call {
            service: service.into(),
            operation: operation.into(),
            resource: String::new(),
            protocol: Protocol::Query,
        }
    }

    fn order(op: &str, count: u32) -> Order {
        Order { op: op.into(), fault: Fault::Drop, count, seconds: 0.0 }
    }

    #[test]
    fn an_order_counts_down_and_a_star_fits_every_operation() {
        let faults = Faults::default();
        faults.order(order("elasticache:ModifyUser", 2)).unwrap();
        faults.order(order("dynamodb:*", 1)).unwrap();
        assert_eq!(faults.take(&call("elasticache", "ModifyUserGroup")), None);
        assert!(faults.take(&call("elasticache", "ModifyUser")).is_some());
        assert!(faults.take(&call("elasticache", "ModifyUser")).is_some());
        assert_eq!(faults.take(&call("elasticache", "ModifyUser")), None);
        assert!(faults.take(&call("dynamodb", "Query")).is_some());
        assert_eq!(faults.take(&call("dynamodb", "Query")), None);
    }

    #[test]
    fn an_order_that_can_do_nothing_is_refused() {
        let faults = Faults::default();
        assert!(faults.order(order("ModifyUser", 1)).is_err());
        assert!(faults.order(order("kms:Sign", 0)).is_err());
        assert!(serde_json::from_str::<Order>(r#"{"op": "kms:Sign", "fault": "explode"}"#).is_err());
    }
}
