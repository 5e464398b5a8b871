//! A wire to DynamoDB that loses answers, by operation: before the request gets there, or after it took
//! effect. It can also make DynamoDB forget request tokens, as it does after ten minutes.

use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Loss {
    Before,
    After,
    /// DynamoDB answers with this error, a JSON document, and does nothing.
    Error(&'static str),
}

#[derive(Debug, Default)]
struct Plan {
    losses: Vec<(&'static str, Loss)>,
    forget_tokens: bool,
    calls: Vec<String>,
}

/// The wire; clients connect to `port`.
pub(crate) struct Wire {
    pub(crate) port: u16,
    plan: Arc<Mutex<Plan>>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Wire {
    pub(crate) async fn to(upstream: u16) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let plan = Arc::new(Mutex::new(Plan::default()));
        let shared = Arc::clone(&plan);
        let task = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(carry(client, upstream, Arc::clone(&shared)));
            }
        });
        Self { port, plan, task }
    }

    /// The next calls of these operations lose their answers.
    pub(crate) fn lose(&self, losses: &[(&'static str, Loss)]) {
        self.plan.lock().unwrap().losses.extend_from_slice(losses);
    }

    pub(crate) fn forget_tokens(&self) {
        self.plan.lock().unwrap().forget_tokens = true;
    }

    /// Operations since the last time, in order; no loss may be left over.
    pub(crate) fn calls(&self) -> Vec<String> {
        let mut plan = self.plan.lock().unwrap();
        assert!(plan.losses.is_empty(), "not lost: {:?}", plan.losses);
        std::mem::take(&mut plan.calls)
    }
}

/// Carries requests of one connection, each over a connection of its own.
async fn carry(mut client: TcpStream, upstream: u16, plan: Arc<Mutex<Plan>>) -> Option<()> {
    loop {
        let (head, mut body) = message(&mut client).await?;
        let operation = operation(&head);
        let (loss, forget) = {
            let mut plan = plan.lock().unwrap();
            plan.calls.push(operation.clone());
            let at = plan.losses.iter().position(|(lost, _)| *lost == operation);
            (at.map(|at| plan.losses.remove(at).1), plan.forget_tokens)
        };
        match loss {
            Some(Loss::Before) => return None,
            Some(Loss::Error(body)) => {
                client.write_all(&error_answer(body)).await.ok()?;
                continue;
            }
            _ => {}
        }
        if forget {
            body = other_token(body);
        }
        let mut server = TcpStream::connect((Ipv4Addr::LOCALHOST, upstream)).await.ok()?;
        server.write_all(&[head, body].concat()).await.ok()?;
        let (head, body) = message(&mut server).await?;
        if loss == Some(Loss::After) {
            return None;
        }
        client.write_all(&[head, body].concat()).await.ok()?;
    }
}

/// One HTTP/1.1 message with a length, which is all that either side sends here.
async fn message(from: &mut TcpStream) -> Option<(Vec<u8>, Vec<u8>)> {
    let mut bytes = Vec::new();
    let end = loop {
        if let Some(at) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            break at + 4;
        }
        if from.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    };
    let mut body = bytes.split_off(end);
    let length = header(&bytes, "content-length").map_or(0, |value| value.parse().unwrap());
    assert!(header(&bytes, "transfer-encoding").is_none(), "chunked messages are not carried");
    while body.len() < length {
        if from.read_buf(&mut body).await.ok()? == 0 {
            return None;
        }
    }
    Some((bytes, body))
}

fn error_answer(body: &str) -> Vec<u8> {
    let kind = "application/x-amz-json-1.0";
    let length = body.len();
    format!("HTTP/1.1 400 Bad Request\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n\r\n{body}")
        .into()
}

fn header(head: &[u8], name: &str) -> Option<String> {
    let head = std::str::from_utf8(head).unwrap();
    let line = head.lines().find(|line| {
        line.split_once(':').is_some_and(|(found, _)| found.trim().eq_ignore_ascii_case(name))
    })?;
    line.split_once(':').map(|(_, value)| value.trim().to_owned())
}

fn operation(head: &[u8]) -> String {
    let target = header(head, "x-amz-target").unwrap_or_default();
    target.rsplit('.').next().unwrap_or_default().to_owned()
}

/// The same length, another token. Signatures are not checked by this DynamoDB.
fn other_token(body: Vec<u8>) -> Vec<u8> {
    const FIELD: &str = "\"ClientRequestToken\":\"";
    let text = String::from_utf8(body).unwrap();
    let Some(at) = text.find(FIELD).map(|at| at + FIELD.len()) else { return text.into_bytes() };
    let end = at + text[at..].find('"').unwrap();
    let token = uuid::Uuid::new_v4().to_string();
    format!("{}{}{}", &text[..at], &token[..end - at], &text[end..]).into_bytes()
}
