//! One configuration for all nodes of a group: a change is checked by every node that lives, then made in the engine as the next
//! version, then put in force by all. Where a node cannot be asked, or refuses, nobody has it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;
use tracing::{error, info, warn};
use zeroize::Zeroizing;

use portcullis_config::shared::apply::{self, Checked};
use portcullis_config::shared::record::{Record, words};
use portcullis_config::shared::{self, BANS, CONFIGURATION, Parts};
use portcullis_config::{Config, Problems};
use portcullis_group::metrics::ChangeResult;
use portcullis_group::store::{Commit, Fetched, Known, digest};
use portcullis_group::{Fault, Group, Member, View};

use super::super::error::ApiError;
use super::super::files::{Edit, blocking};
use super::super::handle::Reloaded;
use super::super::status::{not_reloaded, summary};
use super::super::{Api, bans};
use super::{GROUP_UNKNOWN, channel};

/// How long is waited for the turn of this node, and how often it is asked for.
const TURN: Duration = Duration::from_secs(15);
const AGAIN: Duration = Duration::from_millis(50);

/// What a node is asked to check.
#[derive(Serialize, Deserialize)]
pub(super) struct Proposal {
    /// The version that it comes after.
    base: u64,
    /// The node that makes it.
    by: String,
    /// The contents that are new.
    changed: BTreeMap<String, String>,
}

/// Which version a node is asked to put in force.
#[derive(Serialize, Deserialize)]
pub(super) struct Made {
    version: u64,
}

fn unavailable(fault: &Fault) -> ApiError {
    let message = format!(
        "the engine of the group does not answer, so nothing was changed: {fault}; with `Portcullis-Scope: local` (--local) it is \
         changed on this node alone"
    );
    ApiError::conflict("group_unavailable", message)
}

fn failed(why: impl std::fmt::Display) -> ApiError {
    ApiError::conflict("not_written", why.to_string())
}

fn invalid(problems: &Problems) -> ApiError {
    ApiError::new(
        axum::http::StatusCode::BAD_REQUEST,
        "invalid_config",
        summary(problems),
    )
    .with(problems)
}

/// Changes a file that all share, for all.
pub(in crate::api) async fn change<T: Send + 'static>(
    api: &Api,
    group: &Group,
    part: String,
    path: PathBuf,
    edit: impl FnOnce(&[u8]) -> Result<Edit<T>, ApiError> + Send + 'static,
) -> Result<(T, Reloaded), ApiError> {
    in_turn(group, async {
        let _one_at_a_time = api.changes.lock().await;
        let record = up_to_date(api, group).await?;
        refuse_by_hand(api, &record).await?;
        let config = api.site.config();
        let read = path.clone();
        let (edited, outcome) = blocking(move || {
            let old = match read.exists() {
                true => std::fs::read(&read).map(Zeroizing::new).map_err(failed)?,
                false => Zeroizing::default(),
            };
            let Edit { content, outcome } = edit(&old)?;
            Ok::<_, ApiError>((content, outcome))
        })
        .await??;
        let mut text = None;
        let mut changed = Parts::new();
        if part == CONFIGURATION {
            let whole = String::from_utf8_lossy(&edited).into_owned();
            let common = shared::of_text(&whole).map_err(ApiError::bad_request)?;
            let noted = record.parts.get(CONFIGURATION);
            if noted.is_none_or(|noted| noted.group != hex::encode(shared::mark(CONFIGURATION, &common))) {
                changed.insert(part, common);
            }
            text = Some(whole);
        } else {
            changed.insert(part, edited);
        }
        let reloaded = propose(api, group, &config, record, text, changed).await?;
        Ok((outcome, reloaded))
    })
    .await
}

