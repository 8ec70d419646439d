//! What a file of HOCON holds: the part of the language that EMQX writes and its pages show.

use std::path::{Path, PathBuf};
use std::rc::Rc;

use super::parse;

/// Where something stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    /// The file.
    pub(super) file: Rc<Path>,
    /// Its line, from 1.
    pub(super) line: usize,
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.file.display(), self.line)
    }
}

/// A value and its place.
#[derive(Debug, Clone)]
pub(super) struct Node {
    pub(super) value: Value,
    pub(super) place: Place,
}

#[derive(Debug, Clone)]
pub(super) enum Value {
    /// A word without quotes: a number, a boolean, `null`, or text.
    Word(String),
    /// Text in quotes.
    Text(String),
    List(Vec<Node>),
    Object(Object),
    /// `${path}`; with `?` it may be missing.
    Reference {
        path: String,
        optional: bool,
    },
    /// Pieces that are text when they are put together.
    Pieces(Vec<Node>),
}

impl Node {
    /// The text of a word or a quoted text.
    pub(super) fn text(&self) -> Option<&str> {
        match &self.value {
            Value::Word(text) | Value::Text(text) => Some(text),
            _ => None,
        }
    }

    /// A boolean, in the words that HOCON has for it.
    pub(super) fn boolean(&self) -> Option<bool> {
        match self.text()? {
            "true" | "on" | "yes" => Some(true),
            "false" | "off" | "no" => Some(false),
            _ => None,
        }
    }

    /// The texts of a list, or of a text with commas.
    pub(super) fn texts(&self) -> Option<Vec<String>> {
        match &self.value {
            Value::List(items) => items.iter().map(|item| item.text().map(str::to_owned)).collect(),
            _ => Some(
                self.text()?
                    .split(',')
                    .map(|part| part.trim().to_owned())
                    .collect(),
            ),
        }
    }
}

/// Keys with values, in the order of the file.
#[derive(Debug, Clone, Default)]
pub(super) struct Object(Vec<(String, Node)>);

/// What is no HOCON, and where.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Wrong {
    pub(super) file: PathBuf,
    /// Line and column; none where the file cannot be read.
    pub(super) place: Option<(usize, usize)>,
    pub(super) message: String,
}

impl std::fmt::Display for Wrong {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.file.display())?;
        if let Some((line, column)) = self.place {
            write!(f, ":{line}:{column}")?;
        }
        write!(f, ": {}", self.message)
    }
}

/// References that are followed from one to the next.
const MAX_STEPS: usize = 8;

/// Longest text that is put together of pieces, in bytes.
const MAX_TEXT: usize = 64 << 10;

impl Object {
    /// Reads files; where several give a key, the last does.
    pub(super) fn read(files: &[PathBuf]) -> Result<Self, Wrong> {
        let mut all = Self::default();
        for file in files {
            parse::file(file, &mut all)?;
        }
        let whole = all.clone();
        all.resolve(&whole)?;
        Ok(all)
    }

    /// Puts `node` at a path of keys. Objects are merged, all else gives way.
    pub(super) fn put(&mut self, path: &[String], node: Node) {
        let Some((first, rest)) = path.split_first() else {
            return;
        };
        let node = match rest {
            [] => node,
            _ => {
                let mut inner = Self::default();
                let place = node.place.clone();
                inner.put(rest, node);
                Node {
                    value: Value::Object(inner),
                    place,
                }
            }
        };
        let Some((_, old)) = self.0.iter_mut().find(|(key, _)| key == first) else {
            self.0.push((first.clone(), node));
            return;
        };
        match (&mut old.value, node.value) {
            (Value::Object(old), Value::Object(new)) => old.merge(new),
            (_, value) => {
                *old = Node {
                    value,
                    place: node.place,
                }
            }
        }
    }

    /// Puts what `other` has over what is there.
    pub(super) fn merge(&mut self, other: Self) {
        for (key, node) in other.0 {
            self.put(&[key], node);
        }
    }

    fn find(&self, path: &str) -> Option<&Node> {
        let (first, rest) = path
            .split_once('.')
            .map_or((path, None), |(first, rest)| (first, Some(rest)));
        let (_, node) = self.0.iter().find(|(key, _)| key == first)?;
        match (rest, &node.value) {
            (None, _) => Some(node),
            (Some(rest), Value::Object(inner)) => inner.find(rest),
            (Some(_), _) => None,
        }
    }

