use super::*;

fn merged(how: Merge, replies: &[&str]) -> String {
    let names = ["h:1", "h:2", "h:3"];
    let answers: Vec<Answer<'_>> =
        replies.iter().zip(names).map(|(reply, node)| Answer { node, reply: reply.as_bytes() }).collect();
    String::from_utf8(merge(how, &answers, 10_000)).unwrap()
}

#[test]
fn by_the_policies_of_the_tips() {
    for (how, replies, expected) in [
        (Merge::AllSucceeded, vec!["+OK\r\n", "+OK\r\n"], "+OK\r\n"),
        (Merge::AllSucceeded, vec!["+OK\r\n", "-ERR no\r\n"], "-ERR no\r\n"),
        (Merge::OneSucceeded, vec!["-NOTBUSY a\r\n", "+OK\r\n"], "+OK\r\n"),
        (Merge::OneSucceeded, vec!["-NOTBUSY a\r\n", "-NOTBUSY b\r\n"], "-NOTBUSY a\r\n"),
        (Merge::Sum, vec![":1\r\n", ":2\r\n", ":3\r\n"], ":6\r\n"),
        (Merge::Sum, vec![":1\r\n", "-NOPERM x\r\n"], "-NOPERM x\r\n"),
        (Merge::Min, vec![":3\r\n", ":2\r\n"], ":2\r\n"),
        (Merge::Max, vec![":3\r\n", ":2\r\n"], ":3\r\n"),
        (Merge::Min, vec!["*2\r\n:1\r\n:5\r\n", "*2\r\n:3\r\n:0\r\n"], "*2\r\n:1\r\n:0\r\n"),
        (Merge::And, vec!["*2\r\n:1\r\n:1\r\n", "*2\r\n:1\r\n:0\r\n"], "*2\r\n:1\r\n:0\r\n"),
        (Merge::Or, vec![":0\r\n", ":1\r\n"], ":1\r\n"),
        (Merge::Concat, vec!["*1\r\n+a\r\n", "*0\r\n", "*2\r\n+b\r\n*0\r\n"], "*3\r\n+a\r\n+b\r\n*0\r\n"),
        (Merge::Concat, vec!["%1\r\n+a\r\n:1\r\n", "%1\r\n+b\r\n:2\r\n"], "%2\r\n+a\r\n:1\r\n+b\r\n:2\r\n"),
        (Merge::Distinct, vec!["~2\r\n+a\r\n+b\r\n", "~1\r\n+a\r\n"], "~2\r\n+a\r\n+b\r\n"),
        (
            Merge::Counts,
            vec!["*4\r\n+a\r\n:1\r\n+b\r\n:0\r\n", "*4\r\n+a\r\n:1\r\n+b\r\n:2\r\n"],
            "*4\r\n+a\r\n:2\r\n+b\r\n:2\r\n",
        ),
        (Merge::AnyValue, vec!["$-1\r\n", "$1\r\nk\r\n", "_\r\n"], "$1\r\nk\r\n"),
        (Merge::AnyValue, vec!["$-1\r\n", "$-1\r\n"], "$-1\r\n"),
    ] {
        assert_eq!(merged(how, &replies), expected, "{how:?} {replies:?}");
    }
}

#[test]
fn what_is_unlike_or_too_long_is_an_error() {
    for (how, replies) in [
        (Merge::Sum, vec![":1\r\n", "+OK\r\n"]),
        (Merge::Sum, vec!["*1\r\n:1\r\n", "*2\r\n:1\r\n:1\r\n"]),
        (Merge::Concat, vec!["*0\r\n", "+OK\r\n"]),
        (Merge::Counts, vec!["*2\r\n+a\r\n:1\r\n", "*2\r\n+b\r\n:1\r\n"]),
        (Merge::Info, vec!["$-1\r\n"]),
    ] {
        assert!(
            merged(how, &replies).starts_with("-ERR keystile: the nodes' replies are too unlike"),
            "{how:?}"
        );
    }
    let long = format!("*1\r\n$6000\r\n{}\r\n", "x".repeat(6_000));
    assert!(
        merged(Merge::Concat, &[&long, &long])
            .starts_with("-ERR keystile: the replies of 2 nodes are longer")
    );
    assert_eq!(merged(Merge::Concat, &[&long]), long);
}

