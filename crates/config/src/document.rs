//! A parsed file on its way to a configuration: every key is asked for once, and what nobody asked for is unknown.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::Path;

use toml::de::{DeTable, DeValue};

use super::paths::PathBase;
use super::problem::{Place, Problem, Problems, Severity};
use super::section::Section;
use super::value::{Complaint, Value};

/// The text of a file, where each key stands in it, and what was found wrong so far.
pub(super) struct Document<'t> {
    file: &'t Path,
    text: &'t str,
    pub(super) base: &'t PathBase,
    spans: BTreeMap<String, Range<usize>>,
    broken: BTreeSet<String>,
    found: Vec<(usize, Problem)>,
}

impl<'t> Document<'t> {
    pub(super) fn new(file: &'t Path, text: &'t str, base: &'t PathBase) -> Self {
        Self {
            file,
            text,
            base,
            spans: BTreeMap::new(),
            broken: BTreeSet::new(),
            found: Vec::new(),
        }
    }

    /// Where in the file a key stands, for ordering.
    pub(super) fn position(&self, key: &str) -> usize {
        self.spans.get(key).map_or(usize::MAX, |span| span.start)
    }

    /// Whether the file gives this key.
    pub(super) fn has(&self, key: &str) -> bool {
        self.spans.contains_key(key)
    }

    /// Whether anything is wrong already with one of these keys, so that what depends on them says nothing.
    pub(super) fn is_broken(&self, keys: &[&str]) -> bool {
        keys.iter().any(|key| self.broken.contains(*key))
    }

    /// How many problems were found so far that forbid a start.
    pub(super) fn error_count(&self) -> usize {
        let errors = self.found.iter().map(|(_, problem)| problem.severity);
        errors.filter(|severity| *severity == Severity::Error).count()
    }

    /// A problem at a byte range.
    pub(super) fn at(&mut self, key: &str, span: Option<Range<usize>>, severity: Severity, message: String) {
        if severity == Severity::Error {
            self.broken.insert(key.to_owned());
        }
        let order = span.as_ref().map_or(usize::MAX, |span| span.start);
        self.found.push((
            order,
            Problem {
                file: self.file.to_owned(),
                place: span.map(|span| Place::of(self.text, &span)),
                key: key.to_owned(),
                message,
                severity,
                unreadable: false,
            },
        ));
    }

    /// A problem of the first of `keys`, unless one of them is broken already. A key that the file does not give is shown at
    /// the table that would hold it.
    pub(super) fn complain(&mut self, keys: &[&str], message: impl Into<String>) {
        self.complain_as(Severity::Error, keys, message);
    }

    /// As [`Self::complain`], with a severity.
    pub(super) fn complain_as(&mut self, severity: Severity, keys: &[&str], message: impl Into<String>) {
        if self.is_broken(keys) {
            return;
        }
        if let Some(key) = keys.first() {
            self.at(key, self.nearest(key), severity, message.into());
        }
    }

    /// One of several problems of a key.
    pub(super) fn complain_more(&mut self, key: &str, message: String) {
        self.at(key, self.nearest(key), Severity::Error, message);
    }

    fn nearest(&self, key: &str) -> Option<Range<usize>> {
        nearest(&self.spans, key)
    }

    /// Where each key stands.
    pub(super) fn places(&self) -> Places {
        let place = |(key, span): (&String, &Range<usize>)| (key.clone(), Place::of(self.text, span));
        Places(self.spans.iter().map(place).collect())
    }

    /// Everything found, in the order of the file.
    pub(super) fn into_problems(mut self) -> Problems {
        self.found.sort_by_key(|(order, _)| *order);
        Problems(self.found.into_iter().map(|(_, problem)| problem).collect())
    }
}

/// Where each key of a file stands.
#[derive(Debug, Clone, Default)]
pub struct Places(BTreeMap<String, Place>);

impl Places {
    /// Where a key, dotted, stands; when the file does not give it, the table that would hold it.
    #[must_use]
    pub fn of(&self, key: &str) -> Option<Place> {
        nearest(&self.0, key)
    }
}

fn nearest<T: Clone>(places: &BTreeMap<String, T>, key: &str) -> Option<T> {
    let mut key = key;
    loop {
        if let Some(place) = places.get(key) {
            return Some(place.clone());
        }
        key = key.rsplit_once('.')?.0;
    }
}

/// One table of the file, or one that the file does not give.
pub(super) struct Table<'d> {
    path: String,
    entries: Option<&'d DeTable<'d>>,
    known: Vec<&'static str>,
}

impl<'d> Table<'d> {
    pub(super) fn root(entries: &'d DeTable<'d>) -> Self {
        Self {
            path: String::new(),
            entries: Some(entries),
            known: Vec::new(),
        }
    }

    /// A table that the file does not give: all defaults.
    pub(super) fn absent(path: &str) -> Self {
        Self {
            path: path.to_owned(),
            entries: None,
            known: Vec::new(),
        }
    }

    /// The dotted key of `name` in this table.
    pub(super) fn key(&self, name: &str) -> String {
        if self.path.is_empty() {
            name.to_owned()
        } else {
            format!("{}.{name}", self.path)
        }
    }

