//! `ca status` and `ca host-cert`.

use keystile_api::{CaStatus, HostCertAnswer, HostCertRequest};
use secrecy::ExposeSecret as _;
use serde_json::json;

use crate::access::Access;
use crate::args::Ca;
use crate::context::{Context, wait};
use crate::failure::Failure;
use crate::home;
use crate::keys::Pair;
use crate::table;

/// Runs `ca …`.
pub(crate) fn run(context: &Context, verb: Ca) -> Result<(), Failure> {
    match verb {
        Ca::Status => status(context),
        Ca::HostCert { group, out, name, id, ttl } => {
            let pair = Pair::generate()?;
            let ttl_s = ttl.map(|ttl| ttl.seconds);
            let request = HostCertRequest { group, id, public_key: pair.public.clone(), names: name, ttl_s };
            let answer: HostCertAnswer =
                wait(async { Access::open(context).await?.post("/v1/ca/host-cert", &request).await })?;
            let out = std::path::absolute(&out).map_err(|error| {
                Failure::usage(format!("{} is no folder", out.display())).why(error.to_string())
            })?;
            let (cert, key, ca) = (out.join("cert.pem"), out.join("key.pem"), out.join("ca.pem"));
            home::write_private(&key, pair.private.expose_secret().as_bytes())?;
            home::write_private(&ca, answer.host_ca.as_bytes())?;
            home::write_private(&cert, answer.certificate.as_bytes())?;
            let value = json!({ "cert": cert, "key": key, "ca": ca, "valid_until": answer.valid_until });
            context.output.emit(&value, || {
                table::facts(&[
                    ("cert", cert.display().to_string()),
                    ("key", key.display().to_string()),
                    ("ca", ca.display().to_string()),
                    ("valid until", answer.valid_until.clone()),
                ])
            })
        }
    }
}

fn status(context: &Context) -> Result<(), Failure> {
    let status: CaStatus = wait(async { Access::open(context).await?.get("/v1/ca").await })?;
    context.output.emit(&status, || {
        let rows: Vec<Vec<String>> = status
            .certificates
            .iter()
            .map(|one| {
                let signing = if one.signing { "yes" } else { "no" };
                vec![
                    one.ca.clone(),
                    one.generation.to_string(),
                    signing.to_owned(),
                    one.not_before.clone(),
                    one.not_after.clone(),
                    one.pin.clone(),
                ]
            })
            .collect();
        let header = ["CA", "GENERATION", "SIGNING", "NOT BEFORE", "NOT AFTER", "PIN"];
        table::render(&header, &rows, context.output.bold)
    })
}
