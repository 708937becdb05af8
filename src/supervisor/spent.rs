//! What budgets have paid, window by window. Pure.
//!
//! ```text
//! window of a run:   start ──────── restarts, daemon restarts ────────> next start that somebody asked for
//! window of time:    ├──── every 24h, counted from 1970-01-01T00:00Z ────┤  whatever starts and ends in it
//!
//! spent in the window = runs that ended in it + the present run - what that run had used when the window began
//! ```

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::domain::{Money, RuntimeId, Timestamp, codes};
use crate::events::EventKind;
use crate::proxy::EgressSpent;

use super::manifest::Budget;
use super::view::BudgetView;

codes! {
    /// What can be budgeted.
    BudgetKind {
        /// Time from launch to end, in microseconds.
        WallTime => "wall_time",
        /// CPU time of all processes, in microseconds.
        CpuTime => "cpu_time",
        /// Time for which it had GPUs, times their number, in microseconds.
        GpuTime => "gpu_time",
        /// Bytes through the gateway, both directions.
        Egress => "egress",
        /// Requests to leave that were granted.
        Requests => "requests",
        /// Tokens, as it reports them.
        Tokens => "tokens",
        /// Money, as it reports it, in millionths.
        Spend => "spend",
        /// Memory of each of its GPUs at one time, in bytes. It belongs to a run, and no window counts it.
        GpuMemory => "gpu_memory",
    }
}

/// Shares at which the operator hears of a budget, in hundredths.
const MARKS: [(u64, EventKind); 3] = [
    (70, EventKind::AutomationBudgetWarning),
    (90, EventKind::AutomationBudgetEscalated),
    (100, EventKind::AutomationBudgetExhausted),
];

/// How long a budget lasts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Window {
    /// From a start that somebody asked for (an operator, the clock, a restore) to the next such start: neither automatic
    /// restarts nor restarts of the daemon are a way to a fresh budget.
    #[default]
    Run,
    /// For so long, whatever starts and ends in it.
    Every(Duration),
}

/// One window of one automation.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WindowId {
    /// Its length in seconds; zero for that of a run.
    every: u64,
    /// Its number, or that of the run which began it. Zero before there was one.
    index: u64,
}

impl WindowId {
    /// The window that `run` begins.
    pub const fn of_run(run: u64) -> Self {
        Self { every: 0, index: run }
    }

    fn of_time(every: Duration, now: Timestamp) -> Self {
        let every = every.as_secs().max(1);
        Self { every, index: u64::try_from(now.unix_secs()).unwrap_or(0) / every }
    }

    /// Reads what [`fmt::Display`] wrote.
    pub fn parse(text: &str) -> Option<Self> {
        match text.strip_prefix("run-") {
            Some(run) => Some(Self::of_run(run.parse().ok()?)),
            None => {
                let (every, index) = text.split_once("s-")?;
                Some(Self { every: every.parse().ok().filter(|every| *every > 0)?, index: index.parse().ok()? })
            }
        }
    }

    /// Whether there was one yet.
    pub const fn is_known(&self) -> bool {
        self.index > 0
    }

    /// When the next one begins; only those of time know.
    pub fn end(&self) -> Option<Timestamp> {
        let secs = (self.every > 0).then(|| self.every.saturating_mul(self.index.saturating_add(1)))?;
        Some(Timestamp::from_unix_micros(i64::try_from(secs).ok()?.checked_mul(1_000_000)?))
    }
}

impl fmt::Display for WindowId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.every {
            0 => write!(f, "run-{}", self.index),
            every => write!(f, "{every}s-{}", self.index),
        }
    }
}

/// Sums of one or more runs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Sums {
    pub(super) wall_micros: u64,
    pub(super) cpu_micros: u64,
    pub(super) gpu_micros: u64,
    pub(super) egress: u64,
    pub(super) requests: u64,
}

