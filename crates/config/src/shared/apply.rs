//! Another version of what all share: checked before anything of it is written, written, and undone.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, access as access_to};
use toml_edit::{DocumentMut, value};
use zeroize::Zeroizing;

use super::super::atomic::{self, DirectoryLock};
use super::super::{Config, PathBase, Problem, Problems, ban_book, load_from, parse, secrets, tokens};
use super::record::{ByHand, Noted, Record};
use super::{BANS, CONFIGURATION, Fetched, Parts, SharedFile, TOKENS, all_files, files, mark, of_text, with};

/// Where contents lie while they are checked, within the state directory.
const STAGED: &str = "group.staged";

/// Where what was changed by hand goes when another takes its place, within the state directory.
const REPLACED: &str = "group.replaced";

/// A version that was checked and can be written.
#[derive(Debug)]
pub struct Checked {
    /// The configuration as it will be, read from copies of the files that change.
    config: Config,
    /// The same with its own files.
    parsed: Config,
    source: PathBuf,
    /// The configuration file as it will be, where it changes.
    text: Option<String>,
    files: Vec<(SharedFile, Zeroizing<Vec<u8>>)>,
    state_dir: PathBuf,
}

/// A file as it was: its mode, and what it held where it was there.
#[derive(Debug)]
struct Before {
    path: PathBuf,
    mode: u32,
    old: Option<Zeroizing<Vec<u8>>>,
}

/// What was written, and what was there before.
#[derive(Debug)]
pub struct Written {
    before: Vec<Before>,
    /// Copies of what was changed by hand and is not any more.
    pub put_aside: Vec<PathBuf>,
    /// The names of the parts whose files are others than before.
    pub wrote: BTreeSet<String>,
}

fn whole(file: &Path, message: impl Into<String>) -> Problems {
    Problems::unreadable(file, message)
}

/// Checks what would be if these parts were in force here, as `check-config` does; `text` is the configuration file as it will be, where that
/// is known beside what is shared of it. Nothing is written but copies for the check.
///
/// # Errors
/// Everything that is wrong.
pub fn check(config: &Config, text: Option<String>, changed: &Parts) -> Result<Checked, Problems> {
    let source = config.source.clone().unwrap_or_default();
    let unreadable = |error: secrets::SecretError| whole(&source, error.to_string());
    let old = secrets::read_public(&source).map_err(unreadable)?;
    let old = String::from_utf8_lossy(&old).into_owned();
    let new = match (text, changed.get(CONFIGURATION)) {
        (Some(text), _) => text,
        (None, Some(shared)) => with(&old, shared).map_err(|why| whole(&source, why))?,
        (None, None) => old.clone(),
    };
    let parsed = parse(&new, &source, &PathBase::of_file(&source))?;
    let content = |file: &SharedFile| changed.get(&file.part).cloned();
    let new_files: Vec<_> = files(&parsed)
        .into_iter()
        .filter_map(|file| content(&file).map(|content| (file, content)))
        .collect();
    for (file, content) in &new_files {
        let wrong = match file.part.as_str() {
            TOKENS => tokens::parse(content)
                .err()
                .map(|errors| errors.iter().map(ToString::to_string).collect()),
            BANS => ban_book::check(content).err().map(|error| vec![error]),
            _ => None,
        };
        if let Some(lines) = wrong {
            let lines: Vec<String> = lines;
            return Err(whole(&file.path, lines.join("; ")));
        }
    }
    let staged = Staged::new(&config.node.state_dir)
        .map_err(|error| whole(&config.node.state_dir, error.to_string()))?;
    let text = staged
        .text(&new, &parsed, &new_files)
        .map_err(|why| whole(&source, why))?;
    let loaded = load_from(&text, &source).map_err(|problems| staged.named(problems))?;
    let paths = new_files.iter().map(|(file, _)| file.path.as_path());
    for path in paths.chain((new != old).then_some(source.as_path())) {
        writable(path).map_err(|why| whole(path, why))?;
    }
    Ok(Checked {
        config: loaded.config,
        parsed,
        text: (new != old).then_some(new),
        source,
        files: new_files,
        state_dir: config.node.state_dir.clone(),
    })
}

/// A version that was fetched, checked, and what is to be noted of it.
#[derive(Debug)]
pub struct Taken {
    /// What is to be written.
    pub checked: Checked,
    /// What is to be noted then.
    pub record: Record,
}