    /// Takes out what stands at a dotted path.
    pub(super) fn take(&mut self, path: &str) -> Option<Node> {
        let (first, rest) = path
            .split_once('.')
            .map_or((path, None), |(first, rest)| (first, Some(rest)));
        let at = self.0.iter().position(|(key, _)| key == first)?;
        match (rest, self.0.get_mut(at).map(|(_, node)| &mut node.value)) {
            (None, _) => Some(self.0.remove(at).1),
            (Some(rest), Some(Value::Object(inner))) => inner.take(rest),
            (Some(_), _) => None,
        }
    }

    /// Takes out the object at a dotted path; an empty one where there is none.
    pub(super) fn take_object(&mut self, path: &str) -> Self {
        match self.take(path).map(|node| node.value) {
            Some(Value::Object(inner)) => inner,
            _ => Self::default(),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Keys and values one by one.
    pub(super) fn into_entries(self) -> impl Iterator<Item = (String, Node)> {
        self.0.into_iter()
    }

    /// The dotted paths of everything that is left below `prefix`, with its place.
    pub(super) fn leaves(&self, prefix: &str) -> Vec<(String, Place)> {
        let mut all = Vec::new();
        for (key, node) in &self.0 {
            let path = if prefix.is_empty() {
                key.clone()
            } else {
                format!("{prefix}.{key}")
            };
            match &node.value {
                Value::Object(inner) => all.extend(inner.leaves(&path)),
                _ => all.push((path, node.place.clone())),
            }
        }
        all
    }

    /// Puts what is referred to in the place of the references.
    fn resolve(&mut self, whole: &Self) -> Result<(), Wrong> {
        let mut kept = Vec::with_capacity(self.0.len());
        for (key, mut node) in std::mem::take(&mut self.0) {
            if resolve(&mut node, whole, 0)? {
                kept.push((key, node));
            }
        }
        self.0 = kept;
        Ok(())
    }
}

/// Resolves a node; false when nothing is left of it.
fn resolve(node: &mut Node, whole: &Object, steps: usize) -> Result<bool, Wrong> {
    match &mut node.value {
        Value::Word(_) | Value::Text(_) => {}
        Value::Object(inner) => inner.resolve(whole)?,
        Value::List(items) => {
            let mut kept = Vec::with_capacity(items.len());
            for mut item in items.drain(..) {
                if resolve(&mut item, whole, steps)? {
                    kept.push(item);
                }
            }
            *items = kept;
        }
        Value::Reference { path, optional } => {
            let Some(text) = referred(path, whole, steps, &node.place)? else {
                if *optional {
                    return Ok(false);
                }
                let message = format!("${{{path}}} refers to nothing that is there");
                return Err(wrong(&node.place, message));
            };
            node.value = Value::Text(text);
        }
        Value::Pieces(pieces) => {
            let mut text = String::new();
            for piece in pieces {
                if resolve(piece, whole, steps)? {
                    let more = piece.text().ok_or_else(|| {
                        wrong(
                            &piece.place,
                            "texts alone are put together, no lists and objects".into(),
                        )
                    })?;
                    text.push_str(more);
                }
                if text.len() > MAX_TEXT {
                    return Err(wrong(&node.place, "this text becomes too long".to_owned()));
                }
            }
            node.value = Value::Text(text);
        }
    }
    Ok(true)
}

/// The text that a reference comes to, of the files or else of the environment.
fn referred(path: &str, whole: &Object, steps: usize, place: &Place) -> Result<Option<String>, Wrong> {
    let Some(found) = whole.find(path) else {
        return Ok(std::env::var(path).ok());
    };
    if steps >= MAX_STEPS {
        return Err(wrong(
            place,
            format!("${{{path}}} refers on and on, perhaps to itself"),
        ));
    }
    let mut found = found.clone();
    if !resolve(&mut found, whole, steps + 1)? {
        return Ok(None);
    }
    let text = found.text().ok_or_else(|| {
        wrong(
            place,
            format!("${{{path}}} refers to no text: objects and lists are not copied"),
        )
    })?;
    Ok(Some(text.to_owned()))
}

fn wrong(place: &Place, message: String) -> Wrong {
    Wrong {
        file: place.file.to_path_buf(),
        place: Some((place.line, 1)),
        message,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Object, Wrong> {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("emqx.conf");
        std::fs::write(&file, text).unwrap();
        Object::read(&[file])
    }

    fn shown(node: &Node) -> String {
        match &node.value {
            Value::Word(text) => text.clone(),
            Value::Text(text) => format!("{text:?}"),
            Value::List(items) => format!("[{}]", items.iter().map(shown).collect::<Vec<_>>().join(" ")),
            Value::Object(inner) => {
                let inner = inner.0.iter().map(|(key, node)| format!("{key}:{}", shown(node)));
                format!("{{{}}}", inner.collect::<Vec<_>>().join(" "))
            }
            Value::Reference { .. } | Value::Pieces(_) => "?".to_owned(),
        }
    }

    #[test]
    fn what_emqx_writes_is_read() {
        let text = r#"
            ## a comment
            gateway.coap { enable = true, heartbeat : 30s
              listeners.udp.default { bind = 5683 // the port
                 access_rules = ["allow 192.0.2.0/24"
                   "deny all",] }
              "mount point"=${gateway.coap.heartbeat}/x , none = ${?NOT_THERE_AT_ALL}
              url = http://127.0.0.1:8080/auth?c=${gateway.coap.heartbeat}
            }
            gateway.coap.heartbeat = "45s"
            gateway { coap {listeners { udp { default { max_connections = infinity } } } } }
            text = """~
              SELECT a
                FROM b
              ~"""
            rules += one
            rules += "two\u0041"
        "#;
        let all = read(text).unwrap();
        let shown = all
            .0
            .iter()
            .map(|(key, node)| format!("{key}={}", shown(node)))
            .collect::<Vec<_>>();
        assert_eq!(
            shown,
            [
                "gateway={coap:{enable:true heartbeat:\"45s\" listeners:{udp:{default:{bind:5683 \
                 access_rules:[\"allow 192.0.2.0/24\" \"deny all\"] max_connections:infinity}}} mount point:\"45s/x\" \
                 url:\"http://127.0.0.1:8080/auth?c=45s\"}}",
                "text=\"SELECT a\\n  FROM b\\n\"",
                "rules=[one \"twoA\"]",
            ]
        );
    }

    #[test]
    fn what_is_no_hocon_is_told_by_its_place_and_nothing_of_it_is_repeated() {
        for (text, place, said) in [
            ("a {\n b = 1\n", (3, 1), "`}` is missing"),
            ("a = [1, 2\n", (2, 1), "`]` is missing"),
            ("a = \"hush\nb = 1", (1, 5), "not ended"),
            ("a = \"\"\"hush", (1, 5), "not ended"),
            ("a\n", (2, 1), "`=`"),
            ("a = \n", (2, 1), "no value"),
            ("a = 1 }", (1, 7), "`}`"),
            ("= 1", (1, 1), "a key"),
            ("a = ${b}\nb = ${a}", (1, 1), "on and on"),
            ("a = ${nowhere_to_be_found}", (1, 1), "nothing"),
        ] {
            let wrong = read(text).unwrap_err();
            assert_eq!(wrong.place.unwrap(), place, "{text}: {}", wrong.message);
            assert!(
                wrong.message.contains(said) && !wrong.message.contains("hush"),
                "{text}: {}",
                wrong.message
            );
        }
        let deep = format!("a = {}", "[".repeat(100_000));
        assert!(read(&deep).unwrap_err().message.contains("deep"));
    }

    #[test]
    fn a_file_that_is_included_is_read_where_it_stands() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        std::fs::write(path("base.hocon"), "a = 1\nb = 1\ninclude \"loop.hocon\"").unwrap();
        std::fs::write(path("loop.hocon"), "include \"loop.hocon\"").unwrap();
        std::fs::write(
            path("emqx.conf"),
            "include \"base.hocon\"\ninclude \"gone\"\nb = 2\n",
        )
        .unwrap();
        assert!(
            Object::read(&[path("emqx.conf")])
                .unwrap_err()
                .message
                .contains("includes")
        );
        std::fs::write(path("loop.hocon"), "c = 3").unwrap();
        let all = Object::read(&[path("emqx.conf")]).unwrap();
        let texts: Vec<_> = all
            .0
            .iter()
            .map(|(key, node)| (key.as_str(), node.text().unwrap()))
            .collect();
        assert_eq!(texts, [("a", "1"), ("b", "2"), ("c", "3")]);
    }
}
