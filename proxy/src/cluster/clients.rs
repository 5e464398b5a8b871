//! Where commands go that speak of other clients: `CLIENT LIST`, `KILL`, `UNBLOCK`.
//!
//! A client has a connection to each node that it uses, with an id there. It is known by that of its home link:
//! `CLIENT ID` tells it, and `CLIENT LIST` has each session once. So a command with an id is one for home, and
//! what kills by any other sign is one for all primaries.

use super::plan::{Merge, Plan, named_node};

/// `CLIENT LIST … [@host:port]`.
pub(super) fn list(args: &[&[u8]]) -> Plan {
    if names_node(args) { Plan::Named } else { Plan::Home }
}

/// `CLIENT UNBLOCK id [TIMEOUT|ERROR] [@host:port]`.
pub(super) fn unblock(args: &[&[u8]]) -> Plan {
    if names_node(args) { Plan::Named } else { Plan::ById }
}

/// `CLIENT KILL address`, or `CLIENT KILL filter value …`; and `@host:port` behind each.
pub(super) fn kill(args: &[&[u8]]) -> Plan {
    let filters = || args.iter().skip(2).step_by(2);
    let is_id = |word: &&&[u8]| word.eq_ignore_ascii_case(b"id") || word.eq_ignore_ascii_case(b"not-id");
    match args.len() {
        _ if names_node(args) => Plan::Named,
        3 => Plan::AllPrimaries(Merge::OneSucceeded),
        _ if filters().any(|word| is_id(&word)) => Plan::ById,
        _ => Plan::AllPrimaries(Merge::Sum),
    }
}

/// Whether the last argument is `@host:port`; a user's name may begin like that, too.
fn names_node(args: &[&[u8]]) -> bool {
    let node = named_node(args).map(|(node, _)| node.rsplit_once(':'));
    matches!(node, Some(Some((host, port))) if !host.is_empty() && port.parse::<u16>().is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn planned(plan: fn(&[&[u8]]) -> Plan, request: &str) -> Plan {
        let args: Vec<&[u8]> = request.split(' ').map(str::as_bytes).collect();
        plan(&args)
    }

    #[test]
    fn ids_are_of_home_and_all_else_is_of_all() {
        for (request, expected) in [
            ("CLIENT KILL 127.0.0.1:1", Plan::AllPrimaries(Merge::OneSucceeded)),
            ("CLIENT KILL USER id", Plan::AllPrimaries(Merge::Sum)),
            ("CLIENT KILL ADDR 127.0.0.1:1 TYPE normal", Plan::AllPrimaries(Merge::Sum)),
            ("CLIENT KILL TYPE normal Id 7", Plan::ById),
            ("CLIENT KILL ID 7 8 9", Plan::ById),
            ("CLIENT KILL ID 7 @[::1]:6379", Plan::Named),
            ("CLIENT KILL USER @ops", Plan::AllPrimaries(Merge::Sum)),
            ("CLIENT KILL USER @ops:night", Plan::AllPrimaries(Merge::Sum)),
        ] {
            assert_eq!(planned(kill, request), expected, "{request}");
        }
        assert_eq!(planned(list, "CLIENT LIST ID 7"), Plan::Home);
        assert_eq!(planned(list, "CLIENT LIST @host:6379"), Plan::Named);
        assert_eq!(planned(unblock, "CLIENT UNBLOCK 7 ERROR"), Plan::ById);
        assert_eq!(planned(unblock, "CLIENT UNBLOCK 7 @host:6379"), Plan::Named);
    }
}