/// Shares what was changed by hand on this node; the parts that were.
pub(in crate::api) async fn import(api: &Api, group: &Group) -> Result<(Vec<String>, Reloaded), ApiError> {
    in_turn(group, async {
        let _one_at_a_time = api.changes.lock().await;
        let mut given = catch_up_locked(api, group, Give::WhatLiesHere).await?;
        let record = noted(api).await?;
        let config = api.site.config();
        let (own, noted) = (Arc::clone(&config), record.clone());
        let (names, changed) = blocking(move || {
            let names: Vec<String> = noted
                .by_hand(&own)
                .map_err(failed)?
                .into_iter()
                .map(|one| one.part)
                .collect();
            let mut all = shared::parts(&own).map_err(failed)?;
            all.retain(|part, _| names.contains(part));
            Ok::<_, ApiError>((names, all))
        })
        .await??;
        let reloaded = match (given.is_empty(), names.is_empty()) {
            (true, true) => Reloaded::default(),
            // What was given lies here, and is noted: it has yet to be in force.
            (false, true) => api
                .site
                .reload()
                .await
                .map_err(|problems| not_reloaded(&problems))?,
            (_, false) => propose(api, group, &config, record, None, changed).await?,
        };
        given.extend(names);
        Ok((given, reloaded))
    })
    .await
}

/// Puts what all share in the place of what was changed on this node, by hand or for it alone.
pub(in crate::api) async fn restore(api: &Api, group: &Group) -> Result<Reloaded, ApiError> {
    let _one_at_a_time = api.changes.lock().await;
    let fetched = group
        .fetch(Known::new(), 0)
        .await
        .map_err(|fault| unavailable(&fault))?;
    let had = noted(api).await.map_or(0, |record| record.version);
    if fetched.version == 0 || fetched.version < had {
        return Err(ApiError::conflict(
            "group_lost",
            "the engine of the group has nothing to bring back, or has lost it: it comes from a node that has it still, or by \
             `portcullis group import` from this one as it lies here",
        ));
    }
    put_in_force(api, group, Record::default(), fetched).await
}

/// Takes what lies here of a part, or of all, for right, for this node alone.
pub(in crate::api) async fn keep_here(api: &Api, only: Option<&str>) -> Result<(), ApiError> {
    let (config, only) = (api.site.config(), only.map(str::to_owned));
    let metrics = api.site.group().map(|group| Arc::clone(group.metrics()));
    blocking(move || {
        let state_dir = &config.node.state_dir;
        let Some(mut record) = Record::read(state_dir) else {
            return Ok(());
        };
        // By the files that the next reload reads, which refuses by itself what cannot be read.
        let next = config.source.as_deref().map(portcullis_config::load);
        let mut next = match next {
            Some(Ok(loaded)) => loaded.config,
            Some(Err(_)) | None => Config::clone(&config),
        };
        next.node.clone_from(&config.node);
        let here = shared::parts(&next).map_err(failed)?;
        let wanted = here
            .iter()
            .filter(|(part, _)| only.as_ref().is_none_or(|only| only == *part));
        for (part, content) in wanted {
            record.keep(part, shared::mark(part, content));
        }
        if let Some(metrics) = metrics {
            metrics
                .drift
                .set(u64::try_from(record.drift()).unwrap_or(u64::MAX));
        }
        record.write(state_dir).map_err(failed)
    })
    .await?
}

/// Does something while no other node changes anything.
async fn in_turn<T>(group: &Group, work: impl Future<Output = Result<T, ApiError>>) -> Result<T, ApiError> {
    let metrics = group.metrics();
    if let Err(error) = take_turn(group).await {
        metrics.changes.inc(ChangeResult::Unavailable);
        return Err(error);
    }
    let done = work.await;
    group.unlock().await;
    match &done {
        Ok(_) => metrics.changes.inc(ChangeResult::Applied),
        Err(_) => metrics.changes.inc(ChangeResult::Refused),
    }
    done
}

async fn take_turn(group: &Group) -> Result<(), ApiError> {
    let waited = async {
        loop {
            match group.lock().await {
                Ok(None) => return Ok(()),
                Ok(Some(_)) => tokio::time::sleep(AGAIN).await,
                Err(fault) => return Err(unavailable(&fault)),
            }
        }
    };
    let busy = || {
        ApiError::conflict(
            "group_busy",
            "other nodes change something all the time: try again",
        )
    };
    tokio::time::timeout(TURN, waited)
        .await
        .unwrap_or_else(|_| Err(busy()))
}

