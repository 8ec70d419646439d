//! What can be said to the running gateway.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

/// Where the gateway's management interface is, and how to print what it says.
#[derive(Debug, Args)]
pub(in crate::cli) struct Remote {
    /// Address of the management interface, such as http://127.0.0.1:8683; without it, that of the configuration
    #[arg(long, value_name = "URL")]
    pub(super) url: Option<String>,
    /// File with the token; without it, admin.token_file of the configuration
    #[arg(long, value_name = "FILE")]
    pub(super) token_file: Option<PathBuf>,
    /// File with the certificates that https is trusted by; without it, the system's
    #[arg(long, value_name = "FILE", requires = "url")]
    pub(super) ca_file: Option<PathBuf>,
    /// Configuration file of the gateway
    #[arg(short, long, value_name = "FILE")]
    pub(super) config: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub(in crate::cli) json: bool,
}

/// Which clients a command is about; all when nothing is said.
#[derive(Debug, Args)]
pub(in crate::cli) struct Which {
    /// Only client ids with this in them
    #[arg(long, value_name = "TEXT")]
    pub(super) like: Option<String>,
    /// Only this user name
    #[arg(long, value_name = "NAME")]
    pub(super) username: Option<String>,
    /// Only this listener
    #[arg(long, value_name = "NAME")]
    pub(super) listener: Option<String>,
    /// Only udp, dtls, tcp or tls
    #[arg(long, value_parser = ["udp", "dtls"])]
    pub(super) transport: Option<String>,
}

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum ClientsCommand {
    /// List the clients
    List {
        #[command(flatten)]
        which: Which,
        /// At most so many
        #[arg(long, value_name = "N")]
        limit: Option<usize>,
        #[command(flatten)]
        remote: Remote,
    },
    /// Show one client with its observations
    Show {
        /// Its client id
        client: String,
        #[command(flatten)]
        remote: Remote,
    },
    /// End a client's connection and DTLS session
    Kick {
        /// Its client id
        client: String,
        #[command(flatten)]
        remote: Remote,
    },
    /// Print what happens to clients as it happens: who comes, goes, moves, fails and is refused
    Watch {
        /// Only this client id or DTLS identity
        #[arg(long, value_name = "ID")]
        client: Option<String>,
        /// Only this listener
        #[arg(long, value_name = "NAME")]
        listener: Option<String>,
        /// Only events of these kinds, such as connected,disconnected
        #[arg(long, value_name = "KINDS")]
        kind: Option<String>,
        /// Begin with so many of the last 1000 events
        #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u16).range(0..=1000))]
        last: u16,
        #[command(flatten)]
        remote: Remote,
    },
}

/// What somebody is kept out by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(in crate::cli) enum BanKindWord {
    /// A client id, from wherever it comes
    Clientid,
    /// The PSK identity, or name of a certificate or raw key, that a handshake proves
    Identity,
    /// An address, or a network such as 192.0.2.0/24
    Address,
}

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum BanCommand {
    /// Keep somebody out from now on; their connections, sessions and observations end
    Add {
        /// What they are kept out by
        kind: BanKindWord,
        /// The client id, identity, address or network
        value: String,
        /// How long, such as 2h or 30m; without it and --until, for good
        #[arg(long = "for", value_name = "DURATION", conflicts_with = "until")]
        lasts: Option<String>,
        /// Until when, such as 2027-01-31T00:00:00Z
        #[arg(long, value_name = "TIME")]
        until: Option<String>,
        /// Why, for those who list it
        #[arg(long, value_name = "TEXT", default_value = "")]
        reason: String,
        /// On a node of a group: keep them out of this node alone
        #[arg(long)]
        local: bool,
        #[command(flatten)]
        remote: Remote,
    },
    /// Let somebody in again
    Remove {
        /// What they are kept out by
        kind: BanKindWord,
        /// The client id, identity, address or network
        value: String,
        /// On a node of a group: let them into this node alone
        #[arg(long)]
        local: bool,
        #[command(flatten)]
        remote: Remote,
    },
    /// List who is kept out, until when and why
    List {
        #[command(flatten)]
        remote: Remote,
    },
}

#[derive(Debug, Args)]
pub(in crate::cli) struct DrainArgs {
    #[command(flatten)]
    pub(super) remote: Remote,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct StatusArgs {
    #[command(flatten)]
    pub(super) remote: Remote,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct ReloadArgs {
    /// On a node of a group: keep what was changed by hand for this node alone
    #[arg(long)]
    pub(super) local: bool,
    #[command(flatten)]
    pub(super) remote: Remote,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct TopArgs {
    /// Seconds between two looks
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub(super) interval: u64,
    /// Look twice, print once and end
    #[arg(long)]
    pub(super) once: bool,
    #[command(flatten)]
    pub(super) remote: Remote,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct TraceArgs {
    /// The device: its client id, user name or DTLS identity, or an address with or without port
    #[arg(value_name = "CLIENT|IDENTITY")]
    pub(super) target: String,
    /// End after so many seconds; without it, at Ctrl-C
    #[arg(long = "for", value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub(super) seconds: Option<u64>,
    /// How many bytes of each payload to show
    #[arg(long, value_name = "BYTES", default_value_t = 64, value_parser = payload)]
    pub(super) payload: usize,
    /// Show no payloads, only their lengths
    #[arg(long, conflicts_with = "payload")]
    pub(super) no_payload: bool,
    #[command(flatten)]
    pub(super) remote: Remote,
}

fn payload(text: &str) -> Result<usize, String> {
    use crate::gateway::trace::MAX_PREVIEW;
    text.parse()
        .ok()
        .filter(|bytes| *bytes <= MAX_PREVIEW)
        .ok_or_else(|| format!("0 to {MAX_PREVIEW}"))
}

#[derive(Debug, Args)]
pub(in crate::cli) struct DoctorArgs {
    /// Configuration file; without it the installed one, else the quick start's
    #[arg(short, long, value_name = "FILE")]
    pub(in crate::cli) config: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub(in crate::cli) json: bool,
}

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum ConfigCommand {
    /// Show every key with its value in force, and where that comes from
    Show {
        /// Only keys that differ from their defaults
        #[arg(long)]
        changed: bool,
        #[command(flatten)]
        remote: Remote,
    },
}

#[derive(Debug, Args)]
pub(in crate::cli) struct PubArgs {
    /// The topic at the broker: with the mountpoint, where listeners have one
    pub(super) topic: String,
    /// The payload as text; without it, standard input
    pub(super) payload: Option<String>,
    /// 0, 1 or 2
    #[arg(short, long, default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=2))]
    pub(super) qos: u8,
    /// Retain it; an empty payload clears what is retained
    #[arg(short, long)]
    pub(super) retain: bool,
    /// Its media type
    #[arg(long, value_name = "TYPE")]
    pub(super) content_type: Option<String>,
    /// After how many seconds it is worthless
    #[arg(long, value_name = "SECONDS")]
    pub(super) expiry: Option<u32>,
    #[command(flatten)]
    pub(super) remote: Remote,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct SubArgs {
    /// The topic filter at the broker
    pub(super) filter: String,
    /// The highest QoS to get messages with
    #[arg(short, long, default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=2))]
    pub(super) qos: u8,
    /// End after so many messages
    #[arg(long, value_name = "N")]
    pub(super) count: Option<u64>,
    /// End after so many seconds; without it, at Ctrl-C
    #[arg(long = "for", value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub(super) seconds: Option<u64>,
    #[command(flatten)]
    pub(super) remote: Remote,
}
