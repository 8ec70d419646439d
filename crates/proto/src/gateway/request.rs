//! A whole request: which resource it names, who asks, and who does it.

use std::time::Instant;

use super::Gateway;
use super::pending::{Parked, bad_request, too_many_requests, unauthorized};
use super::settings::{IdentityUse, ListenerSettings};
use super::workers::ClaimProof;
use crate::bridge::content;
use crate::bridge::discovery;
use crate::bridge::uri::{self, Params, Resource};
use crate::coap::contract::{Code, ExchangeId, PeerId, Request, Response};
use crate::policy::connections::{ConnectionKey, Grant, Owner};
use crate::types::reason::Limit;
use crate::types::{ClientId, Identity, ListenerId};

use super::metrics::ConnectionEvent;

/// What to do with a request next.
pub(super) enum Step {
    /// Answer it.
    Answer(Response),
    /// Nothing: its answer comes later.
    Waiting,
    /// Ask who it is, then look at it again.
    Authenticate,
    /// Fetch the connection it names from another worker, then look at it again.
    Claim {
        client: ClientId,
        owner: Owner,
        proof: ClaimProof,
    },
}

/// What is known of a request when it is looked at.
#[derive(Debug, Clone)]
pub(super) enum Stage {
    /// Nothing.
    Fresh,
    /// The connection that it names is not elsewhere.
    Claimed,
    /// Its credentials are good.
    Admitted(Grant),
}

/// Where the connection is that a request names.
pub(super) enum Found {
    Here(ConnectionKey),
    Elsewhere {
        client: ClientId,
        owner: Owner,
        proof: ClaimProof,
    },
}

/// What is asked of a topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Operation {
    Publish,
    Subscribe,
    Unsubscribe,
    Read,
    Clear,
}

impl Operation {
    /// The operation of a request on `ps/{topic}`, or nothing for 4.05. Observe values other than 0 and 1 mean nothing to us
    /// and, being elective, count as absent.
    pub(super) fn of(request: &Request) -> Option<Self> {
        match (request.method, request.observe) {
            (Code::POST, Some(0)) if request.payload.is_empty() => Some(Self::Subscribe),
            (Code::POST | Code::PUT, _) => Some(Self::Publish),
            (Code::GET, Some(0)) => Some(Self::Subscribe),
            (Code::GET, Some(1)) => Some(Self::Unsubscribe),
            (Code::GET, _) => Some(Self::Read),
            (Code::DELETE, _) => Some(Self::Clear),
            _ => None,
        }
    }
}

impl Gateway {
    pub(super) fn request(&mut self, now: Instant, peer: PeerId, exchange: ExchangeId, request: Request) {
        if let Some(refusal) = self.overload_refusal(&request) {
            return self.respond(now, now, exchange, refusal);
        }
        if let Err(after) = self.request_rates.take(now, &peer) {
            self.metrics.limits.inc(Limit::RequestRate);
            return self.respond(now, now, exchange, too_many_requests(after));
        }
        self.process(
            now,
            Parked {
                peer,
                exchange,
                request,
                arrived: now,
            },
            Stage::Fresh,
        );
    }

    /// Looks at a request for the first time, or again with what was found out for it.
    pub(super) fn process(&mut self, now: Instant, parked: Parked, stage: Stage) {
        if self.peers.get(parked.peer).is_none() {
            // Its session ended while it waited: what that proved, and where it belongs, is no longer known.
            return;
        }
        let may_claim = matches!(stage, Stage::Fresh);
        match self.dispatch(now, &parked, stage) {
            Ok(Step::Answer(response)) | Err(response) => {
                self.respond(now, parked.arrived, parked.exchange, response);
            }
            Ok(Step::Waiting) => {}
            Ok(Step::Authenticate) => self.authenticate(now, parked),
            Ok(Step::Claim { client, owner, proof }) => {
                // A connection that the handshake proves is made anew when nobody has it, so it is always asked for.
                let implicit = matches!(proof, ClaimProof::Identity);
                if may_claim && (implicit || self.settings.workers > 1) {
                    self.claim(now, client, owner, proof, parked);
                } else {
                    let response = self.wrong_token(now, parked.peer);
                    self.respond(now, parked.arrived, parked.exchange, response);
                }
            }
        }
    }

    fn dispatch(&mut self, now: Instant, parked: &Parked, stage: Stage) -> Result<Step, Response> {
        let request = &parked.request;
        let resource = uri::resource(&request.path).map_err(|error| bad_request(error.to_string()))?;
        let operation = match resource {
            Resource::Unknown => return Err(Response::new(Code::NOT_FOUND)),
            Resource::Discovery => return discover(request).map(Step::Answer),
            Resource::Connection => match request.method {
                Code::POST | Code::PUT | Code::DELETE => None,
                _ => return Err(Response::new(Code::METHOD_NOT_ALLOWED)),
            },
            Resource::Topic(_) => {
                let operation = Operation::of(request);
                Some(operation.ok_or_else(|| Response::new(Code::METHOD_NOT_ALLOWED))?)
            }
        };
        // What is retained may have any format that its publisher chose, so a read is judged once it is known.
        if operation != Some(Operation::Read) && !content::is_acceptable(request.accept) {
            return Err(Response::new(Code::NOT_ACCEPTABLE));
        }
        let params = Params::parse(&request.query).map_err(|error| bad_request(error.to_string()))?;
        match (resource, operation) {
            (Resource::Topic(text), Some(operation)) => {
                self.topic_request(now, parked, &params, stage, operation, &text)
            }
            _ => self.connection_request(now, parked, &params, stage),
        }
    }

