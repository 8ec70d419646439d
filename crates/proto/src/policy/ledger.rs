//! What peers make a worker keep, weighed in bytes, and who gives way when it is too much (interface 2.7).
//!
//! All tables share one limit. Who proved least pays first: peers that proved nothing may have a quarter of it together, those
//! known by no credential half, and those with one displace both. Within a class the one silent longest gives way; of the known
//! none does, a new one is refused.

use std::hash::Hash;
use std::sync::Arc;

use slab::Slab;

use super::overload::fullness;
use crate::labels;
use crate::types::hash::IdMap;
use crate::types::list::{Links, List};
use crate::types::metrics::{Descriptor, Family, LabelPair, Metric, Samples, with};
use crate::types::reason::Label as _;
use crate::types::standing::{ByStanding, Standing};

labels! {
    /// What is kept: `standing_bytes{table}`.
    pub enum Table {
        /// The peers themselves, with their DTLS sessions.
        Peers = "peers",
        /// Connections.
        Connections = "connections",
        /// Observations, with their filters.
        Observations = "observations",
        /// Exchanges remembered for the sake of duplicates.
        Exchanges = "exchanges",
        /// Bodies of block-wise transfers.
        Blocks = "blocks",
        /// Notifications that wait.
        Queues = "queues",
        /// Requests that wait for the broker or a backend.
        Requests = "requests",
        /// Requests to devices that wait until those are heard of.
        DeviceRequests = "device_requests",
    }
}

const TABLES: usize = Table::ALL.len();

/// Gauge: bytes by standing and table. The worker is the only writer.
pub type StandingBytes = ByStanding<Family<Table>>;

/// By table and standing.
impl Metric for StandingBytes {
    fn show(&self, family: Descriptor, labels: &[LabelPair<'_>], by: &[&'static str], out: &mut dyn Samples) {
        for standing in Standing::ALL {
            for (table, bytes) in self.of(*standing).iter() {
                out.number(
                    family,
                    &with(labels, by, &[table, standing.label()]),
                    bytes as f64,
                );
            }
        }
    }
}

/// An account in a [`Ledger`]; dead once it is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AccountId(u32);

#[derive(Debug)]
struct Account<O> {
    owner: O,
    standing: Standing,
    bytes: [u32; TABLES],
    links: Links,
}

/// The accounts of a worker.
#[derive(Debug)]
pub struct Ledger<O> {
    limit: usize,
    by_owner: IdMap<O, AccountId>,
    accounts: Slab<Account<O>>,
    /// By standing, in order of the last sign of life.
    ages: ByStanding<List>,
    totals: ByStanding<usize>,
    metrics: Arc<StandingBytes>,
}

impl<O: Copy + Eq + Hash> Ledger<O> {
    /// No accounts, and `limit` bytes for all of them together.
    #[must_use]
    pub fn new(limit: usize, metrics: Arc<StandingBytes>) -> Self {
        Self {
            limit,
            by_owner: IdMap::default(),
            accounts: Slab::new(),
            ages: ByStanding::default(),
            totals: ByStanding::default(),
            metrics,
        }
    }

    /// Another limit, for what comes next.
    pub(crate) fn set_limit(&mut self, limit: usize) {
        self.limit = limit;
    }

    /// Opens an account.
    pub fn open(&mut self, owner: O, standing: Standing) -> AccountId {
        let at = self.accounts.insert(Account {
            owner,
            standing,
            bytes: [0; TABLES],
            links: Links::default(),
        });
        self.push_newest(standing, at);
        let id = AccountId(u32::try_from(at).unwrap_or(u32::MAX));
        self.by_owner.insert(owner, id);
        id
    }

    /// The account of an owner.
    #[must_use]
    pub fn of(&self, owner: O) -> Option<AccountId> {
        self.by_owner.get(&owner).copied()
    }

    /// Closes an account: nothing of it is kept any more.
    pub fn close(&mut self, id: AccountId) {
        let at = id.0 as usize;
        let Some(account) = self.accounts.get(at) else {
            return;
        };
        let (owner, standing) = (account.owner, account.standing);
        self.by_owner.remove(&owner);
        for table in Table::ALL {
            self.set(id, *table, 0);
        }
        self.unlink(standing, at);
        self.accounts.try_remove(at);
    }

    /// The owner gave a sign of life.
    pub fn touch(&mut self, id: AccountId) {
        let at = id.0 as usize;
        if let Some(account) = self.accounts.get(at) {
            let standing = account.standing;
            self.unlink(standing, at);
            self.push_newest(standing, at);
        }
    }

