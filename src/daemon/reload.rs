//! A reload: what is on disk now, put in force while the gateway runs.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};

use crate::admin::api::handle::{ListenerState, Reloaded};
use crate::admin::api::restart::needs_restart;
use crate::config::shared::record::{Record, words};
use crate::config::{self, Config, Loaded, Places, Problem, Problems, Severity};
use crate::dtls::{ContextCell, DtlsContext, DtlsMetrics, DtlsSource, TicketKeys};
use crate::gateway::contract::ControlRequest;
use crate::gateway::kept::listener_mark;
use crate::gateway::settings::Settings;
use crate::group::Group;
use crate::session::SecureSource;
use crate::stream::{Gate, StreamMetrics, StreamSource};
use crate::types::{ListenerId, Transport, WorkerId};

use super::assembly::Renewed;
use super::from_config::{self, Materials};
use super::listener_ids::{ListenerChanges, Opening};
use super::listeners::{ListenerStep, NewListener};
use super::node::Node;
use super::process_settings::log_filter;
use super::{clock, logging, state};

impl Node {
    /// Puts what is on disk now in force, all of it or nothing.
    pub(super) fn renew(&mut self) -> Result<Renewed, Problems> {
        let (config, report, at) = self.read_again()?;
        self.refuse_by_hand(&config)?;
        self.renew_to(config, report)
            .map_err(|problems| placed(problems, &at))
    }

    fn renew_to(&mut self, mut config: Config, mut report: Reloaded) -> Result<Renewed, Problems> {
        let tickets = self.current_tickets().unwrap_or_else(|| self.tickets.clone());
        let changes = self.slots.changes(&self.config, &mut config).map_err(Problems)?;
        report.needs_restart.extend(changes.needs_restart.iter().cloned());
        let slots = self.slots.after(&changes);
        let materials = from_config::load(&config, &tickets).map_err(|lines| self.problems(lines))?;
        let places = slots.places(&config);
        let out_of_time = from_config::out_of_time(&config, &places, &self.materials, &materials);
        if !out_of_time.is_empty() {
            return Err(self.problems(out_of_time));
        }
        let mut auth_settings = from_config::auth_settings(&config).map_err(|lines| self.problems(lines))?;
        auth_settings.listeners = slots.names().map(Into::into).collect();
        auth_settings.per_listener = own_backends(&places, auth_settings.per_listener);
        auth_settings.key_sources = own_backends(&places, auth_settings.key_sources);
        if let Some((auth, _)) = &self.auth {
            auth.reload(&auth_settings)
                .map_err(|errors| self.problems(errors.iter().map(ToString::to_string).collect()))?;
        }
        self.certificates.set(&config, &materials.contexts);
        self.materials = by_slot(&places, &self.materials, materials);
        self.slots = slots;
        self.put_in_force(config);
        self.tickets = tickets;
        self.relist(&changes);
        // First, for what opens a new listener looks where this puts the contexts.
        let request = self.reconfigure();
        let listeners = self.steps(changes);
        Ok(Renewed {
            request,
            listeners,
            report,
        })
    }

    /// Puts the contexts where the workers find them, and the request that makes them look.
    fn reconfigure(&mut self) -> ControlRequest {
        for (id, context) in self.materials.contexts.iter().enumerate() {
            let cell = context
                .as_ref()
                .map(|context| ContextCell::new(Arc::clone(context)));
            match (self.contexts.get_mut(id), context) {
                (Some(Some(cell)), Some(context)) => cell.set(Arc::clone(context)),
                (Some(place), _) if cell.is_some() => *place = cell,
                (Some(_), _) => {}
                (None, _) => self.contexts.push(cell),
            }
        }
        self.set_gates();
        ControlRequest::Reconfigure {
            settings: Arc::clone(&self.materials.settings),
        }
    }