/// What this node has of what all share, once it has all of it.
async fn up_to_date(api: &Api, group: &Group) -> Result<Record, ApiError> {
    catch_up_locked(api, group, Give::WhatAllHad).await?;
    noted(api).await
}

/// What is noted of what all share.
async fn noted(api: &Api) -> Result<Record, ApiError> {
    let state_dir = api.site.config().node.state_dir.clone();
    let record = blocking(move || Record::read(&state_dir)).await?;
    record.ok_or_else(|| ApiError::conflict("group_unavailable", "this node has nothing of its group yet"))
}

async fn refuse_by_hand(api: &Api, record: &Record) -> Result<(), ApiError> {
    let (config, record) = (api.site.config(), record.clone());
    let by_hand = blocking(move || record.by_hand(&config)).await?.map_err(failed)?;
    match by_hand.first() {
        None => Ok(()),
        Some(first) => Err(ApiError::conflict("changed_by_hand", words(&first.path))),
    }
}

/// Has every node check what is new, makes it the next version, and puts it in force. The caller has the turn of the group.
async fn propose(
    api: &Api,
    group: &Group,
    config: &Arc<Config>,
    record: Record,
    text: Option<String>,
    mut changed: Parts,
) -> Result<Reloaded, ApiError> {
    let (own, whole) = (Arc::clone(config), text.clone());
    let parts = changed.clone();
    let checked = blocking(move || apply::check(&own, whole, &parts)).await?;
    let checked = checked.map_err(|problems| invalid(&problems))?;
    // Files that the new configuration is the first to name.
    for (part, content) in checked.first_named(&record).map_err(failed)? {
        changed.entry(part).or_insert(content);
    }
    would(api, &checked, &record, &changed).await?;
    if changed.is_empty() {
        return applied(api, checked, record).await;
    }
    let proposal = Proposal {
        base: record.version,
        by: config.node.name.clone(),
        changed: texts(&changed)?,
    };
    let view = agreed(group, &proposal).await?;
    let names = checked.parts();
    make(group, commit_of(&record, &changed, &names, &config.node.name)).await?;
    let mut record = record;
    record.version += 1;
    record.parts.retain(|part, _| names.contains(part));
    for (part, content) in &changed {
        record.note(part, content, shared::mark(part, content));
    }
    let version = record.version;
    info!(version, parts = ?changed.keys().collect::<Vec<_>>(), "the configuration of the group was changed here");
    let noted = record.clone();
    let outcome = applied(api, checked, record).await;
    if outcome.is_ok() {
        show(group, &noted);
    }
    let behind = ask_all(group, &others(&view), channel_path(COMMIT), &Made { version }).await;
    for why in behind {
        warn!(
            version,
            "a node has not the new configuration of the group yet, and takes it later: {why}"
        );
    }
    outcome
}

/// Makes the next version. Where the engine did not say whether it did, it is looked for there.
async fn make(group: &Group, commit: Commit) -> Result<(), ApiError> {
    let (base, next, all) = (commit.base, commit.next, commit.all.clone());
    let fault = match group.commit(commit).await {
        Ok(true) => return Ok(()),
        Ok(false) => {
            return Err(ApiError::conflict(
                "group_busy",
                "another node was faster: try again",
            ));
        }
        Err(fault) => fault,
    };
    let there = group.fetch(all.clone(), 0).await;
    let is_it = |parts: &BTreeMap<String, _>| {
        let digests = parts.iter().map(|(part, (digest, _))| (part, digest));
        digests.eq(&all)
    };
    match there {
        Ok(there) if there.version == next && is_it(&there.parts) => Ok(()),
        Ok(there) if there.version == base => Err(unavailable(&fault)),
        _ => Err(ApiError::bad_gateway(
            GROUP_UNKNOWN,
            format!("it is not known whether this was changed: see `portcullis group status`: {fault}"),
        )),
    }
}

