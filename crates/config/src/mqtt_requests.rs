//! `broker.mqtt_requests`: which requests to devices may come over MQTT.

use portcullis_proto::types::{TopicFilter, TopicName};
use toml::de::DeValue;

use super::paths::PathBase;
use super::value::{Complaint, Value, expected, items};

/// Most rules.
const MAX_RULES: usize = 256;

const METHODS: [&str; 7] = ["get", "post", "put", "delete", "fetch", "patch", "ipatch"];

/// Which requests to devices may come over MQTT: those that a rule allows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MqttRequests(Vec<Rule>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Rule {
    /// In lower case.
    methods: Vec<String>,
    paths: TopicFilter,
}

impl Rule {
    fn parse(text: &str) -> Result<Self, String> {
        let wrong = || "expected methods and a path such as \"get,put lamps/+/state\"".to_owned();
        let (methods, path) = text.trim().split_once(char::is_whitespace).ok_or_else(wrong)?;
        let methods: Vec<String> = methods.split(',').map(str::to_ascii_lowercase).collect();
        if let Some(unknown) = methods.iter().find(|word| !METHODS.contains(&word.as_str())) {
            return Err(format!("{unknown:?} is none of {}", METHODS.join(", ")));
        }
        let path = path.trim();
        let paths = TopicFilter::new(path.strip_prefix('/').unwrap_or(path));
        let paths = paths.map_err(|error| format!("the path is no pattern of levels, + and #: {error}"))?;
        Ok(Self { methods, paths })
    }
}

impl MqttRequests {
    /// Whether none may.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether a request with this method to this path may, whichever case the method is in. An empty path is allowed by `#` alone.
    #[must_use]
    pub fn allows(&self, method: &str, path: &str) -> bool {
        let method = method.to_ascii_lowercase();
        let path = path.strip_prefix('/').unwrap_or(path);
        let topic = TopicName::new(path).ok();
        self.0.iter().any(|rule| {
            let fits = match &topic {
                Some(topic) => rule.paths.matches(topic),
                None => path.is_empty() && rule.paths.as_str() == "#",
            };
            fits && rule.methods.contains(&method)
        })
    }
}

impl Value for MqttRequests {
    const KIND: &'static str = "list of rules";

    fn read(value: &DeValue<'_>, _: &PathBase) -> Result<Self, Vec<Complaint>> {
        let what = "a list of rules such as [\"get sensors/#\", \"put lamps/+/state\"]";
        let array = value.as_array().ok_or_else(|| expected(what, value))?;
        if array.len() > MAX_RULES {
            return Err(vec![
                format!("at most {MAX_RULES} rules, found {}", array.len()).into(),
            ]);
        }
        let rules = items(array, |item| {
            let text = item.as_str().ok_or_else(|| expected("a rule in quotes", item))?;
            Rule::parse(text).map_err(|message| vec![message.into()])
        })?;
        Ok(Self(rules))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_may_come_where_a_rule_has_its_method_and_its_path() {
        let rules = ["get sensors/#", "PUT,post /lamps/+/state"];
        let rules = MqttRequests(rules.into_iter().map(|rule| Rule::parse(rule).unwrap()).collect());
        for (method, path) in [
            ("get", "sensors"),
            ("GET", "/sensors/1/temperature"),
            ("put", "lamps/7/state"),
            ("POST", "/lamps/x/state"),
        ] {
            assert!(rules.allows(method, path), "{method} {path}");
        }
        for (method, path) in [
            ("put", "sensors/1"),
            ("get", "lamps/7/state"),
            ("put", "lamps/7/state/more"),
            ("put", "lamps/+/state"),
            ("put", "lamps/#"),
            ("get", ""),
            ("get", "/"),
            ("get", "//sensors/1"),
            ("", "sensors/1"),
        ] {
            assert!(!rules.allows(method, path), "{method} {path}");
        }
        assert!(!MqttRequests::default().allows("get", "a"));
        let all = MqttRequests(vec![Rule::parse("get #").unwrap()]);
        assert!(all.allows("get", "") && all.allows("get", "a/b"));
    }

    #[test]
    fn what_is_no_rule_is_refused() {
        for text in [
            "",
            "get",
            "sensors/#",
            "look sensors",
            "get, sensors",
            "get a/#/b",
            "get a+",
        ] {
            assert!(Rule::parse(text).is_err(), "{text:?}");
        }
    }
}
