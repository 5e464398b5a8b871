//! Kinds of replies that a Valkey does not send by itself: from a server that says what it is told to.

use keystile_model::database::{CacheAuth, Database, DatabaseKind, Endpoint};
use keystile_model::feed::Entity;
use keystile_resp::request::{Limits, Scanner, Step};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use super::support::{Client, World, cache_tls, run, wait_until};

/// Makes a database of this name at this port known.
pub async fn add_database(world: &World, name: &str, port: u16) {
    let endpoint = Endpoint { host: "localhost".to_owned(), port };
    add(world, name, Entity::Database(Box::new(Database { endpoint, ..world.database(name) }))).await;
}

async fn add(world: &World, name: &str, entity: Entity) {
    world.put(entity).await;
    wait_until("the database is known", || {
        world.shared.policy.borrow().policy.as_ref().is_some_and(|policy| policy.database(name).is_some())
    })
    .await;
}

/// What a Redis 6.0 says to RESET, and to HELLO 3.
const NO_RESET: &str = "-ERR unknown command `RESET`, with args beginning with: \r\n";
const HELLO_3: &str = "%1\r\n$5\r\nproto\r\n:3\r\n";

/// A server without RESET: the session is what it was before, a subscriber, in a transaction, or neither.
#[test]
fn a_server_that_does_not_know_reset_leaves_the_session_as_it_was() {
    run(async {
        let world = World::start(&[]).await;
        let scripts: [&[(&str, &[&str], &str)]; 3] = [
            // What the client sends, what the server answers, what the client gets.
            &[
                (
                    "SUBSCRIBE c\r\n",
                    &[HELLO_3, ">3\r\n$9\r\nsubscribe\r\n$1\r\nc\r\n:1\r\n"],
                    "*3\r\n$9\r\nsubscribe\r\n$1\r\nc\r\n:1\r\n",
                ),
                ("RESET\r\n", &[NO_RESET], NO_RESET),
                // It is a subscriber still, in RESP2.
                ("PING\r\n", &["+PONG\r\n"], "*2\r\n$4\r\npong\r\n$0\r\n\r\n"),
                (
                    "UNSUBSCRIBE c\r\n",
                    &[">3\r\n$11\r\nunsubscribe\r\n$1\r\nc\r\n:0\r\n"],
                    "*3\r\n$11\r\nunsubscribe\r\n$1\r\nc\r\n:0\r\n",
                ),
                ("GET k\r\n", &["*2\r\n$5\r\nproto\r\n:2\r\n", "$-1\r\n"], "$-1\r\n"),
            ],
            // What comes behind it in the same packet is not lost.
            &[
                (
                    "RESET\r\nGET k\r\n",
                    &[NO_RESET, "$1\r\nv\r\n"],
                    &[NO_RESET, "$1\r\nv\r\n"].concat().leak()[..],
                ),
                ("CLIENT REPLY SKIP\r\nRESET\r\nGET k\r\n", &[NO_RESET, "$1\r\nv\r\n"], "$1\r\nv\r\n"),
            ],
            // A transaction goes on, and a refused command aborts it.
            &[
                ("MULTI\r\nRESET\r\n", &["+OK\r\n", NO_RESET], &["+OK\r\n", NO_RESET].concat().leak()[..]),
                (
                    "MONITOR\r\nEXEC\r\n",
                    &["-ERR unknown command\r\n", "-EXECABORT so\r\n"],
                    "-NOPERM keystile: 'MONITOR' was refused: it would show the commands of every other client\r\n-EXECABORT so\r\n",
                ),
            ],
        ];
        for (index, script) in scripts.into_iter().enumerate() {
            let replies = script.iter().flat_map(|(_, replies, _)| replies.iter());
            let replies = replies.map(|reply| reply.as_bytes().to_vec()).collect();
            let port = scripted(&world, replies, 1 << 20).await;
            let name = format!("old-{index}");
            add_database(&world, &name, port).await;
            let mut client = world.routed("alice", &name, "iam-rw").await;
            for (request, _, answer) in script {
                client.send(request).await;
                let got = read_exactly(&mut client, answer.len()).await;
                assert_eq!(String::from_utf8_lossy(&got), *answer, "{request:?}");
            }
        }
    });
}

