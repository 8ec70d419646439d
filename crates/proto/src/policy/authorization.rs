//! What a client may publish to, subscribe to and be sent: the ACL file and the ACL of its own credential together.

use std::fmt;
use std::sync::Arc;

use crate::labels;
use crate::types::message::Qos;
use crate::types::metrics::{Descriptor, Family, LabelPair, Metric, Samples, with};

use crate::types::topic::{EVENTS_PREFIX, is_of_gateway};

use super::acl::Acl;
use super::extra_acl::ExtraAcl;
use super::pattern::Subject;

labels! {
    /// What a client wants: `authorizations_total{action}`.
    pub enum Action {
        /// Publish to a topic, or clear its retained message.
        Publish = "publish",
        /// Subscribe to a topic filter.
        Subscribe = "subscribe",
        /// Be sent the message of a topic: a notification, or the retained message.
        Receive = "receive",
        /// Create a topic in the collection, change it, or delete it.
        Create = "create",
    }
}

impl Action {
    /// The action of a word on a command line: its label, or mosquitto's `write` and `read`.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        match word {
            "publish" | "write" => Some(Self::Publish),
            "subscribe" => Some(Self::Subscribe),
            "receive" | "read" => Some(Self::Receive),
            "create" => Some(Self::Create),
            _ => None,
        }
    }
}

/// One question: may this be done to this topic?
#[derive(Debug, Clone, Copy)]
pub struct Access<'a> {
    /// What is wanted.
    pub action: Action,
    /// The topic name, or for [`Action::Subscribe`] the filter; as the client names it, without the mountpoint.
    pub topic: &'a str,
    /// The QoS of the publish or subscription, where rules of a credential ask for it.
    pub qos: Qos,
    /// Whether the publish is retained.
    pub retain: bool,
}

impl<'a> Access<'a> {
    /// A question about a topic alone: QoS 0, not retained.
    #[must_use]
    pub const fn new(action: Action, topic: &'a str) -> Self {
        Self {
            action,
            topic,
            qos: Qos::AtMostOnce,
            retain: false,
        }
    }
}

labels! {
    /// What decided.
    pub enum Reason {
        /// A line of the ACL file.
        Rule = "rule",
        /// A rule that came with the credential.
        Credential = "credential",
        /// No rule speaks of it: `no_match`.
        NoMatch = "no_match",
        /// The file has patterns, and the user name or client id holds a wildcard, or a name that a pattern needs
        /// is empty or holds `/`.
        UnsafeName = "unsafe_name",
        /// The client is a superuser.
        Superuser = "superuser",
        /// There is no ACL at all.
        Open = "open",
        /// It is what the gateway tells of its clients, which needs a rule of its own.
        Unshared = "unshared",
    }
}

/// The answer to an [`Access`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decision {
    /// Whether it may be done.
    pub allowed: bool,
    /// What decided.
    pub reason: Reason,
    /// The line of the ACL file (from 1), or the rule of the credential (from 1), that decided.
    pub line: Option<usize>,
}

impl Decision {
    pub(super) const fn by(allowed: bool, reason: Reason, line: Option<usize>) -> Self {
        Self {
            allowed,
            reason,
            line,
        }
    }
}

impl fmt::Display for Decision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.allowed { "allowed" } else { "denied" })?;
        match (self.reason, self.line) {
            (Reason::Rule, Some(line)) => write!(f, " by line {line} of the ACL file"),
            (Reason::Credential, Some(line)) => write!(f, " by rule {line} of the credential's ACL"),
            (Reason::UnsafeName, _) => f.write_str(
                ": a user name, client id or identity with +, # or / cannot be used with patterns",
            ),
            (Reason::Superuser, _) => f.write_str(": the client is a superuser"),
            (Reason::Open, _) => f.write_str(": there is no ACL"),
            (Reason::Unshared, _) => {
                f.write_str(": what the gateway tells of its clients is for those whom a rule names")
            }
            _ => f.write_str(": no line matches (no_match)"),
        }
    }
}

