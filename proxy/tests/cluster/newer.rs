//! What servers know that are newer than the one of the other tests: to be run with a Valkey 9.1 in
//! `KEYSTILE_TEST_SERVER`.

use super::support::cluster::Reply;
use super::{key_of, run, world};

#[test]
#[ignore = "needs a Valkey 9.1 in KEYSTILE_TEST_SERVER"]
fn a_database_is_selected_on_every_shard() {
    run(async {
        let (world, cluster) = world(3, 0).await;
        let keys: Vec<String> = (0..3).map(|node| key_of(&cluster, node)).collect();
        let mut first = world.routed("alice", "sessions", "iam-admin").await;
        for key in &keys {
            assert_eq!(first.command(&["SET", key, "zero"]).await, "+OK");
        }
        let mut client = world.routed("alice", "sessions", "iam-admin").await;
        assert_eq!(client.command(&["SELECT", "3"]).await, "+OK");
        // No link to the other shards was there when it was selected.
        assert_eq!(client.command(&["FLUSHDB"]).await, "+OK");
        assert_eq!(client.command(&["DBSIZE"]).await, ":0");
        for (node, key) in cluster.nodes.iter().zip(&keys) {
            assert_eq!(client.command(&["GET", key]).await, "(nil)");
            assert_eq!(client.command(&["SET", key, "three"]).await, "+OK");
            assert_eq!(node.ok(&["GET", key]), Reply::Text("zero".to_owned()));
        }
        assert_eq!(client.command(&["MGET", &keys[0], &keys[1], &keys[2]]).await, "[three three three]");
        assert_eq!(first.command(&["MGET", &keys[0], &keys[1], &keys[2]]).await, "[zero zero zero]");
        assert_eq!(client.command(&["MULTI"]).await, "+OK");
        assert_eq!(client.command(&["GET", &keys[2]]).await, "+QUEUED");
        assert_eq!(client.command(&["EXEC"]).await, "[three]");
        assert_eq!(client.command(&["RESET"]).await, "+RESET");
        assert_eq!(client.command(&["GET", &keys[1]]).await, "zero");
    });
}

#[test]
#[ignore = "needs a Valkey 9.1 in KEYSTILE_TEST_SERVER"]
fn commands_of_valkey_9_find_their_shards() {
    run(async {
        let (world, cluster) = world(3, 0).await;
        let mut client = world.routed("alice", "sessions", "iam-admin").await;
        for node in 0..3 {
            let key = key_of(&cluster, node);
            let other = format!("{{{key}}}other");
            assert_eq!(client.command(&["MSETEX", "2", &key, "1", &other, "2", "EX", "100"]).await, ":1");
            assert_eq!(client.command(&["MGET", &key, &other]).await, "[1 2]");
            assert_eq!(client.command(&["DELIFEQ", &key, "2"]).await, ":0");
            assert_eq!(client.command(&["DELIFEQ", &key, "1"]).await, ":1");
            assert_eq!(client.command(&["MULTI"]).await, "+OK");
            assert_eq!(client.command(&["MSETEX", "1", &key, "3"]).await, "+QUEUED");
            assert_eq!(client.command(&["EXEC"]).await, "[:1]");
            let hash = format!("{{{key}}}hash");
            assert_eq!(client.command(&["HSETEX", &hash, "EX", "100", "FIELDS", "1", "f", "v"]).await, ":1");
            assert_eq!(client.command(&["HTTL", &hash, "FIELDS", "1", "f"]).await, "[:100]");
            assert_eq!(client.command(&["HGETDEL", &hash, "FIELDS", "1", "f"]).await, "[v]");
        }
        let (here, there) = (key_of(&cluster, 0), key_of(&cluster, 1));
        assert!(client.command(&["MSETEX", "2", &here, "1", &there, "2"]).await.starts_with("-CROSSSLOT"));
        assert_eq!(client.command(&["CLIENT", "IMPORT-SOURCE", "OFF"]).await, "+OK");
        // Each node has one, of one kind.
        assert_eq!(client.command(&["COMMANDLOG", "RESET", "slow"]).await, "+OK");
        for node in &cluster.nodes {
            node.ok(&["CONFIG", "SET", "commandlog-execution-slower-than", "0"]);
            node.ok(&["ECHO", "x"]);
            node.ok(&["CONFIG", "SET", "commandlog-execution-slower-than", "-1"]);
        }
        let length: u32 = client.command(&["COMMANDLOG", "LEN", "slow"]).await[1..].parse().unwrap();
        assert!(length >= 6, "{length}");
        assert_eq!(client.command(&["COMMANDLOG", "RESET", "slow"]).await, "+OK");
        assert_eq!(client.command(&["COMMANDLOG", "LEN", "slow"]).await, ":0");
        // A walk over all shards.
        let (mut cursor, mut seen) = ("0".to_owned(), String::new());
        for _ in 0..20_000 {
            let page = client.command(&["CLUSTERSCAN", &cursor]).await;
            let (next, keys) = page.trim_start_matches('[').split_once(' ').unwrap();
            seen.push_str(keys);
            cursor = next.to_owned();
            if cursor == "0" {
                break;
            }
        }
        assert_eq!(cursor, "0", "it ends");
        for node in 0..3 {
            assert!(seen.contains(&key_of(&cluster, node)), "{seen}");
        }
    });
}
