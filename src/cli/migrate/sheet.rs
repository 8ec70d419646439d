//! What comes of a migration: a configuration, the files that it names, and what is to be said.

use std::path::PathBuf;

use toml_edit::{DocumentMut, Item, Table, Value};
use zeroize::Zeroizing;

use crate::config::atomic::SECRET;
use crate::config::quantity::{show_duration, show_size};

use super::amount;
use super::hocon::{Node, Object, Place};

/// Permission bits of a file that everybody may read.
const PUBLIC: u32 = 0o644;

/// A file to be written beside the configuration.
pub(super) struct Made {
    pub(super) name: String,
    pub(super) content: Zeroizing<Vec<u8>>,
    pub(super) mode: u32,
}

/// Something that is to be told.
struct Note {
    place: Option<Place>,
    key: String,
    words: String,
}

/// How the value of a key is to be read.
#[derive(Clone, Copy)]
pub(super) enum Kind {
    Text,
    Boolean,
    Number,
    Duration,
    Size,
}

/// A key there, how it is read, and its name here.
pub(super) type Carried = (&'static str, Kind, &'static str);

#[derive(Default)]
pub(super) struct Sheet {
    pub(super) document: DocumentMut,
    pub(super) files: Vec<Made>,
    notes: Vec<Note>,
    /// What the names of files begin with when the configuration shows them.
    directory: Option<PathBuf>,
}

impl Sheet {
    /// An empty one. Files are named by their place in `directory`, or, without one, as what stands beside the configuration.
    pub(super) fn naming(directory: Option<PathBuf>) -> Self {
        Self {
            directory,
            ..Self::default()
        }
    }

    /// Sets a key of a table.
    pub(super) fn set(&mut self, table: &[&str], key: &str, value: impl Into<Value>) {
        let mut inner = self.document.as_table_mut();
        for part in table {
            let is_table = inner.get(part).is_some_and(Item::is_table);
            if !is_table {
                let mut new = Table::new();
                new.set_implicit(true);
                inner.insert(part, Item::Table(new));
            }
            match inner.get_mut(part).and_then(Item::as_table_mut) {
                Some(next) => inner = next,
                None => return,
            }
        }
        inner.set_implicit(false);
        inner.insert(key, Item::Value(value.into()));
    }

    /// Takes a dotted key away again; whether it was there.
    pub(super) fn unset(&mut self, key: &str) -> bool {
        let Some((table, key)) = key.rsplit_once('.') else {
            return self.document.remove(key).is_some();
        };
        let mut inner = self.document.as_table_mut();
        for part in table.split('.') {
            match inner.get_mut(part).and_then(Item::as_table_mut) {
                Some(next) => inner = next,
                None => return false,
            }
        }
        inner.remove(key).is_some()
    }

    /// Sets a key to the name of a file that is written beside the configuration.
    pub(super) fn set_file(&mut self, table: &[&str], key: &str, name: &str) {
        let shown = match &self.directory {
            Some(directory) => directory.join(name).display().to_string(),
            None => name.to_owned(),
        };
        self.set(table, key, shown);
    }

    /// A file with secrets, once.
    pub(super) fn secret(&mut self, name: &str, content: Zeroizing<Vec<u8>>) {
        self.file(name, content, SECRET);
    }

    /// A file that holds none.
    pub(super) fn public(&mut self, name: &str, content: Vec<u8>) {
        self.file(name, Zeroizing::new(content), PUBLIC);
    }

    fn file(&mut self, name: &str, content: Zeroizing<Vec<u8>>, mode: u32) {
        if !self.files.iter().any(|file| file.name == name) {
            self.files.push(Made {
                name: name.to_owned(),
                content,
                mode,
            });
        }
    }

    /// Tells something of a key there.
    pub(super) fn note(&mut self, key: &str, place: Option<&Place>, words: impl Into<String>) {
        self.notes.push(Note {
            place: place.cloned(),
            key: key.to_owned(),
            words: words.into(),
        });
    }

    /// Carries keys of `from`, whose own key is `path`, into `table`.
    pub(super) fn carry(&mut self, from: &mut Object, path: &str, keys: &[Carried], table: &[&str]) {
        for (key, kind, here) in keys {
            let Some(node) = from.take(key) else { continue };
            match read(&node, *kind) {
                Some(value) => self.set(table, here, value),
                None => {
                    let words = format!("not carried over: expected {}", expected(*kind));
                    self.note(&format!("{path}.{key}"), Some(&node.place), words);
                }
            }
        }
    }

    /// What was to be told, a line each.
    pub(super) fn told(&self) -> Vec<String> {
        let line = |note: &Note| {
            let place = note
                .place
                .as_ref()
                .map(|place| format!("{place}: "))
                .unwrap_or_default();
            format!("{place}{}: {}", note.key, note.words)
        };
        self.notes.iter().map(line).collect()
    }
}

fn expected(kind: Kind) -> &'static str {
    match kind {
        Kind::Text => "a text",
        Kind::Boolean => "true or false",
        Kind::Number => "a number",
        Kind::Duration => "a duration",
        Kind::Size => "a size",
    }
}

fn read(node: &Node, kind: Kind) -> Option<Value> {
    let text = node.text()?;
    Some(match kind {
        Kind::Text => text.into(),
        Kind::Boolean => node.boolean()?.into(),
        Kind::Number => text.trim().parse::<i64>().ok()?.into(),
        Kind::Duration => show_duration(amount::duration(text)?).into(),
        Kind::Size => show_size(amount::size(text)?).into(),
    })
}
