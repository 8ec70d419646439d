//! A whole request where its datagram arrived: answered here, or handed to the owner of the connection that it names.

use std::net::IpAddr;
use std::time::Instant;

use super::answers::{bad_request, forbidden, unauthorized, unavailable};
use super::asker::{Asker, bad_topic};
use super::context::{ConnectionOperation, PeerFacts, ReplyTo, RequestContext, Target, TopicOperation};
use super::contract::Output;
use super::directory::ClientDirectory;
use super::events::{ClientEvent, EventKind};
use super::guard::{Admission, granted};
use super::metrics::{ConnectionEvent, PublishResult};
use super::ops::connect::{Wish, create, made};
use super::ops::{self, NextStep};
use super::owner::{self, Served};
use super::peers::Bound;
use super::pending_requests::{Awaited, Creation, PendingLogin};
use super::workers::{FromPeer, Registration, ToPeer, WorkerMessage};
use super::{Gateway, cx};
use crate::bridge::contract::Ticket;
use crate::coap::contract::{Code, ExchangeId, PeerId, Request, Response};
use crate::policy::authentication::Verdict;
use crate::policy::connections::{Connection, ConnectionKey, ConnectionToken, Grant, Owner};
use crate::policy::failures::Class;
use crate::session::SessionInfo;
use crate::types::reason::{Label as _, Limit};
use crate::types::standing::Standing;
use crate::types::{ClientId, WorkerId};

/// How many requests of one peer wait for the connection that its handshake is.
const MAX_JOINING: usize = 16;

impl Gateway {
    pub(super) fn request(&mut self, now: Instant, peer: PeerId, exchange: ExchangeId, request: Request) {
        let reply = ReplyTo {
            peer,
            exchange,
            arrived: now,
        };
        if self.settings.tells_requests {
            self.tell_request(now, peer, &request);
        }
        match self.resolve(now, reply, request) {
            Ok(context) => {
                self.heard_peer(now, peer);
                if let (true, Target::Topic(_, topic)) = (context.publishes(), &context.target)
                    && let Some(peer) = self.peers.get_mut(peer)
                {
                    peer.traffic.published(topic);
                }
                self.dispatch(now, context);
            }
            Err(response) => self.agenda.answer(reply, response),
        }
    }

    /// Finds out what a request is about and who asks, unless it is refused before that.
    fn resolve(
        &mut self,
        now: Instant,
        reply: ReplyTo,
        request: Request,
    ) -> Result<RequestContext, Response> {
        if self.pressure.refuses_all() {
            return Err(self.overloaded());
        }
        self.guard.take_request(&cx!(self, now), reply.peer)?;
        let peer = self.peers.get(reply.peer).ok_or_else(unavailable)?;
        let class = if peer.coap.is_proven() {
            Class::Proven
        } else {
            Class::Unproven
        };
        let from = peer.facts(reply.peer, &self.ledger);
        let context = RequestContext::resolve(&self.settings, from, class, reply, request);
        let mut context = context.inspect_err(|answer| {
            // Before anything is looked up only who is not who the handshake proved is refused so.
            if answer.code == Code::UNAUTHORIZED {
                self.tell_of_peer(now, reply.peer, EventKind::LoginRefused, |event| {
                    event.because("not_the_identity")
                });
            }
        })?;
        self.not_banned(now, &context)?;
        let holds = matches!(
            context.target,
            Target::Connection(_) | Target::Topic(TopicOperation::Subscribe, _)
        ) || context.params.token.is_some();
        if holds && let Some(mark) = self.keep_peer(reply.peer) {
            context.from.mark = mark;
        }
        if let Target::Topic(_, text) = &context.target
            && let Err(error) = self.settings.caps.topics.check(text)
        {
            if context.publishes() {
                self.metrics.publishes.inc(PublishResult::Invalid);
            }
            return Err(bad_topic(&self.metrics, error));
        }
        context
            .check_fresh(now, &self.settings)
            .inspect_err(|_| self.metrics.stale_requests.inc())?;
        if context.publishes() && self.pressure.refuses_publishes() {
            self.metrics.publishes.inc(PublishResult::Unavailable);
            return Err(self.overloaded());
        }
        Ok(context)
    }

    fn overloaded(&self) -> Response {
        self.metrics.limits.inc(Limit::Overload);
        self.pressure.refusal()
    }

