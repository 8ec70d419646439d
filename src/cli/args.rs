//! The command line: what can be said.

use std::path::PathBuf;
use std::sync::LazyLock;

use clap::{Args, Parser, Subcommand, ValueEnum};

use super::remote::args::{
    BanCommand, ClientsCommand, ConfigCommand, DoctorArgs, DrainArgs, PubArgs, StatusArgs, SubArgs, TopArgs,
    TraceArgs,
};

static VERSION: LazyLock<String> = LazyLock::new(|| {
    format!(
        "{}\nOpenSSL: built with {}{}, running with {}",
        env!("CARGO_PKG_VERSION"),
        env!("PORTCULLIS_OPENSSL_BUILD"),
        if cfg!(feature = "vendored") {
            " (vendored)"
        } else {
            ""
        },
        openssl::version::version()
    )
});

/// A DTLS-first CoAP gateway: CoAP and CoAPs in front, any MQTT broker behind
#[derive(Debug, Parser)]
#[command(name = "portcullis", version = VERSION.as_str(), subcommand_required = true, arg_required_else_help = true)]
pub(super) struct Cli {
    #[command(subcommand)]
    pub(super) command: Command,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Serve; without --config on loopback, with a key and certificates made at the first start
    Run(RunArgs),
    /// Check a configuration file and the files it names
    CheckConfig(CheckArgs),
    /// Pre-shared keys of devices
    #[command(subcommand)]
    Psk(PskCommand),
    /// Users of the `file` authentication backend
    #[command(subcommand)]
    User(UserCommand),
    /// Access rules
    #[command(subcommand)]
    Acl(AclCommand),
    /// Tokens of the HTTP API and the dashboard
    #[command(subcommand)]
    Token(TokenCommand),
    /// Certificates
    #[command(subcommand)]
    Certs(CertsCommand),
    /// Who is kept out of the running gateway, at once and over restarts
    #[command(subcommand)]
    Ban(BanCommand),
    /// Clients of the running gateway
    #[command(subcommand)]
    Clients(ClientsCommand),
    /// Say goodbye to every device and end the running gateway
    Drain(DrainArgs),
    /// Show how the running gateway is
    Status(StatusArgs),
    /// Follow the running gateway's rates and latencies
    Top(TopArgs),
    /// Follow what one device sends and gets, decoded, with secrets masked
    Trace(TraceArgs),
    /// Have the running gateway read its configuration and files again
    Reload(StatusArgs),
    /// The configuration of the running gateway
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Publish a message at the broker, past the devices
    Pub(PubArgs),
    /// Print the messages that come at the broker, the retained ones first
    Sub(SubArgs),
    /// Check whether this machine and the configuration suit each other
    Doctor(DoctorArgs),
    /// Make a configuration of that of EMQX's CoAP gateway, and say what has no counterpart
    Migrate(MigrateArgs),
    /// Print the completion script of a shell
    Completions {
        /// Which shell
        shell: clap_complete::Shell,
    },
    /// Print the manual page, or write all manual pages into a directory
    Man {
        /// Directory to write them into
        #[arg(long, value_name = "DIR")]
        dir: Option<PathBuf>,
    },
}

#[derive(Debug, Args)]
pub(super) struct RunArgs {
    /// Configuration file
    #[arg(short, long, value_name = "FILE")]
    pub(super) config: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(super) struct CheckArgs {
    /// Configuration file
    #[arg(short, long, value_name = "FILE", default_value = crate::config::DEFAULT_FILE)]
    pub(super) config: PathBuf,
    /// Print the problems as JSON
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Debug, Args)]
pub(super) struct MigrateArgs {
    /// emqx.conf; of several files, such as cluster.hocon before it, the last that has a key decides
    #[arg(value_name = "FILE", required = true)]
    pub(super) files: Vec<PathBuf>,
    /// Write the configuration to this file, and what it names beside it; without it, to standard output
    #[arg(short, long, value_name = "FILE", conflicts_with = "dir")]
    pub(super) output: Option<PathBuf>,
    /// Directory for keys, certificates and passwords when the configuration goes to standard output
    #[arg(long, value_name = "DIR")]
    pub(super) dir: Option<PathBuf>,
    /// The broker to publish at, such as mqtt://127.0.0.1:1883; without it, the embedded one
    #[arg(long, value_name = "URL")]
    pub(super) broker: Option<String>,
    /// Overwrite what is there
    #[arg(long)]
    pub(super) force: bool,
}

