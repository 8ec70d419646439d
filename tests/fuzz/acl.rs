//! The ACL file and the ACL of a credential: no input panics, and what is read keeps its promises.

use portcullis::policy::acl::Acl;
use portcullis::policy::authorization::{Access, Action};
use portcullis::policy::extra_acl::ExtraAcl;
use portcullis::policy::pattern::Subject;
use portcullis::types::{TopicFilter, TopicName};

pub(crate) fn run(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let mut lines = text.splitn(4, '\n');
    let (Some(name), Some(topic), Some(filter), Some(file)) =
        (lines.next(), lines.next(), lines.next(), lines.next())
    else {
        return;
    };
    let who = Subject {
        user: Some(name),
        client: Some(name),
        identity: None,
        attributes: None,
    };
    let (topic, filter) = (TopicName::new(topic), TopicFilter::new(filter));
    if let Ok(acl) = Acl::parse(file)
        && let (Ok(topic), Ok(filter)) = (&topic, &filter)
    {
        let subscribed = acl.check(&who, Action::Subscribe, filter.as_str());
        let received = acl.check(&who, Action::Receive, topic.as_str());
        // A message on a filter that was allowed is delivered, unless a line denies its topic.
        if subscribed.allowed && filter.matches(topic) {
            assert!(received.allowed || received.line.is_some());
        }
    }
    if let Ok(json) = serde_json::from_str(file)
        && let Ok(acl) = ExtraAcl::from_json(&json)
        && let Ok(topic) = &topic
    {
        for action in [Action::Publish, Action::Subscribe, Action::Receive] {
            let _decision = acl.check(&who, &Access::new(action, topic.as_str()));
        }
    }
}