/// What holds where no rule matches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum NoMatch {
    /// It is denied.
    #[default]
    Deny,
    /// It is allowed.
    Allow,
}

/// The rules in force: one for all workers, replaced as a whole at a reload.
#[derive(Debug, Clone, Default)]
pub struct Authorizer {
    acl: Option<Arc<Acl>>,
    no_match: NoMatch,
    events_prefix: Option<Arc<str>>,
}

impl Authorizer {
    /// Rules from an ACL file; without one everything is allowed to a client whose credential brought no ACL.
    #[must_use]
    pub fn new(acl: Option<Arc<Acl>>, no_match: NoMatch) -> Self {
        Self {
            acl,
            no_match,
            events_prefix: None,
        }
    }

    /// The same, where the gateway's own topics begin with `prefix`.
    #[must_use]
    pub fn with_events_prefix(self, prefix: &str) -> Self {
        Self {
            events_prefix: Some(prefix.into()),
            ..self
        }
    }

    /// What the gateway's own topics begin with.
    #[must_use]
    pub fn events_prefix(&self) -> &str {
        self.events_prefix.as_deref().unwrap_or(EVENTS_PREFIX)
    }

    /// Whether a topic or filter is about what the gateway tells of its clients, which no default opens.
    #[must_use]
    pub(crate) fn is_of_gateway(&self, text: &str) -> bool {
        is_of_gateway(text, self.events_prefix())
    }

    /// Whether some client may be refused something by the file, so that each message must be asked about.
    #[must_use]
    pub(crate) fn has_file(&self) -> bool {
        self.acl.is_some()
    }

    /// Decides. `superuser` and `credential` are what the authentication answered for this client. The credential's
    /// own rules come first; where they say nothing the file decides. What the gateway tells of its clients no default opens.
    #[must_use]
    pub fn check(
        &self,
        who: &Subject<'_>,
        superuser: bool,
        credential: Option<&ExtraAcl>,
        access: &Access<'_>,
    ) -> Decision {
        if superuser {
            return Decision::by(true, Reason::Superuser, None);
        }
        if let Some(decision) = credential.and_then(|acl| acl.check(who, access)) {
            return decision;
        }
        let decision = match (&self.acl, credential) {
            (Some(acl), _) => acl.check(who, access.action, access.topic),
            (None, Some(_)) => Decision::by(false, Reason::NoMatch, None),
            (None, None) => Decision::by(true, Reason::Open, None),
        };
        let by_default = matches!(decision.reason, Reason::Open | Reason::NoMatch);
        if by_default && self.is_of_gateway(access.topic) {
            return Decision::by(false, Reason::Unshared, None);
        }
        if decision.reason == Reason::NoMatch && self.no_match == NoMatch::Allow {
            return Decision::by(true, Reason::NoMatch, None);
        }
        decision
    }
}

/// `authorizations_total{action,result}` of one worker.
#[derive(Debug, Default)]
pub struct AuthorizationMetrics {
    /// Result `allowed`.
    pub allowed: Family<Action>,
    /// Result `denied`.
    pub denied: Family<Action>,
}

impl AuthorizationMetrics {
    /// Counts one decision.
    pub fn count(&self, action: Action, decision: &Decision) {
        if decision.allowed {
            self.allowed.inc(action);
        } else {
            self.denied.inc(action);
        }
    }
}

