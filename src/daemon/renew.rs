//! Putting what is on disk now in force while the node runs.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};

use crate::admin::api::handle::{ListenerState, Reloaded};
use crate::admin::api::restart::needs_restart;
use crate::auth::settings::BackendSettings;
use crate::config::{self, Config, Loaded, Problem, Problems, Severity};
use crate::dtls::{DtlsContext, DtlsMetrics};
use crate::gateway::DtlsParts;
use crate::gateway::contract::ControlRequest;
use crate::gateway::settings::Settings;
use crate::types::ListenerId;

use super::build::Renewed;
use super::listeners::{ListenerStep, NewListener};
use super::materials::{self, Materials};
use super::node::Node;
use super::slots::{Moves, Opening};
use super::{reload, state};

impl Node {
    /// Puts what is on disk now in force, all of it or nothing.
    pub(super) fn renew(&mut self) -> Result<Renewed, Problems> {
        let (mut config, mut report) = self.read_again()?;
        let tickets = state::ticket_keys(&config.node.state_dir).unwrap_or_else(|error| {
            tracing::warn!("the ticket keys stay as they are: {error}");
            self.tickets.clone()
        });
        let moves = self.slots.moves(&self.config, &mut config).map_err(Problems)?;
        report.needs_restart.extend(moves.needs_restart.iter().cloned());
        let slots = self.slots.after(&moves);
        let materials = materials::load(&config, &tickets).map_err(|lines| self.problems(lines))?;
        let places = slots.places(&config);
        let out_of_time = materials::out_of_time(&config, &places, &self.materials, &materials);
        if !out_of_time.is_empty() {
            return Err(self.problems(out_of_time));
        }
        let mut auth_settings = materials::auth_settings(&config).map_err(|lines| self.problems(lines))?;
        auth_settings.listeners = slots.names().map(Into::into).collect();
        auth_settings.per_listener = own_backends(&places, auth_settings.per_listener);
        if let Some((auth, _)) = &self.auth {
            auth.reload(&auth_settings)
                .map_err(|errors| self.problems(errors.iter().map(ToString::to_string).collect()))?;
        }
        self.certificates.set(&config, &materials.contexts);
        self.materials = by_slot(&places, &self.materials, materials);
        self.slots = slots;
        self.put_in_force(config);
        self.tickets = tickets;
        self.relist(&moves);
        let listeners = self.steps(moves);
        Ok(Renewed {
            request: ControlRequest::Reconfigure {
                settings: Arc::clone(&self.materials.settings),
                contexts: self.materials.contexts.clone(),
            },
            listeners,
            report,
        })
    }

    /// What the workers have to do for the listeners, counters for new ones included.
    fn steps(&self, moves: Moves) -> Vec<ListenerStep> {
        let close = moves
            .close
            .into_iter()
            .map(|(listener, spec)| ListenerStep::Close { listener, spec });
        let open = moves.open.into_iter().map(|opening| {
            let dtls = opening.fresh.then(|| self.parts_of(&opening));
            ListenerStep::Open(NewListener { opening, dtls })
        });
        close.chain(open).collect()
    }

    fn parts_of(&self, opening: &Opening) -> Vec<Option<DtlsParts>> {
        let spec = &opening.spec;
        self.names.add(spec.name.clone(), spec.transport);
        let context = self.materials.contexts.get(usize::from(opening.listener.0));
        let parts = || self.dtls_parts(&spec.name, context?.as_ref()?);
        (0..spec.workers).map(|_| parts()).collect()
    }

    #[expect(clippy::unnecessary_wraps, reason = "one of a plain UDP listener is none")]
    pub(super) fn dtls_parts(&self, listener: &str, context: &Arc<DtlsContext>) -> Option<DtlsParts> {
        let metrics = Arc::new(DtlsMetrics::default());
        self.dtls.add(listener, Arc::clone(&metrics));
        Some(DtlsParts {
            context: Arc::clone(context),
            shared: Arc::clone(&self.shared),
            metrics,
        })
    }

    /// Shows operators what moved.
    fn relist(&self, moves: &Moves) {
        let mut listed = self.listed.lock().unwrap_or_else(PoisonError::into_inner);
        for (listener, _) in &moves.close {
            if let Some(state) = listed.get_mut(usize::from(listener.0)) {
                (state.enabled, state.removed) = (false, true);
            }
        }
        for opening in &moves.open {
            let spec = &opening.spec;
            let bound = opening
                .sockets
                .first()
                .and_then(|socket| socket.local_addr().ok());
            let state = ListenerState {
                transport: spec.transport,
                name: spec.name.clone(),
                bind: bound.unwrap_or(spec.bind),
                enabled: true,
                removed: false,
            };
            match listed.get_mut(usize::from(opening.listener.0)) {
                Some(place) => *place = state,
                None => listed.push(state),
            }
        }
    }

    /// The configuration as it is on disk now, with what cannot change while the process runs as it was.
    fn read_again(&self) -> Result<(Config, Reloaded), Problems> {
        let Some(source) = &self.config.source else {
            return Ok((Config::clone(&self.config), Reloaded::default()));
        };
        let Loaded {
            config: mut new,
            warnings,
        } = config::load(source)?;
        let needs_restart = needs_restart(&self.config, &new);
        reload::keep_fixed(&self.config, &mut new);
        Ok((
            new,
            Reloaded {
                needs_restart,
                warnings,
            },
        ))
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
        self.config = Arc::new(config);
        *self.in_force.lock().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&self.config);
    }
}

/// The listeners' own backends by their ids instead of their places in the configuration.
fn own_backends(
    places: &[Option<usize>],
    mut by_place: BTreeMap<ListenerId, BackendSettings>,
) -> BTreeMap<ListenerId, BackendSettings> {
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
