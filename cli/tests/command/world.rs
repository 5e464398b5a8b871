//! A small world for the command: an access function over HTTP on loopback, a CA, and a proxy that speaks
//! RESP over TLS and asks for a certificate. Everything answers from memory.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Mutex};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    SubjectPublicKeyInfo,
};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, ServerConnection, StreamOwned};
use serde_json::{Value, json};

/// What the fake access function was asked: method, path, access key, body.
pub(crate) type Asked = (String, String, String, Value);

/// The world; it ends with the test's process.
pub(crate) struct World {
    /// The home of the command, with its credentials.
    pub(crate) home: tempfile::TempDir,
    /// The access URL.
    pub(crate) url: String,
    /// Every request so far.
    pub(crate) asked: Arc<Mutex<Vec<Asked>>>,
    /// An answer instead of the usual one: by path, a status and a body.
    pub(crate) answers: Arc<Mutex<BTreeMap<String, (u16, String)>>>,
}

struct Pki {
    user: CertifiedIssuer<'static, KeyPair>,
    host: CertifiedIssuer<'static, KeyPair>,
}

impl World {
    /// Starts it; nobody is signed in yet.
    pub(crate) fn start() -> Self {
        let pki = Arc::new(Pki { user: authority("user"), host: authority("host") });
        let proxy = start_proxy(&pki);
        let (asked, answers) = (Arc::default(), Arc::<Mutex<BTreeMap<_, _>>>::default());
        let url = start_access(&pki, proxy, Arc::clone(&asked), Arc::clone(&answers));
        let home = tempfile::tempdir().unwrap();
        std::fs::create_dir(home.path().join(".aws")).unwrap();
        let credentials = "[default]\naws_access_key_id = AKIDHOME\naws_secret_access_key = secret\n";
        std::fs::write(home.path().join(".aws/credentials"), credentials).unwrap();
        std::fs::write(home.path().join("config.yaml"), format!("access_url: {url}\nregion: us-east-1\n"))
            .unwrap();
        Self { home, url, asked, answers }
    }

    /// The same with alice signed in.
    pub(crate) fn signed_in() -> Self {
        let world = Self::start();
        let login = world.run(&["login"]);
        assert_eq!(login.code, 0, "{}", login.err);
        world
    }

    /// Answers a path differently from now on.
    pub(crate) fn answer(&self, path: &str, status: u16, body: Value) {
        self.answers.lock().unwrap().insert(path.to_owned(), (status, body.to_string()));
    }

    /// The command in this world, with nothing of the environment but what is put there.
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_keystile"));
        command
            .args(args)
            .env_clear()
            .env("KEYSTILE_HOME", self.home.path())
            .env("AWS_EC2_METADATA_DISABLED", "true");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Runs it to its end.
    pub(crate) fn run(&self, args: &[&str]) -> Ended {
        Ended::of(self.command(args).output().unwrap())
    }

    /// Runs it with this on standard input.
    pub(crate) fn run_with(&self, args: &[&str], input: &str) -> Ended {
        let mut child = self.command(args).stdin(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        Ended::of(child.wait_with_output().unwrap())
    }

    /// A file of the home.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }
}

/// How a run ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Ended {
    fn of(output: Output) -> Self {
        Self {
            code: output.status.code().unwrap_or(-1),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// Its standard output as JSON.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

/// The permissions of a file.
pub(crate) fn mode(path: &Path) -> u32 {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

fn authority(name: &str) -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name.push(rcgen::DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

fn client_certificate(pki: &Pki, public: &str, name: &str) -> String {
    let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    let public = SubjectPublicKeyInfo::from_pem(public).unwrap();
    params.signed_by(&public, &pki.user).unwrap().pem()
}

fn start_proxy(pki: &Pki) -> String {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec!["*.ks.test".to_owned()]).unwrap();
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let certificate = params.signed_by(&key, &pki.host).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(pki.user.pem().as_bytes()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let clients =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider)).build().unwrap();
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(clients)
        .with_single_cert(
            vec![certificate.der().clone()],
            PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
        )
        .unwrap();
    let config = Arc::new(config);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let config = Arc::clone(&config);
            std::thread::spawn(move || serve_resp(stream, config));
        }
    });
    address
}

