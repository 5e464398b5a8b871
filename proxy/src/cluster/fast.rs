//! The commands of the common path: one key, at the first argument, and nothing else to know.

use std::sync::OnceLock;

use keystile_resp::command::{self, Begin, COUNT, CommandId, Find, Flags, KeyFlags};
use keystile_resp::request::Request;
use keystile_resp::slot;

use super::plan::{self, Context, Plan};

/// The slot of a request whose only key is its first argument; `None` for any other command.
#[inline]
pub(super) fn slot_of(id: CommandId, request: &Request, buf: &[u8]) -> Option<u16> {
    if !table().get(id.index()).copied().unwrap_or(false) {
        return None;
    }
    request.arg(buf, 1).map(|key| slot::of_key(&key))
}

fn table() -> &'static [bool; COUNT] {
    static TABLE: OnceLock<Box<[bool; COUNT]>> = OnceLock::new();
    TABLE.get_or_init(|| {
        let mut table = Box::new([false; COUNT]);
        for (known, id) in table.iter_mut().zip(command::all()) {
            *known = is_simple(id);
        }
        table
    })
}

fn is_simple(id: CommandId) -> bool {
    let command = id.command();
    let [spec] = command.keys else { return false };
    let first = matches!(spec.begin, Begin::Index(1)) && matches!(spec.find, Find::Range { last: 0, .. });
    // The plan of a request with a key and as many arguments as it may have says the same.
    let count = usize::from(command.arity.unsigned_abs()).max(2);
    let args: Vec<&[u8]> =
        (0..count).map(|index| if index == 1 { b"key".as_slice() } else { b"0" }).collect();
    first
        && command.request_policy.is_none()
        && command.container.is_none()
        && !command.flags.intersects(Flags::BLOCKING)
        && !spec.flags.intersects(KeyFlags::NOT_KEY)
        && !spec.flags.intersects(KeyFlags::INCOMPLETE)
        && plan::plan(Some(id), &args, Context::default()) == Plan::Slot(slot::of_key(b"key"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn which_commands_are_simple() {
        let simple = |name: &str| is_simple(command::find(name.as_bytes()).unwrap());
        for name in
            ["get", "set", "incr", "hset", "hgetall", "zadd", "lpush", "expire", "type", "xadd", "lpop"]
        {
            assert!(simple(name), "{name}");
        }
        for name in
            ["mget", "del", "blpop", "eval", "ping", "sort", "migrate", "spublish", "publish", "watch"]
        {
            assert!(!simple(name), "{name}");
        }
    }
}
