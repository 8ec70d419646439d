//! Bearer tokens of the management interface: lines `NAME ROLE sha256:DIGITS [UNTIL]`.
//!
//! A token in the clear is taken too, as `admin:TOKEN`, `readonly:TOKEN` or alone (then an admin's), and gets a line of the
//! other form in its place: who reads the file later learns no token.

use std::collections::BTreeSet;
use std::time::SystemTime;

use openssl::sha::sha256;
use portcullis_proto::types::{Fault, LineError};
use zeroize::Zeroizing;

/// Shortest token, in bytes: what can be guessed over the network is no token.
pub const MIN_TOKEN: usize = 16;

/// Longest name of a token, in bytes.
pub const MAX_NAME: usize = 64;

/// What stands before the digits of a token's hash.
const HASH: &str = "sha256:";

/// What the holder of a token may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Sees everything and changes nothing.
    ReadOnly,
    /// Sees and changes everything.
    Admin,
}

impl Role {
    /// Its word in a file of tokens.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::ReadOnly => "readonly",
            Self::Admin => "admin",
        }
    }

    /// The role of this word.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        [Self::Admin, Self::ReadOnly]
            .into_iter()
            .find(|role| role.label() == word)
    }
}

/// A token as it is kept: what its holder sends cannot be told from it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    /// What it is called in listings and in the audit log.
    pub name: String,
    /// What its holder may do.
    pub role: Role,
    /// SHA-256 of what its holder sends after `Authorization: Bearer`.
    pub hash: [u8; 32],
    /// When it stops to count.
    pub until: Option<SystemTime>,
}

impl Token {
    /// A token of this name for what its holder will send.
    #[must_use]
    pub fn new(name: &str, role: Role, secret: &str, until: Option<SystemTime>) -> Self {
        Self {
            name: name.to_owned(),
            role,
            hash: sha256(secret.as_bytes()),
            until,
        }
    }

    /// Its line in a file, without a line end.
    #[must_use]
    pub fn line(&self) -> String {
        let until = self
            .until
            .map(|until| format!(" {}", humantime::format_rfc3339_seconds(until)))
            .unwrap_or_default();
        let digits = hex::encode(self.hash);
        format!("{} {} {HASH}{digits}{until}", self.name, self.role.label())
    }
}

/// The tokens of a file.
pub struct Tokens {
    /// In the order of the file.
    pub all: Vec<Token>,
    /// The text with hashes in place of the tokens that stand there in the clear, where any do.
    pub rewritten: Option<Zeroizing<String>>,
}

/// Reads the content of a file of tokens. Blank lines and lines that begin with `#` are comments.
///
/// # Errors
/// Every line that is wrong, without the token.
pub fn parse(content: &[u8]) -> Result<Tokens, Vec<LineError>> {
    let text = std::str::from_utf8(content).map_err(|error| vec![LineError::no_text(content, error)])?;
    let mut taken: BTreeSet<String> = entries(text)
        .filter_map(|(_, _, entry)| Some(entry.split_once(' ')?.0.to_owned()))
        .collect();
    let mut names = BTreeSet::new();
    let mut all = Vec::new();
    let mut errors = Vec::new();
    let mut rewritten = None;
    for (number, line, entry) in entries(text) {
        let read = match clear(entry) {
            Some((role, secret)) => check(secret).map_err(|message| (secret, message)).map(|()| {
                let name = free_name(role, number, &mut taken);
                let token = Token::new(&name, role, secret, None);
                let new = replace_line(
                    rewritten.as_deref().map_or(text, String::as_str),
                    number,
                    &token.line(),
                );
                rewritten = Some(Zeroizing::new(new));
                token
            }),
            None => named(entry),
        };
        match read {
            Ok(token) if !names.insert(token.name.clone()) => {
                errors.push(LineError::at(
                    number,
                    line,
                    entry,
                    "a token of this name is there already",
                ));
            }
            Ok(token) => all.push(token),
            Err((part, message)) => errors.push(LineError::at(number, line, part, message)),
        }
    }
    if errors.is_empty() {
        Ok(Tokens { all, rewritten })
    } else {
        Err(errors)
    }
}

/// The tokens that stand in the content of a file in the clear: what somebody may send.
///
/// # Errors
/// Every line that is wrong, without the token.
pub fn in_the_clear(content: &[u8]) -> Result<Vec<(Role, Zeroizing<String>)>, Vec<LineError>> {
    parse(content)?;
    let text = str::from_utf8(content).unwrap_or_default();
    Ok(entries(text)
        .filter_map(|(_, _, entry)| clear(entry))
        .map(|(role, secret)| (role, Zeroizing::new(secret.to_owned())))
        .collect())
}