    /// Does what a request asks for, or has it done.
    fn dispatch(&mut self, now: Instant, context: RequestContext) {
        if self.peers.get(context.from.id).is_none() {
            // Its session ended while it waited: what that proved, and where it belongs, is no longer known.
            return;
        }
        let reply = context.reply;
        let required = self.settings.connection_required(context.from.listener);
        let by_connection = required || context.params.token.is_some();
        let result = match &context.target {
            Target::Connection(ConnectionOperation::Create)
                if context.client.is_none() && !self.names_client(context.from.id) =>
            {
                Err(bad_request("clientid is required"))
            }
            Target::Connection(ConnectionOperation::Create) => self.log_in(now, context),
            Target::Connection(ConnectionOperation::Bind) => self.bind(now, context),
            Target::Discovery => {
                self.discover(now, &context);
                Ok(())
            }
            Target::Topic(..) | Target::Collection(_) if !by_connection => self.log_in(now, context),
            _ => self.for_connection(now, context),
        };
        if let Err(response) = result {
            self.agenda.answer(reply, response);
        }
    }

    /// Tells what is here. Who asked is not known, so created topics are told of only where nobody is asked who they are.
    fn discover(&mut self, now: Instant, context: &RequestContext) {
        let listener = self.settings.listener(context.from.listener);
        let is_open = !self.settings.connection_required(context.from.listener)
            && listener.is_some_and(|it| !it.authentication);
        let grant = Grant::of_identity(context.from.identity());
        let asker = is_open.then(|| Asker::peer(&self.settings, context, grant).ok());
        let cx = cx!(self, now);
        let response = ops::collection::discover(&cx, &self.topics, context, asker.flatten().as_ref());
        self.agenda.answer(context.reply, response);
    }

    /// Lets in a DTLS session by the token that a request brings.
    fn bind(&mut self, now: Instant, context: RequestContext) -> Result<(), Response> {
        let asked = self.settings.listener(context.from.listener);
        if !asked.is_some_and(|listener| listener.authentication) {
            return Err(forbidden("nobody is asked for a token here"));
        }
        if context.from.owner == Owner::Udp {
            return Err(forbidden(
                "a token is for a DTLS session; over UDP, mqtt/connection takes it",
            ));
        }
        self.log_in(now, context)
    }

    /// Whether the token of a peer's session came with a client id.
    fn names_client(&self, id: PeerId) -> bool {
        let bound = self.peers.get(id).and_then(|peer| peer.bound.as_deref());
        bound.is_some_and(|bound| bound.client.is_some())
    }

    /// What the token of its session grants a request that brings no credentials of its own.
    fn bound(&self, now: Instant, context: &mut RequestContext) -> Option<Grant> {
        let own = context.params.username.is_some() || context.params.password.is_some();
        let bound = self.peers.get(context.from.id)?.bound.as_deref();
        let bound = bound.filter(|bound| !own && bound.grant.until.is_none_or(|until| now < until))?;
        if context.client.is_some() && context.client != bound.client {
            return None;
        }
        context.client.clone_from(&bound.client);
        if context.username.is_none() {
            context.username.clone_from(&bound.username);
        }
        Some(bound.grant.clone())
    }

    fn log_in(&mut self, now: Instant, mut context: RequestContext) -> Result<(), Response> {
        if let Some(grant) = self.bound(now, &mut context) {
            return self.logged_in(now, context, grant);
        }
        let mut cx = cx!(self, now);
        match self.guard.admit(&mut cx, &context)? {
            Admission::Granted(grant) => self.logged_in(now, context, grant),
            Admission::Ask {
                request,
                hash,
                charge,
            } => {
                let class = context.class;
                let login = PendingLogin {
                    context,
                    hash,
                    charge,
                };
                let ticket = Ticket(request.ticket);
                let awaited = Awaited::PendingLogin(Box::new(login));
                if let Err(response) = self.pending.wait_as(&cx, ticket, awaited) {
                    self.forgive(now, charge);
                    return Err(response);
                }
                let request = *request;
                self.agenda.output(Output::Authenticate { request, class });
                Ok(())
            }
        }
    }