/// Checks a version of the group, of which `parts` has the digests, and the contents of those that are to be written. What it does not
/// have of what no configuration names is emptied here, unless `record` has it as this node's alone.
///
/// # Errors
/// Everything that is wrong with it here.
pub fn take(config: &Config, record: &Record, version: u64, parts: Fetched) -> Result<Taken, Problems> {
    let mut changed = Parts::new();
    let mut next = Record {
        version,
        ..Record::default()
    };
    for (part, (_, content)) in parts {
        match (content, record.parts.get(&part)) {
            (Some(content), _) => {
                next.note(&part, &content, mark(&part, &content));
                changed.insert(part, content);
            }
            (None, Some(noted)) => drop(next.parts.insert(part, noted.clone())),
            (None, None) => {}
        }
    }
    for file in files(config) {
        let part = file.part;
        let nothing: &[u8] = match part.as_str() {
            TOKENS => b"",
            BANS => b"[]",
            _ => continue,
        };
        if !file.path.exists() || next.parts.contains_key(&part) {
            continue;
        }
        // What was kept for this node alone stays; what it had before it was of the group does not.
        let kept = record.parts.get(&part).filter(|noted| noted.shared.is_empty());
        let noted = kept.cloned().unwrap_or_else(|| {
            changed.insert(part.clone(), Zeroizing::new(nothing.to_vec()));
            let none = hex::encode(mark(&part, nothing));
            Noted {
                shared: String::new(),
                group: none.clone(),
                here: none,
            }
        });
        next.parts.insert(part, noted);
    }
    Ok(Taken {
        checked: check(config, None, &changed)?,
        record: next,
    })
}

/// Whether a file can be replaced: by another one in its directory, of a link in that of what it names.
fn writable(path: &Path) -> Result<(), String> {
    let target = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let directory = atomic::directory_of(&target);
    let access = Access::WRITE_OK | Access::EXEC_OK;
    access_to(directory, access).map_err(|error| {
        let directory = directory.display();
        format!("it cannot be written: {directory}: {error}")
    })
}

/// A directory with contents that are checked.
struct Staged {
    directory: PathBuf,
    names: std::cell::RefCell<BTreeMap<PathBuf, PathBuf>>,
}

impl Staged {
    fn new(state_dir: &Path) -> std::io::Result<Self> {
        let directory = state_dir.join(STAGED);
        if directory.exists() {
            fs::remove_dir_all(&directory)?;
        }
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&directory)?;
        Ok(Self {
            directory,
            names: std::cell::RefCell::default(),
        })
    }

    /// The configuration with the paths of copies in place of those of the files that change.
    fn text(
        &self,
        text: &str,
        config: &Config,
        new: &[(SharedFile, Zeroizing<Vec<u8>>)],
    ) -> Result<String, String> {
        let mut document: DocumentMut = text.parse().map_err(|_| "it is no TOML".to_owned())?;
        for (number, (file, content)) in new.iter().enumerate() {
            let copy = self.directory.join(number.to_string());
            let lock = DirectoryLock::of(&copy).map_err(|error| error.to_string())?;
            atomic::write(&lock, &copy, content, atomic::SECRET).map_err(|error| error.to_string())?;
            self.names.borrow_mut().insert(copy.clone(), file.path.clone());
            let named = all_files(config)
                .into_iter()
                .filter(|other| other.path == file.path);
            for key in named.map(|other| other.part).filter(|part| part.contains('.')) {
                let mut item = document.as_item_mut();
                for name in segments(&key) {
                    item = &mut item[name];
                }
                *item = value(copy.display().to_string());
            }
        }
        Ok(document.to_string())
    }

    /// Problems of copies as those of what they are copies of.
    fn named(&self, problems: Problems) -> Problems {
        let names = self.names.borrow();
        let name = |mut problem: Problem| {
            for (copy, path) in names.iter() {
                problem.message = problem
                    .message
                    .replace(&copy.display().to_string(), &path.display().to_string());
            }
            problem
        };
        Problems(problems.0.into_iter().map(name).collect())
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        // The next one begins by removing it.
        drop(fs::remove_dir_all(&self.directory));
    }
}

/// The tables and the key of a dotted key; the name of a listener may have dots too.
fn segments(key: &str) -> Vec<&str> {
    let Some((kind, rest)) = key
        .strip_prefix("listeners.")
        .and_then(|rest| rest.split_once('.'))
    else {
        return key.split('.').collect();
    };
    let tails = [".psk_file", ".rpk_file", ".authentication.file"];
    let tail = tails
        .into_iter()
        .find(|tail| rest.ends_with(tail))
        .unwrap_or_default();
    let name = rest.strip_suffix(tail).unwrap_or(rest);
    let own = ["listeners", kind, name].into_iter();
    own.chain(tail.split('.').skip(1)).collect()
}

