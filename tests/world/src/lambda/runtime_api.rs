//! The Lambda runtime API (2018-06-01) for one process: next, response, error, init/error.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use http::{Method, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::{Notify, mpsc, oneshot};

/// Lambda's largest synchronous answer.
const ANSWER_LIMIT: usize = 6 << 20;
const BASE: &str = "/2018-06-01/runtime";

/// One invocation on its way to the process.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) request_id: String,
    pub(super) event: Bytes,
    pub(super) deadline_ms: i64,
    pub(super) reply: oneshot::Sender<Reply>,
}

/// What the process said.
#[derive(Debug)]
pub(super) enum Reply {
    Answer(Bytes),
    Error(Bytes),
}

/// The API of one process.
#[derive(Debug)]
pub(super) struct RuntimeApi {
    function_arn: String,
    jobs: tokio::sync::Mutex<mpsc::Receiver<Job>>,
    current: Mutex<Option<(String, oneshot::Sender<Reply>)>>,
    init_error: Mutex<Option<Bytes>>,
    /// Told each time when the process asks for the next invocation.
    pub(super) idle: Notify,
}

impl RuntimeApi {
    pub(super) fn new(function_arn: String, jobs: mpsc::Receiver<Job>) -> Arc<Self> {
        Arc::new(Self {
            function_arn,
            jobs: tokio::sync::Mutex::new(jobs),
            current: Mutex::default(),
            init_error: Mutex::default(),
            idle: Notify::new(),
        })
    }

    /// What the process said when it could not start.
    pub(super) fn init_error(&self) -> Option<Bytes> {
        self.init_error.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Serves the process until the task is ended.
    pub(super) async fn serve(self: Arc<Self>, listener: TcpListener) {
        let mut connections = tokio::task::JoinSet::new();
        while let Ok((socket, _)) = listener.accept().await {
            let api = Arc::clone(&self);
            connections.spawn(async move {
                let service = service_fn(move |request| Arc::clone(&api).answer(request));
                let _ = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(socket), service)
                    .await;
            });
            while connections.try_join_next().is_some() {}
        }
    }

    async fn answer(
        self: Arc<Self>,
        request: http::Request<Incoming>,
    ) -> Result<http::Response<Full<Bytes>>, http::Error> {
        let (parts, body) = request.into_parts();
        let path = parts.uri.path().strip_prefix(BASE).unwrap_or_default().to_owned();
        let words: Vec<&str> = path.split('/').collect();
        match (&parts.method, words.as_slice()) {
            (&Method::GET, ["", "invocation", "next"]) => self.next().await,
            (&Method::POST, ["", "invocation", id, kind @ ("response" | "error")]) => {
                let Ok(body) = Limited::new(body, ANSWER_LIMIT).collect().await else {
                    let error = json!({"errorType": "Function.ResponseSizeTooLarge", "errorMessage": "Response payload size exceeded maximum allowed payload size (6291556 bytes)."});
                    self.reply(id, Reply::Error(error.to_string().into()));
                    return status(StatusCode::PAYLOAD_TOO_LARGE, "RequestEntityTooLarge");
                };
                let body = body.to_bytes();
                let reply = if *kind == "response" { Reply::Answer(body) } else { Reply::Error(body) };
                if self.reply(id, reply) {
                    status(StatusCode::ACCEPTED, "OK")
                } else {
                    status(StatusCode::BAD_REQUEST, "InvalidRequestID")
                }
            }
            (&Method::POST, ["", "init", "error"]) => {
                let body = Limited::new(body, ANSWER_LIMIT)
                    .collect()
                    .await
                    .map(http_body_util::Collected::to_bytes)
                    .unwrap_or_default();
                *self.init_error.lock().unwrap_or_else(PoisonError::into_inner) = Some(body);
                status(StatusCode::ACCEPTED, "OK")
            }
            _ => status(StatusCode::NOT_FOUND, "the runtime API has no such path"),
        }
    }

    async fn next(&self) -> Result<http::Response<Full<Bytes>>, http::Error> {
        self.idle.notify_one();
        let Some(job) = self.jobs.lock().await.recv().await else {
            return status(StatusCode::GONE, "no more invocations");
        };
        let answer = http::Response::builder()
            .header("content-type", "application/json")
            .header("lambda-runtime-aws-request-id", &job.request_id)
            .header("lambda-runtime-deadline-ms", job.deadline_ms.to_string())
            .header("lambda-runtime-invoked-function-arn", &self.function_arn)
            .header("lambda-runtime-trace-id", trace_id(&job.request_id))
            .body(Full::new(job.event))?;
        *self.current.lock().unwrap_or_else(PoisonError::into_inner) = Some((job.request_id, job.reply));
        Ok(answer)
    }

    /// Hands a reply on; false where it is not to the invocation at work.
    fn reply(&self, id: &str, reply: Reply) -> bool {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        match current.take() {
            Some((have, sender)) if have == id => sender.send(reply).is_ok(),
            other => {
                *current = other;
                false
            }
        }
    }
}

fn trace_id(request_id: &str) -> String {
    let id: String = request_id.chars().filter(char::is_ascii_hexdigit).collect();
    let part = |from: usize, to: usize| id.get(from..to).unwrap_or("0").to_owned();
    format!("Root=1-{}-{};Parent={};Sampled=0", part(0, 8), part(8, 32), part(0, 16))
}

fn status(status: StatusCode, text: &str) -> Result<http::Response<Full<Bytes>>, http::Error> {
    let body = json!({ "status": text }).to_string();
    http::Response::builder()
        .status(status)
        .header("content-type", "application/json")
        .body(Full::new(body.into()))
}