/// PING, ECHO, SET (refused by the cache), KEYS (refused by Keystile), LRANGE, HELLO.
fn serve_resp(stream: TcpStream, config: Arc<ServerConfig>) {
    let tls = ServerConnection::new(config).unwrap();
    let mut stream = BufReader::new(StreamOwned::new(tls, stream));
    while let Some(words) = read_command(&mut stream) {
        let reply = match words[0].to_uppercase().as_str() {
            "PING" => "+PONG\r\n".to_owned(),
            "KEYSTILE" => "+OK\r\n".to_owned(),
            "ECHO" => format!("${}\r\n{}\r\n", words[1].len(), words[1]),
            "SET" => "-NOPERM User iam-ro has no permissions to run the 'set' command\r\n".to_owned(),
            "KEYS" => "-NOPERM keystile: KEYS is denied (rule dev/1)\r\n".to_owned(),
            "LRANGE" => "*2\r\n$1\r\na\r\n$-1\r\n".to_owned(),
            "HELLO" => format!("$5\r\nhello\r\n:{}\r\n", words.len()),
            _ => "-ERR unknown command\r\n".to_owned(),
        };
        let stream = stream.get_mut();
        if stream.write_all(reply.as_bytes()).and_then(|()| stream.flush()).is_err() {
            return;
        }
    }
}

fn read_command(from: &mut impl std::io::BufRead) -> Option<Vec<String>> {
    let mut line = String::new();
    from.read_line(&mut line).ok()?;
    let count: usize = line.trim().strip_prefix('*')?.parse().ok()?;
    (0..count)
        .map(|_| {
            let mut line = String::new();
            from.read_line(&mut line).ok()?;
            let mut bytes = vec![0; line.trim().strip_prefix('$')?.parse::<usize>().ok()? + 2];
            from.read_exact(&mut bytes).ok()?;
            bytes.truncate(bytes.len() - 2);
            String::from_utf8(bytes).ok()
        })
        .collect()
}

fn start_access(
    pki: &Arc<Pki>,
    proxy: String,
    asked: Arc<Mutex<Vec<Asked>>>,
    answers: Arc<Mutex<BTreeMap<String, (u16, String)>>>,
) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let pki = Arc::clone(pki);
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let (pki, proxy, asked, answers) =
                (Arc::clone(&pki), proxy.clone(), Arc::clone(&asked), Arc::clone(&answers));
            std::thread::spawn(move || {
                let mut reader = BufReader::new(stream);
                while let Some(request) = read_request(&mut reader) {
                    asked.lock().unwrap().push(request.clone());
                    let other = answers.lock().unwrap().get(&request.1).cloned();
                    let (status, body) = other.unwrap_or_else(|| usual(&pki, &proxy, &request));
                    let head = format!("HTTP/1.1 {status} X\r\ncontent-length: {}\r\n\r\n", body.len());
                    let stream = reader.get_mut();
                    if stream.write_all((head + &body).as_bytes()).is_err() {
                        return;
                    }
                }
            });
        }
    });
    url
}

fn read_request(from: &mut BufReader<TcpStream>) -> Option<Asked> {
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        if from.read_line(&mut line).ok()? == 0 {
            return None;
        }
        if line.trim().is_empty() {
            break;
        }
        lines.push(line.trim().to_owned());
    }
    let header = |name: &str| {
        lines.iter().find_map(|line| {
            line.split_once(": ").filter(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v)
        })
    };
    let length = header("content-length").map_or(0, |length| length.parse().unwrap());
    let key = header("authorization").and_then(|value| value.split("Credential=").nth(1)?.split('/').next());
    let mut body = vec![0; length];
    from.read_exact(&mut body).ok()?;
    let mut first = lines[0].split(' ');
    let (method, path) = (first.next()?.to_owned(), first.next()?.to_owned());
    Some((
        method,
        path,
        key.unwrap_or_default().to_owned(),
        serde_json::from_slice(&body).unwrap_or_default(),
    ))
}