/// What is imported.
#[derive(Debug, Args)]
pub(super) struct ImportArgs {
    /// The file; - is standard input
    #[arg(value_name = "FILE")]
    pub(super) input: PathBuf,
    /// Its form; without this it is known by its name, else by its first line
    #[arg(long, value_enum)]
    pub(super) format: Option<Columns>,
    /// Replace those that are there
    #[arg(long)]
    pub(super) replace: bool,
}

/// The form of what is imported.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Columns {
    /// Columns, which the first line names
    Csv,
    /// A list of objects
    Json,
    /// Lines identity:secret (keys only)
    Lines,
}

/// How hashes were made that do not tell it.
#[derive(Debug, Args)]
pub(super) struct HashArgs {
    /// The algorithm of hashes that do not begin with $
    #[arg(long, value_enum)]
    pub(super) algorithm: Option<HashName>,
    /// Where the salt stood when it was hashed with the password
    #[arg(long, value_enum, default_value = "prefix")]
    pub(super) salt_position: SaltPosition,
    /// Iterations of PBKDF2
    #[arg(long, value_name = "N", default_value_t = 4096, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    pub(super) iterations: u32,
}

/// An algorithm of password hashes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum HashName {
    /// SHA-256
    Sha256,
    /// SHA-512
    Sha512,
    /// SHA-1, taken with `legacy_hashes` only
    Sha,
    /// MD5, taken with `legacy_hashes` only
    Md5,
    /// PBKDF2 with SHA-256
    Pbkdf2Sha256,
    /// PBKDF2 with SHA-512
    Pbkdf2Sha512,
}

/// Where a salt stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum SaltPosition {
    /// Before the password
    Prefix,
    /// After it
    Suffix,
    /// There is none
    Disable,
}

