//! The built-in client: TLS to the proxy with the route's certificate, commands in, replies out. It does
//! what `redis-cli` does in its plainest form, for machines that have none.

pub(crate) mod external;
mod reply;

use std::io::{BufRead as _, BufReader, ErrorKind, Write as _};
use std::net::{TcpStream, ToSocketAddrs as _};
use std::sync::Arc;
use std::time::Duration;

use keystile_resp::encode;
use keystile_resp::request::split_inline;
use rustls::{ClientConnection, StreamOwned};

use crate::client::reply::Reply;
use crate::context::Context;
use crate::failure::{Failure, exit, printable};
use crate::output::{Format, print, say};
use crate::route::{Route, host_and_port};

/// Longest wait for a connection.
const CONNECT: Duration = Duration::from_secs(10);

/// Runs one command and gives its exit code: 0, 1 for an error reply, 5 where a rule refused.
pub(crate) fn one(context: &Context, route: &Route, command: &[String]) -> Result<u8, Failure> {
    let mut connection = Connection::open(route)?;
    let words: Vec<&[u8]> = command.iter().map(String::as_bytes).collect();
    let reply = connection.ask(&words)?;
    show(context, &reply)?;
    Ok(reply.error().map_or(exit::OK, |text| outcome(&text)))
}

/// Runs the lines of standard input. Says whether one failed.
pub(crate) fn batch(context: &Context, route: &Route) -> Result<bool, Failure> {
    let mut connection = Connection::open(route)?;
    let mut failed = false;
    for line in std::io::stdin().lock().lines() {
        let line =
            line.map_err(|error| Failure::failed("standard input can't be read").why(error.to_string()))?;
        let words = match words_of(&line) {
            Ok(words) if words.is_empty() => continue,
            Ok(words) => words,
            Err(why) => {
                say(&why);
                failed = true;
                continue;
            }
        };
        let reply = connection.ask(&words)?;
        failed |= reply.error().is_some();
        show(context, &reply)?;
    }
    Ok(failed)
}

/// Talks with a person until they leave.
pub(crate) fn converse(route: &Route) -> Result<(), Failure> {
    let mut connection = Connection::open(route)?;
    let no_terminal = |error: rustyline::error::ReadlineError| {
        Failure::failed("the terminal failed").why(error.to_string())
    };
    let mut editor = rustyline::DefaultEditor::new().map_err(no_terminal)?;
    let prompt = format!("{}:{}> ", route.answer.database, route.answer.db_user);
    loop {
        let line = match editor.readline(&prompt) {
            Ok(line) => line,
            Err(rustyline::error::ReadlineError::Interrupted) => continue,
            Err(rustyline::error::ReadlineError::Eof) => return Ok(()),
            Err(error) => return Err(no_terminal(error)),
        };
        let words = match words_of(&line) {
            Ok(words) if words.is_empty() => continue,
            Ok(words) => words,
            Err(why) => {
                say(&why);
                continue;
            }
        };
        // Kept in memory only, and not where it may hold a password.
        if !is_word(&words, 0, &["AUTH", "HELLO", "ACL", "CONFIG", "MIGRATE"]) {
            let _ = editor.add_history_entry(&line);
        }
        if words.len() == 1 && is_word(&words, 0, &["QUIT", "EXIT"]) {
            return Ok(());
        }
        print(connection.ask(&words)?.human().as_bytes())?;
        if is_word(&words, 0, &["SUBSCRIBE", "PSUBSCRIBE", "SSUBSCRIBE"]) {
            say("Reading messages... (press Ctrl-C to quit)");
            loop {
                print(connection.receive()?.human().as_bytes())?;
            }
        }
    }
}

fn show(context: &Context, reply: &Reply) -> Result<(), Failure> {
    let output = &context.output;
    match output.format {
        Format::Text if context.environment.stdout_is_terminal && output.file.is_none() => {
            output.write(reply.human())
        }
        Format::Text => output.write(reply.raw()),
        Format::Json | Format::Yaml => output.emit(&reply.json(), String::new),
    }
}