    /// The backend's word.
    pub(super) fn authenticated(&mut self, now: Instant, ticket: Ticket, verdict: Verdict) {
        let Some(Awaited::PendingLogin(login)) = self.pending.take(ticket) else {
            return;
        };
        let PendingLogin {
            context,
            hash,
            charge,
        } = *login;
        let reply = context.reply;
        if !matches!(verdict, Verdict::Deny(_)) {
            self.forgive(now, charge);
        }
        self.guard.remember(now, reply.arrived, hash, &verdict);
        let result = match verdict {
            Verdict::Deny(reason) => {
                let kind = EventKind::LoginRefused;
                cx!(self, now).tell(kind, &context.from, || {
                    ClientEvent::of_request(kind, &context).because(reason.label())
                });
                if matches!(context.target, Target::Connection(_)) {
                    self.metrics.connection_events.inc(ConnectionEvent::Refused);
                }
                Err(unauthorized(format!("Login Failed: {}", reason.wording())))
            }
            Verdict::Unavailable => Err(unavailable()),
            verdict @ Verdict::Allow { .. } if self.peers.get(reply.peer).is_some() => {
                let grant = granted(now, verdict).unwrap_or_default();
                self.logged_in(now, context, grant)
            }
            Verdict::Allow { .. } => Ok(()),
        };
        if let Err(response) = result {
            self.agenda.answer(reply, response);
        }
    }

    /// Gives a charge back to the source and class that it was taken from, wherever the peer is now.
    fn forgive(&self, now: Instant, charge: Option<(Class, IpAddr)>) {
        if let Some((class, source)) = charge {
            self.shared.failures.give_back(now, class, source);
        }
    }

    fn logged_in(
        &mut self,
        now: Instant,
        mut context: RequestContext,
        mut grant: Grant,
    ) -> Result<(), Response> {
        if let Some(identity) = context.from.identity() {
            grant.attributes = grant.attributes.over(&identity.attributes);
        }
        // A ban may be newer than the question, and a token of the session may name another client.
        self.not_banned(now, &context)?;
        let listener = self.settings.listener(context.from.listener);
        if listener.is_some_and(|listener| listener.authentication)
            && let Some(peer) = self.peers.get_mut(context.from.id)
        {
            context.from.standing = Standing::Known;
            peer.set_known(&mut self.ledger);
        }
        let mut cx = cx!(self, now);
        match (&context.target, &context.client) {
            (Target::Topic(operation, text), client) => {
                let asker = Asker::peer(cx.settings, &context, grant)?;
                let id = context.from.id;
                let is_news = self.peers.get(id).is_some_and(|peer| peer.client != *client);
                if is_news {
                    self.peers.set_client(id, client.clone());
                }
                let parts = (&mut self.pending, &mut self.observations, &self.topics);
                let asked = (&context, *operation, text.as_str());
                let step = ops::topic(&mut cx, parts, &self.pressure, asked, asker)?;
                self.take_step(context.reply, step);
                if is_news {
                    self.heard_peer(now, id);
                }
                Ok(())
            }
            (Target::Collection(operation), _) => {
                let asker = Asker::peer(cx.settings, &context, grant)?;
                let (pending, topics) = (&mut self.pending, &mut self.topics);
                let step =
                    ops::collection::collection(&mut cx, pending, topics, &context, operation, &asker)?;
                self.take_step(context.reply, step);
                Ok(())
            }
            (Target::Discovery, _) => Ok(()),
            (Target::Connection(ConnectionOperation::Bind), client) => {
                let left = grant
                    .until
                    .map(|until| until.saturating_duration_since(now).as_secs());
                let response = Response {
                    max_age: left.map(|left| u32::try_from(left).unwrap_or(u32::MAX)),
                    ..Response::new(Code::CREATED)
                };
                if let Some(peer) = self.peers.get_mut(context.from.id) {
                    peer.bound = Some(Box::new(Bound {
                        client: client.clone(),
                        username: context.username.clone(),
                        grant,
                    }));
                }
                self.agenda.answer(context.reply, response);
                Ok(())
            }
            (Target::Connection(_), Some(client)) => {
                let wish = Wish {
                    standing: context.from.standing,
                    client: client.clone(),
                    from: context.from,
                    reply: Some(context.reply),
                    joining: Vec::new(),
                    username: context.username,
                    lifetime: context.params.lifetime,
                    grant,
                    ended: None,
                };
                create(&mut cx, &mut self.pending, &self.connections, wish)
            }
            (Target::Connection(_), None) => Err(bad_request("clientid is required")),
        }
    }

