//! The command line: what can be said.

use std::path::PathBuf;
use std::sync::LazyLock;

use clap::{Args, Parser, Subcommand, ValueEnum};

use super::remote::args::{
    BanCommand, ClientsCommand, ConfigCommand, DoctorArgs, DrainArgs, PubArgs, ReloadArgs, Remote,
    StatusArgs, SubArgs, TopArgs, TraceArgs,
};

pub(super) static VERSION: LazyLock<String> = LazyLock::new(|| {
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
    Reload(ReloadArgs),
    /// What the nodes of a group share
    #[command(subcommand)]
    Group(GroupCommand),
    /// The configuration of the running gateway
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Publish a message at the broker, past the devices
    Pub(PubArgs),
    /// Print the messages that come at the broker, the retained ones first
    Sub(SubArgs),
    /// Check whether this machine and the configuration suit each other
    Doctor(DoctorArgs),
    /// Collect what is needed to help with a fault into a tar archive, without secrets
    Bugreport(BugreportArgs),
    /// Publish and observe as many devices do, and measure
    Bench(BenchArgs),
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
pub(super) struct BugreportArgs {
    /// The archive to write; without it, portcullis-TIME.tar in this directory
    #[arg(short, long, value_name = "FILE")]
    pub(super) output: Option<PathBuf>,
    /// Configuration file of the gateway
    #[arg(short, long, value_name = "FILE")]
    pub(super) config: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(super) struct BenchArgs {
    /// coap://HOST:PORT or coaps://HOST:PORT; without it, a listener of the configuration on this machine
    pub(super) url: Option<String>,
    /// The DTLS listener of the configuration instead of that of UDP
    #[arg(long, conflicts_with = "url")]
    pub(super) dtls: bool,
    /// The listener, when the configuration has several
    #[arg(long, value_name = "NAME", conflicts_with = "url")]
    pub(super) listener: Option<String>,
    /// Devices that publish, each to a topic of its own
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u16).range(1..=20_000))]
    pub(super) clients: u16,
    /// Devices that observe what they publish, by turns
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u16).range(0..=20_000))]
    pub(super) observers: u16,
    /// How long, such as 30s or 5m
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = bench_duration)]
    pub(super) duration: std::time::Duration,
    /// Requests a second of all together; without it, each device sends as soon as the last is answered
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    pub(super) rate: Option<u32>,
    /// Bytes of a payload
    #[arg(long, value_name = "BYTES", default_value_t = 32, value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(16..=1024))]
    pub(super) payload: usize,
    /// Topics begin with this; the number of the device follows
    #[arg(long, value_name = "TOPIC", default_value = "bench")]
    pub(super) topic: String,
    /// QoS of publishes and observations
    #[arg(long, value_parser = clap::value_parser!(u8).range(0..=2))]
    pub(super) qos: Option<u8>,
    /// Publish without asking for an acknowledgement (NON)
    #[arg(long)]
    pub(super) non: bool,
    /// Make a connection for each device first, as `connection_required` wants it
    #[arg(long)]
    pub(super) connect: bool,
    /// User name of all devices
    #[arg(long, value_name = "NAME")]
    pub(super) username: Option<String>,
    /// File with their password on the first line
    #[arg(long, value_name = "FILE")]
    pub(super) password_file: Option<PathBuf>,
    /// PSK identity of all devices; without it, the first in the file of keys
    #[arg(long, value_name = "ID")]
    pub(super) identity: Option<String>,
    /// File of keys, lines identity:hexkey; without it, that of the listener
    #[arg(long, value_name = "FILE")]
    pub(super) key_file: Option<PathBuf>,
    /// Seconds after which a request counts as lost
    #[arg(long, value_name = "SECONDS", default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=300))]
    pub(super) timeout: u64,
    /// Configuration file
    #[arg(short, long, value_name = "FILE")]
    pub(super) config: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub(super) json: bool,
}

/// Longest run.
const LONGEST_BENCH: std::time::Duration = std::time::Duration::from_secs(86_400);

/// A duration, or a number of seconds.
fn bench_duration(text: &str) -> Result<std::time::Duration, String> {
    let time = match text.parse() {
        Ok(seconds) => std::time::Duration::from_secs(seconds),
        Err(_) => crate::config::quantity::parse_duration(text)?,
    };
    if time.is_zero() || time > LONGEST_BENCH {
        return Err("up to 24h".to_owned());
    }
    Ok(time)
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
    /// On a node of a group: change it for this node alone
    #[arg(long)]
    pub(super) local: bool,
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
        /// What else is known of the device, `${attr.NAME}`: a JSON object; without it what was known stays
        #[arg(long, value_name = "JSON")]
        attributes: Option<String>,
        #[command(flatten)]
        file: PskFile,
    },
    /// Say what is known of a device, `${attr.NAME}`, from its next handshake on; its keys stay
    Attributes {
        /// The device's PSK identity
        identity: String,
        /// A JSON object of texts, numbers and truth values, such as '{"site": "north"}'; '{}' takes all away
        #[arg(value_name = "JSON")]
        attributes: String,
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
    /// List the identities and what else is known of them; keys are never shown
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
    /// On a node of a group: change it for this node alone
    #[arg(long)]
    pub(super) local: bool,
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
        /// On a node of a group: change it for this node alone
        #[arg(long)]
        local: bool,
    },
    /// Remove a token
    Remove {
        /// Its name
        name: String,
        /// Configuration file of the gateway
        #[arg(short, long, value_name = "FILE")]
        config: Option<PathBuf>,
        /// On a node of a group: change it for this node alone
        #[arg(long)]
        local: bool,
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

#[derive(Debug, Subcommand)]
pub(super) enum GroupCommand {
    /// Show how all nodes are
    Status {
        #[command(flatten)]
        remote: Remote,
    },
    /// Give what was changed by hand on this node to all nodes: all of them have it then, or none
    Import {
        #[command(flatten)]
        remote: Remote,
    },
    /// Bring back what all nodes share, in the place of what was changed on this one
    Restore {
        #[command(flatten)]
        remote: Remote,
    },
}
