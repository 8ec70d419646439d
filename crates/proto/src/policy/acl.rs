//! mosquitto's `acl_file`, read and judged as mosquitto does.
//!
//! A client's own section (`user NAME`, or the lines before the first `user` for a client without a user name) is asked
//! first and the `pattern` lines after it; in each, `deny` lines come before the others. What nothing matches is
//! denied. Where this is stricter than mosquitto 2.0: a subscription filter must be covered as a whole by one line, and
//! a name with `/` cannot stand for a placeholder, since it would reach into another client's subtree. `create`, which mosquitto
//! does not have, lets a client create topics of the collection.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use super::authorization::{Access, Action, Authorizer, Decision, NoMatch, Reason};
use super::pattern::{Fit, Pattern, Subject, Syntax};
use crate::types::{Fault, LineError};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Rights {
    read: bool,
    write: bool,
    create: bool,
}

impl Rights {
    const DENY: Self = Self {
        read: false,
        write: false,
        create: false,
    };

    fn from_word(word: &str) -> Option<Self> {
        match word {
            "read" => Some(Self {
                read: true,
                ..Self::DENY
            }),
            "write" => Some(Self {
                write: true,
                ..Self::DENY
            }),
            "readwrite" => Some(Self {
                read: true,
                write: true,
                ..Self::DENY
            }),
            "create" => Some(Self {
                create: true,
                ..Self::DENY
            }),
            "deny" => Some(Self::DENY),
            _ => None,
        }
    }

    fn allow(self, action: Action) -> bool {
        match action {
            Action::Publish => self.write,
            Action::Subscribe | Action::Receive => self.read,
            Action::Create => self.create,
        }
    }
}

#[derive(Debug)]
struct Rule {
    line: usize,
    rights: Rights,
    pattern: Pattern,
}

impl Rule {
    fn applies(&self, who: &Subject<'_>, action: Action, topic: &str) -> bool {
        match action {
            Action::Subscribe => self.pattern.covers(who, topic),
            Action::Publish | Action::Receive | Action::Create => self.pattern.matches(who, topic),
        }
    }
}

#[derive(Debug, Default)]
struct Section {
    denials: Vec<Rule>,
    grants: Vec<Rule>,
}

impl Section {
    fn add(&mut self, rule: Rule) {
        if rule.rights == Rights::DENY {
            self.denials.push(rule);
        } else {
            self.grants.push(rule);
        }
    }

    fn rules(&self) -> impl Iterator<Item = &Rule> {
        self.denials.iter().chain(&self.grants)
    }

    fn check(&self, who: &Subject<'_>, action: Action, topic: &str) -> Option<Decision> {
        self.rules()
            .filter(|rule| rule.rights == Rights::DENY || rule.rights.allow(action))
            .find(|rule| rule.applies(who, action, topic))
            .map(|rule| Decision::by(rule.rights != Rights::DENY, Reason::Rule, Some(rule.line)))
    }
}

/// The rules of an `acl_file`.
#[derive(Debug, Default)]
pub struct Acl {
    anonymous: Section,
    users: HashMap<Box<str>, Section>,
    patterns: Section,
}

impl Acl {
    /// Reads the text of an `acl_file`. An empty file denies everything.
    ///
    /// # Errors
    /// Every line that is wrong.
    pub fn parse(text: &str) -> Result<Self, Vec<LineError>> {
        let mut acl = Self::default();
        let mut errors = Vec::new();
        let mut user: Option<&str> = None;
        for (number, line) in (1..).zip(text.lines()) {
            let written = line.trim_end();
            let line = written.trim_start_matches(' ');
            if written.starts_with('#') || line.is_empty() {
                continue;
            }
            let (word, rest) = first_word(line);
            let result = match word {
                "user" if rest.is_empty() => Err((word, "user needs a name: user NAME".to_owned())),
                "user" => {
                    user = Some(rest);
                    Ok(())
                }
                "topic" => rule(number, rest, Syntax::Literal).map(|rule| match user {
                    Some(name) => acl.users.entry(name.into()).or_default().add(rule),
                    None => acl.anonymous.add(rule),
                }),
                "pattern" => rule(number, rest, Syntax::Percent).map(|rule| acl.patterns.add(rule)),
                word => Err((
                    word,
                    "a line starts with user, topic or pattern (and a space) or is a comment with # in its first column"
                        .to_owned(),
                )),
            };
            if let Err((part, message)) = result {
                errors.push(LineError::at(number, written, part, message));
            }
        }
        if errors.is_empty() { Ok(acl) } else { Err(errors) }
    }

    /// What the file says about `topic`, which for [`Action::Subscribe`] is a filter: it is allowed when a line that
    /// allows reading covers all of it, and no denial does. Topics within it that are denied are refused one by one
    /// with [`Action::Receive`].
    #[must_use]
    pub fn check(&self, who: &Subject<'_>, action: Action, topic: &str) -> Decision {
        let own = match who.user {
            Some(user) => self.users.get(user),
            None => Some(&self.anonymous),
        };
        if let Some(decision) = own.and_then(|section| section.check(who, action, topic)) {
            return decision;
        }
        if self.is_unsafe(who) {
            return Decision::by(false, Reason::UnsafeName, None);
        }
        self.patterns
            .check(who, action, topic)
            .unwrap_or(Decision::by(false, Reason::NoMatch, None))
    }

