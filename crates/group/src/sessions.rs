//! Sessions where all nodes see them: whose each is, and what another node goes on from when that one dies.
//!
//! | key | what |
//! |---|---|
//! | `s:MARK` | hash of a bundle: `owner`, `takes` how often it was taken over, `ended` where nothing else is left of it, else sealed rows |
//! | `c:CID` | the mark of the session with this Connection ID |
//! | `l:MARK` | the marks of the connections whose clients are at this session |
//! | `alive:HOME` | is there as long as the lease of the node with this state directory |
//!
//! A bundle is what has one mark: a session or a connection, with its observations and what they still have to get. Only its owner writes it:
//! a script looks, and whoever writes what another has by now is told so. To take one over, its owner has to be the one that was read,
//! without a lease, and the taker one with a lease, all at one instant. So of any number that try one wins. One that was taken over and ended keeps its owner
//! for as long as it would have stood: another node may have it in memory still, and is told that it is not its own.

use std::time::{Duration, Instant};

use portcullis_redis::cmd;

use super::engine::{Engine, EngineSettings, Fault, PREFIX, Script, bytes, number, parts};

const OWNER: &[u8] = b"owner";
const TAKES: &[u8] = b"takes";

/// How long connecting may take, and an answer: a stop waits for what is under way.
const CONNECTING: Duration = Duration::from_secs(1);
const ANSWERING: Duration = Duration::from_secs(2);

/// Most connections that are at one session and go with it.
const MAX_LINKED: usize = 64;

/// KEYS: for each bundle its own, and the one that leads to it. ARGV: the writer, the time to live in milliseconds, then for each bundle its mark,
/// what leads to it ("index", "link" or "") and how many steps there are, and of each three words. Answers which bundles another has, from 1.
static WRITE: Script = Script::new(
    "local me, ttl, at, lost = ARGV[1], ARGV[2], 3, {}
for i = 1, #KEYS, 2 do
  local key, lead = KEYS[i], KEYS[i + 1]
  local mark, led, count = ARGV[at], ARGV[at + 1], tonumber(ARGV[at + 2])
  local owner = redis.pcall('HGET', key, 'owner')
  if type(owner) == 'table' then
    -- Something else is there: it must not keep the others from being written.
    redis.call('DEL', key)
    owner = false
  end
  if owner and owner ~= me then
    lost[#lost + 1] = (i + 1) / 2
  else
    local ends = false
    for j = at + 3, at + 3 * count, 3 do
      local step = ARGV[j]
      if step == 'set' then redis.call('HSET', key, 'owner', me, ARGV[j + 1], ARGV[j + 2])
      elseif step == 'del' then redis.call('HDEL', key, ARGV[j + 1])
      else ends = true end
    end
    if ends then
      local taken = redis.call('HGET', key, 'takes')
      redis.call('DEL', key)
      if taken then
        redis.call('HSET', key, 'owner', me, 'ended', '1')
        redis.call('PEXPIRE', key, ttl)
      end
      if led == 'index' then redis.call('DEL', lead) elseif led == 'link' then redis.pcall('SREM', lead, mark) end
    elseif redis.call('PEXPIRE', key, ttl) == 1 then
      if led == 'index' then redis.call('SET', lead, mark, 'PX', ttl)
      elseif led == 'link' then redis.pcall('SADD', lead, mark) redis.call('PEXPIRE', lead, ttl) end
    end
  end
  at = at + 3 + 3 * count
end
return lost",
);

/// KEYS: a bundle, what shows that its owner lives, what shows that the taker does. ARGV: the owner that was read, the taker. Answers how often it was
/// taken, and all of it; nothing where it was not taken.
static TAKE: Script = Script::new(
    "if redis.call('HGET', KEYS[1], 'owner') ~= ARGV[1] or redis.call('EXISTS', KEYS[3]) == 0 then return {} end
if redis.call('HGET', KEYS[1], 'ended') then return {} end
if ARGV[1] ~= ARGV[2] and redis.call('EXISTS', KEYS[2]) == 1 then return {} end
redis.call('HSET', KEYS[1], 'owner', ARGV[2])
return {redis.call('HINCRBY', KEYS[1], 'takes', 1), redis.call('HGETALL', KEYS[1])}",
);

/// KEYS: a bundle. ARGV: who took it, whose it was.
static GIVE_BACK: Script = Script::new(
    "if redis.call('HGET', KEYS[1], 'owner') == ARGV[1] then redis.call('HSET', KEYS[1], 'owner', ARGV[2]) end
return 1",
);

/// A step of a writing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// A row stands there, under this name.
    Set(Vec<u8>, Vec<u8>),
    /// It does not any more.
    Remove(Vec<u8>),
    /// Nothing of the bundle does.
    End,
}

