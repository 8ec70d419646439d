//! A request with all that is known of who asks: resolved once, where its datagram arrived, and handed on as it is.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::answers::{bad_request, not_acceptable, not_allowed, not_found, unauthorized};
use super::peers::Peer;
use super::settings::{ListenerSettings, Settings};
use crate::bridge::login::{self, BadLogin, LoginPayload};
use crate::bridge::subscriptions::AccountHolder;
use crate::bridge::uri::{self, NamedResource, QueryParams};
use crate::bridge::{content, discovery};
use crate::coap::contract::{Code, ExchangeId, PeerId, Preconditions, Request, ResourceKey, Response, Token};
use crate::policy::authentication::{AuthRequest, IdentityRole, Password};
use crate::policy::connections::Owner;
use crate::policy::failures::Class;
use crate::policy::identity_names::IdentityNames;
use crate::policy::ledger::Ledger;
use crate::session::SessionInfo;
use crate::state::MARK;
use crate::types::standing::Standing;
use crate::types::text::unsendable;
use crate::types::{ClientId, Identity, ListenerId, PeerAddr};

/// How old the Echo value of a request with `fresh=1` may be where its listener says nothing.
const FRESH_WITHIN: Duration = Duration::from_secs(60);

/// A peer as its worker knows it.
#[derive(Debug, Clone)]
pub struct PeerFacts {
    /// Which; the id names its worker.
    pub id: PeerId,
    /// The listener it came to.
    pub listener: ListenerId,
    /// Where it is.
    pub address: PeerAddr,
    /// How it speaks to us and who it proved to be, which is what its connections belong to.
    pub owner: Owner,
    /// What is known of it.
    pub standing: Standing,
    /// What names it in the records that the next process finds; 0 nothing.
    pub mark: u64,
    /// Its DTLS session; told to other workers only, which cannot look it up.
    pub session: Option<Box<SessionInfo>>,
}

impl PeerFacts {
    /// Who its handshake proved it to be.
    #[must_use]
    pub fn identity(&self) -> Option<&Identity> {
        self.owner.identity()
    }
}

impl Peer {
    /// What is told of the peer where it does not matter what its worker keeps for it.
    pub(super) fn facts(&self, id: PeerId, ledger: &Ledger<AccountHolder>) -> PeerFacts {
        PeerFacts {
            id,
            listener: self.listener,
            address: self.address,
            owner: match self.secure {
                true => Owner::Dtls(self.identity.clone()),
                false => Owner::Udp,
            },
            standing: ledger.standing(self.account),
            mark: self.kept.map_or(0, |kept| kept.get(MARK)),
            session: None,
        }
    }
}

/// The request that an answer is for.
#[derive(Debug, Clone, Copy)]
pub struct ReplyTo {
    /// The peer that asked.
    pub peer: PeerId,
    /// What its message layer knows it by.
    pub exchange: ExchangeId,
    /// When its last datagram came.
    pub arrived: Instant,
}

/// What is asked of `mqtt/connection`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConnectionOperation {
    /// Make one (POST).
    Create,
    /// Keep it alive (PUT).
    Heartbeat,
    /// End it (DELETE).
    Close,
    /// Let in the whole DTLS session by a token (POST `auth/jwt`).
    Bind,
}

/// What is asked of a topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TopicOperation {
    /// Publish the payload.
    Publish,
    /// Begin an observation.
    Subscribe,
    /// End an observation.
    Unsubscribe,
    /// Read what is retained.
    Read,
    /// Clear what is retained.
    Clear,
}

impl TopicOperation {
    /// The operation of a GET, DELETE, POST or PUT on `ps/{topic}`. Observe values other than 0 and 1 mean nothing to us and,
    /// being elective, count as absent.
    fn of(request: &Request) -> Self {
        match (request.method, request.observe) {
            (Code::POST, Some(0)) if request.payload.is_empty() => Self::Subscribe,
            (Code::GET, Some(0)) => Self::Subscribe,
            (Code::GET, Some(1)) => Self::Unsubscribe,
            (Code::GET, _) => Self::Read,
            (Code::DELETE, _) => Self::Clear,
            _ => Self::Publish,
        }
    }
}

/// What is asked of the topic collection, or of a topic in it by its id (draft-ietf-core-coap-pubsub-21, 2.4 and 2.5).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CollectionOperation {
    /// List the topics (GET `ps`).
    List,
    /// List those with certain properties (FETCH `ps`).
    Filter,
    /// Create one (POST `ps`).
    Create,
    /// Read its configuration (GET `ps-conf/{id}`).
    Read(String),
    /// Read a part of it (FETCH).
    ReadPart(String),
    /// Replace what of it can change (POST).
    Replace(String),
    /// Change a part of it (iPATCH).
    Patch(String),
    /// Delete the topic with its data (DELETE).
    Delete(String),
}