    /// Ticket keys other than those in force: what the group has, else new ones when the time of those is over and the disk takes them.
    fn current_tickets(&self) -> Option<TicketKeys> {
        let shared = self.group.as_ref().and_then(Group::tickets);
        let current = match shared {
            Some(shared) => TicketKeys::new(**shared),
            None => state::ticket_keys(&self.config.node.state_dir)
                .and_then(|tickets| match tickets.unsaved {
                    Some(why) => Err(why),
                    None => Ok(tickets.keys),
                })
                .inspect_err(|why| tracing::warn!("the ticket keys stay as they are: {why}"))
                .ok()?,
        };
        (current != self.tickets).then_some(current)
    }

    /// The same certificates and keys with new ticket keys, when there are any.
    pub(super) fn rotate_tickets(&mut self) -> Option<ControlRequest> {
        let tickets = self.current_tickets()?;
        let renewed = |context: &Option<Arc<DtlsContext>>| {
            let renewed = context
                .as_ref()
                .map(|context| context.with_ticket_keys(tickets.clone()));
            renewed
                .transpose()
                .map(|context| context.map(Arc::new))
                .inspect_err(|error| tracing::error!(%error, "the ticket keys stay as they are"))
        };
        let contexts: Result<Vec<_>, _> = self.materials.contexts.iter().map(renewed).collect();
        self.materials.contexts = contexts.ok()?;
        self.tickets = tickets;
        tracing::info!("new keys for session tickets");
        Some(self.reconfigure())
    }

    /// What the workers have to do for the listeners, counters for new ones included.
    fn steps(&self, changes: ListenerChanges) -> Vec<ListenerStep> {
        let close = changes
            .close
            .into_iter()
            .map(|(listener, spec)| ListenerStep::Close { listener, spec });
        let open = changes.open.into_iter().map(|opening| {
            let dtls = opening.fresh.then(|| self.sources_of(&opening));
            let gate = self.gates.get(usize::from(opening.listener.0)).cloned().flatten();
            ListenerStep::Open(NewListener { opening, dtls, gate })
        });
        close.chain(open).collect()
    }

    fn sources_of(&self, opening: &Opening) -> Vec<Option<Arc<dyn SecureSource>>> {
        let spec = &opening.spec;
        self.names.add(spec.name.clone(), spec.transport);
        let source = |worker| self.source(opening.listener, &spec.name, WorkerId(worker));
        (0..=u8::MAX).take(spec.workers).map(source).collect()
    }

    /// What opens a listener on one worker, with counters of its own; none for plain UDP.
    pub(super) fn source(
        &self,
        id: ListenerId,
        listener: &str,
        worker: WorkerId,
    ) -> Option<Arc<dyn SecureSource>> {
        let index = usize::from(id.0);
        if let Some(Some(gate)) = self.gates.get(index) {
            let metrics = Arc::new(StreamMetrics::default());
            self.streams.add(id, Arc::clone(&metrics));
            return Some(Arc::new(StreamSource {
                gate: Arc::clone(gate),
                shared: Arc::clone(&self.shared),
                metrics,
            }));
        }
        let contexts = self.contexts.get(index)?.as_ref()?;
        let metrics = Arc::new(DtlsMetrics::default());
        self.dtls.add(listener, Arc::clone(&metrics));
        Some(Arc::new(DtlsSource {
            contexts: Arc::clone(contexts),
            shared: Arc::clone(&self.shared),
            metrics,
            kept: self
                .kept
                .of(worker)
                .map(|kept| (kept, listener_mark(Transport::Dtls, listener))),
        }))
    }