/// Those who live and could all put it in force.
async fn agreed(group: &Group, proposal: &Proposal) -> Result<View, ApiError> {
    let view = group.look().await.map_err(|fault| unavailable(&fault))?;
    let refusals = ask_all(group, &others(&view), channel_path(CHECK), proposal).await;
    let foreign = view.fault.iter().filter(|fault| fault.key == "group.key_file");
    let refusals: Vec<String> = refusals
        .into_iter()
        .chain(foreign.map(ToString::to_string))
        .collect();
    if refusals.is_empty() {
        return Ok(view);
    }
    let message = format!("nothing was changed on any node: {}", refusals.join("; "));
    Err(ApiError::conflict("group_refused", message))
}

/// The version after that of `record`, with the parts of these names.
fn commit_of(record: &Record, changed: &Parts, names: &BTreeSet<String>, by: &str) -> Commit {
    let mut all = record.all_known();
    all.retain(|part, _| names.contains(part));
    all.extend(
        changed
            .iter()
            .map(|(part, content)| (part.clone(), digest(content))),
    );
    let known = record.all_known().into_keys();
    let gone = known.filter(|part| !all.contains_key(part)).collect();
    Commit {
        base: record.version,
        next: record.version + 1,
        by: by.to_owned(),
        gone,
        changed: changed.clone(),
        all,
    }
}

/// The paths that other nodes ask.
pub(super) const CHECK: &str = "check";
pub(super) const COMMIT: &str = "commit";

fn channel_path(what: &str) -> String {
    format!("/group/v1/{what}")
}

fn others(view: &View) -> Vec<Member> {
    view.members
        .iter()
        .filter(|member| Some(member.id) != view.node)
        .cloned()
        .collect()
}

/// Asks nodes all at once; what those say that do not agree.
async fn ask_all(group: &Group, members: &[Member], path: String, body: &impl Serialize) -> Vec<String> {
    let mut asked = JoinSet::new();
    for member in members {
        let (group, member, request) = (group.clone(), member.clone(), channel::post(&path, body));
        asked.spawn(async move {
            let said = match channel::ask(&group, &member, request).await {
                Ok(answer) if answer.status.is_success() => return None,
                Ok(answer) => answer.said(),
                Err(why) => why,
            };
            Some(format!(
                "node {} ({}, {}): {said}",
                member.name, member.id, member.address
            ))
        });
    }
    let mut all: Vec<String> = asked.join_all().await.into_iter().flatten().collect();
    all.sort();
    all
}

fn texts(parts: &Parts) -> Result<BTreeMap<String, String>, ApiError> {
    let text = |(part, content): (&String, &Zeroizing<Vec<u8>>)| {
        let text = String::from_utf8(content.to_vec());
        let text = text.map_err(|_| ApiError::bad_request(format!("{part} is no UTF-8 text")))?;
        Ok((part.clone(), text))
    };
    parts.iter().map(text).collect()
}

/// Whether what another node proposes could be in force here.
pub(super) async fn check(api: &Api, group: &Group, proposal: Proposal) -> Result<(), ApiError> {
    let _one_at_a_time = api.changes.lock().await;
    let record = up_to_date(api, group).await?;
    if record.version != proposal.base {
        let (have, base) = (record.version, proposal.base);
        return Err(failed(format!(
            "it has version {have} of the configuration, and this comes after {base}"
        )));
    }
    refuse_by_hand(api, &record).await?;
    let content = |(part, text): (String, String)| (part, Zeroizing::new(text.into_bytes()));
    let changed: Parts = proposal.changed.into_iter().map(content).collect();
    let (config, parts) = (api.site.config(), changed.clone());
    let checked = blocking(move || apply::check(&config, None, &parts)).await?;
    let checked = checked.map_err(|problems| invalid(&problems))?;
    would(api, &checked, &record, &changed).await?;
    info!(
        by = proposal.by,
        version = proposal.base + 1,
        "a change of the group's configuration could be in force here"
    );
    Ok(())
}

