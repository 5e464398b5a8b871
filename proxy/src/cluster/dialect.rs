//! What servers of different versions say differently, where the proxy answers in their place.

use keystile_model::database::{Database, Engine};

/// Valkey from 8.0 on. Redis OSS and Valkey 7.2 speak alike.
fn is_valkey_8(database: &Database) -> bool {
    let major = database.engine_version.split('.').next().and_then(|major| major.parse::<u32>().ok());
    database.engine == Engine::Valkey && major.is_some_and(|major| major >= 8)
}

/// Whether who does not subscribe is refused when it unsubscribes, and not told that it has.
pub(super) fn refuses_to_leave(database: &Database) -> bool {
    is_valkey_8(database)
}

/// What is said to a `MULTI` or a `WATCH` inside a transaction, and whether that ends in `EXECABORT`.
pub(super) fn not_in_a_transaction(database: &Database, is_multi: bool) -> (&'static [u8], bool) {
    match (is_valkey_8(database), is_multi) {
        (true, _) => (b"-ERR Command not allowed inside a transaction\r\n", true),
        (false, true) => (b"-ERR MULTI calls can not be nested\r\n", false),
        (false, false) => (b"-ERR WATCH inside MULTI is not allowed\r\n", false),
    }
}
