//! Bearer tokens of the management interface: lines `admin:TOKEN` and `readonly:TOKEN`; a bare line is an admin's.

use zeroize::Zeroizing;

use super::named_lines::LineError;

/// Shortest token, in bytes: what can be guessed over the network is no token.
pub const MIN_TOKEN: usize = 16;

/// What the holder of a token may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Sees everything and changes nothing.
    ReadOnly,
    /// Sees and changes everything.
    Admin,
}

impl Role {
    /// The word before the colon.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::ReadOnly => "readonly",
            Self::Admin => "admin",
        }
    }
}

/// A token with its role. It has no `Debug`, because it is a secret.
#[derive(Clone)]
pub struct Token {
    /// What its holder may do.
    pub role: Role,
    /// What the holder sends after `Authorization: Bearer`.
    pub secret: Zeroizing<String>,
}

/// Reads the content of a file of tokens. Blank lines and lines that begin with `#` are comments.
///
/// # Errors
/// Every line that is wrong, without the token; or that there is no token.
pub fn parse(content: &[u8]) -> Result<Vec<Token>, Vec<LineError>> {
    let at = |line, message: String| LineError { line, message };
    let text = std::str::from_utf8(content).map_err(|_| vec![at(1, "is no UTF-8 text".to_owned())])?;
    let mut tokens = Vec::new();
    let mut errors = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (role, secret) = split_role(line);
        match check(secret) {
            Ok(()) => tokens.push(Token {
                role,
                secret: Zeroizing::new(secret.to_owned()),
            }),
            Err(message) => errors.push(at(index + 1, message)),
        }
    }
    if tokens.is_empty() && errors.is_empty() {
        errors.push(at(1, "expected a token; the file has none".to_owned()));
    }
    if errors.is_empty() {
        Ok(tokens)
    } else {
        Err(errors)
    }
}

fn split_role(line: &str) -> (Role, &str) {
    for role in [Role::Admin, Role::ReadOnly] {
        if let Some(secret) = line
            .strip_prefix(role.label())
            .and_then(|rest| rest.strip_prefix(':'))
        {
            return (role, secret.trim_start());
        }
    }
    (Role::Admin, line)
}

fn check(secret: &str) -> Result<(), String> {
    // RFC 6750, 2.1 allows fewer; what matters is that it can stand in a header.
    if !secret.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err("a token holds visible ASCII characters only, without blanks".to_owned());
    }
    if secret.len() < MIN_TOKEN {
        return Err(format!(
            "the token has {} characters, at least {MIN_TOKEN} are needed: `openssl rand -hex 16` makes one",
            secret.len()
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: &str = "0123456789abcdef";

    #[test]
    fn a_role_stands_before_the_token_and_a_bare_line_is_an_admins() {
        let text = format!("# who\nreadonly:{TOKEN}r\n\nadmin:{TOKEN}a\n{TOKEN}:b\n");
        let Ok(tokens) = parse(text.as_bytes()) else {
            panic!("good lines")
        };
        let found: Vec<_> = tokens
            .iter()
            .map(|token| (token.role, token.secret.as_str()))
            .collect();
        assert_eq!(
            found,
            [
                (Role::ReadOnly, "0123456789abcdefr"),
                (Role::Admin, "0123456789abcdefa"),
                (Role::Admin, "0123456789abcdef:b"),
            ]
        );
    }

    #[test]
    fn short_tokens_and_files_without_any_are_refused_without_showing_them() {
        for (text, line) in [
            ("", 1),
            ("# none\n", 1),
            ("\nadmin:hunter2\n", 2),
            ("two words and more words", 1),
        ] {
            let Err(errors) = parse(text.as_bytes()) else {
                panic!("{text}")
            };
            assert_eq!(errors[0].line, line, "{text}");
            assert!(!errors[0].message.contains("hunter2"));
        }
    }
}
