//! The ACL file against a running mosquitto.

use portcullis::policy::acl::Acl;
use portcullis::policy::authorization::Action;
use portcullis::policy::pattern::Subject;

use super::mosquitto::Mosquitto;

const FILE: &str = "\
# The clients without a user name
topic read open/#
topic open/inbox
topic deny open/closed

user ann
topic sensors/+/temp
topic read news/#
topic write log/ann
topic deny news/secret/#
topic  readwrite   spaced name/x
topic read own/ann
topic deny p/ann/never
topic $share/odd/x
topic %c/literal

user bob
topic #
topic deny private/#
topic read $test/#

user carl
topic deny #

user edge
topic +/+/c
topic e/#
topic /
topic //
topic /lead
topic trail/
topic +

pattern readwrite p/%u/#
pattern deny p/%u/deny
pattern write up/%c/data
pattern read down/%c
pattern deny own/%u
pattern read pre-%c-post/%u.x
pattern read both/%c/%u/%c
pattern read plain/pattern

user ann
topic again/ann

user spy
topic #
topic $test/#
topic $share/#
";

const SUBJECTS: &[(Option<&str>, &str)] = &[
    (None, "anon1"),
    (Some("ann"), "c1"),
    (Some("ann"), "p"),
    (Some("bob"), "c2"),
    (Some("carl"), "c3"),
    (Some("edge"), "c4"),
    (Some("nobody"), "c5"),
    (Some("a+b"), "c6"),
    (Some("#"), "c7"),
    (None, "x#"),
    (Some("ann"), "+"),
    (Some("bob"), "+"),
];

const TOPICS: &[&str] = &[
    "open/x",
    "open",
    "open/inbox",
    "open/closed",
    "sensors/1/temp",
    "sensors/1/x/temp",
    "sensors//temp",
    "news",
    "news/a",
    "news/secret",
    "news/secret/b",
    "log/ann",
    "log/bob",
    "spaced name/x",
    "own/ann",
    "own/bob",
    "p/ann",
    "p/ann/x",
    "p/ann/deny",
    "p/ann/never",
    "p/bob/x",
    "p/bob/deny",
    "p/#/x",
    "p/%u/x",
    "up/c1/data",
    "up/c2/data",
    "up/anon1/data",
    "up/x/data",
    "down/c1",
    "down/c2",
    "pre-c1-post/ann.x",
    "both/c1/ann/c1",
    "both/c1/ann/c2",
    "plain/pattern",
    "private/x",
    "private",
    "%c/literal",
    "c1/literal",
    "again/ann",
    "$test/a",
    "$test",
    "$other/a",
    "a/b/c",
    "e",
    "e/f/g",
    "/",
    "//",
    "/lead",
    "lead",
    "trail/",
    "trail",
    "single",
    "a/",
];

#[test]
fn a_running_mosquitto_agrees_on_publishing_and_on_delivery() {
    let acl = Acl::parse(FILE).unwrap();
    let mosquitto = Mosquitto::start(FILE).expect("mosquitto takes the file");
    let mut cases = [0, 0];
    let mut differences = Vec::new();
    let mut check = |who: &Subject<'_>, action, topic, theirs| {
        cases[usize::from(theirs)] += 1;
        let ours = acl.check(who, action, topic);
        if ours.allowed != theirs {
            differences.push(format!(
                "{who:?} {action:?} {topic}: we say {ours}, mosquitto {theirs}"
            ));
        }
    };
    let topics = || TOPICS.iter().copied().filter(|topic| !topic.contains(['+', '#']));
    for (user, client) in SUBJECTS {
        let who = Subject {
            user: *user,
            client: Some(client),
            identity: None,
            attributes: None,
        };
        let mut publisher = mosquitto.client(client, *user);
        for topic in topics() {
            check(&who, Action::Publish, topic, publisher.publish(topic, "x"));
        }
        assert!(
            publisher.subscribe("#") && publisher.subscribe("$test/#") && publisher.subscribe("$other/#")
        );
        let mut spy = mosquitto.client("spy-of-this-test", Some("spy"));
        let may: Vec<_> = topics().filter(|topic| spy.publish(topic, topic)).collect();
        assert_eq!(
            may.len() + 1,
            topics().count(),
            "the spy may publish everything but $other"
        );
        let delivered = publisher.delivered();
        for topic in may {
            check(
                &who,
                Action::Receive,
                topic,
                delivered.iter().any(|payload| payload == topic),
            );
        }
    }
    let [denied, allowed] = cases;
    assert!(denied >= 100 && allowed >= 100, "{denied} {allowed}");
    assert!(
        differences.is_empty(),
        "{}:\n{}",
        differences.len(),
        differences.join("\n")
    );
}

