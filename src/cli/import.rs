//! `user import`, `psk import`: many at once out of CSV or JSON, all of it or nothing.

use std::collections::{BTreeMap, HashMap};
use std::io::Read as _;
use std::path::Path;

use base64ct::{Base64Unpadded, Encoding as _};
use clap::ValueEnum;
use serde_json::Value;
use serde_json::value::RawValue;
use zeroize::Zeroizing;

use crate::auth::hash::StoredHash;
use crate::auth::users::hash_password;
use crate::config::named_lines::{self, Form, NamedLines};
use crate::config::{psk_file, users_file};

use super::args::{Columns, HashArgs, HashName, ImportArgs, SaltPosition};
use super::atomic::{DirectoryLock, write_secret};
use super::exit::{DATA_ERROR, Failure, NO_INPUT};
use super::output;

/// Largest input in bytes.
const MAX_INPUT: u64 = 64 << 20;

/// Wrong lines that are told.
const TOLD: usize = 50;

/// What a row has by column.
type Fields = BTreeMap<String, Zeroizing<String>>;

/// A row of the input.
struct Row {
    /// The line that it begins on, from 1.
    line: usize,
    fields: Fields,
}

/// What is wrong with a row; nothing of what stands there.
struct Wrong {
    line: usize,
    message: String,
}

/// A name with its secret, as a line of the file has them, and the line of the input.
struct Entry {
    line: usize,
    name: String,
    secret: Zeroizing<String>,
}

/// Imports users into `path`.
pub(super) fn users(input: &ImportArgs, hashes: &HashArgs, path: &Path) -> Result<(), Failure> {
    const COLUMNS: [&str; 5] = ["user_id", "password", "password_hash", "salt", "is_superuser"];
    let rows = read(input, &COLUMNS, None)?;
    let mut superusers = 0;
    let mut legacy = 0;
    let entries = convert(&rows, input, |fields| {
        let name = needed(fields, "user_id")?.to_string();
        let secret = match (filled(fields, "password"), filled(fields, "password_hash")) {
            (Some(password), None) => Zeroizing::new(hash_password(password.as_bytes())?),
            (None, Some(hash)) => told(hash, filled(fields, "salt"), hashes)?,
            _ => return Err("it needs password_hash, or password, and not both".to_owned()),
        };
        let parsed = StoredHash::parse(&secret)?;
        legacy += usize::from(parsed.check_legacy(false).is_err());
        match fields.get("is_superuser").map_or("", |text| text.as_str()) {
            "" | "false" | "0" => {}
            "true" | "1" => superusers += 1,
            _ => return Err("is_superuser is true or false".to_owned()),
        }
        Ok((name, secret))
    })?;
    store(&entries, input, path, &users_file::FORM, users_file::parse)?;
    if superusers > 0 {
        output::note(&format!(
            "portcullis: {superusers} of them were superusers there: here `acl_file` says what a user may do"
        ));
    }
    if legacy > 0 {
        output::note(&format!(
            "portcullis: {legacy} of the hashes are taken only with `legacy_hashes = true`"
        ));
    }
    Ok(())
}

/// Imports pre-shared keys into `path`.
pub(super) fn keys(input: &ImportArgs, path: &Path) -> Result<(), Failure> {
    const COLUMNS: [&str; 3] = ["identity", "key", "secret"];
    let rows = read(input, &COLUMNS, Some(["identity", "secret"]))?;
    let entries = convert(&rows, input, |fields| {
        let identity = psk_file::canonical_identity(needed(fields, "identity")?)?;
        let key = match (filled(fields, "key"), filled(fields, "secret")) {
            (Some(key), None) => Zeroizing::new(key.to_ascii_lowercase()),
            // Its characters are the key.
            (None, Some(secret)) => Zeroizing::new(hex::encode(secret.as_bytes())),
            _ => {
                return Err(
                    "it needs key, in hexadecimal digits, or secret, in characters, and not both".to_owned(),
                );
            }
        };
        psk_file::check_key(&key)?;
        Ok((identity, key))
    })?;
    store(&entries, input, path, &psk_file::FORM, psk_file::parse)
}

