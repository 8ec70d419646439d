//! HOCON, from text to values.

use std::io::Read as _;
use std::path::Path;
use std::rc::Rc;

use super::hocon::{Node, Object, Place, Value, Wrong};

/// Largest file that is read, in bytes.
const MAX_FILE: u64 = 4 << 20;

/// How deep lists and objects may stand in each other, and files include each other.
const MAX_DEPTH: usize = 64;

/// Reads a file into `into`.
pub(super) fn file(path: &Path, into: &mut Object) -> Result<(), Wrong> {
    include(path, into, 0)
}

fn include(path: &Path, into: &mut Object, depth: usize) -> Result<(), Wrong> {
    let unreadable = |message: String| Wrong {
        file: path.to_owned(),
        place: None,
        message,
    };
    let mut text = String::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(MAX_FILE + 1).read_to_string(&mut text))
        .map_err(|error| unreadable(format!("cannot be read: {error}")))?;
    if text.len() as u64 > MAX_FILE {
        return Err(unreadable(format!("is larger than {} MiB", MAX_FILE >> 20)));
    }
    let mut parser = Parser {
        file: path.into(),
        rest: &text,
        line: 1,
        column: 1,
        depth: 0,
        included: depth,
    };
    parser.blank();
    if parser.eat('{') {
        parser.object(true, into)?;
        parser.blank();
    } else {
        parser.object(false, into)?;
    }
    match parser.peek() {
        None => Ok(()),
        Some(c) => Err(parser.wrong(format!("`{c}` closes nothing"))),
    }
}

struct Parser<'t> {
    file: Rc<Path>,
    rest: &'t str,
    line: usize,
    column: usize,
    depth: usize,
    /// How many files include this one.
    included: usize,
}

impl<'t> Parser<'t> {
    fn peek(&self) -> Option<char> {
        self.rest.chars().next()
    }

    fn bump(&mut self) -> Option<char> {
        let c = self.peek()?;
        self.rest = self.rest.get(c.len_utf8()..).unwrap_or_default();
        if c == '\n' {
            self.line += 1;
            self.column = 1;
        } else {
            self.column += 1;
        }
        Some(c)
    }

    fn eat(&mut self, wanted: char) -> bool {
        let is_there = self.peek() == Some(wanted);
        if is_there {
            self.bump();
        }
        is_there
    }

    fn eat_text(&mut self, wanted: &str) -> bool {
        let is_there = self.rest.starts_with(wanted);
        if is_there {
            wanted.chars().for_each(|_| {
                self.bump();
            });
        }
        is_there
    }

