//! The command line: verbs, flags and their help. Decides nothing.

use std::path::PathBuf;

use clap::{
    Arg, ArgMatches, Args, Command, CommandFactory as _, FromArgMatches as _, Parser, Subcommand, ValueEnum,
    value_parser,
};

use keystile_model::database::{CacheAuth, Engine};

use crate::output::{Color, Format};

/// Identity-based access to ElastiCache and MemoryDB.
#[derive(Debug, Parser)]
#[command(name = "keystile", version, propagate_version = false, max_term_width = 100)]
#[command(subcommand_required = true, arg_required_else_help = true)]
#[command(after_help = "Exit codes: 0 ok, 1 failure, 2 usage, 3 not found, 4 sign in first, 5 denied, \
                        6 waiting for approval, 7 unreachable, 130 interrupted.")]
pub(crate) struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Sign in with your AWS identity
    Login(Login),
    /// Sign out: remove the certificate, the key and every route's credential
    Logout,
    /// Show who is signed in, with which roles, where and until when
    Status,
    /// Print the version
    Version,
    /// Print completions for a shell
    Completion {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Databases: list, connect, configure clients
    #[command(subcommand)]
    Db(Db),
    /// Local ends of routes, for clients that cannot present a certificate
    #[command(subcommand)]
    Proxy(Proxy),
    /// Users and the AWS identities that they sign in with
    #[command(subcommand)]
    Users(Users),
    /// Roles
    #[command(subcommand)]
    Roles(Roles),
    /// Locks: standing refusals
    #[command(subcommand)]
    Locks(Locks),
    /// Create or replace the documents of a YAML file
    Create {
        /// The file; - is standard input
        #[arg(short, long, value_name = "FILE")]
        file: PathBuf,
    },
    /// Print documents: role, user, arn_rule, matcher, db, lock, …
    Get {
        /// A kind, or one document
        #[arg(value_name = "KIND[/NAME]")]
        what: String,
    },
    /// Change a document in $VISUAL or $EDITOR, or replace it by a file
    Edit {
        /// The document
        #[arg(value_name = "KIND/NAME")]
        what: String,
        /// The new document, instead of an editor; - is standard input
        #[arg(short, long, value_name = "FILE")]
        file: Option<PathBuf>,
    },
    /// Remove a document
    Rm {
        /// The document
        #[arg(value_name = "KIND/NAME")]
        what: String,
    },
    /// Discovery of databases
    #[command(subcommand)]
    Discover(Discover),
    /// Rotation of managed db users' passwords
    #[command(subcommand)]
    Rotate(Rotate),
    /// The certificate authorities
    #[command(subcommand)]
    Ca(Ca),
    /// Helpers around AWS itself
    #[command(subcommand)]
    Aws(Aws),
}

/// `login`.
#[derive(Debug, Args)]
pub(crate) struct Login {
    /// The access function's URL; remembered
    #[arg(long)]
    pub(crate) url: Option<String>,
    /// Wanted life of the certificate, such as 8h or 30m
    #[arg(long, value_parser = span)]
    pub(crate) ttl: Option<keystile_model::role::Span>,
    /// The region of the access function; remembered. Its URL usually says it
    #[arg(long)]
    pub(crate) region: Option<String>,
}

/// `db`.
#[derive(Debug, Subcommand)]
pub(crate) enum Db {
    /// List the databases that you may reach
    Ls {
        /// Only those with these labels: env=prod,team!=ads
        #[arg(long, short, value_name = "K=V,…", value_delimiter = ',')]
        label: Vec<String>,
        /// Only those whose name, description or labels contain these words
        #[arg(long, value_name = "WORDS")]
        search: Option<String>,
    },
    /// Show one database
    Show {
        /// Its name or alias
        name: String,
    },
    /// Save a certificate for one route, for clients that read files
    Login(RouteArgs),
    /// Remove saved route certificates: those of one database, or all
    Logout {
        /// The database
        name: Option<String>,
    },
    /// Open a client, or run one command
    Connect {
        /// The route
        #[command(flatten)]
        route: RouteArgs,
        /// One command to run, behind --
        #[arg(last = true, value_name = "CMD ARGS")]
        command: Vec<String>,
    },
    /// Print shell lines that tell clients where the database is
    Env(RouteArgs),
    /// Print host, port and the paths of certificate, key and CA
    Config(RouteArgs),
    /// Write a static database down, or replace it
    Add(DbAdd),
    /// Say how a database is signed in to, over what its matcher says
    Set {
        /// Its name
        name: String,
        /// auto (as the db user says), pass-through, secret:NAME or none
        #[arg(long, value_parser = auth)]
        auth: CacheAuth,
    },
    /// Remove a static database
    Rm {
        /// Its name
        name: String,
    },
}

