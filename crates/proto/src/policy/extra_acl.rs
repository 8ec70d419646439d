//! The ACL that comes with a credential: EMQX's JSON, from a token's `acl` claim or an HTTP answer.

use serde_json::{Map, Value};

use crate::types::message::Qos;

use super::authorization::{Access, Action, Decision, Reason};
use super::pattern::{Fit, Pattern, Subject, Syntax};

/// Most rules of one credential.
pub const MAX_RULES: usize = 256;

#[derive(Debug, Clone, PartialEq, Eq)]
enum Topic {
    Pattern(Pattern),
    Exactly(Box<str>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Rule {
    allow: bool,
    publish: bool,
    subscribe: bool,
    create: bool,
    topic: Topic,
    /// Bit n for QoS n.
    qos: u8,
    retain: Option<bool>,
}

/// Rules of one credential; the first that matches decides.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ExtraAcl {
    rules: Box<[Rule]>,
}

impl ExtraAcl {
    /// Reads a list of `{permission, action, topic, qos, retain}`, or `{pub, sub, all}` with lists of topics. A rule
    /// with a key that is not known is refused: its meaning could be narrower than what would be read.
    ///
    /// # Errors
    /// What is wrong, in words that hold no value of the input.
    pub fn from_json(value: &Value) -> Result<Self, String> {
        let rules = match value {
            Value::Array(list) => rules(list)?,
            Value::Object(lists) => whitelists(lists)?,
            _ => return Err("acl is neither a list nor an object".to_owned()),
        };
        if rules.len() > MAX_RULES {
            return Err(format!("acl has more than {MAX_RULES} rules"));
        }
        Ok(Self { rules: rules.into() })
    }

    /// What [`Self::from_json`] reads back.
    #[must_use]
    pub fn to_json(&self) -> Value {
        self.rules.iter().map(Rule::to_json).collect()
    }

    /// What the first matching rule says; `None` when none matches.
    #[must_use]
    pub fn check(&self, who: &Subject<'_>, access: &Access<'_>) -> Option<Decision> {
        for (number, rule) in (1..).zip(&self.rules) {
            match rule.applies(who, access) {
                Some(true) => return Some(Decision::by(rule.allow, Reason::Credential, Some(number))),
                Some(false) => {}
                None => return Some(Decision::by(false, Reason::UnsafeName, Some(number))),
            }
        }
        None
    }
}

impl Rule {
    fn to_json(&self) -> Value {
        let topic = match &self.topic {
            Topic::Pattern(pattern) => pattern.as_str().to_owned(),
            Topic::Exactly(text) => format!("eq {text}"),
        };
        let qos: Vec<u8> = (0..3).filter(|qos| self.qos & (1 << qos) != 0).collect();
        let mut rule = serde_json::json!({
            "permission": if self.allow { "allow" } else { "deny" },
            "action": match (self.publish, self.subscribe) {
                (true, false) => "publish",
                (false, true) => "subscribe",
                _ => "all",
            },
            "topic": topic,
            "qos": qos,
        });
        if let (Some(retain), Some(rule)) = (self.retain, rule.as_object_mut()) {
            rule.insert("retain".to_owned(), Value::Bool(retain));
        }
        rule
    }

