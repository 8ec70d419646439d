//! What is counted of a group.

use portcullis_proto::types::metrics::{Counter, Family};
use portcullis_proto::{labels, metrics};

use super::engine::Fault;

labels! {
    /// Whether this node has a lease: `group_lease{state}`.
    pub enum LeaseState {
        /// It has, and others know that it lives.
        Held = "held",
        /// It has none: there is no group, or the engine is away, or the id is taken.
        Lost = "lost",
    }
}

labels! {
    /// How changes of what all nodes share ended that were made here: `group_changes_total{result}`.
    pub enum ChangeResult {
        /// All nodes have it.
        Applied = "applied",
        /// A node refused, or could not be asked: nobody has it.
        Refused = "refused",
        /// The engine did not answer.
        Unavailable = "unavailable",
    }
}

labels! {
    /// What became of a datagram of another node: `group_datagrams_received_total{result}`.
    pub enum Received {
        /// A record that arrived there, for a session here.
        Record = "record",
        /// An answer, for a peer whose records arrive here.
        Answer = "answer",
        /// A record or an answer that the worker had no room for.
        QueueFull = "queue_full",
        /// The buffer of the socket was full: the kernel dropped it unread.
        SocketFull = "socket_full",
        /// It is none, or of another release.
        Malformed = "malformed",
        /// Nobody who lives sends such: a node that is gone, one that is not known here yet, or no node.
        UnknownNode = "unknown_node",
        /// It does not open: it is forged, or damaged, or was for another process.
        NotAuthentic = "not_authentic",
        /// It was taken before, or is too old to tell.
        Replay = "replay",
        /// The socket could not be read for a moment.
        Failed = "failed",
    }
}

labels! {
    /// What became of keys of session tickets: `group_ticket_keys_total{result}`.
    pub enum TicketResult {
        /// This node drew them.
        Drawn = "drawn",
        /// Another node drew them, and this one uses them too.
        Taken = "taken",
        /// The engine did not have those in use, and has them again.
        GivenBack = "given_back",
        /// Those in the engine were not sealed with the key of the group, or are damaged.
        NotAuthentic = "not_authentic",
        /// Those in the engine are older than those that this node knows.
        RolledBack = "rolled_back",
        /// Those in the engine are dated more than an hour ahead.
        Ahead = "ahead",
    }
}

labels! {
    /// What came of a look for the session of a record: `group_lookups_total{result}`.
    pub enum LookUp {
        /// It was taken over.
        Taken = "taken",
        /// It is of a node that lives, and the record was handed to that.
        Forwarded = "forwarded",
        /// It is of a node that has a lease and is not known here yet.
        OwnerLives = "owner_lives",
        /// There is none.
        Unknown = "unknown",
        /// It was this node's and has ended.
        Own = "own",
        /// The record is forged, damaged, or older than what was taken of the session.
        NotAuthentic = "not_authentic",
        /// What stands there was not written with this key, or is damaged.
        Damaged = "damaged",
        /// It was looked for a moment ago.
        Asked = "asked",
        /// This node has no lease, or another server of the engine answers since less than two leases.
        Unsettled = "unsettled",
        /// Another node was faster.
        Lost = "lost",
        /// There is no room for it here, or nothing lets it in any more.
        Refused = "refused",
        /// The engine did not answer.
        Unavailable = "unavailable",
    }
}

metrics! {
    /// The numbers of a node's part in its group. All are 0 without one.
    pub struct GroupMetrics {
        /// Nodes of the group that live, this one among them.
        pub nodes: Counter = gauge "group_nodes" [],
        /// 1 while the engine of the group answers.
        pub connected: Counter = gauge "group_connected" [],
        /// The id of this node in its group, 1 to 65535; 0 while it has no lease.
        pub node: Counter = gauge "group_node_id" [],
        /// Whether this node has a lease, by state.
        pub lease: Family<LeaseState> = gauge "group_lease" [] by [state],
        /// Questions that the engine of the group did not answer.
        pub errors: Counter = counter "group_errors_total" [],
        /// The version of the configuration that the group has.
        pub version: Counter = gauge "group_config_version" [],
        /// The version of it that this node has in force.
        pub applied: Counter = gauge "group_config_applied_version" [],
        /// Parts of the shared configuration in which this node differs from its group.
        pub drift: Counter = gauge "group_config_drift" [],
        /// Changes of the shared configuration that were made at this node, by how they ended.
        pub changes: Family<ChangeResult> = counter "group_changes_total" [] by [result],
        /// Sets of keys of session tickets that were drawn, taken or refused, by what became of them.
        pub tickets: Family<TicketResult> = counter "group_ticket_keys_total" [] by [result],
        /// Records of kept state of this node that stand where the group sees them.
        pub rows: Counter = gauge "group_state_records" [],
        /// Writings of kept state that the engine did not answer; what they held is written once it does.
        pub write_failures: Counter = counter "group_state_failures_total" [],
        /// Sessions and connections of this node that another took over while this one was taken for dead.
        pub lost: Counter = counter "group_state_lost_total" [],
        /// Looks for the sessions of records of nodes that are gone, by what came of them.
        pub lookups: Family<LookUp> = counter "group_lookups_total" [] by [result],
        /// Datagrams of other nodes, by what became of them.
        pub datagrams: Family<Received> = counter "group_datagrams_received_total" [] by [result],
    }
}

impl GroupMetrics {
    /// What the engine answered; counted where it did not.
    pub(crate) fn counted<T>(&self, answer: Result<T, Fault>) -> Result<T, Fault> {
        if answer.is_err() {
            self.errors.inc();
        }
        answer
    }
}
