//! One look-up per name at a time, owned by the resolver's executor and not by those who wait.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::sync::watch;

use crate::domain::HostName;

use super::cache::Entry;
use super::{Answer, AnswerSource, Inner, ResolveError};

/// Look-ups under way. 1024: each holds two UDP sockets, so this bounds what resolution takes of the
/// descriptor limit.
const MAX_FLIGHTS: usize = 1024;
/// How much longer than a look-up those who wait for it wait. 1 s: an executor that is further behind is stuck.
const PATIENCE: Duration = Duration::from_secs(1);

type Board = watch::Receiver<Option<Entry>>;

/// The look-ups under way, by name.
#[derive(Debug, Default)]
pub(super) struct Flights {
    by_name: HashMap<HostName, (u64, Board)>,
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
        self.era += 1;
    }
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
    if let Some((_, board)) = state.flights.by_name.get(name) {
        inner.counters.coalesced.fetch_add(1, Ordering::Relaxed);
        return Ok(Boarding::Joined(board.clone()));
    }
    if state.flights.len() >= MAX_FLIGHTS {
        return Err(ResolveError::Busy);
    }
    let (announce, board) = watch::channel(None);
    let era = state.flights.era;
    state.flights.by_name.insert(name.clone(), (era, board.clone()));
    Ok(Boarding::First(board, Landing { inner: inner.clone(), name: name.clone(), era, announce }))
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
}

impl Landing {
    fn land(self, entry: Entry) {
        {
            let mut state = self.inner.state();
            // A cleared cache must not be filled with what was asked before it was cleared.
            if state.flights.era == self.era {
                state.cache.insert(self.name.clone(), entry.clone());
                state.flights.by_name.remove(&self.name);
            }
        }
        self.announce.send_replace(Some(entry));
    }
}

impl Drop for Landing {
    fn drop(&mut self) {
        let mut state = self.inner.state();
        if state
            .flights
            .by_name
            .get(&self.name)
            .is_some_and(|(era, board)| *era == self.era && board.same_channel(&self.announce.subscribe()))
        {
            state.flights.by_name.remove(&self.name);
        }
    }
}
