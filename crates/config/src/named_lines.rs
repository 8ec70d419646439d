//! Files of lines `name:secret`, as pre-shared keys and users are kept in, read whole and changed without losing comments.

use std::collections::HashMap;

use portcullis_proto::types::LineError;
use zeroize::Zeroizing;

/// What a line of one kind of file is.
#[derive(Clone, Copy)]
pub struct Form {
    /// Splits a line at the colon that ends the name.
    pub split: fn(&str) -> Option<(&str, &str)>,
    /// Whether a name may hold a colon.
    pub colons: bool,
    /// Whether blanks around a name do not belong to it.
    pub trims: bool,
    /// Longest name in bytes.
    pub max_name: usize,
    /// On how many lines a name may stand; the last of them is the newest.
    pub most: usize,
    /// The one form in which a name is known, whichever way it is written; or why it is none.
    pub canonical: fn(&str) -> Result<String, String>,
    /// Checks a line's name and secret; what it says is shown, so it never repeats the secret.
    pub check: fn(&str, &str) -> Result<(), String>,
}

impl Form {
    fn split<'l>(&self, line: &'l str) -> Option<(&'l str, &'l str)> {
        let (name, secret) = (self.split)(line)?;
        Some((if self.trims { name.trim() } else { name }, secret))
    }
}

/// A parsed file. It holds secrets, so it has no `Debug`, and its text is wiped when it is dropped.
pub struct NamedLines {
    form: Form,
    text: Zeroizing<String>,
    names: Vec<Named>,
}

/// A name and its lines.
struct Named {
    name: String,
    lines: Vec<usize>,
}

impl NamedLines {
    /// Reads the content of a file. Blank lines and lines that begin with `#` are comments.
    ///
    /// # Errors
    /// Every line that is wrong: no `:`, a bad or repeated name, a secret that `form` refuses.
    pub fn parse(content: &[u8], form: Form) -> Result<Self, Vec<LineError>> {
        let text = std::str::from_utf8(content).map_err(|error| vec![LineError::no_text(content, error)])?;
        let mut errors = Vec::new();
        let mut seen: HashMap<String, usize> = HashMap::new();
        let mut names: Vec<Named> = Vec::new();
        for (line, line_number) in text.lines().zip(1..) {
            let name = match parse_line(line, &form) {
                Ok(Some(name)) => name,
                Ok(None) => continue,
                Err((part, message)) => {
                    errors.push(LineError::at(line_number, line, part, message));
                    continue;
                }
            };
            let at = *seen.entry(name.clone()).or_insert(names.len());
            match names.get_mut(at) {
                None => names.push(Named {
                    name,
                    lines: vec![line_number],
                }),
                Some(known) if known.lines.len() < form.most => known.lines.push(line_number),
                Some(known) => {
                    let lines: Vec<String> = known.lines.iter().map(usize::to_string).collect();
                    let message = match &*lines {
                        [one] => format!("the name stands on line {one} already"),
                        more => format!("the name stands on lines {} already", more.join(" and ")),
                    };
                    errors.push(LineError::at(line_number, line, line, message));
                }
            }
        }
        if errors.is_empty() {
            Ok(Self {
                form,
                text: Zeroizing::new(text.to_owned()),
                names,
            })
        } else {
            Err(errors)
        }
    }

