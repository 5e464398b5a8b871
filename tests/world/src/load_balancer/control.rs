//! The control port: HTTP/1 with small JSON bodies, on loopback.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rustix::process::Signal;
use serde_json::json;
use tokio::net::TcpListener;

use super::{Balancer, Settings};
use crate::world::process::Running;

/// ECS kills a task that is still there so long after SIGTERM (`stopTimeout`, at most 120 s on Fargate).
const KILL_AFTER: Duration = Duration::from_secs(120);
const BODY_LIMIT: usize = 64 * 1024;

pub(super) async fn serve(balancer: Arc<Balancer>, listener: TcpListener) {
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        let balancer = Arc::clone(&balancer);
        tokio::spawn(async move {
            let service = service_fn(|request| {
                let balancer = Arc::clone(&balancer);
                async move { Ok::<_, Infallible>(answer(&balancer, request).await) }
            });
            let _ = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}

async fn answer(balancer: &Arc<Balancer>, request: Request<Incoming>) -> Response<Full<Bytes>> {
    let path = request.uri().path().to_owned();
    let query = request.uri().query().unwrap_or("").to_owned();
    match (request.method().clone(), path.as_str()) {
        (Method::GET, "/") => reply(StatusCode::OK, &state(balancer)),
        (Method::PUT, "/") => replace_settings(balancer, request).await,
        (Method::POST, path) if path.starts_with("/stop/") => stop(balancer, &path[6..], &query),
        _ => reply(StatusCode::NOT_FOUND, &json!({"error": "GET /, PUT / or POST /stop/<target>"})),
    }
}

fn state(balancer: &Balancer) -> serde_json::Value {
    let targets: Vec<_> = balancer
        .targets
        .iter()
        .map(|target| json!({"address": target.address.to_string(), "process": target.process}))
        .collect();
    json!({
        "settings": balancer.settings().clone(),
        "targets": targets,
        "connections": balancer.live.load(Ordering::Relaxed),
    })
}

async fn replace_settings(balancer: &Balancer, request: Request<Incoming>) -> Response<Full<Bytes>> {
    let body = match Limited::new(request.into_body(), BODY_LIMIT).collect().await {
        Ok(body) => body.to_bytes(),
        Err(error) => return reply(StatusCode::PAYLOAD_TOO_LARGE, &json!({"error": error.to_string()})),
    };
    match serde_json::from_slice::<Settings>(&body) {
        Ok(settings) => {
            *balancer.settings() = settings;
            reply(StatusCode::OK, &state(balancer))
        }
        Err(error) => reply(StatusCode::BAD_REQUEST, &json!({"error": error.to_string()})),
    }
}

/// Ends a target as ECS does: out of the rotation, SIGTERM, and SIGKILL when its time is up.
fn stop(balancer: &Balancer, number: &str, query: &str) -> Response<Full<Bytes>> {
    let number = number.parse::<usize>().ok();
    let target = number.and_then(|number| Some((number, balancer.targets.get(number)?)));
    let process = target.and_then(|(_, target)| Running::find(&balancer.paths, target.process.as_ref()?));
    let (Some((number, _)), Some(process)) = (target, process) else {
        return reply(StatusCode::NOT_FOUND, &json!({"error": "no such target, or no process behind it"}));
    };
    let seconds = query.strip_prefix("kill-after=").and_then(|text| text.parse::<f64>().ok());
    let wait = seconds.and_then(|s| Duration::try_from_secs_f64(s).ok()).unwrap_or(KILL_AFTER);
    balancer.settings().drained.push(number);
    process.signal(Signal::TERM);
    let pid = process.pid;
    tokio::spawn(async move {
        tokio::time::sleep(wait).await;
        process.signal(Signal::KILL);
    });
    reply(StatusCode::ACCEPTED, &json!({"stopping": pid, "kill_after_s": wait.as_secs_f64()}))
}

fn reply(status: StatusCode, body: &serde_json::Value) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(format!("{body}\n"))));
    *response.status_mut() = status;
    response
}