/// A file of named tokens as it may be written again: with hashes in place of what stood there in the clear.
pub struct Named {
    text: Zeroizing<String>,
    /// In the order of the file.
    pub all: Vec<Token>,
}

impl Named {
    /// Reads the content of a file; an empty one has no tokens.
    ///
    /// # Errors
    /// As [`parse`].
    pub fn read(content: &[u8]) -> Result<Self, Vec<LineError>> {
        let parsed = parse(content)?;
        let text = match parsed.rewritten {
            Some(text) => text,
            None => Zeroizing::new(str::from_utf8(content).unwrap_or_default().to_owned()),
        };
        Ok(Self {
            text,
            all: parsed.all,
        })
    }

    /// Whether there is a token of this name.
    #[must_use]
    pub fn contains(&self, name: &str) -> bool {
        self.all.iter().any(|token| token.name == name)
    }

    /// The text with one more token.
    #[must_use]
    pub fn with(&self, token: &Token) -> Zeroizing<String> {
        let text = self.text.as_str();
        let gap = if text.is_empty() || text.ends_with('\n') {
            ""
        } else {
            "\n"
        };
        Zeroizing::new(format!("{text}{gap}{}\n", token.line()))
    }

    /// The text without the token of this name.
    #[must_use]
    pub fn without(&self, name: &str) -> Zeroizing<String> {
        let is_it = |line: &&str| line.split_ascii_whitespace().next() == Some(name);
        let mut kept = Zeroizing::new(String::with_capacity(self.text.len()));
        for line in self.text.lines().filter(|line| !is_it(line)) {
            kept.push_str(line);
            kept.push('\n');
        }
        kept
    }
}

/// The lines that are no comments: their number from 1, the line, and what of it counts.
fn entries(text: &str) -> impl Iterator<Item = (usize, &str, &str)> {
    (1..)
        .zip(text.lines())
        .map(|(number, line)| (number, line, line.trim()))
        .filter(|(_, _, entry)| !entry.is_empty() && !entry.starts_with('#'))
}

/// Role and token of a line that holds it in the clear.
fn clear(entry: &str) -> Option<(Role, &str)> {
    for role in [Role::Admin, Role::ReadOnly] {
        let rest = entry.strip_prefix(role.label());
        if let Some(secret) = rest.and_then(|rest| rest.strip_prefix(':')) {
            return Some((role, secret.trim_start()));
        }
    }
    (!entry.contains(HASH)).then_some((Role::Admin, entry))
}

/// The token of a line with a name, or which part of it is wrong and why.
fn named(entry: &str) -> Result<Token, Fault<'_>> {
    let mut words = entry.split_ascii_whitespace();
    let mut word = || words.next().unwrap_or_default();
    let (name, role, hash, until) = (word(), word(), word(), word());
    if let Some(more) = words.next() {
        return Err((more, "a line is NAME ROLE sha256:DIGITS [UNTIL]".to_owned()));
    }
    check_name(name).map_err(|message| (name, message))?;
    let role = Role::from_word(role).ok_or_else(|| (role, "the role is admin or readonly".to_owned()))?;
    let mut digest = [0; 32];
    hash.strip_prefix(HASH)
        .and_then(|digits| hex::decode_to_slice(digits, &mut digest).ok())
        .ok_or_else(|| (hash, "expected sha256: and 64 hexadecimal digits".to_owned()))?;
    let until = match until {
        "" => None,
        text => Some(
            humantime::parse_rfc3339(text)
                .map_err(|_| (text, "expected a time such as 2027-01-31T00:00:00Z".to_owned()))?,
        ),
    };
    Ok(Token {
        name: name.to_owned(),
        role,
        hash: digest,
        until,
    })
}

/// A name for a token that has none: of its role and line.
fn free_name(role: Role, number: usize, taken: &mut BTreeSet<String>) -> String {
    let mut name = format!("{}-{number}", role.label());
    while !taken.insert(name.clone()) {
        name.push('x');
    }
    name
}

fn replace_line(text: &str, number: usize, new: &str) -> String {
    let lines = (1..)
        .zip(text.lines())
        .map(|(at, old)| if at == number { new } else { old });
    let mut replaced = String::with_capacity(text.len() + new.len() + 1);
    for line in lines {
        replaced.push_str(line);
        replaced.push('\n');
    }
    replaced
}