fn usual(pki: &Pki, proxy: &str, (method, path, _, body): &Asked) -> (u16, String) {
    let status = |valid_until: &str| {
        json!({
            "user": "alice", "roles": ["access", "editor"], "valid_until": valid_until, "deployment": "test",
            "version": "0.1.0", "proxy_address": proxy, "domain": "ks.test", "host_ca": pki.host.pem(),
            "ca_pins": ["sha256:00"],
        })
    };
    let answer = match (method.as_str(), path.as_str()) {
        ("POST", "/v1/login") => {
            let certificate = client_certificate(pki, body["public_key"].as_str().unwrap(), "alice.test");
            json!({ "certificate": certificate, "status": status("2099-01-01T00:00:00Z") })
        }
        ("GET", "/v1/status") => status(""),
        ("GET", "/v1/databases") => json!({ "databases": [database()], "total": 3 }),
        ("GET", "/v1/databases/orders") => database(),
        ("POST", "/v1/route") => return route(pki, proxy, body),
        ("GET", "/v1/documents/role") => json!({ "documents": [document("role", "dev")] }),
        ("GET", "/v1/documents/role/dev") => document("role", "dev"),
        ("PUT" | "DELETE", path) if path.starts_with("/v1/documents/") => {
            json!({ "outcome": "created", "revision": 7, "warnings": ["db_names is not enforced"] })
        }
        ("POST", "/v1/discover/run") => json!({ "add": [], "dry_run": body["dry_run"] }),
        ("POST", "/v1/rotation/run") => json!({
            "started": "2026-01-01T00:00:00.000Z", "finished": "2026-01-01T00:00:01.000Z", "complete": true,
            "dry_run": body["dry_run"], "users": {"found": 1},
            "take_over": [{"name": body["db_user"].as_str().unwrap_or("managed-app"), "reason": "tagged", "arn": "a"}]}),
        ("GET", "/v1/rotation/status")
        | ("POST", "/v1/rotation/pause" | "/v1/rotation/resume" | "/v1/rotation/lock") => json!({"users": [{
            "name": "managed-app", "arn": "arn:aws:elasticache:us-east-1:123456789012:user:managed-app",
            "state": "ready", "phase": "ready", "rotated_at": null, "proof": null, "due_at": null,
            "period_s": 900, "generation": 1, "paused": path.ends_with("pause"), "databases": ["orders"]}]}),
        ("GET", "/v1/discover/status") => json!({ "add": ["orders"] }),
        ("GET", "/v1/ca") => json!({ "certificates": [{
            "ca": "user", "generation": 1, "pin": "sha256:00", "certificate": "", "not_before": "2026-01-01T00:00:00Z",
            "not_after": "2036-01-01T00:00:00Z", "signing": true,
        }] }),
        ("POST", "/v1/ca/host-cert") => {
            json!({ "certificate": "CERT", "valid_until": "2099-01-01T00:00:00Z", "host_ca": "CA" })
        }
        _ => return refusal(404, "not_found", "no such thing"),
    };
    (200, answer.to_string())
}

fn route(pki: &Pki, proxy: &str, body: &Value) -> (u16, String) {
    match (body["database"].as_str().unwrap(), body["db_user"].as_str()) {
        ("orders", Some("iam-ro")) => {}
        ("orders", None) => {
            let error = json!({ "code": "ambiguous", "message": "several db users", "choices": ["iam-ro", "iam-rw"] });
            return (409, json!({ "error": error }).to_string());
        }
        ("orders", _) => return refusal(403, "denied", "alice may not"),
        _ => return refusal(404, "not_found", "no database of that name"),
    }
    let certificate = client_certificate(pki, body["public_key"].as_str().unwrap(), "route.test");
    let answer = json!({
        "certificate": certificate, "valid_until": "2099-01-01T00:00:00Z", "database": "orders", "db_user": "iam-ro",
        "engine": "valkey", "server_name": "orders.ks.test", "proxy_address": proxy, "host_ca": pki.host.pem(),
    });
    (200, answer.to_string())
}

fn refusal(status: u16, code: &str, message: &str) -> (u16, String) {
    let error = json!({ "code": code, "message": message, "why": "because", "rule": "dev/1", "next": ["keystile db ls"] });
    (status, json!({ "error": error }).to_string())
}

fn database() -> Value {
    json!({
        "name": "orders", "description": "", "kind": "elasticache", "engine": "valkey", "engine_version": "8.0",
        "endpoint_type": "primary", "uri": "rediss://orders:6379", "region": "us-east-1",
        "account_id": "123456789012", "labels": { "env": "prod" }, "db_users": ["iam-ro", "iam-rw"], "health": "ok",
    })
}

fn document(kind: &str, name: &str) -> Value {
    json!({
        "kind": kind, "version": "ks1", "metadata": { "name": name },
        "spec": { "allow": { "db_labels": { "env": "dev" }, "db_users": ["iam-ro"] } },
    })
}