/// What leads to a bundle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lead {
    /// A Connection ID, to a session.
    Cid([u8; 8]),
    /// The session of this mark, to a connection.
    Session(u64),
}

/// What is written of one bundle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bundle {
    /// What names it.
    pub mark: u64,
    /// What leads to it, where that is known.
    pub lead: Option<Lead>,
    /// The steps, in order.
    pub steps: Vec<Step>,
}

/// A row by its name.
pub type NamedRow = (Vec<u8>, Vec<u8>);

/// What is seen of a bundle before it is taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// The state directory of the node whose it is.
    pub owner: String,
    /// Whether that one has a lease.
    pub lives: bool,
    /// The row that was asked for.
    pub row: Vec<u8>,
}

/// The sessions of all nodes in the engine, by a connection of its own.
pub struct Sessions {
    engine: Engine,
    /// The server that answers, by what it drew at its start, since when it is known, and by which of our connections.
    server: Option<(Vec<u8>, Instant, u64)>,
    /// Whether another server answered before this one.
    is_successor: bool,
}

fn bundle_key(mark: u64) -> String {
    format!("{PREFIX}s:{mark:016x}")
}

fn index_key(cid: &[u8]) -> String {
    format!("{PREFIX}c:{}", hex::encode(cid))
}

fn link_key(mark: u64) -> String {
    format!("{PREFIX}l:{mark:016x}")
}

/// The key that is there while the node with this state directory has a lease.
pub(crate) fn alive_key(home: &str) -> String {
    format!("{PREFIX}alive:{home}")
}

impl Sessions {
    /// Over an engine that need not be there yet.
    #[must_use]
    pub fn new(settings: EngineSettings) -> Self {
        Self {
            engine: Engine::new(settings).within(CONNECTING, ANSWERING),
            server: None,
            is_successor: false,
        }
    }