/// Whether a token may have this name.
///
/// # Errors
/// It is not 1 to [`MAX_NAME`] letters, digits, `-`, `_` or `.`.
pub fn check_name(name: &str) -> Result<(), String> {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    if (1..=MAX_NAME).contains(&name.len()) && name.chars().all(fits) {
        Ok(())
    } else {
        Err(format!(
            "a token's name has 1 to {MAX_NAME} letters, digits, `-`, `_` or `.`"
        ))
    }
}

fn check(secret: &str) -> Result<(), String> {
    // RFC 6750, 2.1 allows fewer; what matters is that it can stand in a header.
    if !secret.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err("a token holds visible ASCII characters only, without blanks".to_owned());
    }
    if secret.len() < MIN_TOKEN {
        return Err(format!(
            "the token has {} characters, at least {MIN_TOKEN} are needed: `portcullis token add` makes one",
            secret.len()
        ));
    }
    Ok(())
}

/// A new token: 128 random bits as hexadecimal digits.
///
/// # Errors
/// The system has no randomness.
pub fn generate() -> Result<Zeroizing<String>, openssl::error::ErrorStack> {
    let mut bytes = Zeroizing::new([0; 16]);
    openssl::rand::rand_bytes(bytes.as_mut())?;
    Ok(Zeroizing::new(hex::encode(bytes.as_slice())))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: &str = "0123456789abcdef";

    fn parsed(text: &str) -> Tokens {
        parse(text.as_bytes()).unwrap_or_else(|errors| panic!("{errors:?}"))
    }

    #[test]
    fn tokens_in_the_clear_are_taken_and_leave_their_hashes() {
        let text = format!("# who\nreadonly:{TOKEN}r\n\nadmin:{TOKEN}a\n{TOKEN}:b\n");
        let first = parsed(&text);
        let found: Vec<_> = first
            .all
            .iter()
            .map(|token| (token.role, token.name.as_str()))
            .collect();
        assert_eq!(
            found,
            [
                (Role::ReadOnly, "readonly-2"),
                (Role::Admin, "admin-4"),
                (Role::Admin, "admin-5"),
            ]
        );
        assert_eq!(first.all[2].hash, sha256(b"0123456789abcdef:b"));
        let rewritten = first.rewritten.unwrap();
        assert!(!rewritten.contains(TOKEN) && rewritten.starts_with("# who\nreadonly-2 readonly sha256:"));
        let second = parsed(&rewritten);
        assert!(second.rewritten.is_none() && second.all == first.all);
    }

    #[test]
    fn a_line_has_name_role_hash_and_perhaps_an_end() {
        let until = humantime::parse_rfc3339("2031-02-03T04:05:06Z").unwrap();
        let token = Token::new("ci-1", Role::ReadOnly, TOKEN, Some(until));
        assert!(
            token.line().ends_with(" 2031-02-03T04:05:06Z"),
            "{}",
            token.line()
        );
        assert_eq!(parsed(&token.line()).all, [token]);
    }

    #[test]
    fn a_made_name_gives_way_to_a_given_one() {
        let own = Token::new("admin-2", Role::Admin, "another-0123456789", None).line();
        let names = |text: &str| {
            let all = parsed(text).all.into_iter();
            all.map(|token| token.name).collect::<Vec<_>>()
        };
        assert_eq!(names(&format!("{own}\n{TOKEN}\n")), ["admin-2", "admin-2x"]);
    }

    #[test]
    fn what_is_wrong_is_told_without_the_token() {
        let hash = "ab".repeat(32);
        for (text, line, column) in [
            ("\nadmin:hunter2\n".to_owned(), 2, 7),
            ("two words and more words".to_owned(), 1, 1),
            (format!("a admin sha256:{hash} soon"), 1, 81),
            (format!("a boss sha256:{hash}"), 1, 3),
            ("a admin sha256:hunter2".to_owned(), 1, 9),
            (format!("a/b admin sha256:{hash}"), 1, 1),
            (format!("a admin sha256:{hash}\na admin sha256:{hash}"), 2, 1),
        ] {
            let Err(errors) = parse(text.as_bytes()) else {
                panic!("{text}")
            };
            assert_eq!((errors[0].line, errors[0].column), (line, column), "{text}");
            assert!(!errors[0].message.contains("hunter2"));
        }
    }
}
