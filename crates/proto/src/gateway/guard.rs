//! Who may come in and what they may do: verdicts remembered, failures counted by source, the ACL asked.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;

use super::agenda::Cx;
use super::answers::{too_many_requests, unauthorized};
use super::asker::Asker;
use super::context::RequestContext;
use super::events::{ClientEvent, EventKind};
use super::metrics::ConnectionEvent;
use super::random_seed;
use super::settings::Settings;
use super::trace::About;
use crate::coap::contract::{PeerId, Response};
use crate::policy::authentication::{AuthRequest, Verdict};
use crate::policy::authorization::{Access, Decision};
use crate::policy::connections::Grant;
use crate::policy::failures::Class;
use crate::policy::pattern::Subject;
use crate::policy::rate::{Rate, RateTable};
use crate::policy::verdict_cache::{CredentialHash, VerdictCache};
use crate::types::ClientId;
use crate::types::reason::Limit;

/// Clients whose request rate is watched at the same time, per worker; 16 bytes each.
const REQUEST_RATE_PLACES: usize = 65_536;

/// Verdicts that are remembered, and for how long; a credential's own end comes first.
const VERDICTS: usize = 16_384;
const VERDICT_TIME: Duration = Duration::from_secs(10);

/// What is remembered of logins and of how much clients ask.
pub(super) struct Guard {
    /// Logins that were right just now, so that a client whose every request carries its credentials is not asked about
    /// each time.
    verdicts: VerdictCache,
    /// When the backends were last replaced.
    since: Instant,
    request_rates: RateTable,
}

/// What is known of a login.
pub(super) enum Admission {
    /// It is right, or nobody has to be asked.
    Granted(Grant),
    /// A backend has to be asked.
    Ask {
        request: Box<AuthRequest>,
        /// What its verdict is remembered by.
        hash: CredentialHash,
        /// What was charged for it as a failure that it may turn out to be.
        charge: Option<(Class, IpAddr)>,
    },
}

impl Guard {
    pub(super) fn new(now: Instant, settings: &Settings, rng: &mut StdRng) -> Self {
        let key = random_seed(rng);
        let rate = Rate::per_second(settings.requests_per_second);
        Self {
            verdicts: VerdictCache::new(key, VERDICTS, VERDICT_TIME),
            since: now,
            request_rates: RateTable::new(now, rate, REQUEST_RATE_PLACES, rng),
        }
    }

    /// Takes new settings and, maybe, new backends: what the old ones said is forgotten.
    pub(super) fn reconfigure(&mut self, now: Instant, settings: &Settings) {
        self.request_rates
            .set_rate(Rate::per_second(settings.requests_per_second));
        self.verdicts.clear();
        self.since = now;
    }

    /// Counts a request of a peer.
    ///
    /// # Errors
    /// 4.29 when it is one too many.
    pub(super) fn take_request(&mut self, cx: &Cx<'_>, peer: PeerId) -> Result<(), Response> {
        self.request_rates.take(cx.now, &peer).map_err(|after| {
            cx.metrics.limits.inc(Limit::RequestRate);
            too_many_requests(after)
        })
    }

    /// Lets a request in at once where nobody has to be asked.
    ///
    /// # Errors
    /// 4.29 when its source failed too often.
    pub(super) fn admit(&self, cx: &mut Cx<'_>, context: &RequestContext) -> Result<Admission, Response> {
        let listener = cx.settings.listener(context.from.listener);
        if !listener.is_some_and(|listener| listener.authentication) {
            return Ok(Admission::Granted(Grant::default()));
        }
        let request = context.credentials(cx.agenda.ticket().0, cx.settings);
        let hash = self.verdicts.hash(&request);
        let remembered = self.verdicts.get(cx.now, &hash);
        if let Some(grant) = remembered.and_then(|verdict| granted(cx.now, verdict)) {
            return Ok(Admission::Granted(grant));
        }
        // Charged before it is asked, so that tries in flight cannot go over the rate.
        let charge = (!request.is_proved())
            .then(|| charge_failure(cx, context))
            .transpose()?;
        Ok(Admission::Ask {
            request: Box::new(request),
            hash,
            charge,
        })
    }

    /// Remembers a verdict on a request that arrived at `asked`. One that was asked for before the last reload may be one of
    /// backends that are gone.
    pub(super) fn remember(&mut self, now: Instant, asked: Instant, hash: CredentialHash, verdict: &Verdict) {
        if asked >= self.since {
            self.verdicts.put(now, hash, verdict);
        }
    }
}

/// What a verdict that lets in grants.
pub(super) fn granted(now: Instant, verdict: Verdict) -> Option<Grant> {
    let Verdict::Allow {
        expires_in,
        superuser,
        acl,
        attributes,
    } = verdict
    else {
        return None;
    };
    Some(Grant {
        superuser,
        acl,
        attributes,
        until: expires_in.and_then(|good_for| now.checked_add(good_for)),
    })
}

/// Counts a try of a request's source that is wrong, or may turn out to be.
///
/// # Errors
/// 4.29 when too many of its tries failed.
fn charge_failure(cx: &Cx<'_>, context: &RequestContext) -> Result<(Class, IpAddr), Response> {
    let (class, source) = (context.class, context.from.address.source());
    match cx.shared.failures.charge(cx.now, class, source) {
        Ok(()) => Ok((class, source)),
        Err(after) => {
            cx.metrics.limits.inc(Limit::FailedLogins);
            Err(too_many_requests(after))
        }
    }
}

/// The answer to a wrong or unknown token: 4.01, or 4.29 for a source that tries too many.
pub(super) fn wrong_token(cx: &mut Cx<'_>, context: &RequestContext) -> Response {
    let kind = EventKind::TokenRefused;
    cx.tell(kind, &context.from, || ClientEvent::of_request(kind, context));
    cx.metrics.connection_events.inc(ConnectionEvent::WrongToken);
    match charge_failure(cx, context) {
        Ok(_) => unauthorized("Invalid token or clientid"),
        Err(response) => response,
    }
}

/// What the ACL says.
pub(super) fn decide(cx: &Cx<'_>, asker: &Asker, access: &Access<'_>) -> Decision {
    let subject = Subject {
        user: asker.username.as_deref(),
        client: asker.client.as_ref().map(ClientId::as_str),
        identity: asker.identity.as_deref(),
        attributes: Some(&asker.grant.attributes),
    };
    let grant = &asker.grant;
    cx.settings
        .authorizer
        .check(&subject, grant.superuser, grant.acl.as_deref(), access)
}

/// Asks the ACL.
///
/// # Errors
/// 4.01 when it says no.
pub(super) fn authorize(
    cx: &mut Cx<'_>,
    context: &RequestContext,
    asker: &Asker,
    access: &Access<'_>,
) -> Result<(), Response> {
    let decision = decide(cx, asker, access);
    cx.metrics.authorizations.count(access.action, &decision);
    if cx.agenda.notes.is_on() {
        cx.agenda
            .notes
            .judged(About::asker(context, asker), access, decision);
    }
    if decision.allowed {
        Ok(())
    } else {
        cx.tell(EventKind::Denied, &context.from, || {
            ClientEvent::denied(context, access, decision)
        });
        Err(unauthorized("not authorised"))
    }
}