/// In pass-through a RESET makes the client nobody until its next AUTH, and one that failed does not.
#[test]
fn a_server_that_does_not_know_reset_leaves_a_client_in_that_it_had_let_in() {
    run(async {
        let world = World::start(&[]).await;
        let replies = [NO_RESET, "$1\r\nv\r\n", "+RESET\r\n"].map(|reply| reply.as_bytes().to_vec());
        let port = scripted(&world, replies.to_vec(), 1 << 20).await;
        let own = Database {
            kind: DatabaseKind::Static,
            arn: None,
            auth: CacheAuth::PassThrough,
            endpoint: Endpoint { host: "localhost".to_owned(), port },
            ca: Some(std::fs::read_to_string(world.dir.path().join("cache.crt")).unwrap()),
            ..world.database("own")
        };
        add(&world, "own", Entity::StaticDatabase(Box::new(own))).await;
        let refused = "-NOAUTH keystile: 'GET' was refused";
        // Whom the server has not let in yet stays out: nobody but the client knows its password.
        let mut stranger = world.routed("bob", "own", "own").await;
        stranger.send("RESET\r\n").await;
        assert_eq!(read_exactly(&mut stranger, NO_RESET.len()).await, NO_RESET.as_bytes());
        assert!(stranger.ask("GET k").await.starts_with(refused));
        let mut client = world.routed("bob", "own", "own").await;
        assert_eq!(client.ask("AUTH own their-own").await, "+OK");
        client.send("RESET\r\n").await;
        assert_eq!(read_exactly(&mut client, NO_RESET.len()).await, NO_RESET.as_bytes());
        assert_eq!(client.command(&["GET", "k"]).await, "v");
        assert_eq!(client.command(&["RESET"]).await, "+RESET");
        assert!(client.ask("GET k").await.starts_with(refused));
    });
}

/// A server that answers AUTH with +OK and each other request with the next of these, in pieces of so many
/// bytes.
async fn scripted(world: &World, replies: Vec<Vec<u8>>, piece: usize) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let acceptor = TlsAcceptor::from(cache_tls(world));
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            tokio::spawn(serve(acceptor.clone(), tcp, replies.clone(), piece));
        }
    });
    port
}

async fn serve(acceptor: TlsAcceptor, tcp: TcpStream, replies: Vec<Vec<u8>>, piece: usize) {
    let Ok(mut tls) = acceptor.accept(tcp).await else { return };
    let mut replies = replies.into_iter();
    let (mut scanner, mut held) = (Scanner::new(Limits::SIGNED_IN), Vec::new());
    loop {
        while let Ok(Step::Request(request)) = scanner.scan(&held) {
            let is_auth = request.name(&held).is_some_and(|name| name.eq_ignore_ascii_case(b"AUTH"));
            held.drain(..request.len);
            let reply = if is_auth { b"+OK\r\n".to_vec() } else { replies.next().unwrap_or_default() };
            for part in reply.chunks(piece) {
                if tls.write_all(part).await.is_err() || tls.flush().await.is_err() {
                    return;
                }
            }
        }
        let mut more = vec![0; 16_384];
        match tls.read(&mut more).await {
            Ok(length @ 1..) => held.extend_from_slice(&more[..length]),
            _ => return,
        }
    }
}

async fn read_exactly(client: &mut Client, length: usize) -> Vec<u8> {
    let mut got = vec![0; length];
    let read = tokio::time::timeout(std::time::Duration::from_secs(20), client.stream.read_exact(&mut got));
    read.await.expect("the proxy holds something back").unwrap();
    got
}

fn long(marker: char, length: usize) -> Vec<u8> {
    format!("{marker}{length}\r\n{}\r\n", "x".repeat(length)).into_bytes()
}