impl CollectionOperation {
    fn of_collection(method: Code) -> Option<Self> {
        Some(match method {
            Code::GET => Self::List,
            Code::FETCH => Self::Filter,
            Code::POST => Self::Create,
            _ => return None,
        })
    }

    fn of_topic(method: Code, id: String) -> Option<Self> {
        Some(match method {
            Code::GET => Self::Read(id),
            Code::FETCH => Self::ReadPart(id),
            Code::POST => Self::Replace(id),
            Code::IPATCH => Self::Patch(id),
            Code::DELETE => Self::Delete(id),
            _ => return None,
        })
    }

    /// Whether it changes what is kept.
    #[must_use]
    pub const fn changes(&self) -> bool {
        matches!(
            self,
            Self::Create | Self::Replace(_) | Self::Patch(_) | Self::Delete(_)
        )
    }
}

/// What a request is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// `mqtt/connection`, or `auth/jwt`.
    Connection(ConnectionOperation),
    /// `ps/{topic}`; the text is within the limits, and not yet checked as topic or filter.
    Topic(TopicOperation, String),
    /// `ps`, or `ps-conf/{id}`.
    Collection(CollectionOperation),
    /// `.well-known/core`.
    Discovery,
}

/// A request, whose it is, and what it wants. It prints no parameter and no payload: tokens and passwords stand there.
#[derive(Clone)]
pub struct RequestContext {
    /// The peer it came from.
    pub from: PeerFacts,
    /// What its answer names.
    pub reply: ReplyTo,
    /// How sure it was, when it came, that its peer is where it says.
    pub class: Class,
    /// What it is about.
    pub target: Target,
    /// The client id: the proved one where the listener binds it, else the named one.
    pub client: Option<ClientId>,
    /// The user name: the proved one where the listener says so, else the named one, unless that is a token.
    pub username: Option<Arc<str>>,
    /// Its query parameters but the client id.
    pub params: QueryParams,
    /// Whether it came as CON.
    pub confirmable: bool,
    /// Its CoAP token.
    pub token: Token,
    /// Its Accept option.
    pub accept: Option<u16>,
    /// The Content-Format of its payload.
    pub content_format: Option<u16>,
    /// Its payload, put together from its blocks.
    pub payload: Bytes,
    /// When the Echo value that it brings was handed out first.
    pub echo_issued: Option<Instant>,
    /// What has to hold before it is done; of a topic's data only.
    pub preconditions: Option<Box<Preconditions>>,
    /// What block-wise transfer knows its resource by.
    pub resource: ResourceKey,
    /// The block size that it asks for.
    pub block_szx: Option<u8>,
}

impl fmt::Debug for RequestContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RequestContext")
            .field("from", &self.from)
            .field("reply", &self.reply)
            .field("target", &self.target)
            .field("client", &self.client)
            .finish_non_exhaustive()
    }
}

