//! One look-up per name at a time, owned by the resolver's executor and not by those who wait.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::sync::watch;

use crate::domain::HostName;

use super::cache::Entry;
use super::{Answer, AnswerSource, Inner, ResolveError};

/// Look-ups under way. 512: with two types, two servers and three tries each holds up to twelve UDP
/// sockets while a server is silent, so this bounds what resolution takes of the descriptor limit.
const MAX_FLIGHTS: usize = 512;
/// Look-ups under way below one registrable domain. 64: a persona that may reach `*.slow.example` must
/// not, with names that never answer, keep everybody else's from being looked up.
pub(super) const MAX_FLIGHTS_PER_SITE: usize = 64;
/// How much longer than a look-up those who wait for it wait. 1 s: an executor that is further behind is stuck.
const PATIENCE: Duration = Duration::from_secs(1);

type Board = watch::Receiver<Option<Entry>>;

/// The look-ups under way, by name.
#[derive(Debug, Default)]
pub(super) struct Flights {
    by_name: HashMap<HostName, Board>,
    /// How many there are below each registrable domain; never 0.
    by_site: HashMap<String, usize>,
    /// Counts the calls of [`Flights::forget`]. What started in an earlier era lands nowhere.
    era: u64,
}

impl Flights {
    pub(super) fn len(&self) -> usize {
        self.by_name.len()
    }

    /// Lets those who ask from now on wait for a new look-up; the old ones go on for those who wait.
    pub(super) fn forget(&mut self) {
        self.by_name.clear();
        self.by_site.clear();
        self.era += 1;
    }

    /// Notes a look-up of `name`, of which there is none; tells its era.
    fn begin(&mut self, name: &HostName, board: Board) -> Result<u64, ResolveError> {
        let at_site = self.by_site.get(site(name)).copied().unwrap_or(0);
        if self.by_name.len() >= MAX_FLIGHTS || at_site >= MAX_FLIGHTS_PER_SITE {
            return Err(ResolveError::Busy);
        }
        self.by_site.insert(site(name).to_owned(), at_site + 1);
        self.by_name.insert(name.clone(), board);
        Ok(self.era)
    }

    /// Takes the look-up of `name` that began in `era` off, once.
    fn end(&mut self, name: &HostName, era: u64) {
        if era != self.era || self.by_name.remove(name).is_none() {
            return;
        }
        match self.by_site.get_mut(site(name)) {
            Some(count) if *count > 1 => *count -= 1,
            _ => {
                self.by_site.remove(site(name));
            }
        }
    }
}

/// The registrable domain (public suffix and one label), or the name itself if it has none.
fn site(name: &HostName) -> &str {
    psl::domain_str(name.as_str()).unwrap_or(name.as_str())
}

/// Waits for the look-up of `name` that is under way, or begins it.
pub(super) async fn join(inner: &Arc<Inner>, name: &HostName) -> Result<Answer, ResolveError> {
    let mut board = match board(inner, name)? {
        Boarding::Landed(entry) => return entry.answer(Instant::now(), AnswerSource::Cache),
        Boarding::Joined(board) => board,
        Boarding::First(board, landing) => {
            // Not under the lock: a stopped executor drops the task, and with it the landing, right here.
            inner.executor.spawn(fly(landing));
            board
        }
    };
    let landed = tokio::time::timeout(inner.timeout + PATIENCE, board.wait_for(Option::is_some)).await;
    let entry = match landed {
        Ok(Ok(entry)) => entry.clone(),
        Ok(Err(_)) => return Err(ResolveError::Stopped),
        Err(_) => return Err(ResolveError::TimedOut),
    };
    entry.ok_or(ResolveError::Stopped)?.answer(Instant::now(), AnswerSource::Server)
}

enum Boarding {
    /// It landed between the look into the cache and now.
    Landed(Entry),
    Joined(Board),
    First(Board, Landing),
}

fn board(inner: &Arc<Inner>, name: &HostName) -> Result<Boarding, ResolveError> {
    let mut state = inner.state();
    if let Some(entry) = state.cache.find(name, Instant::now()) {
        return Ok(Boarding::Landed(entry));
    }
    if let Some(board) = state.flights.by_name.get(name) {
        inner.counters.coalesced.fetch_add(1, Ordering::Relaxed);
        return Ok(Boarding::Joined(board.clone()));
    }
    let (announce, board) = watch::channel(None);
    let era = state.flights.begin(name, board.clone())?;
    Ok(Boarding::First(board, Landing { inner: inner.clone(), name: name.clone(), era, announce, landed: false }))
}

async fn fly(landing: Landing) {
    let entry = landing.inner.look_up(&landing.name).await;
    landing.land(entry);
}

/// The end of a look-up. Dropped without an entry (the executor stops, a panic), it still takes the
/// flight off the board, and those who wait learn that it will not come.
struct Landing {
    inner: Arc<Inner>,
    name: HostName,
    era: u64,
    announce: watch::Sender<Option<Entry>>,
    landed: bool,
}

impl Landing {
    fn land(mut self, entry: Entry) {
        {
            let mut state = self.inner.state();
            // A cleared cache must not be filled with what was asked before it was cleared.
            if state.flights.era == self.era {
                state.cache.insert(self.name.clone(), entry.clone());
            }
            state.flights.end(&self.name, self.era);
        }
        self.landed = true;
        self.announce.send_replace(Some(entry));
    }
}

impl Drop for Landing {
    fn drop(&mut self) {
        if !self.landed {
            self.inner.state().flights.end(&self.name, self.era);
        }
    }
}
