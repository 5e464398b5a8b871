//! A Valkey module that plays the IAM login of ElastiCache and MemoryDB.
//!
//! It owns the answer to `AUTH` and `HELLO … AUTH` for the users that are told to be IAM users, the
//! refusal of both inside MULTI, and the end of an IAM connection's life. Everything else (passwords,
//! access strings, commands) is left to the server. Whatever is wrong with a token, the client gets one
//! and the same WRONGPASS, as on AWS; the reason goes to the server's log.
//!
//! ```text
//! loadmodule libkeystile_valkey_iam.so service elasticache name orders region us-east-1
//!     account 123456789012 serverless no keys-file keys.json users-file users.json life-ms 43200000
//! ```

mod gate;
mod keys;
mod lives;
mod server;
mod settings;
mod token;
mod watched;