#[test]
fn a_running_mosquitto_agrees_on_which_files_are_valid() {
    let files = [
        "",
        "# only a comment\n",
        "topic a\n",
        "topic read\n",
        "topic deny\n",
        "topic read a b\n",
        "topic  read   a b  \n",
        "   topic a\n",
        "user ann\r\ntopic a\r\n",
        "topic a/#/b\n",
        "topic a+\n",
        "topic rd a\n",
        "topic\n",
        "pattern\n",
        "pattern read a/%u/#\n",
        "pattern read a/%u#\n",
        "pattern a\n",
        "user\n",
        "user \n",
        "user a b\ntopic x\n",
        "allow a\n",
        " # indented comment\n",
        "\ttopic a\n",
        "topic\ta\n",
        "\n\n\n",
        " \n",
        "topic a",
        "Topic a\n",
        "topic READ a\n",
        "topic read #a\n",
        "topic write +/+/#\n",
        "include x\n",
    ];
    let mut taken = 0;
    for file in files {
        let theirs = Mosquitto::start(file).is_some();
        let ours = Acl::parse(file);
        assert_eq!(ours.is_ok(), theirs, "{file:?}: we say {ours:?}");
        taken += u32::from(theirs);
    }
    assert!((10..25).contains(&taken), "{taken}");
}

/// mosquitto 2.0 lets a client named `a/b` into the subtree of a client named `a`. We do not.
#[test]
fn we_are_stricter_than_mosquitto_with_slashes_in_names() {
    let file = "pattern readwrite dev/%c/#\nuser spy\ntopic #\n";
    let mosquitto = Mosquitto::start(file).unwrap();
    assert!(
        mosquitto.client("a/b", None).publish("dev/a/b/x", "x"),
        "no longer so: the page on ACLs can say that"
    );
    let who = Subject {
        client: Some("a/b"),
        ..Subject::default()
    };
    assert!(
        !Acl::parse(file)
            .unwrap()
            .check(&who, Action::Publish, "dev/a/b/x")
            .allowed
    );
}

/// What a subscription covers is never more than what mosquitto would deliver on it.
#[test]
fn every_message_of_an_allowed_filter_is_one_that_mosquitto_would_deliver_or_we_refuse_at_delivery() {
    let acl = Acl::parse(FILE).unwrap();
    let filters = [
        "#",
        "news/#",
        "news/+",
        "news/secret/#",
        "sensors/+/temp",
        "sensors/#",
        "p/+/#",
        "p/ann/#",
        "$test/#",
        "+",
    ];
    let mut accepted = 0;
    for (user, client) in SUBJECTS {
        let who = Subject {
            user: *user,
            client: Some(client),
            identity: None,
            attributes: None,
        };
        for filter in filters
            .iter()
            .filter(|filter| acl.check(&who, Action::Subscribe, filter).allowed)
        {
            accepted += 1;
            let filter = portcullis::types::TopicFilter::new(filter).unwrap();
            for topic in TOPICS
                .iter()
                .filter_map(|topic| portcullis::types::TopicName::new(topic).ok())
            {
                let decision = acl.check(&who, Action::Receive, topic.as_str());
                let denied_by_line = !decision.allowed && decision.line.is_some();
                assert!(
                    !filter.matches(&topic) || decision.allowed || denied_by_line,
                    "{who:?} {filter} {topic}"
                );
            }
        }
    }
    assert!(accepted > 10, "{accepted}");
}