impl Sums {
    const fn plus(self, other: Self) -> Self {
        Self {
            wall_micros: self.wall_micros.saturating_add(other.wall_micros),
            cpu_micros: self.cpu_micros.saturating_add(other.cpu_micros),
            gpu_micros: self.gpu_micros.saturating_add(other.gpu_micros),
            egress: self.egress.saturating_add(other.egress),
            requests: self.requests.saturating_add(other.requests),
        }
    }

    const fn minus(self, other: Self) -> Self {
        Self {
            wall_micros: self.wall_micros.saturating_sub(other.wall_micros),
            cpu_micros: self.cpu_micros.saturating_sub(other.cpu_micros),
            gpu_micros: self.gpu_micros.saturating_sub(other.gpu_micros),
            egress: self.egress.saturating_sub(other.egress),
            requests: self.requests.saturating_sub(other.requests),
        }
    }

    /// Of each the larger: what was counted once stays counted.
    pub(super) fn most(self, other: Self) -> Self {
        Self {
            wall_micros: self.wall_micros.max(other.wall_micros),
            cpu_micros: self.cpu_micros.max(other.cpu_micros),
            gpu_micros: self.gpu_micros.max(other.gpu_micros),
            egress: self.egress.max(other.egress),
            requests: self.requests.max(other.requests),
        }
    }
}

/// What can be metered where it runs; the rest always can.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Metered {
    /// It has a control group that counts CPU time.
    pub(super) cpu: bool,
    /// It has GPUs.
    pub(super) gpu: bool,
}

/// What was spent in the present window.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Spent {
    window: WindowId,
    /// In runs that have ended.
    before: Sums,
    /// In the present one, since its launch, as far as it was written down.
    run: Sums,
    /// What the present one had used when the window began.
    base: Sums,
    metered: Metered,
    /// Of each kind, how many of the marks were told.
    told: [u8; BudgetKind::ALL.len()],
}

impl Spent {
    /// In the window.
    pub(super) const fn total(&self) -> Sums {
        self.before.plus(self.run.minus(self.base))
    }

    /// In the present run, since its launch.
    pub(super) const fn of_run(&self) -> Sums {
        self.run
    }

    pub(super) const fn window(&self) -> WindowId {
        self.window
    }

    /// What went through the gateway in the window so far: the gateway counts on from there.
    pub(super) const fn traffic(&self) -> EgressSpent {
        let all = self.total();
        EgressSpent { bytes: all.egress, requests: all.requests }
    }

    /// A new run, in a window of its own if it is `fresh` (somebody asked for it) or if another window has begun.
    pub(super) fn begin(&mut self, window: Window, run: u64, fresh: bool, now: Timestamp) {
        self.end_run();
        let same = match window {
            Window::Run => !fresh && self.window.every == 0 && self.window.is_known(),
            Window::Every(_) => !self.is_over(window, now),
        };
        if !same {
            self.open(Self::window_at(window, run, now));
        }
    }

    /// A run that went on without the daemon. The window of a run stands in its own record; one of time may have been
    /// written down later.
    pub(super) fn resume(&mut self, recorded: WindowId, run: u64) {
        let window = if recorded.is_known() { recorded } else { WindowId::of_run(run) };
        if !self.window.is_known() || (window.every == 0 && recorded.is_known() && window != self.window) {
            self.open(window);
        }
    }

    /// Begins the next window of time if the present one is over. Whether it was.
    pub(super) fn roll(&mut self, window: Window, now: Timestamp) -> bool {
        let over = matches!(window, Window::Every(_)) && self.is_over(window, now);
        if over {
            let run = self.run;
            self.open(Self::window_at(window, 0, now));
            (self.run, self.base) = (run, run);
        }
        over
    }

    /// As it is at `now`, also while nothing runs.
    pub(super) fn at(mut self, window: Window, now: Timestamp) -> Self {
        self.roll(window, now);
        self
    }

    /// What the present run has used by now.
    pub(super) fn measure(&mut self, run: Sums, metered: Metered) {
        self.run = run;
        self.metered = metered;
    }

    /// The run has ended.
    pub(super) fn end_run(&mut self) {
        self.before = self.total();
        (self.run, self.base) = (Sums::default(), Sums::default());
    }