    /// `None` when a name of the client must not be used for its placeholder.
    fn applies(&self, who: &Subject<'_>, access: &Access<'_>) -> Option<bool> {
        let (action, conditions) = match access.action {
            Action::Publish => (
                self.publish,
                self.retain.is_none_or(|retain| retain == access.retain),
            ),
            Action::Subscribe | Action::Receive => (self.subscribe, true),
            Action::Create => (self.create, true),
        };
        // A message is delivered with the QoS of its subscription, which was asked about when that was made.
        let has_qos = matches!(access.action, Action::Publish | Action::Subscribe);
        let qos = !has_qos || self.qos & (1 << access.qos.number()) != 0;
        if !(action && conditions && qos) {
            return Some(false);
        }
        match &self.topic {
            Topic::Exactly(text) => Some(**text == *access.topic),
            Topic::Pattern(pattern) => match pattern.fit(who) {
                Fit::Unsafe => None,
                Fit::Absent => Some(false),
                Fit::Whole if access.action == Action::Subscribe => Some(pattern.covers(who, access.topic)),
                Fit::Whole => Some(pattern.matches(who, access.topic)),
            },
        }
    }
}

fn rules(list: &[Value]) -> Result<Vec<Rule>, String> {
    let mut rules = Vec::new();
    for (number, value) in (1..).zip(list) {
        let parsed = value
            .as_object()
            .ok_or_else(|| "is not an object".to_owned())
            .and_then(rule);
        rules.extend(parsed.map_err(|error| format!("acl rule {number} {error}"))?);
    }
    Ok(rules)
}

fn rule(object: &Map<String, Value>) -> Result<Vec<Rule>, String> {
    if let Some(key) = object.keys().find(|key| {
        !matches!(
            key.as_str(),
            "permission" | "action" | "topic" | "topics" | "qos" | "retain"
        )
    }) {
        return Err(format!("has the unknown key {key:?}"));
    }
    let word = |key: &str| object.get(key).and_then(Value::as_str);
    let allow = match word("permission") {
        Some("allow") => true,
        Some("deny") => false,
        _ => return Err("needs permission allow or deny".to_owned()),
    };
    let (publish, subscribe, create) = match word("action") {
        Some("publish" | "pub") => (true, false, false),
        Some("subscribe" | "sub") => (false, true, false),
        Some("all" | "pubsub") => (true, true, false),
        Some("create") => (false, false, true),
        _ => return Err("needs action publish, subscribe, all or create".to_owned()),
    };
    let qos = object.get("qos").map_or(Ok(0b111), qos_bits)?;
    let retain = match object.get("retain") {
        None => None,
        Some(Value::Bool(retain)) => Some(*retain),
        Some(Value::String(all)) if all == "all" => None,
        Some(_) => return Err("needs retain true, false or \"all\"".to_owned()),
    };
    let topics = match (object.get("topic"), object.get("topics")) {
        (Some(topic), None) => std::slice::from_ref(topic),
        (None, Some(Value::Array(topics))) => topics,
        _ => return Err("needs a topic".to_owned()),
    };
    topics
        .iter()
        .map(|topic| {
            Ok(Rule {
                allow,
                publish,
                subscribe,
                create,
                topic: parse_topic(topic)?,
                qos,
                retain,
            })
        })
        .collect()
}

fn qos_bits(value: &Value) -> Result<u8, String> {
    let bit = |value: &Value| {
        let number = match value {
            Value::String(text) => text.parse().ok(),
            value => value.as_u64(),
        };
        number
            .and_then(|number| u8::try_from(number).ok())
            .and_then(Qos::from_number)
            .map(|qos| 1 << qos.number())
            .ok_or_else(|| "needs qos 0, 1 or 2, or a list of them".to_owned())
    };
    match value {
        Value::Array(list) => list.iter().try_fold(0, |bits, value| Ok(bits | bit(value)?)),
        value => bit(value),
    }
}

fn whitelists(lists: &Map<String, Value>) -> Result<Vec<Rule>, String> {
    let mut rules = Vec::new();
    for (key, value) in lists {
        let (publish, subscribe, create) = match key.as_str() {
            "pub" => (true, false, false),
            "sub" => (false, true, false),
            "all" => (true, true, false),
            "create" => (false, false, true),
            key => {
                return Err(format!(
                    "acl has the unknown key {key:?}; it may have pub, sub, all and create"
                ));
            }
        };
        let topics = match value {
            Value::Array(topics) => topics,
            Value::String(_) => std::slice::from_ref(value),
            _ => return Err(format!("acl: {key} is not a list")),
        };
        for topic in topics {
            rules.push(Rule {
                allow: true,
                publish,
                subscribe,
                create,
                topic: parse_topic(topic).map_err(|error| format!("acl: {key} {error}"))?,
                qos: 0b111,
                retain: None,
            });
        }
    }
    Ok(rules)
}

fn parse_topic(value: &Value) -> Result<Topic, String> {
    let text = value.as_str().ok_or("has a topic that is not a text")?;
    if let Some(exact) = text.strip_prefix("eq ") {
        return Ok(Topic::Exactly(exact.into()));
    }
    // EMQX's older rules use mosquitto's placeholders; its newer ones do not read them, and no client id holds both.
    let syntax = if text.contains("${") {
        Syntax::Dollar
    } else {
        Syntax::Percent
    };
    let pattern = Pattern::new(text, syntax).map_err(|error| format!("has a bad topic: {error}"))?;
    Ok(Topic::Pattern(pattern))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const ANN: Subject<'_> = Subject {
        user: Some("ann"),
        client: Some("c1"),
        identity: None,
        attributes: None,
    };