/// `db add`.
#[derive(Debug, Args)]
pub(crate) struct DbAdd {
    /// Its name
    pub(crate) name: String,
    /// redis or valkey
    #[arg(long, value_name = "redis|valkey", value_parser = engine)]
    pub(crate) protocol: Engine,
    /// rediss://host:port; always over TLS
    #[arg(long)]
    pub(crate) uri: String,
    /// PEM of the CA that signed its certificate; the public roots without it
    #[arg(long, value_name = "FILE")]
    pub(crate) ca: Option<PathBuf>,
    /// Its labels: env=dev,team=shop
    #[arg(long, value_name = "K=V,…", value_delimiter = ',')]
    pub(crate) labels: Vec<String>,
    /// pass-through, secret:NAME or none; without it sessions are refused
    #[arg(long, value_parser = auth)]
    pub(crate) auth: Option<CacheAuth>,
    /// A word for people
    #[arg(long, default_value = "")]
    pub(crate) description: String,
}

/// Which route.
#[derive(Debug, Args)]
pub(crate) struct RouteArgs {
    /// The database's name or alias
    pub(crate) name: String,
    /// The db user; without it the only one allowed, or the database's default
    #[arg(long, short = 'u')]
    pub(crate) db_user: Option<String>,
}

/// `proxy`.
#[derive(Debug, Subcommand)]
pub(crate) enum Proxy {
    /// Open a local end of one route, or print its files for a client that does its own TLS
    Db(ProxyDb),
}

/// `proxy db`.
#[derive(Debug, Args)]
pub(crate) struct ProxyDb {
    /// The route.
    #[command(flatten)]
    pub(crate) route: RouteArgs,
    /// Listen for plain connections and carry them to the proxy
    #[arg(long)]
    pub(crate) tunnel: bool,
    /// The port on 127.0.0.1; a free one without it
    #[arg(long, short, requires = "tunnel")]
    pub(crate) port: Option<u16>,
    /// Let every program of this machine in, without the tunnel's own password
    #[arg(long, requires = "tunnel")]
    pub(crate) no_password: bool,
    /// A Unix socket instead of a port
    #[arg(long, value_name = "PATH", requires = "tunnel", conflicts_with = "port")]
    pub(crate) unix: Option<PathBuf>,
}

/// `users`.
#[derive(Debug, Subcommand)]
pub(crate) enum Users {
    /// List users
    Ls,
    /// Create a user, or replace it
    Add {
        /// Its name
        name: String,
        /// Roles that it holds
        #[arg(long, value_delimiter = ',')]
        roles: Vec<String>,
        /// The trait db_users
        #[arg(long, value_delimiter = ',')]
        db_users: Vec<String>,
        /// The trait db_names
        #[arg(long, value_delimiter = ',')]
        db_names: Vec<String>,
    },
    /// Remove a user
    Rm {
        /// Its name
        name: String,
    },
    /// Let an IAM user or role sign in as a user
    MapArn {
        /// arn:aws:iam::ACCOUNT:user/NAME or arn:aws:iam::ACCOUNT:role/NAME
        arn: String,
        /// The user that it is
        #[arg(long)]
        user: String,
        /// The session's name is the person (roles of AWS single sign-on only)
        #[arg(long)]
        sso: bool,
        /// Pin the AWS unique id (AIDA…, AROA…)
        #[arg(long)]
        unique_id: Option<String>,
        /// The rule's name; the ARN without it
        #[arg(long)]
        name: Option<String>,
    },
}

/// `roles`.
#[derive(Debug, Subcommand)]
pub(crate) enum Roles {
    /// List roles
    Ls,
    /// Create a role, or replace it; use create -f for all that YAML can say
    Add(RoleAdd),
    /// Remove a role
    Rm {
        /// Its name
        name: String,
    },
}

/// `roles add`.
#[derive(Debug, Args)]
pub(crate) struct RoleAdd {
    /// Its name
    pub(crate) name: String,
    /// Databases by label: env=dev, or *=* for all
    #[arg(long, value_name = "K=V,…", value_delimiter = ',')]
    pub(crate) db_labels: Vec<String>,
    /// Db users
    #[arg(long, value_delimiter = ',')]
    pub(crate) db_users: Vec<String>,
    /// Commands, in ACL grammar: +@read,-keys
    #[arg(long, value_delimiter = ',', allow_hyphen_values = true)]
    pub(crate) db_commands: Vec<String>,
    /// Keys, in ACL grammar: ~app:*,%R~price:* (docs/ROLES.md)
    #[arg(long, value_delimiter = ',')]
    pub(crate) db_keys: Vec<String>,
    /// Channels, in ACL grammar: &news.*
    #[arg(long, value_delimiter = ',')]
    pub(crate) db_channels: Vec<String>,
    /// Longest life of a certificate, such as 8h
    #[arg(long, value_parser = span)]
    pub(crate) max_session_ttl: Option<keystile_model::role::Span>,
    /// A word for people
    #[arg(long, default_value = "")]
    pub(crate) description: String,
}