impl RequestContext {
    /// Reads a request.
    ///
    /// # Errors
    /// With the answer, where it does not depend on anything that is kept.
    pub(super) fn resolve(
        settings: &Settings,
        from: PeerFacts,
        class: Class,
        reply: ReplyTo,
        request: Request,
    ) -> Result<Self, Response> {
        let bad = |error: uri::BadUri| bad_request(error.to_string());
        let named = uri::resource(request.resource.path());
        let of_collection = matches!(
            named,
            Ok(NamedResource::Collection | NamedResource::Configuration(_))
        );
        // A method that nothing here has is not allowed anywhere, whether the path is known or not (RFC 7252, 5.8).
        let everywhere = matches!(request.method, Code::GET | Code::POST | Code::PUT | Code::DELETE);
        let there = of_collection && matches!(request.method, Code::FETCH | Code::IPATCH);
        if !everywhere && !there {
            return Err(not_allowed("GET, POST, PUT and DELETE only"));
        }
        let target = match named.map_err(bad)? {
            NamedResource::Unknown => return Err(not_found("no such path; topics are below ps/")),
            NamedResource::Discovery => {
                check_discovery(&request)?;
                Target::Discovery
            }
            // What else is asked of it is about the topic without a name.
            NamedResource::Collection => match CollectionOperation::of_collection(request.method) {
                Some(operation) if !matches!(request.observe, Some(0 | 1)) => Target::Collection(operation),
                _ => Target::Topic(TopicOperation::of(&request), String::new()),
            },
            NamedResource::Configuration(id) => CollectionOperation::of_topic(request.method, id)
                .map(Target::Collection)
                .ok_or_else(|| not_allowed("GET, FETCH, POST, iPATCH and DELETE only"))?,
            NamedResource::Connection => Target::Connection(match request.method {
                Code::POST => ConnectionOperation::Create,
                Code::PUT => ConnectionOperation::Heartbeat,
                Code::DELETE => ConnectionOperation::Close,
                _ => return Err(not_allowed("POST, PUT and DELETE only")),
            }),
            NamedResource::SessionToken if request.method == Code::POST => {
                Target::Connection(ConnectionOperation::Bind)
            }
            NamedResource::SessionToken => return Err(not_allowed("POST only")),
            NamedResource::Topic(text) => Target::Topic(TopicOperation::of(&request), text),
        };
        // What is read or observed is judged once it is known, and other answers but this one have no body.
        if target == Target::Connection(ConnectionOperation::Create)
            && !content::accepts(request.accept, None)
        {
            return Err(not_acceptable("the token has no such format"));
        }
        check_preconditions(&request, &target)?;
        let listener = settings.listener(from.listener);
        let logs_in = matches!(
            target,
            Target::Connection(ConnectionOperation::Create | ConnectionOperation::Bind)
        );
        let (mut params, claimed) = if target == Target::Discovery {
            // Its query is a filter.
            (QueryParams::default(), None)
        } else if logs_in && !request.payload.is_empty() {
            with_payload(listener, &request)?
        } else {
            let params = QueryParams::parse(request.resource.query()).map_err(bad)?;
            (params, None)
        };
        let (client, username) = who(listener, &from, &mut params)?;
        let client = client.or(claimed);
        Ok(Self {
            from,
            reply,
            class,
            target,
            client,
            username,
            params,
            confirmable: request.confirmable,
            token: request.token,
            accept: request.accept,
            content_format: request.content_format,
            payload: if logs_in { Bytes::new() } else { request.payload },
            echo_issued: request.echo_issued,
            preconditions: request.preconditions,
            resource: request.resource,
            block_szx: request.block_szx,
        })
    }

    /// Whether it would put a message into the spool.
    pub(super) const fn publishes(&self) -> bool {
        match &self.target {
            Target::Topic(operation, _) => {
                matches!(operation, TopicOperation::Publish | TopicOperation::Clear)
            }
            Target::Collection(operation) => operation.changes(),
            Target::Connection(_) | Target::Discovery => false,
        }
    }

    /// Whether it is meant now, where it changes something and that has to be known (RFC 9175, 2.4).
    ///
    /// # Errors
    /// 4.01 that asks for an Echo value.
    pub(super) fn check_fresh(&self, now: Instant, settings: &Settings) -> Result<(), Response> {
        let within = settings
            .listener(self.from.listener)
            .and_then(|listener| listener.fresh_requests)
            .or(self.params.fresh.then_some(FRESH_WITHIN));
        let Some(within) = within.filter(|_| self.publishes()) else {
            return Ok(());
        };
        let age = self
            .echo_issued
            .map(|issued| now.saturating_duration_since(issued));
        if age.is_some_and(|age| age <= within) {
            return Ok(());
        }
        Err(Response {
            wants_echo: Some(within),
            ..unauthorized("Echo wanted")
        })
    }

    /// Whether the handshake alone proves who this client is.
    pub(super) fn is_proved(&self, settings: &Settings) -> bool {
        role(settings.listener(self.from.listener)) == IdentityRole::ClientId
            && self.from.identity().is_some()
    }

    /// What a backend is asked about it.
    pub(super) fn credentials(&self, ticket: u64, settings: &Settings) -> AuthRequest {
        let role = role(settings.listener(self.from.listener));
        AuthRequest {
            ticket,
            clientid: self.client.clone(),
            username: match role {
                IdentityRole::Username if self.from.identity().is_some() => self.username.clone(),
                _ => self.params.username.clone(),
            },
            password: self.params.password.as_deref().map(Password::new),
            identity: self.from.identity().cloned(),
            identity_role: role,
            peer: self.from.address,
            listener: self.from.listener,
        }
    }
}