/// Puts what all share in force here.
pub(super) async fn commit(api: &Api, group: &Group, made: Made) -> Result<(), ApiError> {
    let _one_at_a_time = api.changes.lock().await;
    let record = up_to_date(api, group).await?;
    match record.version >= made.version {
        true => Ok(()),
        false => Err(failed("the engine has not this version yet")),
    }
}

/// Catches up with the group, where it has another version, and gives it the first where it has none.
pub(in crate::api) async fn catch_up(api: &Api, group: &Group) {
    let _one_at_a_time = api.changes.lock().await;
    if let Err(why) = catch_up_locked(api, group, Give::WhatAllHad).await {
        error!(
            "the configuration of the group is not in force here: {}",
            why.body().message
        );
    }
}

/// What a node gives to a group that has lost what it shared.
#[derive(PartialEq, Eq, Clone, Copy)]
enum Give {
    /// What all had; nothing where that does not lie here any more.
    WhatAllHad,
    /// What lies here, by the word of an operator.
    WhatLiesHere,
}

/// The parts that were given to the group and are not what all had.
async fn catch_up_locked(api: &Api, group: &Group, what: Give) -> Result<Vec<String>, ApiError> {
    let config = api.site.config();
    let state_dir = config.node.state_dir.clone();
    let record = blocking(move || Record::read(&state_dir))
        .await?
        .unwrap_or_default();
    let known = record.all_known();
    let fetched = group
        .fetch(known, record.version)
        .await
        .map_err(|fault| unavailable(&fault))?;
    if fetched.version == record.version && record.version != 0 {
        // It was written and noted, and what was to put it in force was cut short.
        if group.metrics().applied.get() != record.version {
            api.site.bans().reopen().map_err(failed)?;
            let reloaded = api.site.reload().await;
            reloaded.map_err(|problems| not_reloaded(&problems))?;
            bans::put_in_force(api).await?;
        }
        show(group, &record);
        return Ok(Vec::new());
    }
    if fetched.version < record.version || fetched.version == 0 {
        return give(api, group, &config, record, fetched.version, what).await;
    }
    put_in_force(api, group, record, fetched).await?;
    Ok(Vec::new())
}

/// Gives the group what it has not, or has lost: what this node has. Where another was faster, that is taken at the next look.
async fn give(
    api: &Api,
    group: &Group,
    config: &Arc<Config>,
    record: Record,
    base: u64,
    what: Give,
) -> Result<Vec<String>, ApiError> {
    let own = Arc::clone(config);
    let mut parts = blocking(move || shared::parts(&own)).await?.map_err(failed)?;
    let mut next = Record {
        version: base.max(record.version) + 1,
        ..Record::default()
    };
    let mut others = Vec::new();
    if record.version != 0 {
        let here = |part: &String| {
            parts
                .get(part)
                .map(|content| hex::encode(shared::mark(part, content)))
        };
        let names: BTreeSet<&String> = parts.keys().chain(record.parts.keys()).collect();
        for part in names {
            match record.parts.get(part) {
                Some(noted) if noted.shared.is_empty() && what == Give::WhatAllHad => {
                    next.parts.insert(part.clone(), noted.clone());
                }
                Some(noted) if here(part).as_ref() == Some(&noted.group) => {}
                _ => others.push(part.clone()),
            }
        }
    }
    if what == Give::WhatAllHad
        && let Some(first) = others.first()
    {
        let file = shared::files(config).into_iter().find(|file| file.part == *first);
        let path = file.map(|file| file.path).or_else(|| config.source.clone());
        return Err(ApiError::conflict(
            "changed_by_hand",
            words(&path.unwrap_or_default()),
        ));
    }
    // What is this node's alone is not given.
    parts.retain(|part, _| !next.parts.contains_key(part));
    for (part, content) in &parts {
        next.note(part, content, shared::mark(part, content));
    }
    let commit = Commit {
        base,
        next: next.version,
        by: config.node.name.clone(),
        all: parts
            .iter()
            .map(|(part, content)| (part.clone(), digest(content)))
            .collect(),
        changed: parts,
        gone: Vec::new(),
    };
    if group.commit(commit).await.map_err(|fault| unavailable(&fault))? {
        info!(
            version = next.version,
            "the group has the configuration of this node now"
        );
        note(api, group, next).await?;
        return Ok(others);
    }
    Ok(Vec::new())
}