/// `locks`.
#[derive(Debug, Subcommand)]
pub(crate) enum Locks {
    /// List locks
    Ls,
    /// Lock a user, a role, a database or a db user; several must match together
    Add(LockAdd),
    /// Remove a lock
    Rm {
        /// Its name
        name: String,
    },
}

/// `locks add`.
#[derive(Debug, Args)]
#[group(id = "target", required = true, multiple = true, args = ["user", "role", "database", "db_user"])]
pub(crate) struct LockAdd {
    /// Its name; made up without it
    #[arg(long)]
    pub(crate) name: Option<String>,
    /// A user
    #[arg(long)]
    pub(crate) user: Option<String>,
    /// Whoever holds a role
    #[arg(long)]
    pub(crate) role: Option<String>,
    /// A database
    #[arg(long)]
    pub(crate) database: Option<String>,
    /// A db user
    #[arg(long)]
    pub(crate) db_user: Option<String>,
    /// What the refused person reads
    #[arg(long, default_value = "")]
    pub(crate) message: String,
    /// How long it holds, such as 2h; for ever without it
    #[arg(long, value_parser = span)]
    pub(crate) ttl: Option<keystile_model::role::Span>,
}

/// `discover`.
#[derive(Debug, Subcommand)]
pub(crate) enum Discover {
    /// Run discovery now and print its report
    Run {
        /// Print the plan and write nothing
        #[arg(long)]
        dry_run: bool,
        /// Plan with the matchers of this file instead of the stored ones
        #[arg(long, value_name = "FILE", requires = "dry_run")]
        matchers: Option<PathBuf>,
        /// Let this run remove more than a fifth of a scope: ACCOUNT/REGION/TYPE, as its alarm names it, or all
        #[arg(long, value_name = "SCOPE")]
        allow_removals: Vec<String>,
    },
    /// Print the last run's report
    Status,
}

/// `rotate`.
#[derive(Debug, Subcommand)]
pub(crate) enum Rotate {
    /// Look for managed db users and move each by one step now; later ticks finish what is queued
    Run {
        /// One db user, by name, id or ARN
        #[arg(long, short = 'u')]
        db_user: Option<String>,
        /// Its turn is due now; without a db user everybody's
        #[arg(long)]
        force: bool,
        /// Write nothing: name who would be taken over and what is queued
        #[arg(long)]
        dry_run: bool,
        /// Let more users than a fifth of a place lose their tag at once
        #[arg(long)]
        allow_removals: bool,
    },
    /// Show how managed db users stand
    Status {
        /// One db user, by name or ARN
        #[arg(long, short = 'u')]
        db_user: Option<String>,
    },
    /// Begin no new turn; what is under way is finished
    Pause {
        /// One db user; all without it
        #[arg(long, short = 'u')]
        db_user: Option<String>,
    },
    /// Begin turns again
    Resume {
        /// One db user; all without it
        #[arg(long, short = 'u')]
        db_user: Option<String>,
    },
    /// Break-glass for a leaked password: replace both passwords at once, cut sessions, refuse logins meanwhile
    Now {
        /// The db user, by name, id or ARN
        #[arg(long, short = 'u')]
        db_user: String,
        /// Needed, since sessions end: yes, lock it
        #[arg(long, required = true)]
        lock: bool,
    },
}

/// `ca`.
#[derive(Debug, Subcommand)]
pub(crate) enum Ca {
    /// Show the CAs and their pins
    Status,
    /// Issue a proxy's certificate
    HostCert {
        /// The proxy group
        #[arg(long)]
        group: String,
        /// The folder for cert.pem, key.pem and ca.pem
        #[arg(long, short, value_name = "DIR")]
        out: PathBuf,
        /// A further DNS name or address; may be repeated
        #[arg(long)]
        name: Vec<String>,
        /// The proxy's id within the group; a random one without it
        #[arg(long, default_value = "")]
        id: String,
        /// Wanted life, such as 30d
        #[arg(long, value_parser = span)]
        ttl: Option<keystile_model::role::Span>,
    },
}