/// Where the keys are.
#[derive(Debug, Args)]
pub(super) struct PskFile {
    /// Configuration file whose DTLS listener names the file of keys
    #[arg(short, long, value_name = "FILE", conflicts_with = "psk_file")]
    pub(super) config: Option<PathBuf>,
    /// The listener, when several have files of keys
    #[arg(long, value_name = "NAME", requires = "config")]
    pub(super) listener: Option<String>,
    /// File of keys, lines identity:hexkey
    #[arg(long, value_name = "FILE")]
    pub(super) psk_file: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub(super) enum PskCommand {
    /// Make a key for a device and print how to try it
    Add {
        /// The device's PSK identity: printable text, or `hex:` and two digits for each byte
        identity: String,
        /// Read the key, in hexadecimal digits, from standard input instead of making one
        #[arg(long)]
        key_stdin: bool,
        /// Replace the key of an identity that is there
        #[arg(long)]
        replace: bool,
        /// Give an identity that has a key a second one: both count, until `psk remove --older` when the device has the new one
        #[arg(long, conflicts_with = "replace")]
        another: bool,
        #[command(flatten)]
        file: PskFile,
    },
    /// Remove a device's keys
    Remove {
        /// The device's PSK identity
        identity: String,
        /// Remove only the older of its two keys
        #[arg(long)]
        older: bool,
        #[command(flatten)]
        file: PskFile,
    },
    /// Add many keys at once, all of them or none: from CSV or JSON (`identity` with `key` in hexadecimal digits, or `secret` in
    /// characters), or from lines identity:secret
    Import {
        #[command(flatten)]
        input: ImportArgs,
        #[command(flatten)]
        file: PskFile,
    },
    /// List the identities; keys are never shown
    List {
        /// Print JSON
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        file: PskFile,
    },
}

/// Where the users are.
#[derive(Debug, Args)]
pub(super) struct UsersFile {
    /// Configuration file that names the file of users
    #[arg(short, long, value_name = "FILE", conflicts_with = "users_file")]
    pub(super) config: Option<PathBuf>,
    /// The listener, when several have files of users
    #[arg(long, value_name = "NAME", conflicts_with = "users_file")]
    pub(super) listener: Option<String>,
    /// File of users, lines user:hash
    #[arg(long, value_name = "FILE")]
    pub(super) users_file: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub(super) enum UserCommand {
    /// Add a user; the password is asked for, or read from standard input when that is no terminal
    Add {
        /// The user's name
        name: String,
        /// Replace the password of a user that is there
        #[arg(long)]
        replace: bool,
        #[command(flatten)]
        file: UsersFile,
    },
    /// Remove a user
    Remove {
        /// The user's name
        name: String,
        #[command(flatten)]
        file: UsersFile,
    },
    /// Add many users at once, all of them or none: from CSV or JSON with `user_id` and `password_hash`, `salt`, `is_superuser`, as other
    /// gateways write them, or `password`
    Import {
        #[command(flatten)]
        input: ImportArgs,
        #[command(flatten)]
        hashes: HashArgs,
        #[command(flatten)]
        file: UsersFile,
    },
    /// List the users and how their passwords are hashed
    List {
        /// Print JSON
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        file: UsersFile,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum TokenCommand {
    /// Make a token and print it, this once; its hash is kept
    Add {
        /// What it is called in listings and in the audit log
        name: String,
        /// What its holder may do
        #[arg(long, value_parser = ["admin", "readonly"], default_value = "readonly")]
        role: String,
        /// After how long it stops to count, such as 90d or 12h; without it, never
        #[arg(long, value_name = "DURATION")]
        expires: Option<String>,
        /// Configuration file of the gateway
        #[arg(short, long, value_name = "FILE")]
        config: Option<PathBuf>,
    },
    /// Remove a token
    Remove {
        /// Its name
        name: String,
        /// Configuration file of the gateway
        #[arg(short, long, value_name = "FILE")]
        config: Option<PathBuf>,
    },
    /// List the tokens, their roles and ends; what their holders send is not known
    List {
        /// Print JSON
        #[arg(long)]
        json: bool,
        /// Configuration file of the gateway
        #[arg(short, long, value_name = "FILE")]
        config: Option<PathBuf>,
    },
}

/// Where the access rules are.
#[derive(Debug, Args)]
pub(super) struct AclFile {
    /// Configuration file that names the access rules
    #[arg(short, long, value_name = "FILE", conflicts_with = "acl_file")]
    pub(super) config: Option<PathBuf>,
    /// File of access rules
    #[arg(long, value_name = "FILE")]
    pub(super) acl_file: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub(super) enum AclCommand {
    /// Say whether a user may do something, and which line decides
    Check {
        /// The user name; "-" for a client without one
        user: String,
        /// publish (or write), subscribe, receive (or read)
        action: String,
        /// The topic, or for subscribe the filter; without the mountpoint
        topic: String,
        /// The client id, for %c
        #[arg(long, value_name = "ID")]
        client: Option<String>,
        /// The identity that DTLS proved, for %i
        #[arg(long, value_name = "NAME")]
        identity: Option<String>,
        /// Print JSON
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        file: AclFile,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum CertsCommand {
    /// Make a development CA with a server and a client certificate; not for production
    Dev {
        /// Directory to write them into
        #[arg(long, value_name = "DIR", default_value = "certs")]
        dir: PathBuf,
        /// Another host name or address of the server; may be repeated
        #[arg(long, value_name = "NAME")]
        host: Vec<String>,
        /// Common name of the client certificate
        #[arg(long, value_name = "NAME", default_value = "device-1")]
        client: String,
        /// Days until they expire
        #[arg(long, default_value_t = 365, value_parser = clap::value_parser!(u32).range(1..=3650))]
        days: u32,
        /// Overwrite what is there
        #[arg(long)]
        force: bool,
    },
}