    /// A topic of each line that grants something to this client, in their order. Another line may still deny it.
    pub fn examples(&self, who: &Subject<'_>) -> impl Iterator<Item = String> {
        let own = match who.user {
            Some(user) => self.users.get(user),
            None => Some(&self.anonymous),
        };
        let sections = own.into_iter().chain([&self.patterns]);
        let grants = sections.flat_map(|section| &section.grants);
        grants.filter_map(|rule| rule.pattern.example(who))
    }

    fn is_unsafe(&self, who: &Subject<'_>) -> bool {
        let wild = |name: Option<&str>| name.is_some_and(|name| name.contains(['+', '#']));
        let mut patterns = self.patterns.rules().peekable();
        patterns.peek().is_some()
            && (wild(who.user)
                || wild(who.client)
                || patterns.any(|rule| rule.pattern.fit(who) == Fit::Unsafe))
    }
}

/// A decision with the line that made it, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explanation {
    /// The decision.
    pub decision: Decision,
    /// The text of the deciding line.
    pub text: Option<String>,
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.decision.fmt(f)?;
        self.text.as_ref().map_or(Ok(()), |text| write!(f, ": {text}"))
    }
}

/// What the `acl_file` with this text decides, and by which line.
///
/// # Errors
/// Every line that is wrong.
pub fn explain(
    text: &str,
    no_match: NoMatch,
    who: &Subject<'_>,
    action: Action,
    topic: &str,
) -> Result<Explanation, Vec<LineError>> {
    let rules = Authorizer::new(Some(Arc::new(Acl::parse(text)?)), no_match);
    let decision = rules.check(who, false, None, &Access::new(action, topic));
    let line = decision
        .line
        .and_then(|line| text.lines().nth(line.checked_sub(1)?));
    Ok(Explanation {
        decision,
        text: line.map(|line| line.trim().to_owned()),
    })
}

fn first_word(line: &str) -> (&str, &str) {
    match line.split_once(' ') {
        Some((word, rest)) => (word, rest.trim()),
        None => (line, ""),
    }
}

