//! `migrate`: a configuration out of that of EMQX.

use std::path::{Path, PathBuf};

use crate::config::atomic::directory_of;
use crate::config::{self, Severity};

use super::args::MigrateArgs;
use super::atomic::{DirectoryLock, write};
use super::exit::{CANNOT_CREATE, DATA_ERROR, Failure, NO_INPUT};
use super::output;

mod amount;
mod gateway;
mod hocon;
mod logins;
mod material;
mod nothing;
mod parse;
mod sheet;

use hocon::Object;
use material::Homes;
use sheet::Sheet;

/// What stands at the top of the configuration.
const HEADER: &str =
    "# Made of a configuration of EMQX by `portcullis migrate`. `portcullis check-config` checks it.\n\n";

/// Most times that what would be refused is taken away again: each takes a key at least.
const MAX_ROUNDS: usize = 100;

/// Permission bits of the configuration, which holds no secret.
const MODE: u32 = 0o644;

/// Parts of a configuration there that are not about CoAP.
const OTHERS: &[&str] = &[
    "node",
    "cluster",
    "dashboard",
    "log",
    "listeners",
    "mqtt",
    "rule_engine",
];

/// Writes the configuration that the files come to, with the files that it names, and says what has no counterpart.
pub(super) fn run(args: &MigrateArgs) -> Result<(), Failure> {
    let mut all = Object::read(&args.files).map_err(|wrong| {
        let code = if wrong.place.is_some() {
            DATA_ERROR
        } else {
            NO_INPUT
        };
        Failure::new(code, wrong.to_string())
    })?;
    let first = args.files.first().map_or(Path::new(""), PathBuf::as_path);
    let (directory, shown) = match &args.output {
        Some(file) => (directory_of(file).to_owned(), None),
        None => {
            let here = args.dir.clone().unwrap_or_else(|| PathBuf::from("."));
            let real = here
                .canonicalize()
                .map_err(|error| Failure::new(CANNOT_CREATE, format!("{}: {error}", here.display())))?;
            (real.clone(), Some(real))
        }
    };
    let mut sheet = Sheet::naming(shown);
    let broker = args.broker.as_deref().unwrap_or("embedded:");
    sheet.set(&["broker"], "url", broker);
    gateway::run(&mut all, &Homes::of(first), &mut sheet);
    if args.broker.is_none() {
        sheet.note(
            "broker.url",
            None,
            "\"embedded:\", which has no MQTT clients: `--broker mqtt://HOST:1883` makes the gateway a client of EMQX, or of another broker",
        );
    }
    others(&mut all, &mut sheet);
    write_files(&sheet, &directory, args)?;
    let file = args
        .output
        .clone()
        .unwrap_or_else(|| directory.join("portcullis.toml"));
    let text = mended(&mut sheet, &file)?;
    for line in sheet.told() {
        output::note(&line);
    }
    match &args.output {
        None => output::print(&text),
        Some(file) => {
            let lock = DirectoryLock::of(file)?;
            write(&lock, file, text.as_bytes(), MODE)?;
            output::note(&format!("{} written.", file.display()));
            Ok(())
        }
    }
}

/// What is not about CoAP stays with EMQX, and is named in one line.
fn others(all: &mut Object, sheet: &mut Sheet) {
    let mut seen = Vec::new();
    for name in OTHERS {
        if all.take(name).is_some() {
            seen.push(*name);
        }
    }
    let mut more: Vec<String> = Vec::new();
    for (key, _) in all.leaves("") {
        let root = key.split('.').next().unwrap_or_default().to_owned();
        if root == "gateway" {
            let kind = key.split('.').take(2).collect::<Vec<_>>().join(".");
            more.push(kind);
        } else {
            more.push(root);
        }
    }
    more.dedup();
    let names: Vec<&str> = seen.into_iter().chain(more.iter().map(String::as_str)).collect();
    if !names.is_empty() {
        sheet.note(
            &names.join(", "),
            None,
            "not of the CoAP gateway, stays with EMQX",
        );
    }
}

fn write_files(sheet: &Sheet, directory: &Path, args: &MigrateArgs) -> Result<(), Failure> {
    let paths = sheet.files.iter().map(|file| directory.join(&file.name));
    let there: Vec<String> = paths
        .chain(args.output.clone())
        .filter(|path| path.exists())
        .map(|path| path.display().to_string())
        .collect();
    if !args.force && !there.is_empty() {
        let message = format!(
            "is there already, and --force overwrites it: {}",
            there.join(", ")
        );
        return Err(Failure::new(CANNOT_CREATE, message));
    }
    std::fs::create_dir_all(directory).map_err(|error| Failure::write(directory, &error))?;
    for file in &sheet.files {
        let path = directory.join(&file.name);
        let lock = DirectoryLock::of(&path)?;
        write(&lock, &path, &file.content, file.mode)?;
        output::note(&format!("{} written.", path.display()));
    }
    Ok(())
}

/// The text, without what would be refused: that is taken away, and told.
fn mended(sheet: &mut Sheet, file: &Path) -> Result<String, Failure> {
    for _ in 0..MAX_ROUNDS {
        let text = format!("{HEADER}{}", sheet.document);
        let Err(problems) = config::load_from(&text, file) else {
            return Ok(text);
        };
        let reasons = problems
            .iter()
            .filter(|problem| problem.severity == Severity::Error);
        let mut is_less = false;
        for problem in reasons {
            let key = guarded(&problem.key);
            if sheet.unset(&key) {
                is_less = true;
                sheet.note(&key, None, format!("taken away again: {}", problem.message));
            }
        }
        if !is_less {
            // Nothing that was written here is at fault, such as a port that two listeners have there.
            let text = problems.to_string();
            return Err(Failure::new(
                DATA_ERROR,
                format!("what came of it would be refused: {text}"),
            ));
        }
    }
    Err(Failure::new(DATA_ERROR, "what came of it would be refused"))
}

/// The key to take away for a fault at `key`: what keeps strangers out goes with what it protects.
fn guarded(key: &str) -> String {
    let parts: Vec<&str> = key.split('.').collect();
    match parts.as_slice() {
        ["listeners", kind, name, field, ..]
            if matches!(
                *field,
                "verify" | "ca_file" | "access_rules" | "authentication" | "mountpoint"
            ) =>
        {
            format!("listeners.{kind}.{name}")
        }
        // Without it everybody would come in.
        [.., "backend"] => String::new(),
        _ => key.to_owned(),
    }
}