    fn open(&mut self, window: WindowId) {
        let metered = self.metered;
        *self = Self { window, metered, ..Self::default() };
    }

    fn window_at(window: Window, run: u64, now: Timestamp) -> WindowId {
        match window {
            Window::Run => WindowId::of_run(run),
            Window::Every(every) => WindowId::of_time(every, now),
        }
    }

    /// Whether a later window of time has begun. A clock that was put back begins none.
    fn is_over(&self, window: Window, now: Timestamp) -> bool {
        let Window::Every(every) = window else { return false };
        let now = WindowId::of_time(every, now);
        self.window.every != now.every || self.window.index < now.index
    }

    /// Each budget that there is, with what was spent of it.
    pub(super) fn rows(&self, budget: &Budget, reported: Reported) -> Vec<BudgetView> {
        let all = self.total();
        let Budget { wall_time, cpu_time, gpu_time, egress, requests, tokens, spend, window: _ } = *budget;
        let spent = reported.spend.filter(|money| spend.is_some_and(|limit| limit.currency() == money.currency()));
        let rows = [
            (BudgetKind::WallTime, Some(all.wall_micros), wall_time.map(micros)),
            (BudgetKind::CpuTime, self.metered.cpu.then_some(all.cpu_micros), cpu_time.map(micros)),
            (BudgetKind::GpuTime, self.metered.gpu.then_some(all.gpu_micros), gpu_time.map(micros)),
            (BudgetKind::Egress, Some(all.egress), egress),
            (BudgetKind::Requests, Some(all.requests), requests),
            (BudgetKind::Tokens, reported.tokens, tokens),
            (BudgetKind::Spend, spent.map(Money::millionths), spend.map(Money::millionths)),
        ];
        let currency = spend.map(Money::currency);
        let row = |(kind, used, limit): (BudgetKind, Option<u64>, Option<u64>)| {
            let row = BudgetView::new(kind, used, limit?);
            Some(BudgetView { currency: currency.filter(|_| kind == BudgetKind::Spend), ..row })
        };
        rows.into_iter().filter_map(row).collect()
    }

    /// Marks that were passed and not told in this window; they count as told from now on.
    pub(super) fn pass(&mut self, rows: &[BudgetView]) -> Vec<(EventKind, BudgetView)> {
        let mut passed = Vec::new();
        for row in rows {
            let told = &mut self.told[row.kind as usize];
            while let Some((mark, event)) = MARKS.get(usize::from(*told)).filter(|(mark, _)| row.has_reached(*mark)) {
                let _ = mark;
                passed.push((*event, *row));
                *told += 1;
            }
        }
        passed
    }

    /// Marks that a raised budget has not passed any more are told again.
    pub(super) fn rearm(&mut self, rows: &[BudgetView]) {
        for row in rows {
            let passed = MARKS.iter().filter(|(mark, _)| row.has_reached(*mark)).count();
            let told = &mut self.told[row.kind as usize];
            *told = (*told).min(u8::try_from(passed).unwrap_or(u8::MAX));
        }
    }
}

/// What an automation reported of itself in one window; `None` where it reported nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Reported {
    /// Tokens.
    pub tokens: Option<u64>,
    /// Money.
    pub spend: Option<Money>,
}

/// What runtimes reported, by the window that they reported it in. Cheap to clone; accounts look at it, and whoever takes
/// the reports writes it once they are kept.
#[derive(Debug, Clone, Default)]
pub struct Reports(Arc<RwLock<BTreeMap<RuntimeId, (WindowId, Reported)>>>);

impl Reports {
    /// What `id` reported in `window` in all.
    pub fn put(&self, id: RuntimeId, window: WindowId, reported: Reported) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).insert(id, (window, reported));
    }

    /// What `id` has reported in `window`.
    pub fn of(&self, id: &RuntimeId, window: WindowId) -> Reported {
        let all = self.0.read().unwrap_or_else(PoisonError::into_inner);
        all.get(id).filter(|(known, _)| *known == window).map(|(_, reported)| *reported).unwrap_or_default()
    }
}

