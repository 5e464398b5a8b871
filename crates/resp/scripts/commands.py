#!/usr/bin/env python3
"""Keeps the command table of keystile-resp in step with what real servers say of themselves.

    commands.py capture HOST:PORT...   ask servers (the first one wins) and write commands.jsonl
    commands.py generate               write src/command/table.rs from commands.jsonl
    commands.py check [HOST:PORT...]   fail when table.rs is not what generate would write, or when
                                       a server knows a command otherwise than commands.jsonl

Lines of commands.jsonl keep their order for ever and new commands go to the end, because a
command's id is its line. Python 3, standard library only.
"""

import json
import os
import socket
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
DATA = os.path.join(HERE, "commands.jsonl")
TABLE = os.path.join(HERE, "..", "src", "command", "table.rs")

CATEGORIES = """keyspace read write set sortedset list hash string bitmap hyperloglog geo stream
pubsub admin fast slow blocking dangerous connection transaction scripting""".split()
FLAGS = """write readonly denyoom admin pubsub noscript blocking loading stale skip_monitor
skip_slowlog asking fast no_auth may_replicate no_async_loading no_multi movablekeys
no_mandatory_keys allow_busy""".split()
# What newer servers call otherwise.
RENAMED_FLAGS = {"skip_commandlog": "skip_slowlog"}
KEY_FLAGS = """RO RW OW RM access update insert delete not_key incomplete variable_flags""".split()
REQUEST_POLICIES = ["all_nodes", "all_shards", "multi_shard", "special"]
RESPONSE_POLICIES = """one_succeeded all_succeeded agg_logical_and agg_logical_or agg_min agg_max
agg_sum special""".split()

MASK = (1 << 64) - 1
SEED = 0x9E3779B97F4A7C15
MULTIPLIER = 0xD6E8FEB86659FD93
# One for each value of the hash's top byte.
BUCKETS = 256
SLOTS = 1024
NO_COMMAND = 0xFFFF


# --- asking a server -------------------------------------------------------------------------


def read_reply(stream):
    line = stream.readline()
    kind, rest = line[:1], line[1:-2]
    if kind == b"+":
        return rest.decode()
    if kind == b"-":
        raise SystemExit(f"the server answered {rest.decode()}")
    if kind == b":":
        return int(rest)
    if kind == b"$":
        if int(rest) < 0:
            return None
        return stream.read(int(rest) + 2)[:-2].decode()
    if kind == b"*":
        return [read_reply(stream) for _ in range(max(int(rest), 0))]
    raise SystemExit(f"cannot read a reply that begins with {line!r}")


def pairs(flat):
    return dict(zip(flat[::2], flat[1::2]))


def key_spec(flat):
    spec = pairs(flat)
    begin, find = pairs(spec["begin_search"]), pairs(spec["find_keys"])
    return {
        "flags": sorted(spec["flags"]),
        "begin": [begin["type"], pairs(begin["spec"])],
        "find": [find["type"], pairs(find["spec"])],
    }


def known_tips(tips):
    return sorted(tip for tip in tips if tip.split(":")[0] in ("request_policy", "response_policy"))


def describe(row, docs, container=None):
    name = row[0].split("|")[-1]
    doc = pairs(docs.get(row[0], []))
    flags = [RENAMED_FLAGS.get(flag, flag) for flag in row[2]]
    told = {
        "name": name,
        "container": container,
        "arity": row[1],
        "flags": sorted(flags),
        "keys": row[3:6],
        "categories": sorted(category.lstrip("@") for category in row[6]),
        "tips": known_tips(row[7]),
        "specs": [key_spec(spec) for spec in row[8]],
        "since": doc.get("since", ""),
    }
    unknown = [flag for flag in flags if flag not in FLAGS]
    if unknown:
        raise SystemExit(f"{row[0]} has flags that this script does not know: {unknown}")
    yield told
    inner = pairs(doc.get("subcommands", []))
    for sub in row[9]:
        yield from describe(sub, inner, name)


def ask(address):
    host, port = address.rsplit(":", 1)
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        stream = connection.makefile("rb")
        connection.sendall(b"COMMAND DOCS\r\nCOMMAND\r\n")
        docs, rows = pairs(read_reply(stream)), read_reply(stream)
    return [told for row in sorted(rows) for told in describe(row, docs)]


def key_of(command):
    return (command["container"] or "", command["name"])