    fn take_step(&mut self, reply: ReplyTo, step: NextStep) {
        if let NextStep::Answer(response) = step {
            self.agenda.answer(reply, response);
        }
    }

    /// Hands a request to the owner of the connection that it names.
    fn for_connection(&mut self, now: Instant, context: RequestContext) -> Result<(), Response> {
        let missing = || bad_request("Missing token or clientid");
        let client = context.client.clone().ok_or_else(missing)?;
        if let Some(token) = &context.params.token {
            // What has not the form of a token is nobody's, so it is judged here.
            let owner = ConnectionToken::worker(token, self.settings.workers).unwrap_or(self.worker);
            if owner == self.worker {
                self.serve(now, context, None);
                return Ok(());
            }
            return self.forward(now, owner, context, None);
        }
        if !context.is_proved(&self.settings) {
            return Err(missing());
        }
        match self.connection_of_handshake(&context.from, &client) {
            Some(key) => self.for_key(now, context, key),
            None => self.join(now, context.from.clone(), client, Some(context), None),
        }
    }

    fn for_key(&mut self, now: Instant, context: RequestContext, key: ConnectionKey) -> Result<(), Response> {
        if key.worker() == self.worker {
            self.serve(now, context, Some(key));
            Ok(())
        } else {
            self.forward(now, key.worker(), context, Some(key))
        }
    }

    /// Serves a request for a connection of this worker, wherever its datagram came in.
    pub(super) fn serve(&mut self, now: Instant, context: RequestContext, proved: Option<ConnectionKey>) {
        let mut cx = cx!(self, now);
        let parts = (
            &mut self.pending,
            &mut self.observations,
            &mut self.topics,
            &mut self.connections,
        );
        let reply = context.reply;
        match owner::serve(&mut cx, parts, &self.pressure, &context, proved) {
            Ok(Served::NextStep(step)) => self.take_step(reply, step),
            Ok(Served::NotHere(key)) => {
                let context = Box::new(context);
                self.agenda.tell_peer(reply.peer, ToPeer::NotHere(context, key));
            }
            Err(response) => self.agenda.answer(reply, response),
        }
    }

    fn forward(
        &mut self,
        now: Instant,
        owner: WorkerId,
        mut context: RequestContext,
        proved: Option<ConnectionKey>,
    ) -> Result<(), Response> {
        self.forwarded.add(&mut cx!(self, now), context.reply, owner)?;
        context.from.session = self.session_of(context.from.id);
        let (peer, context) = (context.from.id, Box::new(context));
        self.agenda
            .tell_owner(owner, peer, FromPeer::Request(context, proved));
        Ok(())
    }

    /// What is known of the DTLS session of a peer.
    fn session_of(&self, id: PeerId) -> Option<Box<SessionInfo>> {
        let info = self.peers.get(id)?.session_info(&self.dtls)?;
        Some(Box::new(info))
    }

    /// The connection that the handshake of a peer is, as far as it is known here.
    fn connection_of_handshake(&self, from: &PeerFacts, client: &ClientId) -> Option<ConnectionKey> {
        let here = self.connections.of_client(client);
        here.filter(|connection| connection.owner == from.owner)
            .map(|connection| connection.key)
            .or_else(|| self.peers.get(from.id)?.guests.of_client(client))
    }

    /// Where the handshake proves the client id, the handshake is the connection (interface 2.5).
    pub(super) fn connect_implicitly(&mut self, now: Instant, peer: PeerId) {
        let Some(from) = self.peers.get(peer).map(|it| it.facts(peer, &self.ledger)) else {
            return;
        };
        let listener = self.settings.listener(from.listener);
        let dtls = listener.and_then(|listener| listener.dtls.as_ref());
        let proved = dtls
            .zip(from.identity())
            .and_then(|(dtls, identity)| dtls.proved_client(identity));
        let Some(client) = proved else { return };
        match self.connection_of_handshake(&from, &client) {
            Some(key) => self.established(now, from, key),
            None => {
                // Where there is no room now, the first request tries again.
                let _refused = self.join(now, from, client, None, None);
            }
        }
    }

    pub(super) fn established(&mut self, now: Instant, mut from: PeerFacts, key: ConnectionKey) {
        if key.worker() == self.worker {
            return self.use_from(now, key, &from);
        }
        from.session = self.session_of(from.id);
        let (peer, from) = (from.id, Box::new(from));
        self.agenda
            .tell_owner(key.worker(), peer, FromPeer::Established(from, key));
    }

