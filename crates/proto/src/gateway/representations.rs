//! What a message is shown as: as the broker has it, or in another encoding.

use std::cell::OnceCell;

use super::agenda::Cx;
use super::metrics::{GatewayMetrics, TranslationResult};
use super::settings::Settings;
use crate::bridge::content::{self, Representation};
use crate::bridge::translate::{self, Encoding, Translation, Unfit};
use crate::coap::contract::Preconditions;
use crate::types::Message;

/// The representations that there are of one message. It is translated at most once, for the first who wants it.
pub(super) struct Representations<'m> {
    message: &'m Message,
    metrics: &'m GatewayMetrics,
    rule: Option<&'m Translation>,
    format: Option<u16>,
    other: OnceCell<Option<Representation>>,
}

impl<'m> Representations<'m> {
    /// Those of a message.
    pub(super) fn of(cx: &'m Cx<'_>, message: &'m Message) -> Self {
        Self::new(cx.settings, cx.metrics, message)
    }

    /// As [`Self::of`], where the rest of the context is in use.
    pub(super) fn new(settings: &'m Settings, metrics: &'m GatewayMetrics, message: &'m Message) -> Self {
        let rule = settings.translations.of(&message.topic);
        let untyped = rule.filter(|_| message.content_type.is_none() && !message.payload.is_empty());
        let untyped = untyped.and_then(|rule| rule.untyped).map(Encoding::plain);
        Self {
            message,
            metrics,
            rule,
            format: content::format_of(message).or(untyped),
            other: OnceCell::new(),
        }
    }

    /// The representation that meets an Accept option (RFC 7252, 5.10.4), or the one for who sends none; `None` where there is none.
    pub(super) fn for_accept(&self, accept: Option<u16>) -> Option<Representation> {
        let Some((rule, format)) = self.rule.zip(self.format) else {
            return self.as_it_is_for(accept);
        };
        let preferred = || rule.observe.and_then(|encoding| encoding.format(format));
        let Some(wanted) = accept.or_else(preferred).filter(|wanted| *wanted != format) else {
            return Some(self.as_is());
        };
        let other = translate::counterpart(format).filter(|other| *other == wanted);
        let other = other.and_then(|other| self.translated(format, other)).cloned();
        match accept {
            None if rule.unfit == Unfit::Pass => Some(other.unwrap_or_else(|| self.as_is())),
            _ => other,
        }
    }

    /// As [`Self::for_accept`], of what needs no translation.
    pub(super) fn as_it_is_for(&self, accept: Option<u16>) -> Option<Representation> {
        content::accepts(accept, self.format).then(|| self.as_is())
    }

    /// As the broker has it.
    fn as_is(&self) -> Representation {
        Representation {
            payload: self.message.payload.clone(),
            format: self.format,
        }
    }

    /// The same data in the other encoding.
    fn translated(&self, from: u16, other: u16) -> Option<&Representation> {
        let translate = || {
            let translated = translate::translated(from, other, &self.message.payload);
            self.metrics.translations.inc(match (&translated, self.rule) {
                (Ok(_), _) => TranslationResult::Delivered,
                (Err(_), Some(rule)) if rule.unfit == Unfit::Pass => TranslationResult::Passed,
                (Err(_), _) => TranslationResult::Dropped,
            });
            translated.ok().map(|payload| Representation {
                payload,
                format: Some(other),
            })
        };
        self.other.get_or_init(translate).as_ref()
    }

    /// Whether the message meets preconditions; its translation has an ETag of its own (RFC 7252, 5.10.6).
    pub(super) fn meet(&self, preconditions: &Preconditions) -> bool {
        let holds = |representation: &Representation| preconditions.hold(Some(representation.etag()));
        let translated = || {
            let format = self.rule.and(self.format)?;
            self.translated(format, translate::counterpart(format)?)
        };
        holds(&self.as_is()) || translated().is_some_and(holds)
    }
}
