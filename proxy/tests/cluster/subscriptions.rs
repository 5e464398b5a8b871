//! Channels, shard channels, key events and invalidations.

use std::time::{Duration, Instant};

use keystile_resp::slot;

use super::support;
use super::support::encoded;
use super::{key_of, run, world};

#[test]
fn subscriptions_in_both_protocols() {
    run(async {
        let (world, mut cluster) = world(3, 1).await;
        let mut publisher = world.routed("alice", "sessions", "iam-admin").await;
        let mut two = world.routed("alice", "sessions", "iam-admin").await;
        let mut three = world.routed("alice", "sessions", "iam-admin").await;
        assert!(three.command(&["HELLO", "3"]).await.contains("proto :3"));
        let (here, there) = (key_of(&cluster, 0), key_of(&cluster, 1));
        for (client, mark) in [(&mut two, ""), (&mut three, ">")] {
            client.send(encoded(&["SUBSCRIBE", "news", "more"])).await;
            assert_eq!(client.reply().await, format!("{mark}[subscribe news :1]"));
            assert_eq!(client.reply().await, format!("{mark}[subscribe more :2]"));
            assert_eq!(client.command(&["PSUBSCRIBE", "n*"]).await, format!("{mark}[psubscribe n* :3]"));
            assert_eq!(client.command(&["SSUBSCRIBE", &here]).await, format!("{mark}[ssubscribe {here} :1]"));
            assert_eq!(
                client.command(&["SSUBSCRIBE", &there]).await,
                format!("{mark}[ssubscribe {there} :2]")
            );
        }
        assert!(
            two.command(&["GET", "x"]).await.starts_with("-ERR Can't execute 'get': only (P|S)SUBSCRIBE")
        );
        assert_eq!(two.command(&["PING"]).await, "[pong ]");
        assert_eq!(three.command(&["GET", "x"]).await, "(nil)");
        publisher.command(&["PUBLISH", "news", "one"]).await;
        for (client, mark) in [(&mut two, ""), (&mut three, ">")] {
            let mut both = [client.reply().await, client.reply().await];
            both.sort();
            assert_eq!(both, [format!("{mark}[message news one]"), format!("{mark}[pmessage n* news one]")]);
        }
        assert_eq!(publisher.command(&["SPUBLISH", &there, "two"]).await, ":2");
        assert_eq!(two.reply().await, format!("[smessage {there} two]"));
        assert_eq!(three.reply().await, format!(">[smessage {there} two]"));
        // Its slot moves: it is subscribed to at its new home.
        cluster.move_slot(slot::of_key(there.as_bytes()), 2);
        let mut heard = ":0".to_owned();
        for _ in 0..100 {
            heard = publisher.command(&["SPUBLISH", &there, "three"]).await;
            if heard == ":2" {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        assert_eq!(heard, ":2");
        while two.reply().await != format!("[smessage {there} three]") {}
        while three.reply().await != format!(">[smessage {there} three]") {}
        // Of keyspace events each node tells its own.
        for node in &cluster.nodes {
            node.ok(&["CONFIG", "SET", "notify-keyspace-events", "KEA"]);
        }
        assert_eq!(
            two.command(&["PSUBSCRIBE", "__keyevent@*__:set"]).await,
            "[psubscribe __keyevent@*__:set :4]"
        );
        tokio::time::sleep(Duration::from_millis(300)).await;
        for node in 0..3 {
            let key = key_of(&cluster, node);
            assert_eq!(publisher.command(&["SET", &key, "x"]).await, "+OK");
            assert_eq!(two.reply().await, format!("[pmessage __keyevent@*__:set __keyevent@0__:set {key}]"));
        }
        // The end of it.
        for (client, mark, all) in [(&mut two, "", 2), (&mut three, ">", 1)] {
            client.send(encoded(&["PUNSUBSCRIBE"])).await;
            for left in (0..all).rev() {
                assert!(client.reply().await.ends_with(&format!(":{}]", left + 2)));
            }
            assert_eq!(
                client.command(&["SUNSUBSCRIBE", &here]).await,
                format!("{mark}[sunsubscribe {here} :1]")
            );
            assert_eq!(
                client.command(&["SUNSUBSCRIBE", &there]).await,
                format!("{mark}[sunsubscribe {there} :0]")
            );
            client.send(encoded(&["UNSUBSCRIBE"])).await;
            assert_eq!(client.reply().await, format!("{mark}[unsubscribe more :1]"));
            assert_eq!(client.reply().await, format!("{mark}[unsubscribe news :0]"));
            assert_eq!(client.command(&["GET", "x"]).await, "(nil)");
            assert_eq!(client.command(&["ECHO", "x"]).await, "x");
        }
        // A node that held subscriptions is gone: they are placed elsewhere.
        assert_eq!(three.command(&["SUBSCRIBE", "news"]).await, ">[subscribe news :1]");
        cluster.nodes[0].kill();
        let mut heard = String::new();
        for _ in 0..100 {
            publisher.command(&["PUBLISH", "news", "four"]).await;
            if let Ok(reply) = tokio::time::timeout(Duration::from_millis(100), three.reply()).await {
                heard = reply;
                break;
            }
        }
        assert_eq!(heard, ">[message news four]");
    });
}

#[test]
fn invalidations_of_all_shards_come_in_one_stream() {
    run(async {
        let (world, mut cluster) = world(2, 1).await;
        let mut client = world.routed("alice", "sessions", "iam-admin").await;
        let mut other = world.routed("alice", "sessions", "iam-admin").await;
        assert!(
            client.command(&["CLIENT", "TRACKING", "ON", "REDIRECT", "1"]).await.contains("REDIRECT names")
        );
        client.command(&["HELLO", "3"]).await;
        assert_eq!(client.command(&["CLIENT", "TRACKING", "ON"]).await, "+OK");
        assert_eq!(client.command(&["CLIENT", "SETNAME", "me"]).await, "+OK");
        for node in 0..2 {
            let key = key_of(&cluster, node);
            assert_eq!(client.command(&["GET", &key]).await, "(nil)");
            assert_eq!(other.command(&["SET", &key, "x"]).await, "+OK");
            assert_eq!(client.reply().await, format!(">[invalidate [{key}]]"));
        }
        assert_eq!(client.command(&["CLIENT", "GETNAME"]).await, "me");
        // Asked for command by command, it goes where the command goes.
        assert_eq!(client.command(&["CLIENT", "TRACKING", "OFF"]).await, "+OK");
        assert!(client.command(&["CLIENT", "CACHING", "YES"]).await.starts_with("-ERR CLIENT CACHING"));
        assert_eq!(client.command(&["CLIENT", "TRACKING", "ON", "OPTIN"]).await, "+OK");
        let (here, there) = (key_of(&cluster, 0), key_of(&cluster, 1));
        assert_eq!(client.command(&["CLIENT", "CACHING", "YES"]).await, "+OK");
        assert_eq!(client.command(&["GET", &there]).await, "x");
        assert_eq!(client.command(&["GET", &here]).await, "x");
        assert_eq!(other.command(&["MSET", &here, "y"]).await, "+OK");
        assert_eq!(other.command(&["SET", &there, "y"]).await, "+OK");
        assert_eq!(client.reply().await, format!(">[invalidate [{there}]]"));
        for node in &cluster.nodes[..2] {
            assert!(node.ok(&["CLIENT", "LIST"]).text().contains("name=me "), "each node knows its name");
        }
        cluster.nodes[1].kill();
        assert_eq!(client.reply().await, ">[invalidate (nil)]");
    });
}

#[test]
fn a_confirmation_that_nobody_awaits_is_no_reply() {
    run(async {
        let (world, cluster) = world(2, 0).await;
        // Where the client signs in itself, its connections stay at RESP2: there confirmations look like replies.
        let mut legacy = keystile_model::database::Database {
            kind: keystile_model::database::DatabaseKind::Static,
            arn: None,
            auth: keystile_model::database::CacheAuth::PassThrough,
            ca: Some(std::fs::read_to_string(world.dir.path().join("cache.crt")).unwrap()),
            cluster_mode: true,
            ..world.database("legacy")
        };
        legacy.endpoint.port = cluster.nodes[0].port;
        world.add(legacy).await;
        let mut client = world.routed("bob", "legacy", "own").await;
        assert_eq!(client.command(&["AUTH", "their-own"]).await, "+OK");
        let shard = key_of(&cluster, 0);
        for round in 0..50 {
            assert_eq!(client.command(&["SUBSCRIBE", "news"]).await, "[subscribe news :1]");
            assert_eq!(client.command(&["SSUBSCRIBE", &shard]).await, format!("[ssubscribe {shard} :1]"));
            let mut request = encoded(&["UNSUBSCRIBE", "news"]);
            request.extend(encoded(&["SUNSUBSCRIBE", &shard]));
            request.extend(encoded(&["ECHO", &round.to_string()]));
            request.extend(encoded(&["GET", &shard]));
            request.extend(encoded(&["ECHO", "last"]));
            client.send(request).await;
            for expected in [
                "[unsubscribe news :0]",
                &format!("[sunsubscribe {shard} :0]"),
                &round.to_string(),
                "(nil)",
                "last",
            ] {
                assert_eq!(client.reply().await, expected, "round {round}");
            }
        }
    });
}

#[test]
fn an_error_to_an_unsubscription_of_ours_is_no_reply() {
    run(async {
        let (world, cluster) = world(2, 0).await;
        let mut two = world.routed("alice", "sessions", "iam-rw").await;
        let mut three = world.routed("alice", "sessions", "iam-rw").await;
        assert!(three.command(&["HELLO", "3"]).await.contains("proto :3"));
        assert_eq!(two.command(&["SUBSCRIBE", "news"]).await, "[subscribe news :1]");
        assert_eq!(three.command(&["SUBSCRIBE", "news"]).await, ">[subscribe news :1]");
        for node in &cluster.nodes {
            node.ok(&["ACL", "SETUSER", "iam-rw", "-unsubscribe"]);
        }
        let mut request = encoded(&["UNSUBSCRIBE", "news"]);
        request.extend(encoded(&["ECHO", "x"]));
        request.extend(encoded(&["ECHO", "y"]));
        three.send(&request).await;
        for expected in [">[unsubscribe news :0]", "x", "y"] {
            assert_eq!(three.reply().await, expected);
        }
        // In RESP2 a connection that stays subscribed is no use: it is closed, and the next one serves.
        two.send(&request).await;
        assert_eq!(two.reply().await, "[unsubscribe news :0]");
        for echo in ["x", "y"] {
            let reply = two.reply().await;
            assert!(reply == echo || reply.contains("was lost"), "{reply}");
        }
        for node in &cluster.nodes {
            node.ok(&["PUBLISH", "news", "one"]);
        }
        assert_eq!(two.command(&["ECHO", "z"]).await, "z");
        assert_eq!(three.command(&["ECHO", "z"]).await, "z");
    });
}

#[test]
fn the_names_of_subscriptions_have_a_bound() {
    run(async {
        let (world, _cluster) = world(2, 0).await;
        let mut client = world.routed("alice", "sessions", "iam-rw").await;
        let name = |number: usize| format!("{number:04}{}", "x".repeat(8 * 1024 - 4));
        for number in 0..128 {
            assert!(
                client.command(&["SUBSCRIBE", &name(number)]).await.ends_with(&format!(":{}]", number + 1))
            );
        }
        let refused = client.command(&["PSUBSCRIBE", "x"]).await;
        assert!(refused.starts_with("-ERR") && refused.contains("1 MiB"), "{refused}");
        assert!(client.command(&["UNSUBSCRIBE", &name(3)]).await.ends_with(":127]"));
        assert!(client.command(&["UNSUBSCRIBE", &name(3)]).await.ends_with(":127]"), "not counted twice");
        assert_eq!(client.command(&["PSUBSCRIBE", "x"]).await, "[psubscribe x :128]");
        assert!(client.command(&["SUBSCRIBE", &name(3)]).await.starts_with("-ERR"));
    });
}

#[test]
fn a_subscription_that_is_refused_leaves_the_protocol_as_it_was() {
    run(async {
        let (world, cluster) = world(2, 0).await;
        let mut client = world.routed("alice", "sessions", "iam-min").await;
        for _ in 0..2 {
            assert!(client.command(&["SUBSCRIBE", "x"]).await.starts_with("-NOPERM"));
            for node in 0..2 {
                let get = format!("GET {}\r\n", key_of(&cluster, node));
                assert_eq!(client.lines_of(&get, 1).await, ["$-1"]);
            }
        }
    });
}

#[test]
fn a_resp2_client_gets_pushes_in_its_own_form_or_not_at_all() {
    run(async {
        let (world, cluster) = world(2, 0).await;
        let mut client = world.routed("alice", "sessions", "iam-admin").await;
        let mut other = world.routed("alice", "sessions", "iam-admin").await;
        let keys = [key_of(&cluster, 0), key_of(&cluster, 1)];
        assert_eq!(client.command(&["CLIENT", "TRACKING", "ON"]).await, "+OK");
        assert_eq!(client.command(&["GET", &keys[0]]).await, "(nil)");
        assert_eq!(client.command(&["SUBSCRIBE", "c"]).await, "[subscribe c :1]");
        assert_eq!(other.command(&["SET", &keys[0], "x"]).await, "+OK");
        assert_eq!(client.reply().await, format!("[message __redis__:invalidate [{}]]", keys[0]));
        // Longer than what is looked at as a whole.
        let long = "m".repeat(3 << 20);
        other.command(&["PUBLISH", "c", &long]).await;
        assert!(client.reply().await == format!("[message c {long}]"), "it is another message");
        assert_eq!(client.command(&["UNSUBSCRIBE", "c"]).await, "[unsubscribe c :0]");
        for key in &keys {
            assert!(client.command(&["GET", key]).await.len() < 6);
            assert_eq!(other.command(&["SET", key, "y"]).await, "+OK");
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert_eq!(client.ask("PING").await, "+PONG");
        assert_eq!(client.command(&["GET", &keys[0]]).await, "y");
    });
}

#[test]
fn shard_channels_of_several_slots_are_confirmed_in_the_order_of_the_client() {
    run(async {
        let (world, cluster) = world(3, 0).await;
        let mut publisher = world.routed("alice", "sessions", "iam-admin").await;
        let names: Vec<String> = (0..3).map(|node| key_of(&cluster, node)).collect();
        let more = format!("{{{}}}more", names[0]);
        let order = [&names[1], &names[0], &more, &names[2], &names[1], &names[0]].map(String::as_str);
        for (mark, hello) in [("", "2"), (">", "3")] {
            let mut client = world.routed("alice", "sessions", "iam-admin").await;
            client.command(&["HELLO", hello]).await;
            // What comes behind it waits for all of it.
            let mut request = encoded(&[&["SSUBSCRIBE"], &order[..]].concat());
            request.extend(encoded(&["PING"]));
            client.send(request).await;
            for (name, count) in order.iter().zip([1, 2, 3, 4, 4, 4]) {
                assert_eq!(client.reply().await, format!("{mark}[ssubscribe {name} :{count}]"));
            }
            assert_eq!(client.reply().await, if hello == "2" { "[pong ]" } else { "+PONG" });
            for name in names.iter().chain([&more]) {
                assert_eq!(publisher.command(&["SPUBLISH", name, "x"]).await, ":1");
                assert_eq!(client.reply().await, format!("{mark}[smessage {name} x]"));
            }
            client.send(encoded(&[&["SUNSUBSCRIBE"], &order[..4]].concat())).await;
            for (name, count) in order.iter().zip([3, 2, 1, 0]) {
                assert_eq!(client.reply().await, format!("{mark}[sunsubscribe {name} :{count}]"));
            }
        }
        // One part is refused: what follows it is not asked for, and the session goes on.
        for node in &cluster.nodes {
            node.ok(&[
                "ACL",
                "SETUSER",
                "iam-rw",
                "resetchannels",
                &format!("&{}", names[0]),
                &format!("&{}", names[2]),
            ]);
        }
        let mut client = world.routed("alice", "sessions", "iam-rw").await;
        client.send(encoded(&["SSUBSCRIBE", &names[0], &names[1], &names[2]])).await;
        assert_eq!(client.reply().await, format!("[ssubscribe {} :1]", names[0]));
        assert!(client.reply().await.starts_with("-NOPERM"));
        assert_eq!(client.command(&["PING"]).await, "[pong ]");
        assert_eq!(client.command(&["SUNSUBSCRIBE"]).await, format!("[sunsubscribe {} :0]", names[0]));
        assert_eq!(client.command(&["ECHO", "x"]).await, "x");
    });
}

#[test]
fn only_new_names_are_sent_to_the_other_primaries() {
    run(async {
        let (world, cluster) = world(2, 0).await;
        let mut client = world.routed("alice", "sessions", "iam-admin").await;
        let name = |number: usize| format!("__keyspace@0__:{number:04}{}", "x".repeat(1_000));
        let received = || {
            let stats = cluster.nodes[1].ok(&["INFO", "stats"]);
            let line = stats
                .text()
                .lines()
                .find_map(|line| line.strip_prefix("total_net_input_bytes:"))
                .map(str::to_owned);
            line.unwrap().parse::<usize>().unwrap()
        };
        cluster.nodes[1].ok(&["CONFIG", "SET", "notify-keyspace-events", "KEA"]);
        let there = key_of(&cluster, 1);
        assert_eq!(
            client.command(&["SUBSCRIBE", &format!("__keyspace@0__:{there}")]).await,
            format!("[subscribe __keyspace@0__:{there} :1]")
        );
        let before = received();
        for number in 0..200 {
            assert!(
                client.command(&["SUBSCRIBE", &name(number)]).await.ends_with(&format!(":{}]", number + 2))
            );
        }
        let mut other = world.routed("alice", "sessions", "iam-admin").await;
        assert_eq!(other.command(&["SET", &there, "x"]).await, "+OK");
        assert_eq!(client.reply().await, format!("[message __keyspace@0__:{there} set]"));
        tokio::time::sleep(Duration::from_millis(200)).await;
        let sent = received() - before;
        assert!((200 * 1_000..200 * 2_000).contains(&sent), "{sent} bytes for 200 names");
        // One that it leaves and takes again.
        assert_eq!(
            client.command(&["UNSUBSCRIBE", &name(7)]).await,
            format!("[unsubscribe {} :200]", name(7))
        );
        assert_eq!(client.command(&["SUBSCRIBE", &name(7)]).await, format!("[subscribe {} :201]", name(7)));
        support::wait_until("it is there again", || {
            cluster.nodes[1].ok(&["PUBSUB", "NUMSUB", &name(7)])
                == support::cluster::Reply::List(vec![
                    support::cluster::Reply::Text(name(7)),
                    support::cluster::Reply::Number(1),
                ])
        })
        .await;
    });
}

#[test]
fn key_events_are_left_everywhere_after_home_has_moved() {
    run(async {
        let (world, cluster) = world(2, 0).await;
        let mut client = world.routed("alice", "sessions", "iam-admin").await;
        let mut other = world.routed("alice", "sessions", "iam-admin").await;
        for node in &cluster.nodes {
            node.ok(&["CONFIG", "SET", "notify-keyspace-events", "KEA"]);
        }
        let event = "__keyevent@0__:set";
        assert_eq!(client.command(&["SUBSCRIBE", event]).await, format!("[subscribe {event} :1]"));
        let subscribed = |node: usize| {
            let numbers = cluster.nodes[node].ok(&["PUBSUB", "NUMSUB", event]);
            let support::cluster::Reply::List(numbers) = numbers else { panic!() };
            numbers[1].clone()
        };
        let one = support::cluster::Reply::Number(1);
        support::wait_until("it is everywhere", || (0..2).all(|node| subscribed(node) == one)).await;
        // Slot 0 says where home is.
        cluster.move_slot(0, 1);
        let zero = (0..).map(|n| format!("z{n}")).find(|key| slot::of_key(key.as_bytes()) == 0).unwrap();
        assert_eq!(other.command(&["GET", &zero]).await, "(nil)");
        let keys = [key_of(&cluster, 0), key_of(&cluster, 1)];
        for key in &keys {
            assert_eq!(other.command(&["SET", key, "x"]).await, "+OK");
            assert_eq!(client.reply().await, format!("[message {event} {key}]"));
        }
        // It has seen the new map, and has placed what it subscribes to by it.
        tokio::time::sleep(Duration::from_millis(500)).await;
        assert_eq!(client.command(&["UNSUBSCRIBE", event]).await, format!("[unsubscribe {event} :0]"));
        assert_eq!(client.command(&["ECHO", "x"]).await, "x");
        let none = support::cluster::Reply::Number(0);
        support::wait_until("it is nowhere", || (0..2).all(|node| subscribed(node) == none)).await;
        for key in &keys {
            assert_eq!(other.command(&["SET", key, "y"]).await, "+OK");
            assert_eq!(client.command(&["GET", key]).await, "y");
        }
    });
}

#[test]
fn shard_channels_of_many_slots_cost_no_look_at_all_channels_each() {
    run(async {
        let (world, _cluster) = world(2, 0).await;
        let names =
            |of: &str, count: usize| (0..count).map(|number| format!("{of}{number}")).collect::<Vec<_>>();
        let mut took = Vec::new();
        for channels in [1, 40_000] {
            let mut client = world.routed("alice", "sessions", "iam-rw").await;
            let mut subscribe = async |word: &str, names: Vec<String>| {
                let words: Vec<&str> =
                    std::iter::once(word).chain(names.iter().map(String::as_str)).collect();
                let began = Instant::now();
                client.send(encoded(&words)).await;
                for _ in &names {
                    assert!(client.reply().await.starts_with('['));
                }
                began.elapsed()
            };
            subscribe("SUBSCRIBE", names("c", channels)).await;
            // Next to none is of its neighbour's slot.
            took.push(subscribe("SSUBSCRIBE", names("s", 2_000)).await);
        }
        assert!(took[1] < took[0] * 3 + Duration::from_millis(500), "{took:?}");
    });
}
