//! Certificates, the names in them, and who their holders are. Pure: no I/O, no clock; the CA's key is behind
//! [`signer::CaSigner`].
//!
//! Two CAs exist, `user` and `host`, each with its own key. A certificate of one never passes for the other:
//! the keys differ, the extended key usages differ, and the names in them differ.
//!
//! | certificate | names | usage |
//! | --- | --- | --- |
//! | client | `keystile://<deployment>/user/<name>`, maybe `…/route/<database>/<db user>` | `clientAuth` only |
//! | host | `keystile://<deployment>/proxy/<group>/<id>`, DNS names, addresses | `serverAuth` only |
//!
//! Whether a certificate is signed by a CA that is trusted is the TLS library's check; this crate reads what
//! a certificate says once that is done.

pub mod ca;
pub mod certificate;
pub mod client;
pub mod host;
pub mod key;
pub mod name;
pub mod public_key;
pub mod signer;

mod extract;

pub use extract::{Certificate, pin};