/// Whether a request has preconditions only where there is a state that they can be about.
///
/// # Errors
/// 4.12 where there is none.
fn check_preconditions(request: &Request, target: &Target) -> Result<(), Response> {
    match target {
        Target::Topic(TopicOperation::Publish | TopicOperation::Clear | TopicOperation::Read, _) => Ok(()),
        _ if request.preconditions.is_none() => Ok(()),
        _ => Err(Preconditions::failed()),
    }
}

fn role(listener: Option<&ListenerSettings>) -> IdentityRole {
    listener
        .and_then(|listener| listener.dtls.as_ref())
        .map_or(IdentityRole::None, |dtls| dtls.identity)
}

/// The parameters of a login, from its query and its payload, and the client that a token names which stands there alone.
///
/// # Errors
/// With the answer to what is no login, or says the same twice.
fn with_payload(
    listener: Option<&ListenerSettings>,
    request: &Request,
) -> Result<(QueryParams, Option<ClientId>), Response> {
    let query = || request.resource.query().map(uri::split);
    let bad = |error: uri::BadUri| bad_request(error.to_string());
    let read = login::read(request.content_format, &request.payload).map_err(|why| match why {
        BadLogin::Format => Response::diagnostic(
            Code::UNSUPPORTED_CONTENT_FORMAT,
            "a login has Content-Format 0, 50, 60, 61 or none",
        ),
        BadLogin::TooLong => Response::new(Code::REQUEST_ENTITY_TOO_LARGE),
        BadLogin::Malformed(what) => bad_request(what),
    })?;
    match &read {
        LoginPayload::Parameters(all) => {
            let payload = all
                .iter()
                .map(|(name, value)| (&**name, value.as_ref().map(|value| value.as_slice())));
            let params = QueryParams::collect(query().chain(payload)).map_err(bad)?;
            Ok((params, None))
        }
        LoginPayload::WebToken(token) => {
            let in_username = listener.is_some_and(|listener| listener.token_in_username);
            let name: &[u8] = if in_username { b"username" } else { b"password" };
            let given = query().chain([(name, Some(*token))]);
            let claimed = login::client_of(token).and_then(|name| ClientId::new(&name));
            Ok((QueryParams::collect(given).map_err(bad)?, claimed))
        }
        LoginPayload::CborToken(token) => {
            let given = query().chain([(&b"password"[..], Some(*token))]);
            let claimed = login::client_of_cbor(token).and_then(|name| ClientId::new(&name));
            Ok((QueryParams::collect(given).map_err(bad)?, claimed))
        }
    }
}

/// Client id and user name of a request; takes the former out of its parameters.
///
/// # Errors
/// 4.01 when it names another client than the proved one, or what is proved cannot be a name.
fn who(
    listener: Option<&ListenerSettings>,
    from: &PeerFacts,
    params: &mut QueryParams,
) -> Result<(Option<ClientId>, Option<Arc<str>>), Response> {
    let client = params.client.take();
    let is_token = listener.is_some_and(|listener| listener.token_in_username);
    let named = params.username.clone().filter(|_| !is_token);
    let dtls = listener.and_then(|listener| listener.dtls.as_ref());
    let names = dtls.map(|dtls| &*dtls.names);
    match (role(listener), from.identity()) {
        (IdentityRole::ClientId, Some(identity)) => {
            let proved = names
                .and_then(|names| names.client_of(identity))
                .ok_or_else(|| unauthorized("Login Failed: the DTLS identity is no client id"))?;
            if client.is_some_and(|client| client != proved) {
                return Err(unauthorized("Login Failed: clientid is not the DTLS identity"));
            }
            let is_made = names.is_some_and(|names| names.username.is_some());
            let username = if is_made {
                Some(user_of(names, identity)?)
            } else {
                named
            };
            Ok((Some(proved), username))
        }
        (IdentityRole::Username, Some(identity)) => Ok((client, Some(user_of(names, identity)?))),
        _ => Ok((client, named)),
    }
}

/// The user name that an identity stands for.
///
/// # Errors
/// 4.01 when it stands for none.
fn user_of(names: Option<&IdentityNames>, identity: &Identity) -> Result<Arc<str>, Response> {
    let name = names.and_then(|names| names.username_of(identity));
    name.filter(|name| unsendable(name).is_none())
        .ok_or_else(|| unauthorized("Login Failed: the DTLS identity is no user name"))
}

fn check_discovery(request: &Request) -> Result<(), Response> {
    if request.method != Code::GET {
        return Err(not_allowed("GET only"));
    }
    if request
        .accept
        .is_some_and(|accepted| accepted != discovery::LINK_FORMAT)
    {
        return Err(not_acceptable("Content-Format 40 only"));
    }
    Ok(())
}
