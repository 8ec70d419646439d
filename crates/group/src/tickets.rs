//! The keys that session tickets are made with at all nodes: a set for each day, sealed, in the engine and beside this node's state.
//!
//! | what stands in the engine | what a node does |
//! |---|---|
//! | keys of today, not older than those it knows | it takes them |
//! | nothing, or keys that had their day | it gives its own, while they are of today, else draws new ones |
//! | keys older than those it knows | the engine was put back, or lost a write: it gives its own |
//! | what no node sealed, or is dated in the future | the same |
//!
//! So the newest that anybody knows win, and the engine can neither bring old ones back nor keep any beyond their day. Where it does not
//! answer, a node goes on with what it has, and when that had its day with keys that it draws for itself.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use openssl::error::ErrorStack;
use portcullis_proto::state::ReadBytes;
use portcullis_redis::cmd;
use tokio::sync::watch;
use tracing::warn;
use zeroize::Zeroizing;

use super::engine::{Engine, Fault, PREFIX, bytes};
use super::files;
use super::key::GroupKey;
use super::metrics::{GroupMetrics, TicketResult};

/// Bytes of a set of keys.
pub const BYTES: usize = 80;

/// The keys of session tickets.
pub type TicketBytes = Zeroizing<[u8; BYTES]>;

/// How long one set is used.
const DAY: Duration = Duration::from_secs(24 * 3600);

/// How far the clock of another node may be ahead: keys dated further ahead would be used for longer than a day.
const AHEAD: Duration = Duration::from_secs(3600);

/// Most bytes that are read of what stands there: more than any node seals.
const LONGEST: usize = 256;

/// How often what was changed meanwhile is looked at again in one turn.
const ATTEMPTS: usize = 3;

/// The newest set that this node knows, sealed as in the engine, within the state directory.
const FILE: &str = "group.tickets";

const SEALED_AS: &str = "tickets";

/// How long a reason to refuse keys is not logged again: another node may put them there every second.
const QUIET: Duration = Duration::from_secs(600);

/// Answers what stands there up to its byte ARGV 1, after ARGV 3 was put in the place of ARGV 2 for ARGV 4 milliseconds where that is
/// asked. What is no string is nothing that a node sealed, and gives way as that does.
const TURN: &str = "local there = redis.pcall('GETRANGE', KEYS[1], 0, ARGV[1])
if type(there) ~= 'string' then there = 'no keys' end
if #ARGV == 1 or there ~= ARGV[2] then return there end
redis.call('SET', KEYS[1], ARGV[3], 'PX', ARGV[4])
return ARGV[3]";

/// One set of keys.
#[derive(Clone)]
struct Tickets {
    /// When they were drawn, since 1970 by the clock of who did: in the sealed text, so that nobody makes old ones new.
    drawn: Duration,
    keys: Arc<TicketBytes>,
}

impl Tickets {
    fn draw(drawn: Duration) -> Result<Self, ErrorStack> {
        let mut keys = TicketBytes::new([0; BYTES]);
        openssl::rand::rand_bytes(keys.as_mut_slice())?;
        let drawn = Duration::from_millis(millis(drawn));
        let keys = Arc::new(keys);
        Ok(Self { drawn, keys })
    }

    fn seal(&self, group: &GroupKey) -> Result<Vec<u8>, ErrorStack> {
        let drawn = millis(self.drawn).to_be_bytes();
        let text = Zeroizing::new([&drawn[..], self.keys.as_slice()].concat());
        group.seal(SEALED_AS, &text)
    }

    fn open(group: &GroupKey, sealed: &[u8]) -> Option<Self> {
        let text = group.open(SEALED_AS, sealed).ok()?;
        let mut fields = ReadBytes(&text);
        let drawn = Duration::from_millis(fields.u64()?);
        let keys = Arc::new(TicketBytes::new(fields.array()?));
        fields.0.is_empty().then_some(Self { drawn, keys })
    }

    fn is_ahead(&self, wall: Duration) -> bool {
        self.drawn > wall.saturating_add(AHEAD)
    }

    fn had_their_day(&self, wall: Duration) -> bool {
        wall.saturating_sub(self.drawn) >= DAY
    }