#[test]
fn slow_commands_come_newest_first() {
    let entry = |id: i64, time: i64| format!("*3\r\n:{id}\r\n:{time}\r\n:9\r\n");
    let (a, b) =
        (format!("*2\r\n{}{}", entry(7, 30), entry(6, 10)), format!("*2\r\n{}{}", entry(1, 20), entry(0, 5)));
    let expected = format!("*3\r\n{}{}{}", entry(7, 30), entry(1, 20), entry(6, 10));
    assert_eq!(merged(Merge::Newest(3), &[&a, &b]), expected);
    // ACL LOG names its times.
    let entry = |time: i64| format!("*4\r\n$5\r\ncount\r\n:99\r\n$17\r\ntimestamp-created\r\n:{time}\r\n");
    let (a, b) = (format!("*1\r\n{}", entry(1)), format!("*1\r\n{}", entry(2)));
    assert_eq!(merged(Merge::Newest(usize::MAX), &[&a, &b]), format!("*2\r\n{}{}", entry(2), entry(1)));
}

#[test]
fn latency_of_all_nodes() {
    assert_eq!(
        merged(Merge::ByTime, &["*1\r\n*2\r\n:9\r\n:1\r\n", "*2\r\n*2\r\n:8\r\n:2\r\n*2\r\n:10\r\n:3\r\n"]),
        "*3\r\n*2\r\n:8\r\n:2\r\n*2\r\n:9\r\n:1\r\n*2\r\n:10\r\n:3\r\n"
    );
    assert_eq!(
        merged(
            Merge::LatencyLatest,
            &[
                "*1\r\n*6\r\n+command\r\n:10\r\n:5\r\n:50\r\n:60\r\n:2\r\n",
                "*2\r\n*6\r\n+command\r\n:12\r\n:7\r\n:9\r\n:16\r\n:2\r\n*6\r\n+fork\r\n:1\r\n:1\r\n:1\r\n:1\r\n:1\r\n"
            ]
        ),
        "*2\r\n*6\r\n+command\r\n:12\r\n:7\r\n:50\r\n:76\r\n:4\r\n*6\r\n+fork\r\n:1\r\n:1\r\n:1\r\n:1\r\n:1\r\n"
    );
    assert_eq!(
        merged(
            Merge::Histogram,
            &[
                "%1\r\n$3\r\nset\r\n%2\r\n$5\r\ncalls\r\n:5\r\n$14\r\nhistogram_usec\r\n%2\r\n:1\r\n:4\r\n:8\r\n:5\r\n",
                "%1\r\n$3\r\nset\r\n%2\r\n$5\r\ncalls\r\n:3\r\n$14\r\nhistogram_usec\r\n%2\r\n:2\r\n:2\r\n:16\r\n:3\r\n",
            ]
        ),
        "%1\r\n$3\r\nset\r\n%2\r\n$5\r\ncalls\r\n:8\r\n$14\r\nhistogram_usec\r\n%4\r\n:1\r\n:4\r\n:2\r\n:6\r\n:8\r\n:7\r\n:16\r\n:8\r\n"
    );
}

#[test]
fn a_running_function_is_shown() {
    let (idle, busy) = (
        "*4\r\n+running_script\r\n$-1\r\n+engines\r\n*0\r\n",
        "*4\r\n+running_script\r\n*2\r\n+name\r\n+f\r\n+engines\r\n*0\r\n",
    );
    assert_eq!(merged(Merge::FunctionStats, &[idle, busy]), busy);
    assert_eq!(merged(Merge::FunctionStats, &[idle, idle]), idle);
}

