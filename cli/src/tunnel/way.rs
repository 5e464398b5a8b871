//! The way to the proxy: the route's certificate, asked for again before it ends, and the dialling.

use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use time::OffsetDateTime;
use tokio::net::TcpStream;
use tokio::sync::Mutex;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::access::Access;
use crate::context::Context;
use crate::failure::{Failure, printable};
use crate::route::{Route, host_and_port};
use crate::session::moment;

/// Longest wait for a connection with its handshake.
const DIAL: Duration = Duration::from_secs(15);
/// A certificate is renewed when less than a tenth of its life is left, and at the latest this long before.
const LATEST: time::Duration = time::Duration::minutes(1);

/// The way to one route.
pub(crate) struct Way {
    context: Context,
    access: Access,
    database: String,
    db_user: String,
    open: Mutex<Open>,
}

/// The certificate of the moment, ready to dial with.
#[derive(Clone)]
struct Open {
    tls: Arc<ClientConfig>,
    name: ServerName<'static>,
    address: String,
    renew_at: OffsetDateTime,
    ends_at: OffsetDateTime,
}

impl Way {
    /// Asks for the route for the first time. The access function decides first.
    pub(crate) async fn open(
        context: Context,
        database: &str,
        db_user: Option<&str>,
    ) -> Result<Self, Failure> {
        let access = Access::open(&context).await?;
        let route = Route::ask(&context, &access, database, db_user).await?;
        let open = Open::of(&route, context.now())?;
        let (database, db_user) = (route.answer.database, route.answer.db_user);
        Ok(Self { context, access, database, db_user, open: Mutex::new(open) })
    }

    /// The database and the db user.
    pub(crate) fn names(&self) -> (&str, &str) {
        (&self.database, &self.db_user)
    }

    /// A TLS connection to the proxy.
    pub(crate) async fn dial(&self) -> Result<TlsStream<TcpStream>, Failure> {
        let open = self.current().await?;
        let dialled = tokio::time::timeout(DIAL, connect(&open)).await;
        let why = match dialled {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => printable(&error.to_string()),
            Err(_) => format!("no answer within {} s", DIAL.as_secs()),
        };
        Err(Failure::unreachable(format!("the proxy at {} is out of reach", open.address)).why(why))
    }

    /// One renewal at a time; while it fails the certificate is used to its end.
    async fn current(&self) -> Result<Open, Failure> {
        let mut open = self.open.lock().await;
        let now = self.context.now();
        if now < open.renew_at {
            return Ok(open.clone());
        }
        let asked = Route::ask(&self.context, &self.access, &self.database, Some(&self.db_user)).await;
        match asked.and_then(|route| Open::of(&route, now)) {
            Ok(renewed) => *open = renewed,
            // A denial counts at once; trouble on the way does not, while the certificate lives.
            Err(failure) if failure.exit == crate::failure::exit::DENIED || now >= open.ends_at => {
                return Err(failure);
            }
            Err(_) => {}
        }
        Ok(open.clone())
    }
}

impl Open {
    fn of(route: &Route, now: OffsetDateTime) -> Result<Self, Failure> {
        let (tls, name) = route.tls()?;
        let ends_at = moment(&route.answer.valid_until).ok_or_else(|| {
            Failure::failed("the access function gave a certificate without an end")
                .why(printable(&route.answer.valid_until))
        })?;
        let life: time::Duration = ends_at - now;
        let margin = std::cmp::max(life / 10_i32, LATEST);
        Ok(Self {
            tls,
            name,
            address: route.answer.proxy_address.clone(),
            renew_at: ends_at - margin,
            ends_at,
        })
    }
}

async fn connect(open: &Open) -> std::io::Result<TlsStream<TcpStream>> {
    let (host, port) =
        host_and_port(&open.address).map_err(|failure| std::io::Error::other(failure.message.clone()))?;
    let tcp = TcpStream::connect((host, port)).await?;
    tcp.set_nodelay(true)?;
    TlsConnector::from(Arc::clone(&open.tls)).connect(open.name.clone(), tcp).await
}