    /// The names in the order of the file, each once.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.names.iter().map(|named| named.name.as_str())
    }

    /// The names in the order of the file, each with its secrets, the oldest first.
    pub fn all(&self) -> impl Iterator<Item = (&str, Vec<Zeroizing<String>>)> {
        let lines: Vec<&str> = self.text.lines().collect();
        self.names.iter().map(move |named| {
            let secret = |line: &usize| {
                let (_, secret) = self.form.split(lines.get(line - 1)?)?;
                Some(Zeroizing::new(secret.trim().to_owned()))
            };
            (
                named.name.as_str(),
                named.lines.iter().filter_map(secret).collect(),
            )
        })
    }

    /// How many names there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.names.len()
    }

    /// Whether there are no names.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// Whether the name is there.
    #[must_use]
    pub fn contains(&self, name: &str) -> bool {
        !self.lines_of(name).is_empty()
    }

    /// The secrets of a name, the oldest first.
    #[must_use]
    pub fn secrets(&self, name: &str) -> Vec<Zeroizing<String>> {
        let lines = self.lines_of(name).iter();
        let secret = |line: &usize| {
            let (_, secret) = self.form.split(self.text.lines().nth(line - 1)?)?;
            Some(Zeroizing::new(secret.trim().to_owned()))
        };
        lines.filter_map(secret).collect()
    }

    /// The newest secret of a name.
    #[must_use]
    pub fn secret(&self, name: &str) -> Option<Zeroizing<String>> {
        self.secrets(name).pop()
    }

    /// The text with this line: in place of the old ones of the same name, else at the end.
    #[must_use]
    pub fn with(&self, name: &str, secret: &str) -> Zeroizing<String> {
        self.with_all([(name, secret)])
    }

    /// The text with this line at its end, beside those of the same name.
    #[must_use]
    pub fn with_another(&self, name: &str, secret: &str) -> Zeroizing<String> {
        let name = self.canonical(name);
        let mut text = self.without_lines(&[], name.len() + secret.len() + 2);
        push_line(&mut text, &name, secret);
        text
    }

    /// The text with each secret of a name changed, on the line where it stands.
    #[must_use]
    pub(crate) fn with_changed(
        &self,
        name: &str,
        change: impl Fn(&str) -> Zeroizing<String>,
    ) -> Zeroizing<String> {
        let name = self.canonical(name);
        let secrets = self.secrets(&name);
        let changed: Vec<_> = secrets.iter().map(|secret| change(secret)).collect();
        let more: usize = changed.iter().map(|secret| name.len() + secret.len() + 2).sum();
        let mut at = self.lines_of(&name).iter().zip(&changed).peekable();
        let mut text = Zeroizing::new(String::with_capacity(self.text.len() + more + 1));
        for (line, number) in self.text.lines().zip(1..) {
            match at.next_if(|(changed, _)| **changed == number) {
                Some((_, secret)) => push_line(&mut text, &name, secret),
                None => {
                    text.push_str(line);
                    text.push('\n');
                }
            }
        }
        text
    }

    /// The text with many lines: each in place of the old ones of the same name, else at the end. No name may stand there twice.
    #[must_use]
    pub fn with_all<'a>(&self, all: impl IntoIterator<Item = (&'a str, &'a str)>) -> Zeroizing<String> {
        let at: HashMap<&str, &[usize]> = self
            .names
            .iter()
            .map(|named| (&*named.name, &*named.lines))
            .collect();
        let mut replaced: HashMap<usize, Option<(String, &str)>> = HashMap::new();
        let mut added = Vec::new();
        let mut more = 0;
        for (name, secret) in all {
            let name = self.canonical(name);
            more += name.len() + secret.len() + 2;
            match at.get(&*name).and_then(|lines| lines.split_first()) {
                Some((first, others)) => {
                    replaced.insert(*first, Some((name, secret)));
                    replaced.extend(others.iter().map(|line| (*line, None)));
                }
                None => added.push((name, secret)),
            }
        }
        let mut text = Zeroizing::new(String::with_capacity(self.text.len() + more + 1));
        for (number, line) in (1..).zip(self.text.lines()) {
            match replaced.get(&number) {
                Some(Some((name, secret))) => push_line(&mut text, name, secret),
                Some(None) => {}
                None => {
                    text.push_str(line);
                    text.push('\n');
                }
            }
        }
        for (name, secret) in added {
            push_line(&mut text, &name, secret);
        }
        text
    }

    /// The text without the lines of this name.
    #[must_use]
    pub fn without(&self, name: &str) -> Zeroizing<String> {
        self.without_lines(self.lines_of(name), 0)
    }

    /// The text without the lines of this name before its last.
    #[must_use]
    pub fn without_older(&self, name: &str) -> Zeroizing<String> {
        let older = self.lines_of(name).split_last().map(|(_, older)| older);
        self.without_lines(older.unwrap_or_default(), 0)
    }

    fn canonical(&self, name: &str) -> String {
        (self.form.canonical)(name).unwrap_or_else(|_| name.to_owned())
    }

    fn lines_of(&self, name: &str) -> &[usize] {
        let name = self.canonical(name);
        let named = self.names.iter().find(|named| named.name == name);
        named.map_or(&[], |named| &named.lines)
    }

    /// Copies the other lines. The room is reserved at once, with `extra`, as a text that grows leaves copies behind.
    fn without_lines(&self, lines: &[usize], extra: usize) -> Zeroizing<String> {
        let mut text = Zeroizing::new(String::with_capacity(self.text.len() + extra + 1));
        for (line, number) in self.text.lines().zip(1..) {
            if !lines.contains(&number) {
                text.push_str(line);
                text.push('\n');
            }
        }
        text
    }
}