    /// Has the gates of listeners for streams take what the configuration says, and makes those that are new.
    pub(super) fn set_gates(&mut self) {
        let places = self.slots.places(&self.config);
        self.gates.resize(places.len(), None);
        for (id, place) in places.iter().enumerate() {
            let listener = place.and_then(|place| self.config.listeners.get(place));
            let (Some(settings), Some(gate)) = (
                listener.and_then(|listener| from_config::gate_settings(listener, &self.config)),
                self.gates.get_mut(id),
            ) else {
                continue;
            };
            match gate {
                Some(gate) => gate.set(settings),
                None => {
                    let contexts = self.contexts.get(id).cloned().flatten();
                    let made = Gate::new(contexts, Arc::clone(&self.shared), settings, clock::now);
                    self.streams.add_gate(
                        ListenerId(u16::try_from(id).unwrap_or(u16::MAX)),
                        Arc::clone(&made),
                    );
                    *gate = Some(made);
                }
            }
        }
    }

    /// Shows operators what moved.
    fn relist(&self, changes: &ListenerChanges) {
        let mut listed = self.listed.lock().unwrap_or_else(PoisonError::into_inner);
        for (listener, _) in &changes.close {
            if let Some(state) = listed.get_mut(usize::from(listener.0)) {
                (state.enabled, state.removed) = (false, true);
            }
        }
        for opening in &changes.open {
            let spec = &opening.spec;
            let bound = opening.address();
            let state = ListenerState {
                transport: spec.transport,
                name: spec.name.clone(),
                bind: bound.unwrap_or(spec.bind),
                enabled: true,
                removed: false,
                context: self
                    .contexts
                    .get(usize::from(opening.listener.0))
                    .cloned()
                    .flatten(),
            };
            match listed.get_mut(usize::from(opening.listener.0)) {
                Some(place) => *place = state,
                None => listed.push(state),
            }
        }
    }

    /// The configuration as it is on disk now, with what cannot change while the process runs as it was.
    fn read_again(&self) -> Result<(Config, Reloaded, Places), Problems> {
        let Some(source) = &self.config.source else {
            return Ok((
                Config::clone(&self.config),
                Reloaded::default(),
                Places::default(),
            ));
        };
        let Loaded {
            config: mut new,
            warnings,
            places,
        } = config::load(source)?;
        let needs_restart = needs_restart(&self.config, &new);
        keep_fixed(&self.config, &mut new);
        Ok((
            new,
            Reloaded {
                needs_restart,
                warnings,
            },
            places,
        ))
    }

    /// What all nodes of a group share may not be changed on one of them unnoticed: of the files that are about to be in force.
    fn refuse_by_hand(&self, config: &Config) -> Result<(), Problems> {
        let record = self
            .group
            .as_ref()
            .and_then(|_| Record::read(&self.config.node.state_dir));
        let Some(record) = record else { return Ok(()) };
        let by_hand = record.by_hand(config).map_err(|why| self.problems(vec![why]))?;
        if by_hand.is_empty() {
            return Ok(());
        }
        Err(self.problems(by_hand.iter().map(|one| words(&one.path)).collect()))
    }

    /// Whether a configuration could be put in force: its listeners have where to listen.
    pub(super) fn try_on(&self, mut config: Config) -> Result<(), Problems> {
        keep_fixed(&self.config, &mut config);
        self.slots
            .changes(&self.config, &mut config)
            .map(drop)
            .map_err(Problems)
    }

    /// Lines about files, as problems of the configuration that names them.
    fn problems(&self, lines: Vec<String>) -> Problems {
        let file = self.config.source.clone().unwrap_or_default();
        let problem = |message| Problem {
            file: file.clone(),
            place: None,
            key: String::new(),
            message,
            severity: Severity::Error,
            unreadable: false,
        };
        Problems(lines.into_iter().map(problem).collect())
    }

    fn put_in_force(&mut self, config: Config) {
        if config.log.level != self.config.log.level && !logging::change(&log_filter(config.log.level)) {
            tracing::warn!("the log level stays as it is");
        }
        if let Some(broker) = &self.broker {
            broker.limit_topics(config.limits.topics());
        }
        self.config = Arc::new(config);
        *self.in_force.lock().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&self.config);
    }
}