    /// Sets what an account has in a table.
    pub fn set(&mut self, id: AccountId, table: Table, bytes: usize) {
        let Some(account) = self.accounts.get_mut(id.0 as usize) else {
            return;
        };
        let Some(place) = account.bytes.get_mut(table.index()) else {
            return;
        };
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        let before = std::mem::replace(place, bytes);
        let standing = account.standing;
        self.count(standing, table, before as usize, bytes as usize);
    }

    /// Adds to what an account has in a table, or takes off it.
    pub fn add(&mut self, id: AccountId, table: Table, bytes: isize) {
        let had = self.bytes(id, table);
        self.set(id, table, had.saturating_add_signed(bytes));
    }

    /// What an account has in a table.
    #[must_use]
    pub fn bytes(&self, id: AccountId, table: Table) -> usize {
        let account = self.accounts.get(id.0 as usize);
        account
            .and_then(|account| account.bytes.get(table.index()))
            .map_or(0, |bytes| *bytes as usize)
    }

    /// What is kept of those of a standing in a table that has no accounts: `before` becomes `after`.
    pub fn count(&mut self, standing: Standing, table: Table, before: usize, after: usize) {
        let total = self.totals.of_mut(standing);
        *total = total.saturating_sub(before) + after;
        let gauge = self.metrics.of(standing);
        gauge.set(
            table,
            gauge.get(table).saturating_sub(before as u64) + after as u64,
        );
    }

    /// More was proved of the owner. What is proved once is not lost again.
    pub fn raise(&mut self, id: AccountId, standing: Standing) {
        let at = id.0 as usize;
        let Some(account) = self
            .accounts
            .get_mut(at)
            .filter(|account| account.standing < standing)
        else {
            return;
        };
        let before = std::mem::replace(&mut account.standing, standing);
        let bytes = account.bytes;
        self.unlink(before, at);
        self.push_newest(standing, at);
        for (table, bytes) in Table::ALL.iter().zip(bytes) {
            self.count(before, *table, bytes as usize, 0);
            self.count(standing, *table, 0, bytes as usize);
        }
    }

    /// What is known of the owner.
    #[must_use]
    pub fn standing(&self, id: AccountId) -> Standing {
        let account = self.accounts.get(id.0 as usize);
        account.map_or(Standing::Unproven, |account| account.standing)
    }

    /// Whether those of a standing have more than half of what they may have together.
    #[must_use]
    pub(crate) fn is_half_full(&self, standing: Standing) -> bool {
        *self.totals.of(standing) > self.share(standing) / 2
    }

    /// Whether `bytes` more may be kept for one of a standing, others giving way if they must (`gives_way`). Nobody gives
    /// way to himself, and to nobody does one of a higher standing.
    #[must_use]
    pub fn admits(&self, standing: Standing, bytes: usize, asking: Option<AccountId>) -> bool {
        let has_other = |class: Standing| {
            let own = asking.is_some_and(|asking| self.standing(asking) == class);
            self.ages.of(class).len() > usize::from(own)
        };
        if *self.totals.of(standing) + bytes > self.share(standing) {
            return standing != Standing::Known && has_other(standing);
        }
        let lower = Standing::ALL
            .iter()
            .filter(|class| **class <= standing && **class != Standing::Known);
        self.all() + bytes <= self.limit || lower.copied().any(has_other)
    }

    /// Who gives way because more is kept than may be: of the lowest standing that has more than its share, else of the lowest
    /// that has anything, the one silent longest.
    #[must_use]
    pub(crate) fn gives_way(&self) -> Option<O> {
        let over = |class: &Standing| *self.totals.of(*class) > self.share(*class);
        let overfull = self.all() > self.limit;
        let mut classes = [Standing::Unproven, Standing::Proven].into_iter();
        let oldest = classes.find_map(|class| {
            let oldest = self.ages.of(class).oldest()?;
            (over(&class) || overfull).then_some(oldest)
        });
        Some(self.accounts.get(oldest?)?.owner)
    }

    /// Up to `most` of those of a standing that were silent longest. They count as heard of.
    pub fn oldest(&mut self, standing: Standing, most: usize) -> Vec<O> {
        let mut oldest = Vec::new();
        while let Some(at) = self.ages.of(standing).oldest()
            && oldest.len() < most.min(self.ages.of(standing).len())
        {
            oldest.extend(self.accounts.get(at).map(|account| account.owner));
            self.unlink(standing, at);
            self.push_newest(standing, at);
        }
        oldest
    }

    /// How much of the limit those of a standing have: 0.0 nothing, 1.0 all of it.
    #[must_use]
    pub fn fullness(&self, standing: Standing) -> f64 {
        fullness(*self.totals.of(standing) as u64, self.limit as u64)
    }

    fn all(&self) -> usize {
        Standing::ALL
            .iter()
            .map(|standing| self.totals.of(*standing))
            .sum()
    }

