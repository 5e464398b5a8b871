//! What a client says of other clients: `CLIENT UNBLOCK`, `KILL`, `LIST`.

use std::time::Duration;

use keystile_resp::slot;

use super::support::cluster::{Cluster, Reply};
use super::support::{Client, World, encoded};
use super::{key_of, run, world};

/// The id that a client knows itself by.
async fn id_of(client: &mut Client) -> String {
    let id = client.command(&["CLIENT", "ID"]).await;
    id.strip_prefix(':').unwrap().to_owned()
}

async fn wait_blocked(cluster: &Cluster, node: usize, count: usize) {
    let line = format!("blocked_clients:{count}\r");
    for _ in 0..500 {
        if cluster.nodes[node].ok(&["INFO", "clients"]).text().contains(&line) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("there are not {count} blocked clients");
}

async fn admin(world: &World) -> Client {
    world.routed("alice", "sessions", "iam-admin").await
}

#[test]
fn a_call_that_blocks_on_any_node_is_unblocked_by_the_id_that_its_client_knows() {
    run(async {
        let (world, cluster) = world(3, 0).await;
        let (mut blocked, mut other) = (admin(&world).await, admin(&world).await);
        let id = id_of(&mut blocked).await;
        for node in 0..3 {
            let key = key_of(&cluster, node);
            for (words, answer) in [
                (vec!["CLIENT", "UNBLOCK", &id], "(nil)"),
                (vec!["client", "unblock", &id, "TIMEOUT"], "(nil)"),
                (vec!["CLIENT", "UNBLOCK", &id, "error"], "-UNBLOCKED client unblocked via CLIENT UNBLOCK"),
            ] {
                blocked.send(encoded(&["BLPOP", &key, "0"])).await;
                wait_blocked(&cluster, node, 1).await;
                assert_eq!(
                    other.command(&["CLIENT", "UNBLOCK", &id, "nonsense"]).await.split(' ').next(),
                    Some("-ERR")
                );
                assert_eq!(other.command(&words).await, ":1", "node {node}");
                assert_eq!(blocked.reply().await, answer, "node {node}");
                assert_eq!(other.command(&words).await, ":0", "it is not blocked any more");
            }
            // It goes on as before.
            assert_eq!(blocked.command(&["RPUSH", &key, "x"]).await, ":1");
            assert_eq!(blocked.command(&["BLPOP", &key, "0"]).await, format!("[{key} x]"));
        }
        // On all nodes at once.
        blocked.send(encoded(&["WAIT", "1", "0"])).await;
        // Nodes that have no write of this session to wait for answer at once, or not: one does wait.
        wait_blocked(&cluster, 2, 1).await;
        assert_eq!(other.command(&["CLIENT", "UNBLOCK", &id]).await, ":1");
        assert_eq!(blocked.reply().await, ":0");
        assert_eq!(other.command(&["CLIENT", "UNBLOCK", "123456789"]).await, ":0");
        assert!(other.command(&["CLIENT", "UNBLOCK", "x"]).await.starts_with("-ERR"));
        assert!(other.command(&["CLIENT", "UNBLOCK"]).await.starts_with("-ERR wrong number"));
    });
}

#[test]
fn only_who_may_unblock_at_the_node_unblocks() {
    run(async {
        let (world, cluster) = world(2, 0).await;
        let (mut blocked, mut other) = (admin(&world).await, admin(&world).await);
        let mut stranger = world.routed("alice", "sessions", "iam-rw").await;
        let id = id_of(&mut blocked).await;
        let there = key_of(&cluster, 1);
        blocked.send(encoded(&["BLPOP", &there, "0"])).await;
        wait_blocked(&cluster, 1, 1).await;
        assert!(stranger.command(&["CLIENT", "UNBLOCK", &id]).await.starts_with("-NOPERM"));
        // The node that it blocks on decides, not the one of commands without a key.
        cluster.nodes[1].ok(&["ACL", "SETUSER", "iam-admin", "-client|unblock"]);
        assert!(other.command(&["CLIENT", "UNBLOCK", &id]).await.starts_with("-NOPERM"));
        wait_blocked(&cluster, 1, 1).await;
        cluster.nodes[1].ok(&["ACL", "SETUSER", "iam-admin", "+client|unblock"]);
        // Whoever has left is blocked no more, and its id is nobody's.
        drop(blocked);
        wait_blocked(&cluster, 1, 0).await;
        assert_eq!(other.command(&["CLIENT", "UNBLOCK", &id]).await, ":0");
        // Ids are a node's: in a transaction, which may run at another one, they would be somebody else's.
        assert_eq!(other.command(&["MULTI"]).await, "+OK");
        assert!(other.command(&["CLIENT", "UNBLOCK", &id]).await.contains("not allowed inside MULTI"));
        assert!(other.command(&["CLIENT", "KILL", "ID", &id]).await.contains("not allowed inside MULTI"));
        assert!(other.command(&["EXEC"]).await.starts_with("-EXECABORT"));
    });
}

#[test]
fn a_call_that_blocks_is_unblocked_after_its_slot_has_moved() {
    run(async {
        let (world, cluster) = world(3, 0).await;
        let (mut blocked, mut other) = (admin(&world).await, admin(&world).await);
        let id = id_of(&mut blocked).await;
        let key = key_of(&cluster, 1);
        blocked.send(encoded(&["BLPOP", &key, "0"])).await;
        wait_blocked(&cluster, 1, 1).await;
        cluster.move_slot(slot::of_key(key.as_bytes()), 2);
        wait_blocked(&cluster, 2, 1).await;
        assert_eq!(other.command(&["CLIENT", "UNBLOCK", &id]).await, ":1");
        assert_eq!(blocked.reply().await, "(nil)");
    });
}

#[test]
fn clients_are_killed_on_all_primaries() {
    run(async {
        let (world, cluster) = world(2, 0).await;
        let mut other = admin(&world).await;
        let keys = [key_of(&cluster, 0), key_of(&cluster, 1)];
        let mut victim = world.routed("alice", "sessions", "iam-rw").await;
        let touch = async |victim: &mut Client| {
            for key in &keys {
                assert_eq!(victim.command(&["SET", key, "x"]).await, "+OK");
            }
        };
        touch(&mut victim).await;
        for words in [
            &["CLIENT", "KILL", "USER", "iam-rw"][..],
            &["CLIENT", "KILL", "TYPE", "normal", "USER", "iam-rw"],
        ] {
            assert_eq!(other.command(words).await, ":2");
            tokio::time::sleep(Duration::from_millis(200)).await;
            touch(&mut victim).await;
        }
        // By address, in the old form: it is one node's.
        let list = cluster.nodes[1].ok(&["CLIENT", "LIST"]);
        let line = list.text().lines().find(|line| line.contains("user=iam-rw")).unwrap().to_owned();
        let address = line.split(' ').find_map(|field| field.strip_prefix("addr=")).unwrap().to_owned();
        assert_eq!(other.command(&["CLIENT", "KILL", &address]).await, "+OK");
        assert_eq!(other.command(&["CLIENT", "KILL", &address]).await, "-ERR No such client");
        assert_eq!(other.command(&["CLIENT", "KILL", "ADDR", &address]).await, ":0");
        // Nobody but oneself is spared by SKIPME, on any node.
        let mut again = admin(&world).await;
        assert_eq!(again.command(&["GET", &keys[1]]).await, "x");
        assert!(
            other.command(&["CLIENT", "KILL", "USER", "iam-admin", "SKIPME", "yes"]).await.starts_with(':')
        );
        assert_eq!(other.command(&["GET", &keys[1]]).await, "x");
        assert!(other.command(&["CLIENT", "KILL", "NONSENSE", "x"]).await.starts_with("-ERR"));
    });
}

#[test]
fn a_node_is_asked_by_name_for_its_own_clients() {
    run(async {
        let (world, cluster) = world(2, 0).await;
        let (mut blocked, mut other) = (admin(&world).await, admin(&world).await);
        assert_eq!(blocked.command(&["CLIENT", "SETNAME", "me"]).await, "+OK");
        let there = key_of(&cluster, 1);
        blocked.send(encoded(&["BLPOP", &there, "0"])).await;
        wait_blocked(&cluster, 1, 1).await;
        let node = format!("@localhost:{}", cluster.nodes[1].port);
        let home = other.command(&["CLIENT", "LIST"]).await;
        assert_eq!(
            home.lines().filter(|line| line.contains("name=me ")).count(),
            1,
            "each session once: {home}"
        );
        let list = other.command(&["CLIENT", "LIST", "TYPE", "normal", &node]).await;
        let line = list.lines().find(|line| line.contains("cmd=blpop")).unwrap().to_owned();
        assert!(line.contains("name=me "), "{line}");
        let id = line.split(' ').find_map(|field| field.strip_prefix("id=")).unwrap();
        assert_eq!(other.command(&["CLIENT", "UNBLOCK", id, &node]).await, ":1");
        assert_eq!(blocked.reply().await, "(nil)");
        assert_eq!(other.command(&["CLIENT", "KILL", "ID", id, &node]).await, ":1");
        let nowhere = other.command(&["CLIENT", "LIST", "@localhost:1"]).await;
        assert!(
            nowhere.starts_with("-ERR keystile:") && nowhere.contains("there is no such node"),
            "{nowhere}"
        );
        // A name that begins like that and is none of a node is a value like any other.
        cluster.nodes[0].ok(&["ACL", "SETUSER", "@ops", "on", "nopass", "+@all"]);
        cluster.nodes[1].ok(&["ACL", "SETUSER", "@ops", "on", "nopass", "+@all"]);
        assert_eq!(other.command(&["CLIENT", "KILL", "USER", "@ops"]).await, ":0");
        assert!(matches!(cluster.nodes[0].ok(&["DBSIZE"]), Reply::Number(0)));
    });
}

#[test]
fn no_question_of_ours_gets_into_a_transaction_behind_a_call_that_blocks_elsewhere_now() {
    run(async {
        let (world, cluster) = world(2, 0).await;
        let (mut blocked, mut other) = (admin(&world).await, admin(&world).await);
        let list = key_of(&cluster, 0);
        let mut own = (0..).map(|number| format!("own:{number}"));
        let is_at_home = |key: &String| {
            let slot = slot::of_key(key.as_bytes());
            slot != slot::of_key(list.as_bytes()) && cluster.owner(slot) == 0
        };
        let own = own.find(is_at_home).unwrap();
        blocked.send(encoded(&["BLPOP", &list, "0"])).await;
        wait_blocked(&cluster, 0, 1).await;
        blocked.send([encoded(&["MULTI"]), encoded(&["SET", &own, "x"])].concat()).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
        cluster.move_slot(slot::of_key(list.as_bytes()), 1);
        wait_blocked(&cluster, 1, 1).await;
        assert_eq!(other.command(&["RPUSH", &list, "y"]).await, ":1");
        assert_eq!(blocked.reply().await, format!("[{list} y]"));
        assert_eq!([blocked.reply().await, blocked.reply().await], ["+OK", "+QUEUED"]);
        assert_eq!(blocked.command(&["EXEC"]).await, "[+OK]");
    });
}

#[test]
fn a_session_that_is_killed_by_its_id_ends() {
    run(async {
        let (world, cluster) = world(2, 0).await;
        let (mut other, mut victim) = (admin(&world).await, admin(&world).await);
        let there = key_of(&cluster, 1);
        for resp in ["2", "3"] {
            let mut bystander = admin(&world).await;
            for client in [&mut victim, &mut bystander] {
                assert!(client.command(&["HELLO", resp]).await.contains("mode cluster"));
                assert_eq!(client.command(&["SET", &there, "x"]).await, "+OK");
            }
            let id = id_of(&mut victim).await;
            // Who may not kill, or names somebody else as well, ends nobody.
            let mut powerless = world.routed("alice", "sessions", "iam-rw").await;
            assert!(powerless.command(&["CLIENT", "KILL", "ID", &id]).await.starts_with("-NOPERM"));
            assert_eq!(other.command(&["CLIENT", "KILL", "ID", &id, "USER", "iam-ro"]).await, ":0");
            assert_eq!(other.command(&["CLIENT", "KILL", "ID", "999999"]).await, ":0");
            assert_eq!(victim.command(&["GET", &there]).await, "x");
            assert_eq!(victim.command(&["CLIENT", "KILL", "ID", &id]).await, ":0", "SKIPME");
            assert_eq!(victim.command(&["GET", &there]).await, "x");
            // A call that blocks elsewhere, too: it is the session that ends.
            victim.send(encoded(&["BLPOP", &format!("{{{there}}}list"), "0"])).await;
            wait_blocked(&cluster, 1, 1).await;
            other
                .send([encoded(&["CLIENT", "KILL", "ID", &id]), encoded(&["ECHO", "behind"])].concat())
                .await;
            assert_eq!(other.reply().await, ":1");
            assert_eq!(other.reply().await, "behind");
            let last = victim.rest().await;
            assert!(last.starts_with("-ERR keystile: the cache closed"), "{last}");
            assert_eq!(bystander.command(&["GET", &there]).await, "x");
            assert_eq!(other.command(&["GET", &there]).await, "x");
            victim = admin(&world).await;
        }
        // Oneself: the reply comes first.
        assert_eq!(victim.command(&["GET", &there]).await, "x");
        let id = id_of(&mut victim).await;
        assert_eq!(victim.command(&["CLIENT", "KILL", "ID", &id, "SKIPME", "no"]).await, ":1");
        assert_eq!(victim.rest().await, "");
    });
}

#[test]
fn a_kill_that_killed_nobody_ends_nobody_later() {
    run(async {
        let (world, cluster) = world(2, 0).await;
        let (mut other, mut victim) = (admin(&world).await, admin(&world).await);
        // Who may look and not kill: the node says no.
        cluster.nodes[0].ok(&["ACL", "SETUSER", "iam-rw", "+client|list"]);
        let mut powerless = world.routed("alice", "sessions", "iam-rw").await;
        let key = key_of(&cluster, 0);
        for spared in [false, true] {
            assert_eq!(victim.command(&["SET", &key, "x"]).await, "+OK");
            let id = id_of(&mut victim).await;
            if spared {
                assert_eq!(other.command(&["CLIENT", "KILL", "ID", &id, "USER", "iam-ro"]).await, ":0");
            } else {
                assert!(powerless.command(&["CLIENT", "KILL", "ID", &id]).await.starts_with("-NOPERM"));
            }
            // Then its link to home is lost by something else.
            cluster.nodes[0].ok(&["CLIENT", "KILL", "ID", &id]);
            tokio::time::sleep(Duration::from_millis(200)).await;
            assert_eq!(victim.command(&["GET", &key]).await, "x", "{spared}");
        }
    });
}