/// The rows of the input. `lines` names the columns of lines `name:secret`, where these are taken too.
fn read(input: &ImportArgs, columns: &[&str], lines: Option<[&str; 2]>) -> Result<Vec<Row>, Failure> {
    let text = text_of(&input.input)?;
    let format = input
        .format
        .unwrap_or_else(|| guess(&input.input, &text, columns, lines.is_some()));
    let read = match (format, lines) {
        (Columns::Json, _) => json(&text, columns),
        (Columns::Csv, _) => csv(&text, columns),
        (Columns::Lines, Some(names)) => Ok(colons(&text, names)),
        (Columns::Lines, None) => {
            return Err(Failure::new(DATA_ERROR, "users come as CSV or JSON"));
        }
    };
    let rows = read.map_err(|wrong| refusal(input, &wrong))?;
    if rows.is_empty() {
        return Err(Failure::new(
            DATA_ERROR,
            format!("{}: nothing to import", shown(&input.input)),
        ));
    }
    Ok(rows)
}

fn shown(path: &Path) -> String {
    if path.as_os_str() == "-" {
        "standard input".to_owned()
    } else {
        path.display().to_string()
    }
}

fn text_of(path: &Path) -> Result<Zeroizing<String>, Failure> {
    let failed = |why: &dyn std::fmt::Display| Failure::new(NO_INPUT, format!("{}: {why}", shown(path)));
    let mut bytes = Zeroizing::new(Vec::new());
    let taken = if path.as_os_str() == "-" {
        std::io::stdin().take(MAX_INPUT + 1).read_to_end(&mut bytes)
    } else {
        std::fs::File::open(path).and_then(|file| file.take(MAX_INPUT + 1).read_to_end(&mut bytes))
    };
    taken.map_err(|error| failed(&error))?;
    if bytes.len() as u64 > MAX_INPUT {
        return Err(failed(&format!("more than {MAX_INPUT} bytes")));
    }
    let text = std::str::from_utf8(&bytes)
        .map_err(|_| Failure::new(DATA_ERROR, format!("{}: no UTF-8", shown(path))))?;
    Ok(Zeroizing::new(
        text.strip_prefix('\u{feff}').unwrap_or(text).to_owned(),
    ))
}

/// The form of a text: by the name of its file, else by how it begins.
fn guess(path: &Path, text: &str, columns: &[&str], takes_lines: bool) -> Columns {
    let extension = path.extension().map(|extension| extension.to_ascii_lowercase());
    let head = text.lines().next().unwrap_or_default();
    let is_header = || {
        head.split(',')
            .all(|name| columns.contains(&name.trim().trim_matches('"')))
    };
    match extension.as_deref().and_then(|extension| extension.to_str()) {
        Some("json") => Columns::Json,
        Some("csv") => Columns::Csv,
        _ if text.trim_start().starts_with('[') => Columns::Json,
        _ if takes_lines && !is_header() => Columns::Lines,
        _ => Columns::Csv,
    }
}

fn csv(text: &str, columns: &[&str]) -> Result<Vec<Row>, Vec<Wrong>> {
    let mut reader = csv::ReaderBuilder::new()
        .trim(csv::Trim::Headers)
        .from_reader(text.as_bytes());
    let at = |error: &csv::Error| Wrong {
        line: error.position().map_or(1, |position| to_line(position.line())),
        // Its own words hold no field.
        message: match error.kind() {
            csv::ErrorKind::UnequalLengths {
                expected_len, len, ..
            } => {
                format!("it has {len} fields, the first line names {expected_len}")
            }
            _ => "this is no CSV (RFC 4180)".to_owned(),
        },
    };
    let header = reader.headers().map_err(|error| vec![at(&error)])?.clone();
    let mut names: Vec<&str> = Vec::new();
    for name in &header {
        if !columns.contains(&name) || names.contains(&name) {
            let message = format!(
                "the first line names the columns, each once, of {}",
                columns.join(", ")
            );
            return Err(vec![Wrong { line: 1, message }]);
        }
        names.push(name);
    }
    let mut rows = Vec::new();
    let mut wrong = Vec::new();
    for record in reader.records() {
        match record {
            Ok(record) => rows.push(Row {
                line: record.position().map_or(0, |position| to_line(position.line())),
                fields: header
                    .iter()
                    .zip(&record)
                    .map(|(name, field)| (name.to_owned(), Zeroizing::new(field.to_owned())))
                    .collect(),
            }),
            Err(error) => wrong.push(at(&error)),
        }
    }
    if wrong.is_empty() { Ok(rows) } else { Err(wrong) }
}