/// `aws`.
#[derive(Debug, Subcommand)]
pub(crate) enum Aws {
    /// Print an IAM token of your own AWS credentials, for a direct connection
    Token {
        /// Which service
        #[arg(long)]
        service: Service,
        /// Replication group id, serverless cache name or MemoryDB cluster name
        #[arg(long)]
        cache: String,
        /// The db user
        #[arg(long)]
        user: String,
        /// The cache's region
        #[arg(long)]
        region: Option<String>,
    },
}

/// Services with IAM login.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Service {
    /// A replication group
    Elasticache,
    /// A serverless cache
    ElasticacheServerless,
    /// A MemoryDB cluster
    Memorydb,
}

/// Flags that every verb has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct OutputArgs {
    /// The form of data.
    pub(crate) format: Option<Format>,
    /// A file for it.
    pub(crate) out: Option<PathBuf>,
    /// Colours.
    pub(crate) color: Color,
}

/// The whole command, with the output flags on every verb.
pub(crate) fn command() -> Command {
    with_output(Cli::command(), false)
}

/// Reads a command line.
pub(crate) fn parse(
    args: impl IntoIterator<Item = std::ffi::OsString>,
) -> Result<(Cli, OutputArgs), clap::Error> {
    let matches = command().try_get_matches_from(args)?;
    let output = output_args(&matches);
    Ok((Cli::from_arg_matches(&matches)?, output))
}

/// `-f` is the document in `create` and `edit`, and `-o` a folder in `host-cert`; so these flags are put
/// on each verb rather than being global ones.
fn with_output(command: Command, document: bool) -> Command {
    let names: Vec<String> = command.get_subcommands().map(|sub| sub.get_name().to_owned()).collect();
    let has_out = command.get_arguments().any(|arg| arg.get_id() == "out");
    let mut command = command.arg(format_arg(document)).arg(color_arg());
    if !has_out {
        command = command.arg(out_arg());
    }
    for name in names {
        let document = matches!(name.as_str(), "create" | "edit");
        command = command.mut_subcommand(name, |sub| with_output(sub, document));
    }
    command
}

fn format_arg(document: bool) -> Arg {
    let arg = Arg::new("output_format")
        .long("format")
        .value_name("FORMAT")
        .value_parser(value_parser!(Format))
        .hide_possible_values(true)
        .help_heading("Output")
        .help("text, json or yaml");
    if document { arg } else { arg.short('f') }
}

fn out_arg() -> Arg {
    Arg::new("output_file")
        .long("out")
        .short('o')
        .value_name("FILE")
        .value_parser(value_parser!(PathBuf))
        .help_heading("Output")
        .help("Write data to a file (mode 0600)")
}

fn color_arg() -> Arg {
    Arg::new("output_color")
        .long("color")
        .value_name("WHEN")
        .value_parser(value_parser!(Color))
        .hide_possible_values(true)
        .help_heading("Output")
        .help("auto, always or never")
}

/// The flags as given; those nearest to the verb win.
fn output_args(matches: &ArgMatches) -> OutputArgs {
    let mut args = OutputArgs::default();
    let mut level = Some(matches);
    while let Some(matches) = level {
        if let Ok(Some(format)) = matches.try_get_one::<Format>("output_format") {
            args.format = Some(*format);
        }
        if let Ok(Some(file)) = matches.try_get_one::<PathBuf>("output_file") {
            args.out = Some(file.clone());
        }
        if let Ok(Some(color)) = matches.try_get_one::<Color>("output_color") {
            args.color = *color;
        }
        level = matches.subcommand().map(|(_, sub)| sub);
    }
    args
}

/// Whether a command line that could not be read asked for JSON: its error is then JSON too.
pub(crate) fn asks_for_json(args: &[std::ffi::OsString]) -> bool {
    let args: Vec<_> = args.iter().map(|arg| arg.to_string_lossy()).take_while(|arg| arg != "--").collect();
    args.iter().any(|arg| arg == "--format=json" || arg == "-fjson")
        || args.windows(2).any(
            |pair| matches!(pair, [flag, value] if (flag == "--format" || flag == "-f") && value == "json"),
        )
}

fn span(text: &str) -> Result<keystile_model::role::Span, String> {
    keystile_model::role::Span::parse(text)
}

fn auth(text: &str) -> Result<CacheAuth, String> {
    CacheAuth::try_from(text.to_owned())
}

fn engine(text: &str) -> Result<Engine, String> {
    [Engine::Redis, Engine::Valkey]
        .into_iter()
        .find(|engine| engine.as_str() == text)
        .ok_or_else(|| "use redis or valkey".to_owned())
}

#[cfg(test)]
mod tests;