/// By action and result.
impl Metric for AuthorizationMetrics {
    fn show(&self, family: Descriptor, labels: &[LabelPair<'_>], by: &[&'static str], out: &mut dyn Samples) {
        for (result, counts) in [("allowed", &self.allowed), ("denied", &self.denied)] {
            for (action, value) in counts.iter() {
                out.number(family, &with(labels, by, &[action, result]), value as f64);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn authorizer(file: &str, no_match: NoMatch) -> Authorizer {
        Authorizer::new(Some(Arc::new(Acl::parse(file).unwrap())), no_match)
    }

    const ANN: Subject<'_> = Subject {
        user: Some("ann"),
        client: Some("c1"),
        identity: None,
        attributes: None,
    };

    #[test]
    fn without_any_acl_everything_is_open_and_with_a_credentials_acl_the_rest_is_closed() {
        let access = Access::new(Action::Publish, "x");
        let open = Authorizer::default();
        assert!(open.check(&ANN, false, None, &access).allowed);
        let own = ExtraAcl::from_json(&serde_json::json!({"pub": ["y"]})).unwrap();
        assert!(!open.check(&ANN, false, Some(&own), &access).allowed);
        assert!(
            open.check(&ANN, false, Some(&own), &Access::new(Action::Publish, "y"))
                .allowed
        );
    }

    #[test]
    fn a_credentials_rule_comes_before_the_file_and_the_file_decides_the_rest() {
        let rules = authorizer("user ann\ntopic a/#\ntopic deny b", NoMatch::Deny);
        let own = ExtraAcl::from_json(&serde_json::json!([
            {"permission": "deny", "action": "publish", "topic": "a/x"},
            {"permission": "allow", "action": "all", "topic": "b"},
        ]))
        .unwrap();
        let check = |topic| rules.check(&ANN, false, Some(&own), &Access::new(Action::Publish, topic));
        assert_eq!(check("a/x"), Decision::by(false, Reason::Credential, Some(1)));
        assert_eq!(check("b"), Decision::by(true, Reason::Credential, Some(2)));
        assert_eq!(check("a/y"), Decision::by(true, Reason::Rule, Some(2)));
        assert_eq!(check("z"), Decision::by(false, Reason::NoMatch, None));
    }

    #[test]
    fn superusers_pass_and_no_match_may_allow_what_no_line_denies() {
        let rules = authorizer("user ann\ntopic deny b\npattern deny p/%c", NoMatch::Allow);
        let check = |superuser, topic| {
            rules
                .check(&ANN, superuser, None, &Access::new(Action::Receive, topic))
                .allowed
        };
        assert!(check(true, "b"));
        assert!(!check(false, "b"));
        assert!(!check(false, "p/c1"));
        assert!(check(false, "p/c2"));
        let odd = Subject {
            client: Some("#"),
            ..ANN
        };
        assert!(
            !rules
                .check(&odd, false, None, &Access::new(Action::Receive, "p/c1"))
                .allowed
        );
    }

    #[test]
    fn what_the_gateway_tells_of_its_clients_is_for_whom_a_rule_names() {
        let rules = authorizer(
            "topic readwrite #\nuser ann\ntopic read $portcullis/#",
            NoMatch::Allow,
        );
        let open = Authorizer::default();
        let stranger = Subject::default();
        for topic in [
            "$portcullis/#",
            "$portcullis/n/clients/+/connected",
            "$portcullis",
            "$share/g/$portcullis/#",
        ] {
            let access = Access::new(Action::Subscribe, topic);
            for who in [&ANN, &stranger] {
                let decision = open.check(who, false, None, &access);
                assert_eq!(decision, Decision::by(false, Reason::Unshared, None), "{topic}");
                assert!(open.check(who, true, None, &access).allowed, "{topic}");
            }
            assert!(!rules.check(&stranger, false, None, &access).allowed, "{topic}");
            assert_eq!(
                rules.check(&ANN, false, None, &access).allowed,
                !topic.starts_with("$share"),
                "{topic}"
            );
        }
        let near = Access::new(Action::Subscribe, "$portcullis2/#");
        assert!(open.check(&stranger, false, None, &near).allowed);
    }

    #[test]
    fn decisions_explain_themselves() {
        let rules = authorizer("topic deny b", NoMatch::Deny);
        let decision = rules.check(
            &Subject::default(),
            false,
            None,
            &Access::new(Action::Publish, "b"),
        );
        assert_eq!(decision.to_string(), "denied by line 1 of the ACL file");
    }
}