fn to_line(line: u64) -> usize {
    usize::try_from(line).unwrap_or(usize::MAX)
}

fn json(text: &str, columns: &[&str]) -> Result<Vec<Row>, Vec<Wrong>> {
    let all: Vec<&RawValue> = serde_json::from_str(text).map_err(|error| {
        vec![Wrong {
            line: error.line().max(1),
            message: "this is no JSON list of objects".to_owned(),
        }]
    })?;
    let mut rows = Vec::new();
    let mut wrong = Vec::new();
    let mut place = Place {
        text,
        offset: 0,
        line: 1,
    };
    for item in all {
        let line = place.of(item.get());
        match object(item.get(), columns) {
            Ok(fields) => rows.push(Row { line, fields }),
            Err(message) => wrong.push(Wrong { line, message }),
        }
    }
    if wrong.is_empty() { Ok(rows) } else { Err(wrong) }
}

/// Tells lines of parts of a text, asked for in their order.
struct Place<'t> {
    text: &'t str,
    offset: usize,
    line: usize,
}

impl Place<'_> {
    /// The line that `part` begins on.
    fn of(&mut self, part: &str) -> usize {
        let at = (part.as_ptr() as usize).saturating_sub(self.text.as_ptr() as usize);
        let between = self.text.get(self.offset..at).unwrap_or_default();
        self.line += between.matches('\n').count();
        self.offset = at;
        self.line
    }
}

fn object(text: &str, columns: &[&str]) -> Result<Fields, String> {
    let members: BTreeMap<String, Value> =
        serde_json::from_str(text).map_err(|_| "this is no object".to_owned())?;
    let mut fields = Fields::new();
    for (name, value) in members {
        if !columns.contains(&name.as_str()) {
            return Err(format!("an object has members of {}", columns.join(", ")));
        }
        let text = match value {
            Value::Null => continue,
            Value::String(text) => text,
            Value::Bool(truth) => truth.to_string(),
            Value::Number(number) => number.to_string(),
            Value::Array(_) | Value::Object(_) => return Err(format!("{name} is a list or an object")),
        };
        fields.insert(name, Zeroizing::new(text));
    }
    Ok(fields)
}

/// Lines `name:secret`; blank ones and comments left out. A line without a colon has no secret.
fn colons(text: &str, [name, secret]: [&str; 2]) -> Vec<Row> {
    let lines = (1..).zip(text.lines());
    lines
        .filter(|(_, line)| !line.trim().is_empty() && !line.starts_with('#'))
        .map(|(number, line)| {
            let (own, rest) = line.split_once(':').unwrap_or((line, ""));
            Row {
                line: number,
                fields: [(name, own), (secret, rest)]
                    .map(|(column, text)| (column.to_owned(), Zeroizing::new(text.to_owned())))
                    .into(),
            }
        })
        .collect()
}

fn filled<'f>(fields: &'f Fields, column: &str) -> Option<&'f str> {
    fields
        .get(column)
        .map(|text| text.as_str())
        .filter(|text| !text.is_empty())
}

fn needed<'f>(fields: &'f Fields, column: &str) -> Result<&'f str, String> {
    filled(fields, column).ok_or_else(|| format!("{column} is missing"))
}

/// Each row as an entry; what is wrong with any of them is wrong with all.
fn convert(
    rows: &[Row],
    input: &ImportArgs,
    mut entry: impl FnMut(&Fields) -> Result<(String, Zeroizing<String>), String>,
) -> Result<Vec<Entry>, Failure> {
    let mut entries = Vec::with_capacity(rows.len());
    let mut seen: HashMap<String, usize> = HashMap::new();
    let mut wrong = Vec::new();
    for row in rows {
        let line = row.line;
        let read = entry(&row.fields).and_then(|(name, secret)| match seen.insert(name.clone(), line) {
            Some(first) => Err(format!("it stands on line {first} already")),
            None => Ok(Entry { line, name, secret }),
        });
        match read {
            Ok(entry) => entries.push(entry),
            Err(message) => wrong.push(Wrong { line, message }),
        }
    }
    if wrong.is_empty() {
        Ok(entries)
    } else {
        Err(refusal(input, &wrong))
    }
}

