//! `[[translate]]`: which payloads change their encoding on the way.

use portcullis_proto::bridge::translate::{Batch, Encoding, Translation, Unfit};
use portcullis_proto::types::TopicFilter;
use toml::de::DeValue;

use super::document::{Document, Table};
use super::paths::PathBase;
use super::section::{Section as _, section};
use super::value::{Complaint, Value, words};

/// Most rules.
const MAX_RULES: usize = 256;

section! {
    /// A rule about the payloads of some topics; the first that a topic matches holds.
    pub struct Translate {
        /// Topic filter, of topics as the broker has them: mountpoint included.
        topics: TopicFilter = "#";
        /// What becomes of publishes of clients whose Content-Format is JSON, CBOR, or SenML in either: the broker gets them in this encoding.
        publish: Option<Encoding> = "json";
        /// What clients get that read or observe without an Accept option. With one they get what it says.
        observe: Option<Encoding> = "as_is";
        /// What a message is taken for that came without a content type, as with MQTT 3.1.1 all do.
        untyped: Option<Encoding> = "as_is";
        /// What becomes of a payload that cannot be translated: `refuse`, a publish gets 4.15, and a message of the broker is dropped for who wants the
        /// other encoding, and counted; `pass`, it goes on as it is.
        unfit: Unfit = "refuse";
        /// What becomes of a published array or SenML pack: one message, or `each` of its elements one, at most 64.
        batch: Batch = "whole";
    }
}

impl Value for TopicFilter {
    const KIND: &'static str = "topic filter";

    fn read(value: &DeValue<'_>, base: &PathBase) -> Result<Self, Vec<Complaint>> {
        let text = String::read(value, base)?;
        Self::new(&text).map_err(|error| vec![format!("this is no topic filter: {error}").into()])
    }
}

words!(Option<Encoding> {
    "json" => Some(Encoding::Json),
    "cbor" => Some(Encoding::Cbor),
    "as_is" => None,
});

words!(Unfit {
    "refuse" => Unfit::Refuse,
    "pass" => Unfit::Pass,
});

words!(Batch {
    "whole" => Batch::Whole,
    "each" => Batch::Each,
});

impl Translate {
    /// The rule.
    #[must_use]
    pub fn rule(&self) -> Translation {
        Translation {
            topics: self.topics.clone(),
            publish: self.publish,
            observe: self.observe,
            untyped: self.untyped,
            unfit: self.unfit,
            batch: self.batch,
        }
    }
}

/// Reads all rules.
pub(super) fn read(root: &mut Table<'_>, doc: &mut Document<'_>) -> Option<Vec<Translate>> {
    let tables = root.tables(doc, "translate");
    if tables.len() > MAX_RULES {
        doc.complain(
            &["translate"],
            format!("at most {MAX_RULES} rules, found {}", tables.len()),
        );
    }
    let rules = tables.into_iter().map(|mut table| {
        let rule = Translate::read(&mut table, doc);
        table.finish(doc);
        rule
    });
    rules.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::parse;

    #[test]
    fn rules_keep_the_order_of_the_file() {
        let config = parse(
            "[[translate]]\ntopics = \"meters/+/state\"\nbatch = \"each\"\n[[translate]]\npublish = \"as_is\"\nobserve = \"cbor\"\n",
        )
        .unwrap();
        let [meters, all] = &config.translate[..] else {
            panic!("two rules")
        };
        assert_eq!(
            (meters.topics.as_str(), meters.batch),
            ("meters/+/state", Batch::Each)
        );
        assert_eq!((all.publish, all.observe), (None, Some(Encoding::Cbor)));
    }

    #[test]
    fn what_is_wrong_with_a_rule_is_said_where_it_stands() {
        let problems =
            parse("[[translate]]\n[[translate]]\ntopics = \"a/#/b\"\nto = \"json\"\n").unwrap_err();
        let at: Vec<_> = problems
            .iter()
            .map(|problem| {
                (
                    problem.key.as_str(),
                    problem.place.as_ref().map(|place| place.line),
                )
            })
            .collect();
        assert_eq!(at, [("translate.2.topics", Some(3)), ("translate.2.to", Some(4))]);
        let problems = parse("translate = 5\n").unwrap_err();
        assert!(problems.to_string().contains("[[translate]]"), "{problems}");
        let problems = parse("[translate]\ntopics = \"#\"\n").unwrap_err();
        assert!(problems.to_string().contains("[[translate]]"), "{problems}");
    }
}
