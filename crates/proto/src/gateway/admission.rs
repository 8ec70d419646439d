//! Who may come in and what they may do: credentials to a backend, failures counted by source, the ACL asked.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use super::Gateway;
use super::contract::Output;
use super::metrics::ConnectionEvent;
use super::pending::{Parked, Pending, too_many_requests, unauthorized, unavailable};
use super::request::Stage;
use super::settings::IdentityUse;
use super::topic::Caller;
use crate::bridge::contract::Ticket;
use crate::bridge::uri::{self, Params, Resource};
use crate::coap::contract::{PeerId, Response};
use crate::policy::authentication::{AuthRequest, IdentityRole, Password, Verdict};
use crate::policy::authorization::Access;
use crate::policy::connections::Grant;
use crate::policy::failures::Class;
use crate::policy::pattern::Subject;
use crate::types::ClientId;
use crate::types::reason::Limit;

impl Gateway {
    /// The user name of a request: the proved one where the listener says so, else the named one, unless that is a token.
    pub(super) fn username_of(&self, peer: PeerId, params: &Params<'_>) -> Option<Arc<str>> {
        let listener = self.peers.get(peer).map(|peer| peer.listener);
        let is_token = listener
            .and_then(|listener| self.listener_settings(listener))
            .is_some_and(|settings| settings.token_in_username);
        match self.bound_identity(peer) {
            (IdentityUse::Username, Some(identity)) => Some(Arc::clone(&identity.name)),
            _ => params.username.filter(|_| !is_token).map(Into::into),
        }
    }

    /// Lets a request in at once where nobody has to be asked; `None` when a backend must be.
    ///
    /// # Errors
    /// 4.29 when its source failed too often.
    pub(super) fn admit(
        &mut self,
        now: Instant,
        parked: &Parked,
        client: Option<&ClientId>,
        params: &Params<'_>,
    ) -> Result<Option<Grant>, Response> {
        let listener = self.peers.get(parked.peer).map(|peer| peer.listener);
        let asked = listener
            .and_then(|listener| self.listener_settings(listener))
            .is_some_and(|settings| settings.authentication);
        if !asked {
            return Ok(Some(Grant::default()));
        }
        let Some(request) = self.auth_request(Ticket(0), parked.peer, client, params) else {
            return Ok(None);
        };
        if let Some(verdict) = self.verdicts.get(now, &self.verdicts.hash(&request)) {
            return Ok(grant(now, verdict));
        }
        if !request.is_proved() {
            // Charged before it is asked, so that tries in flight cannot go over the rate.
            self.charge_failure(now, parked.peer)?;
        }
        Ok(None)
    }

    /// Sends a request's credentials to the backend and sets it aside until the answer.
    pub(super) fn authenticate(&mut self, now: Instant, parked: Parked) {
        let (peer, exchange, arrived) = (parked.peer, parked.exchange, parked.arrived);
        let asked = self.asked(Ticket(0), &parked);
        let charged = asked.as_ref().is_some_and(|request| !request.is_proved());
        let class = self.class_of(peer);
        let charge = charged
            .then(|| self.peers.get(peer).map(|peer| (class, peer.address.source())))
            .flatten();
        let parked = Box::new(parked);
        let ticket = match self.wait(Pending::Authenticate { parked, charge }) {
            Ok(ticket) => ticket,
            Err(response) => {
                self.forgive_failure(now, charge);
                return self.respond(now, arrived, exchange, response);
            }
        };
        match asked {
            Some(request) => {
                let request = AuthRequest {
                    ticket: ticket.0,
                    ..request
                };
                self.outputs.push_back(Output::Authenticate { request, class });
            }
            None => self.authenticated(now, ticket.0, Verdict::Unavailable),
        }
    }

    /// What a backend is asked for a request that waits.
    fn asked(&self, ticket: Ticket, parked: &Parked) -> Option<AuthRequest> {
        let params = Params::parse(&parked.request.query).ok()?;
        let client = self.client_of(parked.peer, &params).ok()?;
        self.auth_request(ticket, parked.peer, client.as_ref(), &params)
    }