    fn allowed(acl: &Value, access: Access<'_>) -> Option<bool> {
        ExtraAcl::from_json(acl)
            .unwrap()
            .check(&ANN, &access)
            .map(|decision| decision.allowed)
    }

    #[test]
    fn the_first_matching_rule_decides() {
        let acl = json!([
            {"permission": "allow", "action": "publish", "topic": "t/${clientid}/#"},
            {"permission": "deny", "action": "all", "topic": "t/#"},
            {"permission": "allow", "action": "subscribe", "topic": "eq s/#"},
        ]);
        assert_eq!(allowed(&acl, Access::new(Action::Publish, "t/c1/x")), Some(true));
        assert_eq!(allowed(&acl, Access::new(Action::Receive, "t/c1/x")), Some(false));
        assert_eq!(allowed(&acl, Access::new(Action::Publish, "t/c2/x")), Some(false));
        assert_eq!(allowed(&acl, Access::new(Action::Subscribe, "s/#")), Some(true));
        assert_eq!(allowed(&acl, Access::new(Action::Subscribe, "s/x")), None);
    }

    #[test]
    fn the_older_form_is_three_lists_of_what_is_allowed() {
        let acl = json!({"pub": ["p/%u"], "sub": ["s/#"], "all": ["a/${username}"]});
        assert_eq!(allowed(&acl, Access::new(Action::Publish, "p/ann")), Some(true));
        assert_eq!(allowed(&acl, Access::new(Action::Subscribe, "p/ann")), None);
        assert_eq!(allowed(&acl, Access::new(Action::Subscribe, "s/x/#")), Some(true));
        assert_eq!(allowed(&acl, Access::new(Action::Subscribe, "#")), None);
        assert_eq!(allowed(&acl, Access::new(Action::Receive, "a/ann")), Some(true));
    }

    #[test]
    fn qos_and_retain_narrow_a_rule() {
        let acl =
            json!([{"permission": "allow", "action": "all", "topic": "a", "qos": [1, "2"], "retain": false}]);
        let mut access = Access::new(Action::Publish, "a");
        assert_eq!(allowed(&acl, access), None);
        access.qos = Qos::AtLeastOnce;
        assert_eq!(allowed(&acl, access), Some(true));
        access.retain = true;
        assert_eq!(allowed(&acl, access), None);
        access.action = Action::Subscribe;
        assert_eq!(allowed(&acl, access), Some(true));
        assert_eq!(allowed(&acl, Access::new(Action::Receive, "a")), Some(true));
    }

    #[test]
    fn what_is_not_understood_is_refused_not_widened() {
        for bad in [
            json!("x"),
            json!([{"permission": "allow", "action": "all", "topic": "a", "ipaddr": "10.0.0.0/8"}]),
            json!([{"permission": "maybe", "action": "all", "topic": "a"}]),
            json!([{"permission": "allow", "action": "fly", "topic": "a"}]),
            json!([{"permission": "allow", "action": "all", "topic": "a/#/b"}]),
            json!([{"permission": "allow", "action": "all", "topic": "a", "qos": 3}]),
            json!([{"permission": "allow", "action": "all"}]),
            json!({"publish": ["a"]}),
            json!({"pub": [1]}),
            Value::Array(vec![
                json!({"permission": "allow", "action": "all", "topic": "a"});
                MAX_RULES + 1
            ]),
        ] {
            assert!(ExtraAcl::from_json(&bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn wildcards_in_names_do_not_defeat_a_credentials_rules() {
        let acl = ExtraAcl::from_json(&json!({"all": ["t/${clientid}/#"]})).unwrap();
        let who = Subject {
            client: Some("+"),
            ..ANN
        };
        assert!(
            !acl.check(&who, &Access::new(Action::Subscribe, "t/+/x"))
                .unwrap()
                .allowed
        );
    }
}