    /// What comes up to the first character that does not fit.
    fn run(&mut self, fits: impl Fn(char) -> bool) -> &'t str {
        let all = self.rest;
        while self.peek().is_some_and(&fits) {
            self.bump();
        }
        all.get(..all.len() - self.rest.len()).unwrap_or_default()
    }

    fn place(&self) -> Place {
        Place {
            file: Rc::clone(&self.file),
            line: self.line,
        }
    }

    fn wrong(&self, message: impl Into<String>) -> Wrong {
        self.wrong_at((self.line, self.column), message)
    }

    fn wrong_at(&self, place: (usize, usize), message: impl Into<String>) -> Wrong {
        Wrong {
            file: self.file.to_path_buf(),
            place: Some(place),
            message: message.into(),
        }
    }

    /// Goes past white space and comments; whether a line ended there.
    fn blank(&mut self) -> bool {
        let mut is_new_line = false;
        loop {
            if self.rest.starts_with('#') || self.rest.starts_with("//") {
                self.run(|c| c != '\n');
            }
            match self.peek() {
                Some('\n') => is_new_line = true,
                Some(c) if c.is_whitespace() || c == '\u{feff}' => {}
                _ => return is_new_line,
            }
            self.bump();
        }
    }

    /// Goes past what separates members; whether anything does.
    fn separator(&mut self) -> bool {
        let mut is_there = self.blank();
        while self.eat(',') {
            is_there = true;
            self.blank();
        }
        is_there
    }

    fn deeper(&mut self) -> Result<(), Wrong> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(self.wrong("lists and objects stand too deep in each other"));
        }
        Ok(())
    }

    /// The members of an object, up to its brace or, of one without, to the end of the file.
    fn object(&mut self, braces: bool, into: &mut Object) -> Result<(), Wrong> {
        self.deeper()?;
        self.separator();
        loop {
            match self.peek() {
                Some('}') if braces => {
                    self.bump();
                    break;
                }
                None if braces => return Err(self.wrong("`}` is missing")),
                None => break,
                Some(_) => {}
            }
            if !self.included_file(into)? {
                self.member(into)?;
            }
            let is_end = !self.separator() && !matches!(self.peek(), None | Some('}'));
            if is_end {
                return Err(self.wrong("expected the end of the line, or a comma, behind a value"));
            }
            if !braces && self.peek() == Some('}') {
                return Err(self.wrong("`}` closes nothing"));
            }
        }
        self.depth -= 1;
        Ok(())
    }

    /// `include "FILE"`; a file that is not there holds nothing.
    fn included_file(&mut self, into: &mut Object) -> Result<bool, Wrong> {
        let Some(rest) = self.rest.strip_prefix("include") else {
            return Ok(false);
        };
        let name = rest.trim_start_matches([' ', '\t']);
        if !["\"", "file(", "required("]
            .iter()
            .any(|start| name.starts_with(start))
        {
            return Ok(false);
        }
        let place = (self.line, self.column);
        self.run(|c| c != '"' && c != '\n');
        let name = self.quoted()?;
        self.run(|c| c == ')' || c == ' ');
        if self.included >= MAX_DEPTH {
            return Err(self.wrong_at(place, "a file includes others, and these include it again"));
        }
        let path = self.file.parent().unwrap_or(Path::new("")).join(name);
        if path.exists() {
            include(&path, into, self.included + 1)?;
        }
        Ok(true)
    }

    fn member(&mut self, into: &mut Object) -> Result<(), Wrong> {
        let path = self.key()?;
        self.blank();
        if self.eat_text("+=") {
            let node = self.value()?;
            let place = node.place.clone();
            let last = path.join(".");
            let mut items = match into.take(&last).map(|old| old.value) {
                Some(Value::List(items)) => items,
                _ => Vec::new(),
            };
            items.push(node);
            into.put(
                &path,
                Node {
                    value: Value::List(items),
                    place,
                },
            );
            return Ok(());
        }
        if !self.eat('=') && !self.eat(':') && self.peek() != Some('{') {
            return Err(self.wrong("expected `=` or `{` behind a key"));
        }
        let node = self.value()?;
        into.put(&path, node);
        Ok(())
    }

    fn key(&mut self) -> Result<Vec<String>, Wrong> {
        let mut path = Vec::new();
        loop {
            let part = if self.peek() == Some('"') {
                self.quoted()?
            } else {
                let fits = |c: char| !c.is_whitespace() && !".=:{}[],+\"#$".contains(c);
                self.run(fits).to_owned()
            };
            if part.is_empty() {
                return Err(self.wrong("expected a key"));
            }
            path.push(part);
            if !self.eat('.') {
                return Ok(path);
            }
        }
    }

    /// A value: what stands on one line is put together.
    fn value(&mut self) -> Result<Node, Wrong> {
        self.blank();
        let place = self.place();
        let mut pieces: Vec<Node> = Vec::new();
        loop {
            let here = self.place();
            let gap = self.run(|c| c == ' ' || c == '\t' || c == '\r').to_owned();
            let value = match self.peek() {
                None | Some('\n' | ',' | '}' | ']' | '#') => break,
                Some(_) if self.rest.starts_with("//") => break,
                Some('{') => {
                    self.bump();
                    let mut inner = Object::default();
                    self.object(true, &mut inner)?;
                    // `{...} {...}` is one object.
                    if let Some(Node {
                        value: Value::Object(before),
                        ..
                    }) = pieces.last_mut()
                    {
                        before.merge(inner);
                        continue;
                    }
                    Value::Object(inner)
                }
                Some('[') => self.list()?,
                Some('"') => Value::Text(self.quoted()?),
                Some('$') if self.rest.starts_with("${") => self.reference()?,
                Some(_) => {
                    let mut word = String::new();
                    while let Some(c) = self.peek() {
                        let ends = c.is_whitespace() || ",{}[]\"#".contains(c) || self.rest.starts_with("${");
                        if ends {
                            break;
                        }
                        word.push(c);
                        self.bump();
                    }
                    Value::Word(word)
                }
            };
            if !pieces.is_empty() && !gap.is_empty() {
                pieces.push(Node {
                    value: Value::Text(gap),
                    place: here.clone(),
                });
            }
            pieces.push(Node { value, place: here });
        }
        match pieces.len() {
            0 => Err(self.wrong("there is no value here")),
            1 => Ok(pieces.remove(0)),
            _ => Ok(Node {
                value: Value::Pieces(pieces),
                place,
            }),
        }
    }

    fn list(&mut self) -> Result<Value, Wrong> {
        self.bump();
        self.deeper()?;
        let mut items = Vec::new();
        self.separator();
        loop {
            if self.eat(']') {
                self.depth -= 1;
                return Ok(Value::List(items));
            }
            if self.peek().is_none() {
                return Err(self.wrong("`]` is missing"));
            }
            items.push(self.value()?);
            if !self.separator() && self.peek() != Some(']') {
                return Err(self.wrong("expected a comma, or `]`, behind an item"));
            }
        }
    }

    /// `${path}` or `${?path}`.
    fn reference(&mut self) -> Result<Value, Wrong> {
        self.eat_text("${");
        let optional = self.eat('?');
        let path = self.run(|c| c != '}' && c != '\n').trim().to_owned();
        if !self.eat('}') {
            return Err(self.wrong("`}` is missing behind `${`"));
        }
        Ok(Value::Reference { path, optional })
    }

    /// Text in quotes, or in three of them.
    fn quoted(&mut self) -> Result<String, Wrong> {
        let place = (self.line, self.column);
        if self.eat_text("\"\"\"") {
            let Some(end) = self.rest.find("\"\"\"") else {
                return Err(self.wrong_at(place, "a text is not ended by three quotes"));
            };
            let text = self.rest.get(..end).unwrap_or_default().to_owned();
            text.chars().for_each(|_| {
                self.bump();
            });
            self.eat_text("\"\"\"");
            return Ok(indented(&text));
        }
        if !self.eat('"') {
            return Err(self.wrong("expected a text in quotes"));
        }
        let mut text = String::new();
        loop {
            match self.bump() {
                Some('"') => return Ok(text),
                Some('\\') => text.push(self.escape()?),
                None | Some('\n') => return Err(self.wrong_at(place, "a text is not ended by a quote")),
                Some(c) => text.push(c),
            }
        }
    }

    fn escape(&mut self) -> Result<char, Wrong> {
        let place = (self.line, self.column);
        let unknown = "a backslash in a text stands before one of n t r b f \" \\ / u";
        Ok(match self.bump() {
            Some('n') => '\n',
            Some('t') => '\t',
            Some('r') => '\r',
            Some('b') => '\u{8}',
            Some('f') => '\u{c}',
            Some(c @ ('"' | '\\' | '/')) => c,
            Some('u') => {
                let digits: String = (0..4).filter_map(|_| self.bump()).collect();
                let code = u32::from_str_radix(&digits, 16).ok();
                code.and_then(char::from_u32)
                    .ok_or_else(|| self.wrong_at(place, "four hexadecimal digits stand behind \\u"))?
            }
            _ => return Err(self.wrong_at(place, unknown)),
        })
    }
}

/// `"""~` and a line end begin a text whose indentation is not meant, and `~"""` ends it.
fn indented(text: &str) -> String {
    let begun = text.strip_prefix("~\n").or_else(|| text.strip_prefix("~\r\n"));
    let Some(body) = begun else {
        return text.to_owned();
    };
    let body = body.strip_suffix('~').unwrap_or(body);
    let lines: Vec<&str> = body.split('\n').collect();
    let depth = |line: &&str| line.len() - line.trim_start_matches(' ').len();
    let least = lines
        .iter()
        .filter(|line| !line.trim().is_empty())
        .map(depth)
        .min();
    let least = least.unwrap_or_default();
    let cut = |line: &&str| line.get(least..).unwrap_or_default().to_owned();
    lines.iter().map(cut).collect::<Vec<_>>().join("\n")
}
