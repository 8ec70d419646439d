//! Notifications at QoS 1 and 2 in memory that outlives the process, until they are delivered: what the broker was told to have
//! arrived is not lost by a kill.
//!
//! A record belongs to who holds the notification, wherever that is on its way to the device, and goes with it. When there is no room, the
//! client with the most in it gives way: its oldest ones are delivered as ever, but not after a kill.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use bytes::Bytes;

use super::kept::{NOTIFICATION, hot};
use super::metrics::GatewayMetrics;
use crate::bridge::subscriptions::Terms;
use crate::coap::contract::{Code, Notification, Token};
use crate::state::{CELL_BYTES, Contents, Held, ReadBytes, Record, Store, WriteBytes};
use crate::types::TopicName;
use crate::types::hash::IdMap;

/// Of a store they take at most this part: the rest is for sessions, connections and observations.
const PART: usize = 4;

/// The notifications that a worker keeps.
#[derive(Default)]
pub(super) struct KeptNotifications {
    store: Option<Arc<Store>>,
    bytes: Arc<AtomicUsize>,
    /// By the mark of their holder, oldest first.
    of: IdMap<u64, VecDeque<Weak<Held>>>,
}

impl KeptNotifications {
    pub(super) fn new(store: Option<Arc<Store>>) -> Self {
        Self {
            store,
            ..Self::default()
        }
    }

    /// Writes a notification down; it cannot be where its holder, whose `mark` it is, is not kept either.
    pub(super) fn keep(
        &mut self,
        metrics: &GatewayMetrics,
        mark: Option<u64>,
        notification: &mut Notification,
    ) {
        let (Some(store), Some(mark)) = (self.store.clone(), mark) else {
            return;
        };
        let mut out = WriteBytes::default();
        let expires = notification.expires_at.map_or(0, |at| store.clock().millis(at));
        out.bytes(notification.token.as_bytes())
            .u32(notification.observe)
            .u8(u8::from(notification.confirmable))
            .u8(notification.code.0)
            .u32(notification.content_format.map_or(u32::MAX, u32::from))
            .u64(notification.max_age.map_or(u64::MAX, u64::from))
            .u64(expires)
            .raw(&notification.payload);
        let most = store.capacity() * CELL_BYTES / PART;
        let fits = |it: &Self| it.bytes.load(Ordering::Relaxed) + out.as_slice().len() <= most;
        let put = |it: &Self| Held::put(&store, NOTIFICATION, &hot(mark), out.as_slice(), &it.bytes);
        let mut kept = fits(self).then(|| put(self)).flatten();
        if kept.is_none() && self.give_way(metrics) && fits(self) {
            kept = put(self);
        }
        notification.kept = kept.map(Arc::new);
        match notification.kept {
            Some(_) => self.note(mark, notification),
            None => metrics.notifications_not_kept.inc(),
        }
    }

    /// Notes whose a notification is that is kept.
    pub(super) fn note(&mut self, mark: u64, notification: &Notification) {
        let Some(kept) = &notification.kept else { return };
        let of_holder = self.of.entry(mark).or_default();
        while of_holder.front().is_some_and(|held| held.strong_count() == 0) {
            of_holder.pop_front();
        }
        of_holder.push_back(Arc::downgrade(kept));
    }

    /// The holder has nothing any more.
    pub(super) fn forget(&mut self, mark: u64) {
        self.of.remove(&mark);
    }

    /// Has the client with the most in the room give up the older half of it. Whether anything became free.
    fn give_way(&mut self, metrics: &GatewayMetrics) -> bool {
        let bytes = |held: &VecDeque<Weak<Held>>| -> usize {
            let held = held.iter().filter_map(Weak::upgrade);
            held.map(|held| held.bytes()).sum()
        };
        let most = self.of.values_mut().max_by_key(|held| bytes(held));
        let Some(most) = most else { return false };
        let mut left = bytes(most).div_ceil(2);
        let before = left;
        while left > 0
            && let Some(oldest) = most.pop_front()
        {
            if let Some(held) = oldest.upgrade()
                && held.give_up()
            {
                left = left.saturating_sub(held.bytes());
                metrics.notifications_not_kept.inc();
            }
        }
        left < before
    }

    /// Reads the rest of a notification of an earlier process, whose observation has these terms, and holds its record.
    pub(super) fn read(
        &self,
        terms: &Terms,
        mut bytes: ReadBytes<'_>,
        record: Record,
        contents: &Contents,
    ) -> Option<Notification> {
        let store = self.store.as_ref()?;
        let mut notification = Notification {
            token: terms.token,
            resource: terms.resource.clone(),
            block_szx: terms.block_szx,
            observe: bytes.u32()?,
            confirmable: bytes.u8()? != 0,
            code: Code(bytes.u8()?),
            content_format: u16::try_from(bytes.u32()?).ok(),
            max_age: u32::try_from(bytes.u64()?).ok(),
            expires_at: match bytes.u64()? {
                0 => None,
                millis => Some(store.clock().instant(millis)),
            },
            payload: Bytes::copy_from_slice(bytes.0),
            kept: None,
            returns: true,
            topic: TopicName::new(terms.filter.as_str()).ok(),
        };
        let held = Held::over(store, record, contents.body.len(), &self.bytes);
        notification.kept = Some(Arc::new(held));
        Some(notification)
    }
}

/// The token of a notification's observation, and the bytes behind it.
pub(super) fn read_token(contents: &Contents) -> Option<(Token, ReadBytes<'_>)> {
    let mut bytes = ReadBytes(&contents.body);
    Some((Token::new(bytes.bytes()?)?, bytes))
}