    fn auth_request(
        &self,
        ticket: Ticket,
        peer: PeerId,
        client: Option<&ClientId>,
        params: &Params<'_>,
    ) -> Option<AuthRequest> {
        let (bound, identity) = self.bound_identity(peer);
        let from = self.peers.get(peer)?;
        Some(AuthRequest {
            ticket: ticket.0,
            clientid: client.cloned(),
            username: match (bound, identity) {
                (IdentityUse::Username, Some(identity)) => Some(Arc::clone(&identity.name)),
                _ => params.username.map(Into::into),
            },
            password: params.password.map(Password::new),
            identity: identity.cloned(),
            identity_role: match bound {
                IdentityUse::None => IdentityRole::None,
                IdentityUse::ClientId => IdentityRole::ClientId,
                IdentityUse::Username => IdentityRole::Username,
            },
            peer: from.address,
            listener: from.listener,
        })
    }

    /// The backend's word.
    pub(super) fn authenticated(&mut self, now: Instant, ticket: u64, verdict: Verdict) {
        let Some(Pending::Authenticate { parked, charge }) = self.pending.remove(&Ticket(ticket)) else {
            return;
        };
        if !matches!(verdict, Verdict::Deny(_)) {
            self.forgive_failure(now, charge);
        }
        // A verdict that was asked for before the last reload may be one of backends that are gone.
        if parked.arrived >= self.verdicts_since
            && let Some(request) = self.asked(Ticket(0), &parked)
        {
            let hash = self.verdicts.hash(&request);
            self.verdicts.put(now, hash, &verdict);
        }
        match verdict {
            verdict @ Verdict::Allow { .. } => {
                let grant = grant(now, verdict).unwrap_or_default();
                self.process(now, *parked, Stage::Admitted(grant));
            }
            Verdict::Deny(reason) => {
                let create = matches!(uri::resource(&parked.request.path), Ok(Resource::Connection));
                if create {
                    self.metrics.connection_events.inc(ConnectionEvent::Refused);
                }
                let response = unauthorized(format!("Login Failed: {}", reason.wording()));
                self.respond(now, parked.arrived, parked.exchange, response);
            }
            Verdict::Unavailable => self.respond(now, parked.arrived, parked.exchange, unavailable()),
        }
    }

    /// Counts a try of a peer's source that is wrong, or may turn out to be.
    ///
    /// # Errors
    /// 4.29 when too many of its tries failed.
    pub(super) fn charge_failure(&mut self, now: Instant, peer: PeerId) -> Result<(), Response> {
        let Some(address) = self.peers.get(peer).map(|peer| peer.address) else {
            return Ok(());
        };
        let class = self.class_of(peer);
        self.shared
            .failures
            .charge(now, class, address.source())
            .map_err(|after| {
                self.metrics.limits.inc(Limit::FailedLogins);
                too_many_requests(after)
            })
    }

    /// Gives a charge back to the source and class that it was taken from, wherever the peer is now.
    fn forgive_failure(&mut self, now: Instant, charge: Option<(Class, IpAddr)>) {
        if let Some((class, source)) = charge {
            self.shared.failures.give_back(now, class, source);
        }
    }

    fn class_of(&self, peer: PeerId) -> Class {
        if self.is_proven(peer) {
            Class::Proven
        } else {
            Class::Unproven
        }
    }

    /// Asks the ACL.
    ///
    /// # Errors
    /// 4.01 when it says no.
    pub(super) fn authorize(&self, caller: &Caller, access: &Access<'_>) -> Result<(), Response> {
        let subject = Subject {
            user: caller.username.as_deref(),
            client: caller.client.as_ref().map(ClientId::as_str),
            identity: caller.identity.as_deref(),
        };
        let grant = &caller.grant;
        let decision =
            self.settings
                .authorizer
                .check(&subject, grant.superuser, grant.acl.as_deref(), access);
        self.metrics.authorizations.count(access.action, &decision);
        if decision.allowed {
            Ok(())
        } else {
            Err(unauthorized("not authorised"))
        }
    }
}

/// What a verdict that lets in grants.
fn grant(now: Instant, verdict: Verdict) -> Option<Grant> {
    let Verdict::Allow {
        expires_in,
        superuser,
        acl,
    } = verdict
    else {
        return None;
    };
    let until = expires_in.and_then(|good_for| now.checked_add(good_for));
    Some(Grant {
        superuser,
        acl,
        until,
    })
}