#[test]
fn every_kind_of_reply_passes_as_it_is() {
    run(async {
        let world = World::start(&[]).await;
        let deep = |levels: usize| [b"*1\r\n".repeat(levels), b":1\r\n".to_vec()].concat();
        let mut replies: Vec<Vec<u8>> = [
            // Attributes, before a reply and inside of one.
            "|1\r\n+key-popularity\r\n%2\r\n$1\r\na\r\n,0.1923\r\n$1\r\nb\r\n,0.0012\r\n*2\r\n:2039123\r\n:9543892\r\n",
            "*3\r\n:1\r\n|1\r\n+ttl\r\n:3600\r\n:2\r\n:3\r\n",
            "|0\r\n:1\r\n",
            // Pushes before and between replies.
            ">2\r\n+server-cpu-usage\r\n:42\r\n+OK\r\n",
            ">3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$1\r\nm\r\n>2\r\n$10\r\ninvalidate\r\n_\r\n$2\r\nok\r\n",
            ">1\r\n*2\r\n+a\r\n%1\r\n+b\r\n:1\r\n:7\r\n",
            // Verbatim text, big numbers, floats, booleans.
            "=15\r\ntxt:Some string\r\n",
            "=4\r\nmkd:\r\n",
            "(3492890328409238509324850943850943825024385\r\n",
            "(-1\r\n",
            ",1.23\r\n",
            ",-inf\r\n",
            ",nan\r\n",
            ",1e400\r\n",
            "#t\r\n",
            "#f\r\n",
            // Nothing, in each of its forms.
            "_\r\n",
            "$-1\r\n",
            "*-1\r\n",
            "*0\r\n",
            "%0\r\n",
            "~0\r\n",
            "$0\r\n\r\n",
            "+\r\n",
            "-\r\n",
            // Errors in both forms.
            "-ERR it is so\r\n",
            "!21\r\nSYNTAX invalid syntax\r\n",
            "!3\r\n\r\n\n\r\n",
            // Streamed ones.
            "$?\r\n;4\r\nHell\r\n;6\r\no worl\r\n;1\r\nd\r\n;0\r\n",
            "*?\r\n:1\r\n$?\r\n;1\r\nx\r\n;0\r\n*?\r\n.\r\n.\r\n",
            "%?\r\n+a\r\n:1\r\n+b\r\n:2\r\n.\r\n",
            "~?\r\n+a\r\n.\r\n",
            // Sets, maps, all of it in each other.
            "~5\r\n+orange\r\n+apple\r\n#t\r\n:100\r\n:999\r\n",
            "%2\r\n*1\r\n:1\r\n~1\r\n:2\r\n+k\r\n%1\r\n_\r\n(5\r\n",
            "*2\r\n-ERR inside\r\n!2\r\nno\r\n",
            ":-9223372036854775808\r\n",
            "$5\r\n\r\n-ER\r\n",
        ]
        .iter()
        .map(|reply| reply.as_bytes().to_vec())
        .collect();
        for length in [16_370, 16_384, 200_000] {
            replies.extend(['$', '=', '!'].map(|marker| long(marker, length)));
            replies.push([b"|1\r\n+a\r\n:1\r\n".to_vec(), long('$', length)].concat());
            replies.push([b">2\r\n+x\r\n".to_vec(), long('$', length), b":1\r\n".to_vec()].concat());
            replies.push([b"*?\r\n".to_vec(), long('=', length), b".\r\n".to_vec()].concat());
            replies.push([b"$?\r\n".to_vec(), long(';', length), b";0\r\n".to_vec()].concat());
            replies.push([b"+", vec![b'y'; length].as_slice(), b"\r\n"].concat());
            replies.push([b"(", vec![b'7'; length].as_slice(), b"\r\n"].concat());
        }
        replies.push(deep(100));
        let all = replies.concat();
        for (index, piece) in [1 << 20, 1_000, 7].into_iter().enumerate() {
            let port = scripted(&world, replies.clone(), piece).await;
            let name = format!("scripted-{index}");
            add_database(&world, &name, port).await;
            // One by one, and all in one go.
            let mut client = world.routed("alice", &name, "iam-rw").await;
            for reply in &replies {
                client.send("GET k\r\n").await;
                let got = read_exactly(&mut client, reply.len()).await;
                assert!(got == *reply, "{:?}", String::from_utf8_lossy(&reply[..reply.len().min(200)]));
            }
            let mut client = world.routed("alice", &name, "iam-rw").await;
            client.send("GET k\r\n".repeat(replies.len())).await;
            assert!(read_exactly(&mut client, all.len()).await == all);
            client.send("QUIT\r\n").await;
        }
    });
}

#[test]
fn what_no_server_may_send_ends_the_session_with_a_reason() {
    run(async {
        let world = World::start(&[("KEYSTILE_MAX_REPLY_NESTING", "100")]).await;
        let broken = [
            ("@1\r\n", "unknown type"),
            ("*1\r\n".repeat(200).leak(), "nested deeper"),
            ("$5\r\nabcdefg\r\n", "does not end in CRLF"),
            ("*-2\r\n", "invalid length"),
            ("+OK\r\n+OK\r\n", "that nobody asked for"),
        ];
        for (index, (reply, words)) in broken.into_iter().enumerate() {
            let port = scripted(&world, vec![reply.as_bytes().to_vec()], 1 << 20).await;
            let name = format!("broken-{index}");
            add_database(&world, &name, port).await;
            let mut client = world.routed("alice", &name, "iam-rw").await;
            client.send("GET k\r\n").await;
            let rest = client.rest().await;
            assert!(rest.contains("-ERR keystile: ") && rest.contains(words), "{words}: {rest}");
        }
    });
}