pub(super) fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_secs(86_400);

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_unix_micros(0).plus(Duration::from_secs(100 * 86_400 + seconds))
    }

    fn used(bytes: u64) -> Sums {
        Sums { wall_micros: bytes, cpu_micros: bytes, gpu_micros: bytes, egress: bytes, requests: bytes }
    }

    const ALL: Metered = Metered { cpu: true, gpu: true };

    #[test]
    fn a_window_of_a_run_goes_on_until_somebody_asks_for_a_start() {
        let mut spent = Spent::default();
        spent.begin(Window::Run, 4, true, at(0));
        assert_eq!(spent.window().to_string(), "run-4");
        spent.measure(used(10), ALL);
        spent.end_run();
        spent.begin(Window::Run, 5, false, at(1));
        spent.measure(used(7), ALL);
        assert_eq!((spent.window().to_string().as_str(), spent.total()), ("run-4", used(17)));
        assert_eq!(spent.traffic(), EgressSpent { bytes: 17, requests: 17 });
        spent.begin(Window::Run, 6, true, at(2));
        assert_eq!((spent.window().to_string().as_str(), spent.total()), ("run-6", Sums::default()));
    }

    #[test]
    fn a_window_of_time_ends_on_time_whatever_runs_and_whoever_asks() {
        let day = Window::Every(DAY);
        let mut spent = Spent::default();
        spent.begin(day, 1, true, at(10));
        assert_eq!(spent.window().to_string(), "86400s-100");
        assert_eq!(spent.window().end(), Some(at(86_400)));
        spent.measure(used(10), ALL);
        spent.end_run();
        spent.begin(day, 2, true, at(20));
        spent.measure(used(5), ALL);
        assert_eq!(spent.total(), used(15), "an operator's start is no way to a fresh budget");
        assert!(!spent.roll(day, at(86_399)));
        assert_eq!(spent.at(day, at(86_400)).total(), Sums::default());
        assert!(spent.roll(day, at(86_400)));
        assert_eq!((spent.total(), spent.of_run()), (Sums::default(), used(5)));
        spent.measure(used(8), ALL);
        assert_eq!(spent.total(), used(3), "what the run used before does not count");
        assert!(!spent.roll(day, at(0)), "a clock that was put back begins no window");
        spent.end_run();
        spent.begin(day, 3, false, at(100));
        assert_eq!(spent.total(), used(3));
    }

    #[test]
    fn windows_read_back_and_nothing_else_does() {
        for window in [WindowId::of_run(7), WindowId::of_time(DAY, at(5))] {
            assert_eq!(WindowId::parse(&window.to_string()), Some(window));
        }
        for bad in ["", "run-", "run-x", "run--1", "0s-3", "86400s-", "86400-3", "s-3"] {
            assert_eq!(WindowId::parse(bad), None, "{bad}");
        }
        let mut spent = Spent::default();
        spent.resume(WindowId::of_run(3), 5);
        assert_eq!(spent.window(), WindowId::of_run(3));
        spent.resume(WindowId::default(), 9);
        assert_eq!(spent.window(), WindowId::of_run(3));
        spent.resume(WindowId::of_run(9), 9);
        assert_eq!(spent.window(), WindowId::of_run(9), "the record of the run knows better");
    }

    fn money(text: &str) -> Money {
        Money::parse_with_currency(text).expect("money")
    }

    #[test]
    fn what_is_not_metered_is_never_nothing() {
        let budget = Budget {
            wall_time: Some(Duration::from_secs(1)),
            cpu_time: Some(Duration::from_secs(1)),
            gpu_time: Some(Duration::from_secs(1)),
            egress: Some(1),
            requests: Some(1),
            tokens: Some(1),
            spend: Some(money("1 USD")),
            window: Window::Run,
        };
        let mut spent = Spent::default();
        spent.begin(Window::Run, 1, true, at(0));
        let unmetered = |spent: &Spent, reported| -> Vec<BudgetKind> {
            let rows = spent.rows(&budget, reported);
            assert_eq!(rows.len(), BudgetKind::ALL.len() - 1);
            assert!(rows.iter().all(|row| row.used.is_some() == row.ratio.is_some()));
            rows.iter().filter(|row| row.used.is_none()).map(|row| row.kind).collect()
        };
        use BudgetKind::{CpuTime, GpuTime, Spend, Tokens};
        assert_eq!(unmetered(&spent, Reported::default()), [CpuTime, GpuTime, Tokens, Spend]);
        spent.measure(used(0), ALL);
        let reported = Reported { tokens: Some(0), spend: Some(money("0 USD")) };
        assert_eq!(unmetered(&spent, reported), []);
        let euros = Reported { tokens: None, spend: Some(money("5 EUR")) };
        assert_eq!(unmetered(&spent, euros), [Tokens, Spend], "another currency says nothing of this one");
        let none = spent.rows(&Budget::default(), reported);
        assert!(none.is_empty(), "without a budget there is no row");
    }

    #[test]
    fn each_mark_is_told_once_in_a_window_and_again_after_a_raise() {
        let day = Window::Every(DAY);
        let budget = |limit| Budget { requests: Some(limit), window: day, ..Budget::default() };
        let mut spent = Spent::default();
        spent.begin(day, 1, true, at(0));
        let told = |spent: &mut Spent, used, limit| -> Vec<EventKind> {
            spent.measure(Sums { requests: used, ..Sums::default() }, ALL);
            let rows = spent.rows(&budget(limit), Reported::default());
            spent.pass(&rows).into_iter().map(|(kind, _)| kind).collect()
        };
        use EventKind::{AutomationBudgetEscalated, AutomationBudgetExhausted, AutomationBudgetWarning};
        assert_eq!(told(&mut spent, 69, 100), []);
        assert_eq!(told(&mut spent, 70, 100), [AutomationBudgetWarning]);
        assert_eq!(told(&mut spent, 89, 100), []);
        // As after a restart of the daemon.
        let mut spent: Spent = serde_json::from_str(&serde_json::to_string(&spent).expect("JSON")).expect("read");
        assert_eq!(told(&mut spent, 100, 100), [AutomationBudgetEscalated, AutomationBudgetExhausted]);
        assert_eq!(told(&mut spent, 500, 100), []);
        let rows = spent.rows(&budget(700), Reported::default());
        spent.rearm(&rows);
        assert_eq!(told(&mut spent, 630, 700), [AutomationBudgetEscalated]);
        assert!(spent.roll(day, at(86_400)));
        assert_eq!(told(&mut spent, 631, 700), []);
        assert_eq!(told(&mut spent, 630 + 490, 700), [AutomationBudgetWarning], "another window");
    }

    proptest::proptest! {
        #[test]
        fn sums_never_fall_within_a_window(
            steps in proptest::collection::vec((0_u8..4, 0_u64..1_000, 0_u64..40_000), 1..60),
            of_time in proptest::bool::ANY,
        ) {
            let window = if of_time { Window::Every(DAY) } else { Window::Run };
            let mut spent = Spent::default();
            let (mut now, mut run, mut inside) = (at(0), 1, used(0));
            spent.begin(window, run, true, now);
            let mut before = (spent.window(), spent.total());
            for (what, amount, seconds) in steps {
                now = now.plus(Duration::from_secs(seconds));
                match what {
                    0 => {
                        inside = inside.plus(used(amount));
                        spent.measure(inside.most(spent.of_run()), ALL);
                    }
                    1 => { spent.roll(window, now); }
                    2 => {
                        spent.end_run();
                        inside = used(0);
                        run += 1;
                        spent.begin(window, run, amount % 2 == 0, now);
                    }
                    _ => {
                        let text = serde_json::to_string(&spent).expect("JSON");
                        spent = serde_json::from_str(&text).expect("read");
                    }
                }
                if spent.window() == before.0 {
                    let total = spent.total();
                    proptest::prop_assert_eq!(total.most(before.1), total);
                }
                before = (spent.window(), spent.total());
            }
        }
    }
}