    /// Finds the connection that the handshake of a peer is, or makes it; requests wait meanwhile.
    fn join(
        &mut self,
        now: Instant,
        from: PeerFacts,
        client: ClientId,
        context: Option<RequestContext>,
        ended: Option<ConnectionKey>,
    ) -> Result<(), Response> {
        if let Some(joining) = self.pending.joining(from.id) {
            if joining.len() >= MAX_JOINING {
                self.metrics.limits.inc(Limit::PendingRequests);
                return Err(unavailable());
            }
            joining.extend(context);
            return Ok(());
        }
        let grant = Grant::of_identity(from.identity());
        let wish = Wish {
            standing: from.standing,
            client,
            from,
            reply: None,
            joining: context.into_iter().collect(),
            username: None,
            lifetime: None,
            grant,
            ended,
        };
        create(&mut cx!(self, now), &mut self.pending, &self.connections, wish)
    }

    /// The connection that a handshake proved has ended where it was.
    pub(super) fn not_here(&mut self, now: Instant, context: RequestContext, key: ConnectionKey) {
        let reply = context.reply;
        self.forwarded.came_back(reply.exchange);
        let Some(peer) = self.peers.get_mut(reply.peer) else {
            return;
        };
        peer.guests.remove(key);
        let (from, client) = (context.from.clone(), context.client.clone());
        let joined = match client {
            Some(client) => self.join(now, from, client, Some(context), Some(key)),
            None => Ok(()),
        };
        if let Err(response) = joined {
            self.agenda.answer(reply, response);
        }
    }

    /// The home worker has decided about a connection.
    pub(super) fn registered(&mut self, now: Instant, ticket: Ticket, registration: Registration) {
        let Some(Awaited::Create(creation)) = self.pending.take(ticket) else {
            return;
        };
        let Creation {
            connection,
            from,
            reply,
            joining,
        } = *creation;
        match registration {
            Registration::Granted if self.peers.get(from.id).is_none() => {
                // Its peer went away meanwhile: nobody knows the token.
                self.not_made(connection);
            }
            Registration::Granted
                if self
                    .bans
                    .kind_of(now, Some(&connection.client), from.identity())
                    .is_some() =>
            {
                self.not_made(connection);
                self.refuse_creation(&reply, &joining, "banned");
            }
            Registration::Granted => {
                let (table, observations) = (&mut self.connections, &mut self.observations);
                let client = connection.client.clone();
                made(&mut cx!(self, now), table, observations, connection, &from, reply);
                self.heard(now, &client);
                self.tell_who_awaits(&client);
                for context in joining {
                    self.dispatch(now, context);
                }
            }
            Registration::Exists(key) if joining.is_empty() => self.established(now, from, key),
            Registration::Exists(key) => {
                for context in joining {
                    let reply = context.reply;
                    if let Err(response) = self.for_key(now, context, key) {
                        self.agenda.answer(reply, response);
                    }
                }
            }
            Registration::Refused => {
                let kind = EventKind::LoginRefused;
                cx!(self, now).tell(kind, &from, || {
                    ClientEvent::of_connection(kind, &connection, Some(&from)).because("other_identity")
                });
                self.refuse_creation(&reply, &joining, "clientid belongs to another identity");
            }
        }
    }

    /// Tells the home worker that a connection to which it agreed is not made.
    fn not_made(&mut self, connection: Connection) {
        let home = ClientDirectory::home(&connection.client, self.settings.workers);
        let (client, key) = (connection.client, connection.key);
        self.agenda.tell(home, WorkerMessage::Ended(client, key));
    }

    /// Answers everybody who waits for a connection that is not made.
    fn refuse_creation(&mut self, reply: &Option<ReplyTo>, joining: &[RequestContext], why: &str) {
        self.metrics.connection_events.inc(ConnectionEvent::Refused);
        let replies = joining.iter().map(|context| context.reply);
        for reply in reply.iter().copied().chain(replies) {
            self.agenda
                .answer(reply, unauthorized(format!("Login Failed: {why}")));
        }
    }

    /// A handshake that is a connection of this worker was made.
    pub(super) fn use_from(&mut self, now: Instant, key: ConnectionKey, from: &PeerFacts) {
        let (connections, observations) = (&mut self.connections, &mut self.observations);
        connections.use_from(&mut cx!(self, now), observations, key, from);
    }
}
