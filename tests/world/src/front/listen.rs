//! HTTP connections: reads each request whole, within a limit, and hands it on.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::Front;
use super::wire::{ApiError, Protocol, Request, Response};

/// No request is larger: above the 4 MB of a DynamoDB transaction and Lambda's 6 MB.
const BODY_LIMIT: usize = 16 << 20;

/// The connection is closed without an answer.
#[derive(Debug, thiserror::Error)]
#[error("an ordered fault dropped the answer")]
struct Dropped;

/// Serves a port. `act` gives the answer, or nothing where the connection is to be closed.
pub(crate) fn spawn<F, T>(listener: TcpListener, front: Arc<Front>, act: F) -> JoinHandle<()>
where
    F: Fn(Arc<Front>, Request) -> T + Copy + Send + Sync + 'static,
    T: Future<Output = Option<Response>> + Send + 'static,
{
    tokio::spawn(async move {
        let mut connections = tokio::task::JoinSet::new();
        loop {
            let Ok((socket, _)) = listener.accept().await else {
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
                continue;
            };
            let _ = socket.set_nodelay(true);
            let front = Arc::clone(&front);
            connections.spawn(async move {
                let service = service_fn(move |request| one(Arc::clone(&front), request, act));
                // A client that hangs up is no news.
                let _ = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(socket), service)
                    .await;
            });
            while connections.try_join_next().is_some() {}
        }
    })
}

async fn one<F, T>(front: Arc<Front>, request: http::Request<Incoming>, act: F) -> Result<Response, Dropped>
where
    F: Fn(Arc<Front>, Request) -> T,
    T: Future<Output = Option<Response>> + Send + 'static,
{
    let request = match read(request).await {
        Ok(request) => request,
        Err(refusal) => return Ok(refusal.response(Protocol::RestJson)),
    };
    // In a task of its own: a client that gives up does not undo what its call began.
    let answer = tokio::spawn(act(front, request)).await;
    match answer {
        Ok(Some(response)) => Ok(response),
        Ok(None) | Err(_) => Err(Dropped),
    }
}

async fn read(request: http::Request<Incoming>) -> Result<Request, ApiError> {
    let (parts, body) = request.into_parts();
    let body: Bytes = Limited::new(body, BODY_LIMIT)
        .collect()
        .await
        .map_err(|_| {
            ApiError::new(
                413,
                "RequestEntityTooLarge",
                format!("The body could not be read, or is over {BODY_LIMIT} bytes."),
            )
        })?
        .to_bytes();
    let mut flat: BTreeMap<String, String> = BTreeMap::new();
    for (name, value) in &parts.headers {
        let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
        flat.entry(name.as_str().to_owned())
            .and_modify(|have| *have = format!("{have},{value}"))
            .or_insert(value);
    }
    Ok(Request {
        method: parts.method,
        path: parts.uri.path().to_owned(),
        query: parts.uri.query().unwrap_or_default().to_owned(),
        headers: parts.headers,
        flat,
        body,
    })
}