    pub(super) fn listener_settings(&self, listener: ListenerId) -> Option<&ListenerSettings> {
        self.settings.listeners.get(usize::from(listener.0))
    }

    /// What the listener of a peer uses the proved identity as, with that identity.
    pub(super) fn bound_identity(&self, peer: PeerId) -> (IdentityUse, Option<&Identity>) {
        let Some(peer) = self.peers.get(peer) else {
            return (IdentityUse::None, None);
        };
        let dtls = self
            .listener_settings(peer.listener)
            .and_then(|settings| settings.dtls.as_ref());
        (
            dtls.map_or(IdentityUse::None, |dtls| dtls.identity),
            peer.identity.as_ref(),
        )
    }

    /// How a peer speaks to us, which is what its connections belong to.
    pub(super) fn owner_of(&self, peer: PeerId) -> Owner {
        match self.peers.get(peer) {
            Some(peer) if peer.session.is_some() => Owner::Dtls(peer.identity.clone()),
            _ => Owner::Udp,
        }
    }

    /// The client id of a request: the proved one where the listener binds it, else the named one.
    ///
    /// # Errors
    /// 4.01 when it names another than the proved one.
    pub(super) fn client_of(&self, peer: PeerId, params: &Params<'_>) -> Result<Option<ClientId>, Response> {
        let (IdentityUse::ClientId, Some(identity)) = self.bound_identity(peer) else {
            return Ok(params.client.clone());
        };
        let proved = ClientId::new(&identity.name)
            .ok_or_else(|| unauthorized("Login Failed: the DTLS identity is no client id"))?;
        match &params.client {
            Some(named) if *named != proved => {
                Err(unauthorized("Login Failed: clientid is not the DTLS identity"))
            }
            _ => Ok(Some(proved)),
        }
    }

    /// The connection that a request names by client id and token, or that its handshake made.
    ///
    /// # Errors
    /// 4.00 when one is missing, 4.01 when they are wrong.
    pub(super) fn connection_of(
        &mut self,
        now: Instant,
        peer: PeerId,
        params: &Params<'_>,
    ) -> Result<Found, Response> {
        let client = self.client_of(peer, params)?;
        let owner = self.owner_of(peer);
        let implicit =
            params.token.is_none() && matches!(self.bound_identity(peer), (IdentityUse::ClientId, Some(_)));
        let (Some(client), true) = (client, implicit || params.token.is_some()) else {
            return Err(bad_request("Missing token or clientid"));
        };
        let proof = match params.token {
            Some(token) => ClaimProof::Token(token.to_vec().into()),
            None => ClaimProof::Identity,
        };
        match self.connections.of_client(&client) {
            Some(connection) => {
                let key = connection.key;
                if proof.proves(connection, &owner) {
                    self.use_connection(now, key, peer);
                    Ok(Found::Here(key))
                } else {
                    Err(self.wrong_token(now, peer))
                }
            }
            None => Ok(Found::Elsewhere { client, owner, proof }),
        }
    }

    /// 4.01 for a wrong or unknown token; 4.29 for a source that tries too many.
    pub(super) fn wrong_token(&mut self, now: Instant, peer: PeerId) -> Response {
        self.metrics.connection_events.inc(ConnectionEvent::WrongToken);
        match self.charge_failure(now, peer) {
            Ok(()) => unauthorized("Invalid token or clientid"),
            Err(response) => response,
        }
    }

    /// Whether a client may begin one more observation.
    pub(super) fn observation_room(&self, held: usize) -> bool {
        let caps = &self.settings.caps;
        let room = held < caps.observations_per_client && self.subscriptions.len() < caps.observations;
        if !room {
            self.metrics.limits.inc(Limit::Observations);
        }
        room
    }
}

fn discover(request: &Request) -> Result<Response, Response> {
    if request.method != Code::GET {
        return Err(Response::new(Code::METHOD_NOT_ALLOWED));
    }
    if request
        .accept
        .is_some_and(|format| format != discovery::LINK_FORMAT)
    {
        return Err(Response::new(Code::NOT_ACCEPTABLE));
    }
    Ok(Response {
        payload: discovery::document(&request.query).into(),
        content_format: Some(discovery::LINK_FORMAT),
        ..Response::new(Code::CONTENT)
    })
}