/// Writes all entries, in place of those of the same name where that is asked for.
fn store(
    entries: &[Entry],
    input: &ImportArgs,
    path: &Path,
    form: &Form,
    parse: impl Fn(&[u8]) -> Result<NamedLines, Vec<crate::types::LineError>>,
) -> Result<(), Failure> {
    let mut wrong = Vec::new();
    let mut refuse = |line, message| wrong.push(Wrong { line, message });
    for Entry { line, name, secret } in entries {
        if let Err(message) = named_lines::check_name(name, form).and_then(|()| (form.check)(name, secret)) {
            refuse(*line, message);
        }
    }
    let lock = DirectoryLock::of(path)?;
    let old = if path.exists() {
        crate::config::secrets::read_secret(path)?
    } else {
        Zeroizing::default()
    };
    let lines = parse(&old).map_err(|errors| super::psk::wrong_lines(path, &errors))?;
    let known: std::collections::HashSet<&str> = lines.names().collect();
    let replaced = entries.iter().filter(|entry| known.contains(entry.name.as_str()));
    if input.replace {
        drop(replaced);
    } else {
        replaced.for_each(|entry| {
            refuse(
                entry.line,
                "it is there already; --replace takes the new one".to_owned(),
            )
        });
    }
    if !wrong.is_empty() {
        wrong.sort_by_key(|wrong| wrong.line);
        return Err(refusal(input, &wrong));
    }
    let pairs = entries
        .iter()
        .map(|entry| (entry.name.as_str(), entry.secret.as_str()));
    let text = lines.with_all(pairs);
    // What a start would refuse is not written.
    parse(text.as_bytes()).map_err(|errors| super::psk::wrong_lines(path, &errors))?;
    write_secret(&lock, path, text.as_bytes())?;
    output::print(&format!(
        "{}: {} imported. A running gateway takes them after a reload.\n",
        path.display(),
        entries.len()
    ))
}

fn refusal(input: &ImportArgs, wrong: &[Wrong]) -> Failure {
    let file = shown(&input.input);
    let mut lines: Vec<String> = wrong
        .iter()
        .take(TOLD)
        .map(|Wrong { line, message }| format!("{file}, line {line}: {message}"))
        .collect();
    if wrong.len() > TOLD {
        lines.push(format!("{file}: {} more lines are wrong", wrong.len() - TOLD));
    }
    lines.push("nothing was imported".to_owned());
    Failure::new(DATA_ERROR, lines.join("\n"))
}

/// A hash as a line of the users file tells it. One that begins with `$` does so already.
fn told(hash: &str, salt: Option<&str>, how: &HashArgs) -> Result<Zeroizing<String>, String> {
    if hash.starts_with('$') {
        return Ok(Zeroizing::new(hash.to_owned()));
    }
    let bytes =
        Zeroizing::new(hex::decode(hash).map_err(|_| "password_hash is no hexadecimal digits".to_owned())?);
    let algorithm = how
        .algorithm
        .ok_or("password_hash does not tell how it was made: say it with --algorithm")?;
    let (hash, salt) = (
        Base64Unpadded::encode_string(&bytes),
        Base64Unpadded::encode_string(salt.unwrap_or_default().as_bytes()),
    );
    let position = how.salt_position;
    if salt.is_empty() && (position != SaltPosition::Disable || algorithm.is_pbkdf2()) {
        return Err("salt is missing; --salt-position disable is for hashes without one".to_owned());
    }
    let name = algorithm.name();
    Ok(Zeroizing::new(if algorithm.is_pbkdf2() {
        format!("${name}$i={}${salt}${hash}", how.iterations)
    } else if position == SaltPosition::Disable {
        format!("${name}$disable$${hash}")
    } else {
        let place = position.to_possible_value();
        let place = place.as_ref().map_or("prefix", |place| place.get_name());
        format!("${name}${place}${salt}${hash}")
    }))
}

impl HashName {
    /// Its name in a hash that tells how it was made.
    const fn name(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Sha512 => "sha512",
            Self::Sha => "sha1",
            Self::Md5 => "md5",
            Self::Pbkdf2Sha256 => "pbkdf2-sha256",
            Self::Pbkdf2Sha512 => "pbkdf2-sha512",
        }
    }

    const fn is_pbkdf2(self) -> bool {
        matches!(self, Self::Pbkdf2Sha256 | Self::Pbkdf2Sha512)
    }
}