/// The rule of a line, or which part of it is wrong and why.
fn rule(line: usize, rest: &str, syntax: Syntax) -> Result<Rule, Fault<'_>> {
    if rest.is_empty() {
        return Err((
            rest,
            "a topic is missing: [read|write|readwrite|create|deny] TOPIC".to_owned(),
        ));
    }
    let (access, topic) = match first_word(rest) {
        (topic, "") => ("readwrite", topic),
        pair => pair,
    };
    let Some(rights) = Rights::from_word(access) else {
        return Err((
            access,
            "access is read, write, readwrite, create or deny".to_owned(),
        ));
    };
    let pattern = Pattern::new(topic, syntax).map_err(|error| (topic, error.to_string()))?;
    Ok(Rule {
        line,
        rights,
        pattern,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(file: &str, who: Subject<'_>, action: Action, topic: &str) -> (bool, Option<usize>) {
        let decision = Acl::parse(file).unwrap().check(&who, action, topic);
        (decision.allowed, decision.line)
    }

    const ANN: Subject<'_> = Subject {
        user: Some("ann"),
        client: Some("c1"),
        identity: Some("dev-1"),
        attributes: None,
    };

    #[test]
    fn all_errors_come_at_once_with_their_lines() {
        let errors =
            Acl::parse("user\ntopic\n# fine\ntopic rd a\ntopic read a/#/b\nallow x\n\tuser a\ntopic a b\n")
                .unwrap_err();
        assert_eq!(
            errors.iter().map(|e| e.line).collect::<Vec<_>>(),
            [1, 2, 4, 5, 6, 7, 8]
        );
        assert!(errors[2].message.contains("readwrite"), "{}", errors[2]);
    }

    #[test]
    fn an_empty_file_denies() {
        assert_eq!(check("# nothing\n\n", ANN, Action::Publish, "a"), (false, None));
    }

    #[test]
    fn names_and_topics_may_hold_spaces_and_sections_may_come_twice() {
        let file = "user ann b\r\ntopic read x y\r\nuser z\r\ntopic q\r\nuser ann b\r\n topic write w\r\n";
        let who = Subject {
            user: Some("ann b"),
            ..ANN
        };
        assert_eq!(check(file, who, Action::Receive, "x y"), (true, Some(2)));
        assert_eq!(check(file, who, Action::Publish, "w"), (true, Some(6)));
        assert_eq!(check(file, who, Action::Publish, "q"), (false, None));
    }

    #[test]
    fn lines_before_the_first_user_are_for_clients_without_a_user_name_only() {
        let file = "topic open\nuser ann\ntopic own\n";
        let nobody = Subject { user: None, ..ANN };
        assert!(check(file, nobody, Action::Publish, "open").0);
        assert!(!check(file, ANN, Action::Publish, "open").0);
        assert!(
            !check(
                file,
                Subject {
                    user: Some(""),
                    ..ANN
                },
                Action::Publish,
                "open"
            )
            .0
        );
    }

    #[test]
    fn denials_win_within_their_section_whatever_the_order() {
        let file = "user ann\ntopic a/#\ntopic deny a/x\npattern deny p/%u/x\npattern p/%u/#\n";
        assert_eq!(check(file, ANN, Action::Publish, "a/x"), (false, Some(3)));
        assert_eq!(check(file, ANN, Action::Receive, "a/y"), (true, Some(2)));
        assert_eq!(check(file, ANN, Action::Receive, "p/ann/x"), (false, Some(4)));
        assert_eq!(check(file, ANN, Action::Receive, "p/ann/y"), (true, Some(5)));
    }

    #[test]
    fn a_clients_own_line_comes_before_patterns() {
        let file = "user ann\ntopic p/ann\npattern deny p/%u\n";
        assert_eq!(check(file, ANN, Action::Publish, "p/ann"), (true, Some(2)));
    }

    #[test]
    fn a_subscription_is_judged_by_all_that_it_covers() {
        let file = "user ann\ntopic read a/#\ntopic deny a/x/#\ntopic write w\n";
        assert_eq!(check(file, ANN, Action::Subscribe, "a/#"), (true, Some(2)));
        assert_eq!(check(file, ANN, Action::Receive, "a/x/1"), (false, Some(3)));
        assert_eq!(check(file, ANN, Action::Subscribe, "a/x/+"), (false, Some(3)));
        assert_eq!(check(file, ANN, Action::Subscribe, "#"), (false, None));
        assert_eq!(check(file, ANN, Action::Subscribe, "+/b"), (false, None));
        assert_eq!(check(file, ANN, Action::Subscribe, "w"), (false, None));
    }

    #[test]
    fn dollar_topics_need_a_line_that_starts_with_a_dollar() {
        let file = "user ann\ntopic #\ntopic read $SYS/#\npattern +/%c/#\n";
        assert_eq!(check(file, ANN, Action::Publish, "$x/y"), (false, None));
        assert_eq!(check(file, ANN, Action::Receive, "$SYS/y"), (true, Some(3)));
        assert_eq!(check(file, ANN, Action::Subscribe, "#"), (true, Some(2)));
        assert_eq!(check(file, ANN, Action::Publish, "$x/c1/y"), (false, None));
    }

    #[test]
    fn the_proved_identity_has_its_own_placeholder() {
        let file = "pattern write up/%i/#\n";
        assert_eq!(check(file, ANN, Action::Publish, "up/dev-1/t"), (true, Some(1)));
        assert!(
            !check(
                file,
                Subject {
                    identity: None,
                    ..ANN
                },
                Action::Publish,
                "up/dev-1/t"
            )
            .0
        );
    }

    /// CVE-2017-7650.
    #[test]
    fn wildcards_in_names_do_not_defeat_patterns() {
        let file = "pattern up/%c/#\npattern down/%u\n";
        let acl = Acl::parse(file).unwrap();
        for bad in ["+", "#", "+/+", "a/b", "c1/../c2"] {
            let client = Subject {
                client: Some(bad),
                ..ANN
            };
            let user = Subject {
                user: Some(bad),
                ..ANN
            };
            for (who, topic) in [
                (client, "up/x/y"),
                (client, "up/a/b/c"),
                (user, "down/x"),
                (user, "up/c1/x"),
            ] {
                for action in [Action::Publish, Action::Subscribe, Action::Receive] {
                    let decision = acl.check(&who, action, topic);
                    assert_eq!(
                        (decision.allowed, decision.reason),
                        (false, Reason::UnsafeName),
                        "{bad} {topic}"
                    );
                }
            }
        }
    }

    #[test]
    fn an_explanation_shows_the_line() {
        let file = "user ann\n topic deny a/x\ntopic a/#\n";
        let explained = |topic| {
            explain(file, NoMatch::Deny, &ANN, Action::Publish, topic)
                .unwrap()
                .to_string()
        };
        assert_eq!(
            explained("a/x"),
            "denied by line 2 of the ACL file: topic deny a/x"
        );
        assert_eq!(explained("a/y"), "allowed by line 3 of the ACL file: topic a/#");
        assert_eq!(explained("b"), "denied: no line matches (no_match)");
    }

    #[test]
    fn a_denial_that_an_unsafe_name_would_slip_past_denies_all_patterns() {
        let file = "pattern deny secret/%u/#\npattern read #\n";
        let who = Subject {
            user: Some("a/b"),
            ..ANN
        };
        assert!(!check(file, who, Action::Receive, "secret/a/b/c").0);
    }
}