    /// The value of `name`, else of `default` (a TOML value, or `unset`). Nothing only when the default itself is wrong, which
    /// is a problem too.
    pub(super) fn value<T: Value>(
        &mut self,
        doc: &mut Document<'_>,
        name: &'static str,
        default: &str,
        check: impl Fn(&T) -> Result<(), String>,
    ) -> Option<T> {
        self.known.push(name);
        let key = self.key(name);
        let found = self.entries.and_then(|entries| entries.get(name));
        if let Some(value) = found {
            doc.spans.insert(key.clone(), value.span());
            let read = T::read(value.get_ref(), doc.base).and_then(|read| match check(&read) {
                Ok(()) => Ok(read),
                Err(message) => Err(vec![message.into()]),
            });
            match read {
                Ok(read) => return Some(read),
                Err(complaints) => {
                    for Complaint { span, message } in complaints {
                        doc.at(
                            &key,
                            Some(span.unwrap_or_else(|| value.span())),
                            Severity::Error,
                            message,
                        );
                    }
                }
            }
        }
        let fallback = Self::default_value(default, doc.base);
        if fallback.is_none() {
            let message = format!("the built-in default `{default}` of `{key}` is wrong");
            doc.at(&key, None, Severity::Error, message);
        }
        fallback
    }

    fn default_value<T: Value>(default: &str, base: &PathBase) -> Option<T> {
        if default == "unset" {
            return T::unset();
        }
        T::read(DeValue::parse(default).ok()?.get_ref(), base).ok()
    }

    /// The table `name` inside this one; an absent one when the file does not give it.
    pub(super) fn child(&mut self, doc: &mut Document<'_>, name: &'static str) -> Self {
        self.known.push(name);
        let key = self.key(name);
        let entry = self.entries.and_then(|entries| entries.get_key_value(name));
        let Some((name_at, value)) = entry else {
            return Self::absent(&key);
        };
        doc.spans.insert(key.clone(), name_at.span());
        self.table_of(doc, &key, value)
    }

    fn table_of(&self, doc: &mut Document<'_>, key: &str, value: &'d toml::Spanned<DeValue<'d>>) -> Self {
        let entries = value.get_ref().as_table();
        if entries.is_none() {
            let message = format!(
                "expected a table: write `[{key}]` on a line of its own; found {}",
                super::value::found(value.get_ref())
            );
            doc.at(key, Some(value.span()), Severity::Error, message);
        }
        Self {
            path: key.to_owned(),
            entries,
            known: Vec::new(),
        }
    }

    /// A section inside this table.
    pub(super) fn section<S: Section>(&mut self, doc: &mut Document<'_>, name: &'static str) -> Option<S> {
        let mut child = self.child(doc, name);
        let section = S::read(&mut child, doc);
        child.finish(doc);
        section
    }

    /// The tables of an array `[[name]]`, in the order of the file.
    pub(super) fn tables(&mut self, doc: &mut Document<'_>, name: &'static str) -> Vec<Self> {
        self.known.push(name);
        let key = self.key(name);
        let entry = self.entries.and_then(|entries| entries.get_key_value(name));
        let Some((name_at, value)) = entry else {
            return Vec::new();
        };
        doc.spans.insert(key.clone(), name_at.span());
        let array = value
            .get_ref()
            .as_array()
            .filter(|array| array.iter().all(|item| item.get_ref().is_table()));
        let Some(array) = array else {
            let message =
                format!("expected tables: write `[[{key}]]` on a line of its own before the keys of each");
            doc.at(&key, Some(value.span()), Severity::Error, message);
            return Vec::new();
        };
        let number = |(item, number): (&'d toml::Spanned<DeValue<'d>>, usize)| {
            let key = format!("{key}.{number}");
            doc.spans.insert(key.clone(), item.span());
            self.table_of(doc, &key, item)
        };
        array.iter().zip(1..).map(number).collect()
    }

    /// The same where the file gives it.
    pub(super) fn given_section<S: Section>(
        &mut self,
        doc: &mut Document<'_>,
        name: &'static str,
    ) -> Option<S> {
        let mut child = self.child(doc, name);
        let section = child.is_present().then(|| S::read(&mut child, doc)).flatten();
        child.finish(doc);
        section
    }

    /// The tables in this one, whatever they are called, in the order of the file.
    pub(super) fn named_tables(&self, doc: &mut Document<'_>) -> Vec<(String, Self)> {
        let mut entries: Vec<_> = self.entries.into_iter().flat_map(DeTable::iter).collect();
        entries.sort_by_key(|(name, _)| name.span().start);
        entries
            .into_iter()
            .map(|(name, value)| {
                let key = self.key(name.get_ref());
                doc.spans.insert(key.clone(), name.span());
                (name.get_ref().to_string(), self.table_of(doc, &key, value))
            })
            .collect()
    }

    /// Whether the file gives this table.
    pub(super) fn is_present(&self) -> bool {
        self.entries.is_some()
    }

    /// Whether it has keys that were not asked for.
    pub(super) fn has_unknown(&self) -> bool {
        let mut names = self.entries.into_iter().flat_map(DeTable::keys);
        names.any(|name| !self.known.contains(&name.get_ref().as_ref()))
    }

    /// Reports the keys that were not asked for.
    pub(super) fn finish(self, doc: &mut Document<'_>) {
        let Some(entries) = self.entries else { return };
        for (name, _) in entries.iter() {
            let name_text = name.get_ref().as_ref();
            if !self.known.contains(&name_text) {
                let message = super::suggest::unknown_key(&self.path, name_text, &self.known);
                doc.at(&self.key(name_text), Some(name.span()), Severity::Error, message);
            }
        }
    }
}