async fn note(api: &Api, group: &Group, record: Record) -> Result<(), ApiError> {
    show(group, &record);
    let config = api.site.config();
    blocking(move || record.write(&config.node.state_dir))
        .await?
        .map_err(failed)
}

fn show(group: &Group, record: &Record) {
    let metrics = group.metrics();
    metrics.applied.set(record.version);
    metrics
        .drift
        .set(u64::try_from(record.drift()).unwrap_or(u64::MAX));
}

/// Puts a version in force here, where `record` has what of it is here, and what is this node's alone.
async fn put_in_force(
    api: &Api,
    group: &Group,
    record: Record,
    fetched: Fetched,
) -> Result<Reloaded, ApiError> {
    let config = api.site.config();
    let (version, by) = (fetched.version, fetched.by);
    let taken = blocking(move || apply::take(&config, &record, version, fetched.parts));
    let taken = taken.await?.map_err(|problems| invalid(&problems))?;
    let record = taken.record.clone();
    let reloaded = applied(api, taken.checked, taken.record).await?;
    info!(version, by, "the configuration of the group is in force here");
    show(group, &record);
    Ok(reloaded)
}

/// Whether the process could put it in force, after what `record` has: what no file shows, and whether a reload would find something that
/// all do not share.
async fn would(api: &Api, checked: &Checked, record: &Record, changed: &Parts) -> Result<(), ApiError> {
    if let Some(first) = checked.unshared(record, changed).map_err(failed)?.first() {
        return Err(ApiError::conflict("changed_by_hand", words(&first.path)));
    }
    let could = api.site.could(checked.config().clone()).await;
    could.map_err(|problems| invalid(&problems))
}

/// Writes what was checked, notes it, and reloads; all of it or nothing.
async fn applied(api: &Api, checked: Checked, next: Record) -> Result<Reloaded, ApiError> {
    let config = api.site.config();
    let state_dir = config.node.state_dir.clone();
    let (mut written, before) = blocking(move || {
        let before = Record::read(&state_dir);
        let mut written = checked.write(before.as_ref()).map_err(failed)?;
        if let Err(error) = next.write(&state_dir) {
            written.undo().map_err(failed)?;
            return Err(failed(error));
        }
        Ok::<_, ApiError>((written, before))
    })
    .await??;
    for copy in &written.put_aside {
        warn!(
            "what was changed by hand is not in force: the group's has its place, and a copy is {}",
            copy.display()
        );
    }
    let has_bans = written.wrote.contains(BANS);
    let bans_taken = if has_bans {
        api.site.bans().reopen()
    } else {
        Ok(())
    };
    let reloaded = match bans_taken {
        Ok(()) => api
            .site
            .reload()
            .await
            .map_err(|problems| not_reloaded(&problems)),
        Err(why) => Err(failed(why)),
    };
    match reloaded {
        Ok(reloaded) => {
            if has_bans {
                bans::put_in_force(api).await?;
            }
            Ok(reloaded)
        }
        Err(error) => {
            blocking(move || {
                written.undo().map_err(failed)?;
                match before {
                    Some(before) => before.write(&config.node.state_dir).map_err(failed),
                    None => Record::forget(&config.node.state_dir).map_err(failed),
                }
            })
            .await??;
            if has_bans {
                api.site.bans().reopen().map_err(failed)?;
            }
            Err(error)
        }
    }
}