/// A refusal of Keystile's is a denial; the cache's own errors are failures.
fn outcome(error: &str) -> u8 {
    let denied = error.starts_with("NOPERM") && error.to_lowercase().contains("keystile");
    if denied { exit::DENIED } else { exit::FAILURE }
}

fn words_of(line: &str) -> Result<Vec<Vec<u8>>, String> {
    let words = split_inline(line.as_bytes()).map_err(|_| "Invalid argument(s)".to_owned())?;
    if is_word(&words, 0, &["CLIENT"]) && is_word(&words, 1, &["REPLY"]) {
        return Err("CLIENT REPLY would leave this client waiting for ever".to_owned());
    }
    Ok(words)
}

fn is_word(words: &[Vec<u8>], index: usize, names: &[&str]) -> bool {
    words.get(index).is_some_and(|word| names.iter().any(|name| word.eq_ignore_ascii_case(name.as_bytes())))
}

/// A connection to the proxy.
struct Connection {
    stream: BufReader<StreamOwned<ClientConnection, TcpStream>>,
    address: String,
}

impl Connection {
    fn open(route: &Route) -> Result<Self, Failure> {
        let address = route.answer.proxy_address.clone();
        let (config, name) = route.tls()?;
        let tcp = dial(&address).map_err(|error| unreachable(&address, &error))?;
        let tls = ClientConnection::new(Arc::clone(&config), name)
            .map_err(|error| Failure::failed("TLS could not be set up").why(error.to_string()))?;
        Ok(Self { stream: BufReader::new(StreamOwned::new(tls, tcp)), address })
    }

    fn ask<A: AsRef<[u8]>>(&mut self, words: &[A]) -> Result<Reply, Failure> {
        let mut request = Vec::new();
        encode::request(&mut request, words);
        let stream = self.stream.get_mut();
        let sent = stream.write_all(&request).and_then(|()| stream.flush());
        // A proxy that has closed may have said why before: the reply tells more than the failed write.
        match (sent, self.receive()) {
            (_, Ok(reply)) => Ok(reply),
            (Err(error), Err(_)) => Err(unreachable(&self.address, &error)),
            (Ok(()), Err(failure)) => Err(failure),
        }
    }

    fn receive(&mut self) -> Result<Reply, Failure> {
        reply::read(&mut self.stream).map_err(|error| unreachable(&self.address, &error))
    }
}

fn dial(address: &str) -> std::io::Result<TcpStream> {
    let (host, port) =
        host_and_port(address).map_err(|failure| std::io::Error::other(failure.message.clone()))?;
    let mut last = std::io::Error::new(ErrorKind::NotFound, "the name has no address");
    for target in (host.as_str(), port).to_socket_addrs()? {
        match TcpStream::connect_timeout(&target, CONNECT) {
            Ok(stream) => {
                stream.set_nodelay(true)?;
                return Ok(stream);
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn unreachable(address: &str, error: &std::io::Error) -> Failure {
    let why = match error.kind() {
        ErrorKind::UnexpectedEof => "it closed the connection without a word".to_owned(),
        _ => printable(&error.to_string()),
    };
    Failure::unreachable(format!("the proxy at {address} is out of reach")).why(why).next("keystile status")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outcomes() {
        assert_eq!(outcome("NOPERM keystile: KEYS is denied (rule analyst)"), 5);
        assert_eq!(outcome("NOPERM User iam-ro has no permissions to run the 'set' command"), 1);
        assert_eq!(outcome("ERR unknown command"), 1);
    }

    #[test]
    fn lines_are_split_as_the_server_does() {
        assert_eq!(words_of("SET k \"a b\"").unwrap(), [b"SET".to_vec(), b"k".to_vec(), b"a b".to_vec()]);
        assert!(words_of("").unwrap().is_empty());
        assert!(words_of("SET k \"a").is_err() && words_of("client reply off").is_err());
    }
}