fn push_line(text: &mut String, name: &str, secret: &str) {
    text.push_str(name);
    text.push(':');
    text.push_str(secret);
    text.push('\n');
}

/// The name of a line, or nothing for a comment; or which part of it is wrong and why.
fn parse_line<'l>(line: &'l str, form: &Form) -> Result<Option<String>, (&'l str, String)> {
    if line.trim().is_empty() || line.starts_with('#') {
        return Ok(None);
    }
    let (name, secret) = form
        .split(line)
        .ok_or_else(|| (line, "expected a name, a colon and its secret".to_owned()))?;
    let of_name = |message: String| (name, message);
    check_length(name, form).map_err(of_name)?;
    if name.contains('\0') {
        return Err(of_name("the name holds a NUL character".to_owned()));
    }
    if name.starts_with('\u{feff}') {
        return Err(of_name("the line begins with a byte order mark, which would be part of the name: save the file without it".to_owned()));
    }
    let secret = secret.trim();
    (form.check)(name, secret).map_err(|message| (secret, message))?;
    (form.canonical)(name).map(Some).map_err(of_name)
}

fn check_length(name: &str, form: &Form) -> Result<(), String> {
    if name.is_empty() {
        return Err("the name is empty".to_owned());
    }
    if name.len() > form.max_name {
        let max = form.max_name;
        return Err(format!(
            "the name has {} bytes, at most {max} are allowed",
            name.len()
        ));
    }
    Ok(())
}

/// Whether a new line may have this name: 1 to [`Form::max_name`] bytes, no control characters, not `#` at its begin, no blanks at its
/// ends; no colon where the name ends at the first.
///
/// # Errors
/// What is wrong with it.
pub fn check_name(name: &str, form: &Form) -> Result<(), String> {
    check_length(name, form)?;
    if name.contains(':') && !form.colons {
        return Err("the name may not hold a colon: it ends at the first".to_owned());
    }
    if name.contains(char::is_control) {
        return Err("the name may not hold control characters".to_owned());
    }
    if name.starts_with('#') || name.trim() != name {
        return Err("the name may not begin with `#`, nor begin or end with a blank".to_owned());
    }
    (form.canonical)(name).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FORM: Form = Form {
        split: |line| line.split_once(':'),
        colons: false,
        trims: false,
        max_name: 8,
        most: 1,
        canonical: |name| Ok(name.to_owned()),
        check: |_, secret| {
            if secret.is_empty() {
                Err("empty".to_owned())
            } else {
                Ok(())
            }
        },
    };

    fn parse(text: &str) -> Result<NamedLines, Vec<LineError>> {
        NamedLines::parse(text.as_bytes(), FORM)
    }

    #[test]
    fn changes_keep_comments_and_order() {
        let Ok(lines) = parse("# fleet\na:1\n\nb:2:x\r\n# end") else {
            panic!("a good file")
        };
        assert_eq!(lines.names().collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(lines.secret("b").unwrap().as_str(), "2:x");
        assert_eq!(
            lines.with("c", "3").as_str(),
            "# fleet\na:1\n\nb:2:x\n# end\nc:3\n"
        );
        assert_eq!(lines.with("a", "9").as_str(), "# fleet\na:9\n\nb:2:x\n# end\n");
        assert_eq!(lines.without("a").as_str(), "# fleet\n\nb:2:x\n# end\n");
        assert_eq!(lines.without("nobody").as_str(), "# fleet\na:1\n\nb:2:x\n# end\n");
    }

    #[test]
    fn every_wrong_line_is_reported() {
        let Err(errors) = parse("a\n:1\nok:1\nok:2\nx:\n # no comment\nninechars:1\n") else {
            panic!("a bad file")
        };
        let lines: Vec<usize> = errors.iter().map(|error| error.line).collect();
        assert_eq!(lines, [1, 2, 4, 5, 6, 7]);
        assert!(errors[2].message.contains("line 3 already"));
    }

    #[test]
    fn bytes_that_are_no_text_are_found() {
        let Err(errors) = NamedLines::parse(b"a:1\n\xff:2\n", FORM) else {
            panic!("no text")
        };
        assert_eq!(errors[0].line, 2);
    }
}