impl Checked {
    /// The configuration as it will be; its files are gone.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The names of the parts that it has.
    #[must_use]
    pub fn parts(&self) -> BTreeSet<String> {
        let named = files(&self.parsed).into_iter().map(|file| file.part);
        named.chain([CONFIGURATION.to_owned()]).collect()
    }

    /// The files that it names that would be in force here without being what all share: neither among `changed` nor as `record` has
    /// them.
    ///
    /// # Errors
    /// One of them cannot be read.
    pub fn unshared(&self, record: &Record, changed: &Parts) -> Result<Vec<ByHand>, secrets::SecretError> {
        let mut all = Vec::new();
        for file in files(&self.parsed) {
            let is_named = ![TOKENS, BANS].contains(&file.part.as_str());
            if !is_named || changed.contains_key(&file.part) || !file.path.exists() {
                continue;
            }
            let here = hex::encode(mark(&file.part, &file.read()?));
            if record
                .parts
                .get(&file.part)
                .is_none_or(|noted| noted.here != here)
            {
                let SharedFile { part, path, .. } = file;
                all.push(ByHand { part, path });
            }
        }
        Ok(all)
    }

    /// The files that it names, that are here, and that `record` does not have.
    ///
    /// # Errors
    /// One of them cannot be read.
    pub fn first_named(&self, record: &Record) -> Result<Parts, secrets::SecretError> {
        let mut parts = Parts::new();
        for file in files(&self.parsed) {
            if file.path.exists() && !record.parts.contains_key(&file.part) {
                let content = file.read()?;
                parts.insert(file.part, content);
            }
        }
        Ok(parts)
    }

    /// Writes it, after a copy of each file that is not as `record` has it.
    ///
    /// # Errors
    /// A file cannot be written; what was written is undone.
    pub fn write(self, record: Option<&Record>) -> Result<Written, String> {
        let mut written = Written {
            before: Vec::new(),
            put_aside: Vec::new(),
            wrote: BTreeSet::new(),
        };
        let mut wanted: Vec<(SharedFile, Zeroizing<Vec<u8>>)> = self.files;
        if let Some(text) = self.text {
            let file = SharedFile {
                part: CONFIGURATION.to_owned(),
                path: self.source,
                is_secret: false,
            };
            wanted.push((file, Zeroizing::new(text.into_bytes())));
        }
        for (file, content) in wanted {
            let outcome = written.put(&file, &content, record, &self.state_dir);
            if let Err(error) = outcome {
                let undone = written.undo();
                let and = undone.err().map(|why| format!("; {why}")).unwrap_or_default();
                return Err(format!("{} cannot be written: {error}{and}", file.path.display()));
            }
        }
        Ok(written)
    }
}

