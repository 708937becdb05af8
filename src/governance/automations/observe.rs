//! What happened to a runtime between two looks at it: the news of its runs. Pure.
//!
//! ```text
//! records of the supervisor (the truth) ── look ── look ── look ──> started, heartbeat, paused, resumed, stopped
//! ```
//!
//! The supervisor writes down every end, so a run that began and ended between two looks, or while no daemon ran, is told
//! all the same.

use std::time::Duration;

use crate::domain::Timestamp;
use crate::supervisor::{Cause, Death, DeathRecord, RuntimeState, RuntimeView};

/// Least time between two heartbeats that are told: a runtime may beat hundreds of times a second.
const HEARTBEAT: Duration = Duration::from_secs(5);

/// What is known of the runs of one runtime.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Known {
    /// The run that was told to have started and not to have stopped.
    pub(super) open: Option<u64>,
    /// The newest run that was told of.
    pub(super) newest: u64,
    paused: bool,
    told_heartbeat: Option<Timestamp>,
}

/// One thing that happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum News {
    Started { run: u64, at: Timestamp },
    Heartbeat { run: u64, at: Timestamp },
    Paused { run: u64 },
    Resumed { run: u64 },
    Stopped { run: u64, began: Timestamp, at: Timestamp, cause: Cause },
}

impl Known {
    /// As the store has it: its newest run, and whether that ended.
    pub(super) fn kept(newest: u64, ended: bool) -> Self {
        Self { open: (!ended).then_some(newest), newest, ..Self::default() }
    }

    /// Whether more ends were written down than the view shows.
    pub(super) fn missed(&self, view: &RuntimeView) -> bool {
        let last = view.last_death.as_ref().map_or(0, |record| record.death.run);
        last > self.newest || self.open.is_some_and(|open| last > open)
    }

    /// What is new. `deaths`: the ends that were written down, oldest first; the one that the view shows is enough where
    /// none was missed.
    pub(super) fn look(
        &mut self,
        view: &RuntimeView,
        deaths: &[DeathRecord],
        reported: Option<Timestamp>,
    ) -> Vec<News> {
        let mut news = Vec::new();
        for record in deaths {
            let death = &record.death;
            if self.open != Some(death.run) {
                if death.run <= self.newest {
                    continue;
                }
                news.push(News::Started { run: death.run, at: death.began });
            }
            self.end(death, &mut news);
        }
        // Launched and not only asked for: what is never executed is no run of an automation.
        if let (Some(run), Some(at)) = (view.run, view.started_at)
            && run > self.newest
        {
            (self.open, self.newest, self.paused) = (Some(run), run, false);
            news.push(News::Started { run, at });
        }
        let Some(run) = self.open.filter(|run| view.run == Some(*run)) else { return news };
        let paused = view.state == RuntimeState::Frozen;
        if std::mem::replace(&mut self.paused, paused) != paused {
            news.push(if paused { News::Paused { run } } else { News::Resumed { run } });
        }
        let sign = view.heartbeat_at.max(reported).filter(|at| view.started_at.is_some_and(|began| *at >= began));
        if let Some(at) = sign
            && self.told_heartbeat.is_none_or(|told| told.plus(HEARTBEAT) <= at || at < told)
        {
            self.told_heartbeat = Some(at);
            news.push(News::Heartbeat { run, at });
        }
        news
    }

    fn end(&mut self, death: &Death, news: &mut Vec<News>) {
        let Death { run, cause, began, ended: at } = *death;
        (self.open, self.newest, self.paused) = (None, self.newest.max(run), false);
        news.push(News::Stopped { run, began, at, cause });
    }
}
