//! What servers of different versions say differently, where the proxy answers in their place.

use keystile_model::database::{Database, Engine};

/// The version of a Valkey, from 8.0 on. Redis OSS and Valkey 7.2 speak alike.
fn of_valkey(database: &Database) -> Option<(u32, u32)> {
    let mut numbers = database.engine_version.split('.').map(|number| number.parse::<u32>().ok());
    let version = (numbers.next()??, numbers.next().flatten().unwrap_or(0));
    (database.engine == Engine::Valkey && version >= (8, 0)).then_some(version)
}

/// Whether who does not subscribe is refused when it unsubscribes, and not told that it has: Valkey 8.0 alone did that.
pub(super) fn refuses_to_leave(database: &Database) -> bool {
    of_valkey(database) == Some((8, 0))
}

/// What is said to a `MULTI` or a `WATCH` inside a transaction, and whether that ends in `EXECABORT`.
pub(super) fn not_in_a_transaction(database: &Database, is_multi: bool) -> (&'static [u8], bool) {
    match (of_valkey(database), is_multi) {
        (Some((9.., _)), true) => (b"-ERR Command 'multi' not allowed inside a transaction\r\n", true),
        (Some((9.., _)), false) => (b"-ERR Command 'watch' not allowed inside a transaction\r\n", true),
        (Some(_), _) => (b"-ERR Command not allowed inside a transaction\r\n", true),
        (None, true) => (b"-ERR MULTI calls can not be nested\r\n", false),
        (None, false) => (b"-ERR WATCH inside MULTI is not allowed\r\n", false),
    }
}