def stored():
    if not os.path.exists(DATA):
        return []
    with open(DATA, encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def capture(addresses):
    union = {}
    for address in addresses:
        for command in ask(address):
            union.setdefault(key_of(command), command)
    order = [key_of(command) for command in stored()]
    fresh = sorted(set(union) - set(order))
    old = {key_of(command): command for command in stored()}
    with open(DATA, "w", encoding="utf-8") as out:
        for key in order + fresh:
            out.write(json.dumps(union.get(key) or old[key], separators=(",", ":")) + "\n")
    print(f"{len(order) + len(fresh)} commands, {len(fresh)} of them new")


# --- writing Rust ----------------------------------------------------------------------------


def bits(names, known):
    return sum(1 << known.index(name) for name in names)


def camel(word):
    return "".join(part.capitalize() for part in word.split("_"))


def hash_name(state, name):
    data = name.encode()
    for start in range(0, len(data), 8):
        word = 0
        for byte in data[start : start + 8]:
            word = word << 8 | byte | 0x20
        state = (state ^ word) * MULTIPLIER & MASK
        state ^= state >> 29
    return state


def start_state(container):
    return SEED if container is None else (SEED ^ (container + 1)) * MULTIPLIER & MASK


def slot_of(hashed, displacement):
    return (hashed >> 46) + displacement * (hashed >> 24 | 1) & SLOTS - 1


def bucket_of(hashed):
    # The top bits: names that end alike, such as EXPIRE and HPEXPIRE, have the low ones in common.
    return hashed >> 56


def place(hashes):
    """Finds a displacement for each bucket so that no two commands share a slot."""
    buckets = {}
    for index, hashed in enumerate(hashes):
        buckets.setdefault(bucket_of(hashed), []).append(index)
    displacements, slots = [0] * BUCKETS, [NO_COMMAND] * SLOTS
    for bucket, members in sorted(buckets.items(), key=lambda item: -len(item[1])):
        for displacement in range(1 << 16):
            places = {slot_of(hashes[member], displacement): member for member in members}
            if len(places) == len(members) and all(slots[at] == NO_COMMAND for at in places):
                break
        else:
            raise SystemExit("no perfect hash: raise SLOTS or change SEED")
        displacements[bucket] = displacement
        for at, member in places.items():
            slots[at] = member
    return displacements, slots


def rust_spec(spec):
    begin_type, begin = spec["begin"]
    find_type, find = spec["find"]
    if begin_type == "index":
        begins = f"Begin::Index({begin['index']})"
    elif begin_type == "keyword":
        begins = f"Begin::Keyword {{ word: \"{begin['keyword']}\", from: {begin['startfrom']} }}"
    else:
        begins = "Begin::Unknown"
    if find_type == "range":
        finds = f"Find::Range {{ last: {find['lastkey']}, step: {find['keystep']}, limit: {find['limit']} }}"
    elif find_type == "keynum":
        finds = f"Find::KeyNum {{ at: {find['keynumidx']}, first: {find['firstkey']}, step: {find['keystep']} }}"
    else:
        finds = "Find::Unknown"
    return f"KeySpec {{ flags: KeyFlags({bits(spec['flags'], KEY_FLAGS):#x}), begin: {begins}, find: {finds} }}"


def policy(tips, prefix, kind, known):
    for tip in tips:
        if tip.startswith(prefix + ":"):
            word = tip.split(":", 1)[1]
            if word not in known:
                raise SystemExit(f"unknown tip {tip}")
            return f"Some({kind}::{camel(word)})"
    return "None"


def rust_command(command, ids, children):
    container = "None" if command["container"] is None else f"Some(CommandId({ids[('', command['container'])]}))"
    specs = ", ".join(rust_spec(spec) for spec in command["specs"])
    first, last, step = command["keys"]
    return (
        f"    Command {{ name: \"{command['name']}\", container: {container}, "
        f"has_subcommands: {'true' if command['name'] in children and not command['container'] else 'false'}, "
        f"arity: {command['arity']}, flags: Flags({bits(command['flags'], FLAGS):#x}), "
        f"categories: Categories({bits(command['categories'], CATEGORIES):#x}), "
        f"first_key: {first}, last_key: {last}, key_step: {step}, keys: &[{specs}], "
        f"request_policy: {policy(command['tips'], 'request_policy', 'RequestPolicy', REQUEST_POLICIES)}, "
        f"response_policy: {policy(command['tips'], 'response_policy', 'ResponsePolicy', RESPONSE_POLICIES)}, "
        f"since: \"{command['since']}\" }},\n"
    )


def rows_of(numbers):
    lines = []
    for start in range(0, len(numbers), 16):
        lines.append("    " + ", ".join(str(number) for number in numbers[start : start + 16]) + ",\n")
    return "".join(lines)


def render():
    commands = stored()
    ids = {key_of(command): index for index, command in enumerate(commands)}
    children = {command["container"] for command in commands if command["container"]}
    hashes = []
    for command in commands:
        container = None if command["container"] is None else ids[("", command["container"])]
        hashes.append(hash_name(start_state(container), command["name"]))
    displacements, slots = place(hashes)
    longest = max(len(command["name"]) for command in commands)
    out = [
        "//! The table itself: data that `scripts/commands.py` writes from a server's `COMMAND` answer.\n\n",
        "use super::{Begin, Categories, Command, CommandId, Find, Flags, KeyFlags, KeySpec, RequestPolicy, ResponsePolicy};\n\n",
        f"pub(super) const LONGEST_NAME: usize = {longest};\n",
        f"pub(super) const SEED: u64 = {SEED:#x};\n",
        f"pub(super) const MULTIPLIER: u64 = {MULTIPLIER:#x};\n\n",
        f"pub(super) static COMMANDS: [Command; {len(commands)}] = [\n",
        *(rust_command(command, ids, children) for command in commands),
        "];\n\n",
        f"pub(super) static DISPLACEMENTS: [u16; {BUCKETS}] = [\n{rows_of(displacements)}];\n\n",
        f"pub(super) static SLOTS: [u16; {SLOTS}] = [\n{rows_of(slots)}];\n",
    ]
    return "".join(out)


def generate():
    text = render()
    with open(TABLE, "w", encoding="utf-8") as out:
        out.write(text)


def check(addresses):
    with open(TABLE, encoding="utf-8") as table:
        if table.read() != render():
            raise SystemExit("src/command/table.rs is stale: run commands.py generate")
    known = {key_of(command): command for command in stored()}
    for address in addresses:
        for command in ask(address):
            mine = known.get(key_of(command))
            if mine is None or mine["categories"] != command["categories"] or mine["flags"] != command["flags"]:
                raise SystemExit(f"{address} knows {key_of(command)} otherwise: run commands.py capture")


def main():
    verb, *rest = sys.argv[1:] or ["help"]
    if verb == "capture" and rest:
        capture(rest)
    elif verb == "generate" and not rest:
        generate()
    elif verb == "check":
        check(rest)
    else:
        raise SystemExit(__doc__)


if __name__ == "__main__":
    main()