    /// Writes bundles as the node with the state directory `home`, to stand there for `ttl`. The places, in `bundles`, of those that another has by now.
    ///
    /// # Errors
    /// The engine does not answer: each may be written or not.
    pub async fn write(
        &mut self,
        home: &str,
        ttl: Duration,
        bundles: &[Bundle],
    ) -> Result<Vec<usize>, Fault> {
        if bundles.is_empty() {
            return Ok(Vec::new());
        }
        let mut keys = Vec::new();
        let millis = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX).to_string();
        let mut words: Vec<&[u8]> = vec![home.as_bytes(), millis.as_bytes()];
        let about: Vec<[String; 2]> = bundles
            .iter()
            .map(|bundle| [format!("{:016x}", bundle.mark), bundle.steps.len().to_string()])
            .collect();
        for (bundle, [mark, count]) in bundles.iter().zip(&about) {
            let key = bundle_key(bundle.mark);
            let (led, lead) = match bundle.lead {
                Some(Lead::Cid(cid)) => ("index", index_key(&cid)),
                Some(Lead::Session(session)) => ("link", link_key(session)),
                None => ("", key.clone()),
            };
            keys.extend([key, lead]);
            words.extend([mark.as_bytes(), led.as_bytes(), count.as_bytes()]);
            for step in &bundle.steps {
                words.extend(match step {
                    Step::Set(name, row) => [&b"set"[..], name, row],
                    Step::Remove(name) => [&b"del"[..], name, b""],
                    Step::End => [&b"end"[..], b"", b""],
                });
            }
        }
        let answer = self.engine.run(&WRITE, &keys, &words).await?;
        let lost = parts(answer).into_iter().map(number);
        Ok(lost
            .filter_map(|at| usize::try_from(at).ok()?.checked_sub(1))
            .collect())
    }

    /// Whether the server that answers came in the place of another: what that one was told last may be forgotten.
    #[must_use]
    pub const fn is_successor(&self) -> bool {
        self.is_successor
    }

    /// The mark of the session with a Connection ID.
    ///
    /// # Errors
    /// The engine does not answer.
    pub async fn find(&mut self, cid: [u8; 8]) -> Result<Option<u64>, Fault> {
        let mut asking = cmd("GET");
        asking.arg(index_key(&cid));
        Ok(bytes(self.engine.ask(&asking).await?).and_then(|text| read_mark(&text)))
    }

    /// Looks at one row of a bundle, without taking it.
    ///
    /// # Errors
    /// The engine does not answer.
    pub async fn see(&mut self, mark: u64, name: &[u8]) -> Result<Option<Seen>, Fault> {
        let mut asking = cmd("HMGET");
        asking.arg(bundle_key(mark)).arg(OWNER).arg(name);
        let mut fields = parts(self.engine.ask(&asking).await?).into_iter().map(bytes);
        let (Some(Some(owner)), Some(Some(row))) = (fields.next(), fields.next()) else {
            return Ok(None);
        };
        let owner = String::from_utf8_lossy(&owner).into_owned();
        let mut asking = cmd("EXISTS");
        asking.arg(alive_key(&owner));
        let lives = number(self.engine.ask(&asking).await?) == 1;
        Ok(Some(Seen { owner, lives, row }))
    }

    /// The marks of the connections that were at a session.
    ///
    /// # Errors
    /// The engine does not answer.
    pub async fn linked(&mut self, session: u64) -> Result<Vec<u64>, Fault> {
        let mut asking = cmd("SRANDMEMBER");
        asking.arg(link_key(session)).arg(MAX_LINKED);
        let marks = parts(self.engine.ask(&asking).await?)
            .into_iter()
            .filter_map(bytes);
        Ok(marks.filter_map(|text| read_mark(&text)).collect())
    }

    /// Takes a bundle over from the node of `owner`, for that of `taker`, where the engine is the same as in [`Sessions::known_for`]. How often it was
    /// taken by now, and its rows; nothing where it was not taken.
    ///
    /// # Errors
    /// The engine does not answer: it may be taken or not. Or it is another one by now.
    pub async fn take(
        &mut self,
        mark: u64,
        owner: &str,
        taker: &str,
    ) -> Result<Option<(u64, Vec<NamedRow>)>, Fault> {
        let known = self.server.as_ref().map(|(_, _, connection)| *connection);
        if known != Some(self.engine.connection()) {
            return Err(Fault::new("group.url", "another server may answer by now"));
        }
        let keys = [bundle_key(mark), alive_key(owner), alive_key(taker)];
        let words = [owner.as_bytes(), taker.as_bytes()];
        let answer = self.engine.run_on(known, &TAKE, &keys, &words).await?;
        let mut answer = parts(answer).into_iter();
        let (Some(takes), Some(fields)) = (answer.next(), answer.next()) else {
            return Ok(None);
        };
        let mut fields = parts(fields).into_iter();
        let mut rows = Vec::new();
        while let (Some(name), Some(value)) = (fields.next().and_then(bytes), fields.next()) {
            if name != OWNER
                && name != TAKES
                && let Some(row) = bytes(value)
            {
                rows.push((name, row));
            }
        }
        Ok(Some((number(takes), rows)))
    }

    /// Leaves a bundle that was taken over to whose it was: here there is no room for it.
    ///
    /// # Errors
    /// The engine does not answer: it may be left or not.
    pub async fn give_back(&mut self, mark: u64, taker: &str, owner: &str) -> Result<(), Fault> {
        let (keys, words) = ([bundle_key(mark)], [taker.as_bytes(), owner.as_bytes()]);
        self.engine.run(&GIVE_BACK, &keys, &words).await.map(drop)
    }

    /// How long the server that answers has been the one that answers, as far as is known here. One that came in the place of another may have
    /// forgotten who lives.
    ///
    /// # Errors
    /// The engine does not answer.
    pub async fn known_for(&mut self, now: Instant) -> Result<Duration, Fault> {
        let mut asking = cmd("INFO");
        asking.arg("server");
        let text = bytes(self.engine.ask(&asking).await?).unwrap_or_default();
        let run = text
            .split(|byte| *byte == b'\n')
            .find_map(|line| line.strip_prefix(b"run_id:"))
            .map(|run| run.trim_ascii().to_vec());
        let run =
            run.ok_or_else(|| Fault::new("group.url", "it does not say which server it is (INFO server)"))?;
        let since = match &self.server {
            Some((known, since, _)) if *known == run => *since,
            before => {
                self.is_successor |= before.is_some();
                now
            }
        };
        self.server = Some((run, since, self.engine.connection()));
        Ok(now.saturating_duration_since(since))
    }
}

fn read_mark(text: &[u8]) -> Option<u64> {
    u64::from_str_radix(std::str::from_utf8(text).ok()?, 16).ok()
}