    fn are_of_today(&self, wall: Duration) -> bool {
        !self.is_ahead(wall) && !self.had_their_day(wall)
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// The keys that a node begins with: those that it knew when it ended, while they are of today.
#[must_use]
pub fn kept(state_dir: &Path, group: &GroupKey, wall: Duration) -> Option<Arc<TicketBytes>> {
    let kept = read(state_dir, group)?;
    kept.are_of_today(wall).then_some(kept.keys)
}

fn read(state_dir: &Path, group: &GroupKey) -> Option<Tickets> {
    Tickets::open(group, &files::read(&state_dir.join(FILE), LONGEST).ok()?)
}

/// What times are told by.
#[derive(Clone, Copy)]
pub(crate) struct Clocks {
    /// The time of day since 1970.
    pub(crate) wall: fn() -> Duration,
    /// What never goes back.
    pub(crate) steady: fn() -> Instant,
}

/// What a node knows of the keys that all use.
pub(crate) struct TicketBook {
    group: Arc<GroupKey>,
    metrics: Arc<GroupMetrics>,
    state_dir: PathBuf,
    clocks: Clocks,
    /// The newest set, and since when this process has it.
    known: Option<(Tickets, Instant)>,
    in_use: watch::Sender<Option<Arc<TicketBytes>>>,
    /// What was logged to be wrong with what stood there, and when.
    told: Vec<(TicketResult, Instant)>,
}

impl TicketBook {
    /// What the state directory has; `in_use` is told what to make tickets with.
    pub(crate) fn new(
        group: Arc<GroupKey>,
        metrics: Arc<GroupMetrics>,
        state_dir: &Path,
        clocks: Clocks,
        in_use: watch::Sender<Option<Arc<TicketBytes>>>,
    ) -> Self {
        let known = read(state_dir, &group).map(|tickets| (tickets, (clocks.steady)()));
        let book = Self {
            group,
            metrics,
            state_dir: state_dir.to_owned(),
            clocks,
            known,
            in_use,
            told: Vec::new(),
        };
        book.in_use
            .send_replace(book.own().map(|own| Arc::clone(&own.keys)));
        book
    }

    /// Those that are known, while they may be used: a day by either clock, as that of the day may be set.
    fn own(&self) -> Option<&Tickets> {
        let (known, since) = self.known.as_ref()?;
        let (wall, now) = ((self.clocks.wall)(), (self.clocks.steady)());
        (known.are_of_today(wall) && now.saturating_duration_since(*since) < DAY).then_some(known)
    }

    /// New ones, dated behind those that are known.
    fn draw(&self) -> Result<Tickets, ErrorStack> {
        let wall = (self.clocks.wall)();
        let before = self.known.as_ref().filter(|(known, _)| !known.is_ahead(wall));
        let behind = before.map(|(known, _)| known.drawn + Duration::from_millis(1));
        Tickets::draw(behind.unwrap_or_default().max(wall))
    }

    /// What is wrong with keys that stand in the engine; nothing where they may be taken.
    fn refusal(&self, there: &Tickets) -> Option<TicketResult> {
        let wall = (self.clocks.wall)();
        if there.is_ahead(wall) {
            return Some(TicketResult::Ahead);
        }
        // Of this node's own in the future its clock was to blame.
        let known = self.known.as_ref().filter(|(known, _)| !known.is_ahead(wall));
        let is_older = known.is_some_and(|(known, _)| there.drawn < known.drawn);
        is_older.then_some(TicketResult::RolledBack)
    }

    /// Looks at what stands in the engine, and has the right ones stand there; whether they do.
    pub(crate) async fn turn(&mut self, engine: &mut Engine) -> Result<bool, Fault> {
        let longest = LONGEST - 1;
        let asked = || {
            let mut asking = cmd("EVAL");
            asking.arg(TURN).arg(1).arg(key()).arg(longest);
            asking
        };
        let asking = asked();
        let mut there = bytes(engine.ask(&asking).await?).unwrap_or_default();
        for _ in 0..ATTEMPTS {
            if self.takes(&there) {
                return Ok(true);
            }
            let no_seal = |error: ErrorStack| Fault::new("group", error.to_string());
            let (ours, how) = match self.own() {
                Some(own) => (own.clone(), TicketResult::GivenBack),
                None => (self.draw().map_err(no_seal)?, TicketResult::Drawn),
            };
            let sealed = ours.seal(&self.group).map_err(no_seal)?;
            let left = DAY.saturating_sub((self.clocks.wall)().saturating_sub(ours.drawn));
            let mut asking = asked();
            asking.arg(there).arg(&sealed).arg(millis(left).max(1));
            there = bytes(engine.ask(&asking).await?).unwrap_or_default();
            if there == sealed {
                self.metrics.tickets.inc(how);
                self.know(ours);
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Whether what stands there is in use from now on, or was before.
    fn takes(&mut self, there: &[u8]) -> bool {
        let (found, refused) = match Tickets::open(&self.group, there) {
            None if there.is_empty() => (None, None),
            None => (None, Some(TicketResult::NotAuthentic)),
            Some(found) => {
                let refused = self.refusal(&found);
                (Some(found), refused)
            }
        };
        if let Some(why) = refused {
            self.tell(why);
        }
        let wall = (self.clocks.wall)();
        let Some(found) = found.filter(|found| refused.is_none() && !found.had_their_day(wall)) else {
            return false;
        };
        let is_known = self.known.as_ref().is_some_and(|(known, _)| same(known, &found));
        if is_known {
            // What this process has had for a day it draws anew, whatever the clocks say.
            return self.own().is_some();
        }
        self.metrics.tickets.inc(TicketResult::Taken);
        self.know(found);
        true
    }

    /// The engine does not answer: where those in use had their day this node has keys of its own until it does.
    pub(crate) fn alone(&mut self) {
        if self.known.is_none() || self.own().is_some() {
            return;
        }
        match self.draw() {
            Ok(drawn) => {
                self.metrics.tickets.inc(TicketResult::Drawn);
                self.know(drawn);
            }
            Err(error) => warn!(%error, "the keys of session tickets had their day and stay"),
        }
    }

    fn know(&mut self, tickets: Tickets) {
        // While the clocks of two nodes disagree, each gives its own back at each turn.
        if self
            .known
            .as_ref()
            .is_some_and(|(known, _)| same(known, &tickets))
        {
            return;
        }
        let sealed = tickets.seal(&self.group).map_err(std::io::Error::from);
        let path = self.state_dir.join(FILE);
        let kept = sealed.and_then(|sealed| files::replace(&path, &sealed, 0o600));
        if let Err(error) = kept {
            warn!(
                "a restart may begin with other keys of session tickets: {}: {error}",
                path.display()
            );
        }
        self.in_use.send_replace(Some(Arc::clone(&tickets.keys)));
        self.known = Some((tickets, (self.clocks.steady)()));
    }

    /// Counts what was refused, and logs it now and then.
    fn tell(&mut self, why: TicketResult) {
        self.metrics.tickets.inc(why);
        let now = (self.clocks.steady)();
        self.told
            .retain(|(_, at)| now.saturating_duration_since(*at) < QUIET);
        if self.told.iter().any(|(told, _)| *told == why) {
            return;
        }
        self.told.push((why, now));
        let what = match why {
            TicketResult::Ahead => "are of the future: the clock of a node is wrong",
            TicketResult::RolledBack => "are older than those that this node knows",
            _ => "were not sealed with this group.key, or are damaged",
        };
        warn!("the keys of session tickets in the engine are not taken: they {what}");
    }
}

fn same(one: &Tickets, other: &Tickets) -> bool {
    one.drawn == other.drawn && openssl::memcmp::eq(one.keys.as_slice(), other.keys.as_slice())
}

fn key() -> String {
    format!("{PREFIX}tickets")
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    thread_local! {
        static WALL: Cell<Duration> = const { Cell::new(Duration::from_secs(1_700_000_000)) };
        static PASSED: Cell<Duration> = const { Cell::new(Duration::ZERO) };
        static BASE: Instant = portcullis_base();
    }

    #[expect(clippy::disallowed_methods, reason = "tests need one instant to count from")]
    fn portcullis_base() -> Instant {
        Instant::now()
    }

    fn pass(time: Duration) {
        WALL.set(WALL.get() + time);
        PASSED.set(PASSED.get() + time);
    }

    fn group() -> Arc<GroupKey> {
        Arc::new(GroupKey::parse("5".repeat(64).as_bytes()).unwrap())
    }

    struct Node {
        book: TicketBook,
        metrics: Arc<GroupMetrics>,
        in_use: watch::Receiver<Option<Arc<TicketBytes>>>,
        directory: tempfile::TempDir,
    }

    impl Node {
        fn new() -> Self {
            Self::at(tempfile::tempdir().unwrap())
        }

        fn at(directory: tempfile::TempDir) -> Self {
            let (uses, in_use) = watch::channel(None);
            let metrics = Arc::<GroupMetrics>::default();
            let clocks = Clocks {
                wall: || WALL.get(),
                steady: || BASE.with(|base| *base) + PASSED.get(),
            };
            let counted = Arc::clone(&metrics);
            let book = TicketBook::new(group(), counted, directory.path(), clocks, uses);
            Self {
                book,
                metrics,
                in_use,
                directory,
            }
        }

        fn restarted(self) -> Self {
            Self::at(self.directory)
        }

        fn uses(&self) -> Option<[u8; BYTES]> {
            self.in_use.borrow().as_ref().map(|keys| ***keys)
        }

        fn count(&self, result: TicketResult) -> u64 {
            self.metrics.tickets.get(result)
        }
    }

    fn drawn(at: Duration) -> (Tickets, Vec<u8>) {
        let tickets = Tickets::draw(at).unwrap();
        let sealed = tickets.seal(&group()).unwrap();
        (tickets, sealed)
    }

    #[test]
    fn what_is_sealed_opens_whole_with_its_date_and_nothing_else_does() {
        let (tickets, sealed) = drawn(Duration::from_millis(1_700_000_000_123));
        assert!(sealed.len() < LONGEST);
        let opened = Tickets::open(&group(), &sealed).unwrap();
        assert!(same(&opened, &tickets));
        for at in 0..sealed.len() {
            let mut forged = sealed.clone();
            forged[at] ^= 1;
            assert!(Tickets::open(&group(), &forged).is_none(), "byte {at}");
            assert!(Tickets::open(&group(), &sealed[..at]).is_none(), "{at} bytes");
        }
        // Something else of the group, and a text of another length.
        for (name, text) in [("part psk", 88), (SEALED_AS, 87), (SEALED_AS, 89)] {
            let other = group().seal(name, &vec![0; text]).unwrap();
            assert!(Tickets::open(&group(), &other).is_none(), "{name} {text}");
        }
    }

    #[test]
    fn keys_that_were_there_before_are_not_taken_again_though_they_are_of_today() {
        let mut node = Node::new();
        let (_, first) = drawn(WALL.get());
        assert!(node.book.takes(&first));
        pass(Duration::from_secs(60));
        let (second_keys, second) = drawn(WALL.get());
        assert!(node.book.takes(&second) && node.book.takes(&second));
        assert_eq!(node.count(TicketResult::Taken), 2);
        assert!(!node.book.takes(&first));
        assert_eq!(node.count(TicketResult::RolledBack), 1);
        // Nor by its next process.
        let mut node = node.restarted();
        assert_eq!(node.uses(), Some(**second_keys.keys));
        assert!(!node.book.takes(&first) && node.book.takes(&second));
    }

    #[test]
    fn forged_keys_and_those_of_the_future_are_not_taken_and_those_of_yesterday_neither() {
        let mut node = Node::new();
        let (_, forged) = drawn(WALL.get());
        assert!(!node.book.takes(&forged[1..]) && !node.book.takes(&[7; 300]));
        assert_eq!(node.count(TicketResult::NotAuthentic), 2);
        let (_, ahead) = drawn(WALL.get() + AHEAD + Duration::from_secs(1));
        assert!(!node.book.takes(&ahead));
        assert_eq!(node.count(TicketResult::Ahead), 1);
        let (_, old) = drawn(WALL.get() - DAY);
        assert!(!node.book.takes(&old) && !node.book.takes(&[]));
        assert_eq!(node.uses(), None);
        let (_, of_a_fast_clock) = drawn(WALL.get() + Duration::from_secs(5));
        assert!(node.book.takes(&of_a_fast_clock));
        assert_eq!(node.count(TicketResult::Taken), 1);
    }

    #[test]
    fn what_is_refused_again_after_all_was_well_is_logged_again() {
        let mut node = Node::new();
        let told_at = |node: &Node| node.book.told.iter().map(|(_, at)| *at).collect::<Vec<_>>();
        assert!(!node.book.takes(&[7; 88]));
        let first = told_at(&node);
        let (_, good) = drawn(WALL.get());
        pass(QUIET - Duration::from_secs(1));
        assert!(node.book.takes(&good) && !node.book.takes(&[7; 88]));
        assert_eq!(told_at(&node), first, "a node that insists floods no log");
        pass(Duration::from_secs(1));
        assert!(node.book.takes(&good) && !node.book.takes(&[7; 88]));
        assert_ne!(told_at(&node), first);
        // Another reason does not wait.
        let (_, ahead) = drawn(WALL.get() + AHEAD + Duration::from_secs(1));
        assert!(!node.book.takes(&ahead));
        assert_eq!(told_at(&node).len(), 2);
    }

    #[test]
    fn keys_that_are_given_back_are_not_written_down_again_and_get_no_longer_day() {
        let mut node = Node::new();
        let (own, sealed) = drawn(WALL.get());
        assert!(node.book.takes(&sealed));
        let file = node.directory.path().join(FILE);
        std::fs::remove_file(&file).unwrap();
        let since = node.book.known.as_ref().unwrap().1;
        pass(Duration::from_secs(5));
        node.book.know(own);
        assert!(!file.exists());
        assert_eq!(node.book.known.as_ref().unwrap().1, since);
    }

    #[test]
    fn a_pipe_or_a_giant_in_the_place_of_the_file_stops_no_start_and_is_replaced() {
        let (_, sealed) = drawn(WALL.get());
        for name in [FILE, "group.new"] {
            let node = Node::new();
            let path = node.directory.path().join(name);
            let made = std::process::Command::new("mkfifo").arg(&path).status().unwrap();
            assert!(made.success());
            let mut node = node.restarted();
            assert_eq!(node.uses(), None);
            assert!(node.book.takes(&sealed));
            assert!(node.restarted().uses().is_some(), "{name}");
        }
        let node = Node::new();
        let giant = std::fs::File::create(node.directory.path().join(FILE)).unwrap();
        giant.set_len(1 << 40).unwrap();
        let mut node = node.restarted();
        assert!(node.book.takes(&sealed));
        assert!(node.restarted().uses().is_some());
    }

    #[test]
    fn keys_have_a_day_also_while_the_engine_is_away_and_when_the_clock_is_put_back() {
        let mut node = Node::new();
        node.book.alone();
        assert_eq!(
            node.uses(),
            None,
            "a node that never had keys of a group has none to go on with"
        );
        let (_, sealed) = drawn(WALL.get());
        assert!(node.book.takes(&sealed));
        let first = node.uses();
        pass(DAY - Duration::from_secs(1));
        node.book.alone();
        assert_eq!(node.uses(), first);
        pass(Duration::from_secs(1));
        assert!(!node.book.takes(&sealed), "the engine has them still");
        node.book.alone();
        let second = node.uses();
        assert!(second.is_some() && second != first);
        assert!(!node.book.takes(&sealed) && node.count(TicketResult::RolledBack) == 1);
        // The clock of the day stands still, and goes back a little.
        PASSED.set(PASSED.get() + DAY);
        WALL.set(WALL.get() - Duration::from_secs(600));
        node.book.alone();
        assert!(node.uses() != second);
        let (known, _) = node.book.known.clone().unwrap();
        assert!(known.drawn > WALL.get(), "others would take them for older ones");
    }

    #[test]
    fn a_node_whose_clock_was_wrong_takes_what_the_others_have_once_it_is_right() {
        let mut node = Node::new();
        let right = WALL.get();
        WALL.set(right + Duration::from_secs(400 * 24 * 3600));
        let (_, own) = drawn(WALL.get());
        assert!(node.book.takes(&own));
        WALL.set(right);
        let mut node = node.restarted();
        assert_eq!(node.uses(), None);
        let (_, theirs) = drawn(right);
        assert!(node.book.takes(&theirs));
        assert_eq!(node.count(TicketResult::RolledBack), 0);
    }
}