    fn share(&self, standing: Standing) -> usize {
        standing.share_of(self.limit)
    }

    fn push_newest(&mut self, standing: Standing, at: usize) {
        let list = self.ages.of_mut(standing);
        list.push_newest(&mut self.accounts, at, |account| &mut account.links);
    }

    fn unlink(&mut self, standing: Standing, at: usize) {
        let list = self.ages.of_mut(standing);
        list.remove(&mut self.accounts, at, |account| &mut account.links);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ledger(limit: usize) -> Ledger<u8> {
        Ledger::new(limit, Arc::default())
    }

    fn opened(ledger: &mut Ledger<u8>, owner: u8, standing: Standing, bytes: usize) -> AccountId {
        let id = ledger.open(owner, standing);
        ledger.set(id, Table::Peers, bytes);
        id
    }

    #[test]
    fn strangers_have_a_quarter_and_the_one_silent_longest_gives_way() {
        let mut ledger = ledger(400);
        let first = opened(&mut ledger, 1, Standing::Unproven, 50);
        opened(&mut ledger, 2, Standing::Unproven, 50);
        assert_eq!(ledger.gives_way(), None);
        assert!(ledger.admits(Standing::Unproven, 1, None));
        let third = opened(&mut ledger, 3, Standing::Unproven, 1);
        assert_eq!(ledger.gives_way(), Some(1));
        ledger.touch(first);
        assert_eq!(ledger.gives_way(), Some(2));
        ledger.close(third);
        assert_eq!(ledger.gives_way(), None);
        assert!(ledger.admits(Standing::Proven, 200, None), "others have theirs");
        assert!(ledger.admits(Standing::Known, 300, None));
    }

    #[test]
    fn who_is_known_displaces_the_others_lowest_first_and_is_displaced_by_nobody() {
        let mut ledger = ledger(400);
        let stranger = opened(&mut ledger, 1, Standing::Unproven, 100);
        let proven = opened(&mut ledger, 2, Standing::Proven, 200);
        let known = opened(&mut ledger, 3, Standing::Known, 100);
        assert!(ledger.admits(Standing::Known, 10, Some(known)));
        ledger.set(known, Table::Observations, 150);
        assert_eq!(ledger.gives_way(), Some(1));
        ledger.close(stranger);
        assert_eq!(ledger.gives_way(), Some(2));
        ledger.close(proven);
        assert!(!ledger.admits(Standing::Known, 151, Some(known)));
        ledger.set(known, Table::Observations, 300);
        for standing in [Standing::Unproven, Standing::Proven, Standing::Known] {
            assert!(!ledger.admits(standing, 1, None), "a known one is not displaced");
        }
        assert_eq!(ledger.gives_way(), None);
    }

    #[test]
    fn who_fills_a_class_alone_does_not_give_way_to_himself() {
        let mut ledger = ledger(400);
        let alone = opened(&mut ledger, 1, Standing::Unproven, 100);
        assert!(!ledger.admits(Standing::Unproven, 1, Some(alone)));
        assert!(ledger.admits(Standing::Unproven, 1, None));
    }

    #[test]
    fn those_who_are_asked_for_a_sign_of_life_are_not_asked_again_before_all_others() {
        let mut ledger = ledger(400);
        for owner in 1..=3 {
            opened(&mut ledger, owner, Standing::Unproven, 1);
        }
        assert_eq!(ledger.oldest(Standing::Unproven, 2), [1, 2]);
        assert_eq!(ledger.oldest(Standing::Unproven, 9), [3, 1, 2]);
        assert!(ledger.oldest(Standing::Proven, 1).is_empty());
    }

    #[test]
    fn what_is_proved_takes_the_bytes_along_and_closing_leaves_nothing() {
        let metrics = Arc::new(StandingBytes::default());
        let mut ledger = Ledger::new(400, Arc::clone(&metrics));
        let id = opened(&mut ledger, 1, Standing::Unproven, 60);
        ledger.add(id, Table::Queues, 30);
        ledger.add(id, Table::Queues, -10);
        assert!(ledger.is_half_full(Standing::Unproven));
        ledger.raise(id, Standing::Known);
        ledger.raise(id, Standing::Proven);
        assert_eq!(ledger.standing(id), Standing::Known);
        let shown = |standing| {
            Table::ALL
                .iter()
                .map(|table| metrics.of(standing).get(*table))
                .sum::<u64>()
        };
        assert_eq!((shown(Standing::Unproven), shown(Standing::Known)), (0, 80));
        ledger.close(id);
        assert_eq!(shown(Standing::Known), 0);
        assert!(ledger.admits(Standing::Unproven, 100, None));
    }
}