impl Written {
    fn put(
        &mut self,
        file: &SharedFile,
        content: &[u8],
        record: Option<&Record>,
        state_dir: &Path,
    ) -> std::io::Result<()> {
        let shared = |content: &[u8]| match file.part.as_str() {
            CONFIGURATION => str::from_utf8(content)
                .ok()
                .and_then(|text| of_text(text).ok())
                .unwrap_or_default(),
            _ => Zeroizing::new(content.to_vec()),
        };
        let old = match fs::read(&file.path) {
            Ok(old) => Some(Zeroizing::new(old)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        if let Some(old) = &old {
            if old.as_slice() == content {
                return Ok(());
            }
            let here = hex::encode(mark(&file.part, &shared(old)));
            let noted = record.and_then(|record| record.parts.get(&file.part));
            if noted.is_none_or(|noted| noted.here != here) {
                self.put_aside.push(put_aside(file, old, state_dir)?);
            }
        }
        let mode = match file.is_secret {
            true => atomic::SECRET,
            false => atomic::mode_of(&file.path, 0o644),
        };
        let lock = DirectoryLock::of(&file.path)?;
        atomic::write(&lock, &file.path, content, mode)?;
        self.before.push(Before {
            path: file.path.clone(),
            mode,
            old,
        });
        self.wrote.insert(file.part.clone());
        Ok(())
    }

    /// Puts back what was there.
    ///
    /// # Errors
    /// A file cannot be written.
    pub fn undo(&mut self) -> Result<(), String> {
        for Before { path, mode, old } in self.before.drain(..).rev() {
            let undone = match &old {
                Some(old) => DirectoryLock::of(&path).and_then(|lock| atomic::write(&lock, &path, old, mode)),
                None => fs::remove_file(&path),
            };
            undone.map_err(|error| format!("{} cannot be put back: {error}", path.display()))?;
        }
        Ok(())
    }
}

fn put_aside(file: &SharedFile, old: &[u8], state_dir: &Path) -> std::io::Result<PathBuf> {
    let directory = state_dir.join(REPLACED);
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&directory)?;
    // The same content is one copy, however often it is put aside.
    let digest = hex::encode(openssl::sha::sha256(old));
    let copy = directory.join(format!("{}.{}", file.part, digest.get(..12).unwrap_or_default()));
    let lock = DirectoryLock::of(&copy)?;
    atomic::write(&lock, &copy, old, atomic::SECRET)?;
    Ok(copy)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::super::{files, parts};
    use super::*;

    const KEY: &str = "000102030405060708090a0b0c0d0e0f";

    fn secret(path: &Path, text: &str) {
        fs::write(path, text).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
    }

    fn here() -> (tempfile::TempDir, Config, Record) {
        let directory = tempfile::tempdir().unwrap();
        secret(&directory.path().join("psk.txt"), &format!("a:{KEY}\n"));
        let file = directory.path().join("p.toml");
        let text = "# mine\n[node]\nname = \"n\"\nstate_dir = \"s\"\n[listeners.dtls.a]\nbind = \"127.0.0.1:0\"\npsk_file = \"psk.txt\"\n";
        fs::write(&file, text).unwrap();
        fs::create_dir(directory.path().join("s")).unwrap();
        let config = super::super::super::load(&file).unwrap().config;
        let mut record = Record::default();
        for (part, content) in parts(&config).unwrap() {
            record.note(&part, &content, mark(&part, &content));
        }
        (directory, config, record)
    }

    fn psk(text: &str) -> Parts {
        let content = Zeroizing::new(text.as_bytes().to_vec());
        Parts::from([("listeners.dtls.a.psk_file".to_owned(), content)])
    }

    #[test]
    fn what_was_changed_by_hand_is_seen_put_aside_and_comes_back() {
        let (directory, config, record) = here();
        assert_eq!(record.by_hand(&config).unwrap(), []);
        assert_eq!(record.known(&parts(&config).unwrap()).len(), 2);
        let path = directory.path().join("psk.txt");
        let by_hand = format!("a:{KEY}\nb:{KEY}\n");
        secret(&path, &by_hand);
        let found = record.by_hand(&config).unwrap();
        assert_eq!(found.first().map(|one| one.path.as_path()), Some(path.as_path()));
        let checked = check(&config, None, &psk(&format!("c:{KEY}\n"))).unwrap();
        let mut written = checked.write(Some(&record)).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), format!("c:{KEY}\n"));
        let [copy] = &written.put_aside[..] else {
            panic!("{written:?}")
        };
        assert_eq!(fs::read_to_string(copy).unwrap(), by_hand);
        written.undo().unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), by_hand);
        // As it was noted it is nobody's loss.
        secret(&path, &format!("a:{KEY}\n"));
        let checked = check(&config, None, &psk(&format!("c:{KEY}\n"))).unwrap();
        assert!(checked.write(Some(&record)).unwrap().put_aside.is_empty());
        assert!(!config.node.state_dir.join(STAGED).exists());
    }

    #[test]
    fn what_is_wrong_is_told_of_the_file_itself_and_changes_nothing() {
        let (directory, config, _) = here();
        let path = directory.path().join("psk.txt");
        let before = fs::read(&path).unwrap();
        let said = check(&config, None, &psk("a:xyz\n")).unwrap_err().to_string();
        assert!(
            said.contains(&path.display().to_string()) && !said.contains(STAGED),
            "{said}"
        );
        assert_eq!(fs::read(&path).unwrap(), before);
        let wrong = Parts::from([(BANS.to_owned(), Zeroizing::new(b"{".to_vec()))]);
        assert!(
            check(&config, None, &wrong)
                .unwrap_err()
                .to_string()
                .contains("no list of bans")
        );
        let settings = Zeroizing::new(br#"{"coap":{"heartbeat":"x"}}"#.to_vec());
        let wrong = Parts::from([(CONFIGURATION.to_owned(), settings)]);
        assert!(check(&config, None, &wrong).is_err());
        let named: Vec<String> = files(&config).into_iter().map(|file| file.part).collect();
        assert_eq!(named, ["listeners.dtls.a.psk_file", TOKENS, BANS]);
    }

    #[test]
    fn names_of_listeners_may_have_dots() {
        let key = "listeners.dtls.north.1.psk_file";
        assert_eq!(segments(key), ["listeners", "dtls", "north.1", "psk_file"]);
        let key = "listeners.udp.x.authentication.file";
        assert_eq!(segments(key), ["listeners", "udp", "x", "authentication", "file"]);
        assert_eq!(segments("authorization.acl_file"), ["authorization", "acl_file"]);
    }
}