/// Gives `new` the values of `old` where they cannot change while the process runs: threads and stores that stand already.
fn keep_fixed(old: &Config, new: &mut Config) {
    new.node.clone_from(&old.node);
    new.broker.clone_from(&old.broker);
    new.metrics.clone_from(&old.metrics);
    new.admin.bind.clone_from(&old.admin.bind);
    new.log.format = old.log.format;
    new.state.clone_from(&old.state);
    new.group.clone_from(&old.group);
}

/// The same with where in the file it stands, also of lines that begin with their key.
fn placed(problems: Problems, at: &Places) -> Problems {
    let place = |mut problem: Problem| {
        if problem.key.is_empty()
            && let Some((key, message)) = problem.message.split_once(": ")
            && at.of(key).is_some()
        {
            (problem.key, problem.message) = (key.to_owned(), message.to_owned());
        }
        if problem.place.is_none() {
            problem.place = at.of(&problem.key);
        }
        problem
    };
    Problems(problems.0.into_iter().map(place).collect())
}

/// The listeners' own backends by their ids instead of their places in the configuration.
fn own_backends<T>(
    places: &[Option<usize>],
    mut by_place: BTreeMap<ListenerId, T>,
) -> BTreeMap<ListenerId, T> {
    (0..)
        .map(ListenerId)
        .zip(places)
        .filter_map(|(id, place)| {
            let place = ListenerId(u16::try_from((*place)?).ok()?);
            Some((id, by_place.remove(&place)?))
        })
        .collect()
}

/// Settings and contexts in the order of the ids. A listener that is gone keeps its settings and has no context.
fn by_slot(places: &[Option<usize>], old: &Materials, new: Materials) -> Materials {
    let mut settings = Settings::clone(&new.settings);
    let listener = |(id, place): (usize, &Option<usize>)| match place {
        Some(place) => new.settings.listeners.get(*place).cloned(),
        None => old.settings.listeners.get(id).cloned(),
    };
    settings.listeners = places.iter().enumerate().filter_map(listener).collect();
    let context = |place: &Option<usize>| new.contexts.get((*place)?)?.clone();
    Materials {
        settings: Arc::new(settings),
        contexts: places.iter().map(context).collect(),
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File, Permissions};
    use std::os::unix::fs::PermissionsExt as _;
    use std::time::Duration;

    use crate::daemon::clock;

    use super::*;

    #[test]
    fn ticket_keys_are_replaced_every_day_without_a_reload_that_reads_half_edited_files() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name| directory.path().join(name);
        fs::write(path("psk.txt"), "a:000102030405060708090a0b0c0d0e0f\n").unwrap();
        fs::set_permissions(path("psk.txt"), Permissions::from_mode(0o600)).unwrap();
        fs::write(
            path("p.toml"),
            "[node]\nstate_dir = \"state\"\n[listeners.dtls.a]\nbind = \"127.0.0.1:0\"\npsk_file = \"psk.txt\"\n",
        )
        .unwrap();
        let config = config::load(&path("p.toml")).unwrap().config;
        let mut node = Node::new(config, Vec::new(), Box::new(|| ())).unwrap();
        assert!(node.rotate_tickets().is_none(), "they are fresh");
        fs::write(path("psk.txt"), "half edi").unwrap();
        let tickets = path("state/tickets.key");
        let before = fs::read(&tickets).unwrap();
        let yesterday = clock::wall() - Duration::from_secs(24 * 3600);
        File::options()
            .write(true)
            .open(&tickets)
            .unwrap()
            .set_modified(yesterday)
            .unwrap();
        let before_rotation = node.contexts[0].as_ref().unwrap().current();
        assert!(node.rotate_tickets().is_some(), "no new keys after a day");
        let context = node.contexts[0].as_ref().unwrap().current();
        assert!(!Arc::ptr_eq(&context, &before_rotation));
        assert_eq!(context.psks().unwrap().len(), 1);
        assert_ne!(fs::read(&tickets).unwrap(), before);
        assert!(node.rotate_tickets().is_none());
    }
}