#[test]
fn memory_is_summed() {
    let node = |total: i64, keys: i64, mean: i64, db: i64| {
        format!(
            "%6\r\n$15\r\ntotal.allocated\r\n:{total}\r\n$17\r\nstartup.allocated\r\n:100\r\n$4\r\ndb.0\r\n%1\r\n\
             $4\r\nmain\r\n:{db}\r\n$10\r\nkeys.count\r\n:{keys}\r\n$18\r\nkeys.bytes-per-key\r\n:{mean}\r\n\
             $13\r\nfragmentation\r\n,1.5\r\n"
        )
    };
    let expected = node(1_200, 10, 100, 7).replacen(":100\r\n", ":200\r\n", 1);
    assert_eq!(merged(Merge::MemoryStats, &[&node(700, 6, 100, 3), &node(500, 4, 100, 4)]), expected);
}

#[test]
fn texts_name_their_nodes() {
    assert_eq!(
        merged(Merge::Texts, &["$3\r\nHi\n\r\n", "$2\r\nHo\r\n"]),
        "$23\r\n# h:1\nHi\n\n# h:2\nHo\n\r\n".replace("$23", "$19")
    );
    assert!(merged(Merge::Texts, &["=7\r\ntxt:Hi\n\r\n"]).starts_with("=13\r\ntxt:# h:1\nHi\n"));
}

#[test]
fn info_is_summed_where_it_counts() {
    let node = |lines: &str| {
        let text = lines.replace('\n', "\r\n");
        format!("={}\r\ntxt:{text}\r\n", text.len() + 4)
    };
    let a = node(
        "# Server\nvalkey_version:8.0.1\nuptime_in_seconds:50\n\n# Clients\nconnected_clients:2\n\n# Memory\n\
         used_memory:1048576\nused_memory_human:1.00M\nallocator_resident:1\nmaxmemory_policy:noeviction\nmem_fragmentation_ratio:2.74\n\n\
         # Replication\nrole:master\nslave0:ip=1,port=2\n\n# CPU\nused_cpu_sys:1.250000\n\n# Keyspace\n\
         db0:keys=3,expires=1,avg_ttl=100\n",
    );
    let b = node(
        "# Server\nvalkey_version:8.0.1\nuptime_in_seconds:40\n\n# Clients\nconnected_clients:3\n\n# Memory\n\
         used_memory:524288\nused_memory_human:512.00K\nallocator_resident:2\nmaxmemory_policy:noeviction\nmem_fragmentation_ratio:1.00\n\n\
         # Replication\nrole:master\nslave1:ip=1,port=2\n\n# CPU\nused_cpu_sys:0.500000\n\n# Commandstats\n\
         cmdstat_get:calls=4,usec=8,usec_per_call=2.00\n\n# Keyspace\ndb0:keys=5,expires=3,avg_ttl=500\n",
    );
    let expected = node(
        "# Server\nvalkey_version:8.0.1\nuptime_in_seconds:40\n\n# Clients\nconnected_clients:5\n\n# Memory\n\
         used_memory:1572864\nused_memory_human:1.50M\nallocator_resident:3\nmaxmemory_policy:noeviction\nmem_fragmentation_ratio:2.74\n\n\
         # Replication\nrole:master\nslave0:ip=1,port=2\n\n# CPU\nused_cpu_sys:1.750000\n\n# Keyspace\n\
         db0:keys=8,expires=4,avg_ttl=400\n\n# Commandstats\ncmdstat_get:calls=4,usec=8,usec_per_call=2.00\n",
    );
    assert_eq!(merged(Merge::Info, &[&a, &b]), expected);
}

#[test]
fn long_lists_are_copied_once() {
    let reply = format!("*1000\r\n{}", "$3\r\nkey\r\n".repeat(1_000));
    let answers =
        [Answer { node: "a", reply: reply.as_bytes() }, Answer { node: "b", reply: reply.as_bytes() }];
    for how in [Merge::Concat, Merge::Distinct] {
        let merged = merge(how, &answers, usize::MAX);
        assert!(merged.capacity() - merged.len() <= 16, "{how:?}: {} of {}", merged.len(), merged.capacity());
    }
}
