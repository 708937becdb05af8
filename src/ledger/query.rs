//! Reading a ledger: with the daemon or without it, while it writes or not.
//!
//! Everything goes through [`Reader::visit`], which gives whole lines in order. A line that is being
//! written is not seen until it is whole.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::io;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use memchr::memmem;
use serde::Serialize;

use super::error::LedgerError;
use super::line::{Line, LineHead};
use super::note::VerifierKey;
use super::record::{Kind, Outcome, Via};
use super::recovery::public_key_path;
use super::seal::SegmentRecord;
use super::segment::{self, Form, LineReader, SEAL, Step};
use crate::domain::{DenialCode, LeaseId, PersonaId, RuleId, RuntimeId, Timestamp};

/// Different values that one table of the statistics holds; the rest is counted under `(others)`, so
/// that an automation that asks for a million hosts does not fill the memory.
const MAX_STAT_KEYS: usize = 10_000;

/// A folder with a ledger in it.
#[derive(Debug, Clone)]
pub struct Reader {
    dir: PathBuf,
}

/// A line before it is parsed.
#[derive(Debug, Clone, Copy)]
pub struct RawLine<'a> {
    /// The line's bytes, without its newline: what the tree hashes.
    pub bytes: &'a [u8],
    /// Its sequence number.
    pub seq: u64,
    head: LineHead<'a>,
}

impl RawLine<'_> {
    /// The line, parsed.
    ///
    /// # Errors
    /// [`LedgerError::Damaged`] when it is not a line.
    pub fn parse(&self) -> Result<Line, LedgerError> {
        Line::parse(self.bytes)
            .map_err(|fault| LedgerError::damaged(Path::new("ledger"), None, Some(self.seq), fault.to_string()))
    }
}

/// Is shown every line, and may end the walk.
type RawVisitor<'f> = dyn FnMut(RawLine<'_>) -> Result<ControlFlow<()>, LedgerError> + 'f;

/// Is shown every matching line, and may end the walk.
type SelectVisitor<'f> = dyn FnMut(&RawLine<'_>, Line) -> Result<ControlFlow<()>, LedgerError> + 'f;

/// Which lines. Empty: all of them. Every condition that is set must hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    /// Of this persona.
    pub persona: Option<PersonaId>,
    /// From this runtime, in any of its runs.
    pub runtime: Option<RuntimeId>,
    /// To this host; `*.example.com` for every name below it.
    pub host: Option<String>,
    /// Of this kind.
    pub kind: Option<Kind>,
    /// With this decision.
    pub decision: Option<Outcome>,
    /// Denied with this code.
    pub code: Option<DenialCode>,
    /// Through this rule.
    pub rule: Option<RuleId>,
    /// Not before this moment.
    pub since: Option<Timestamp>,
    /// Before this moment.
    pub until: Option<Timestamp>,
    /// From this sequence number on.
    pub from_seq: Option<u64>,
    /// Up to this sequence number, itself included.
    pub to_seq: Option<u64>,
}

impl Filter {
    /// Whether `line` meets every condition.
    pub fn matches(&self, line: &Line) -> bool {
        fn is<T: PartialEq + ?Sized>(wanted: Option<&T>, value: Option<&T>) -> bool {
            wanted.is_none() || wanted == value
        }
        is(self.persona.as_ref(), line.persona.as_ref())
            && is(self.runtime.as_ref().map(RuntimeId::as_str), line.runtime.as_deref())
            && is(self.kind.as_ref(), Some(&line.kind))
            && is(self.decision.as_ref(), line.decision.as_ref())
            && is(self.code.as_ref(), line.code.as_ref())
            && is(self.rule.as_ref(), line.rule.as_ref())
            && self.since.is_none_or(|since| line.time >= since)
            && self.until.is_none_or(|until| line.time < until)
            && self.from_seq.is_none_or(|from| line.seq >= from)
            && self.to_seq.is_none_or(|to| line.seq <= to)
            && self
                .host
                .as_deref()
                .is_none_or(|pattern| line.host.as_deref().is_some_and(|host| host_is(pattern, host)))
    }

    /// Bytes that every matching line must contain: most lines need not be parsed.
    fn needles(&self) -> Vec<memmem::Finder<'static>> {
        let persona = self.persona.as_ref().map(|persona| format!("\"persona\":\"{persona}\""));
        let runtime = self.runtime.as_ref().map(|runtime| format!("\"runtime\":\"{runtime}\""));
        let code = self.code.map(|code| format!("\"code\":\"{code}\""));
        let rule = self.rule.as_ref().map(|rule| format!("\"rule\":\"{rule}\""));
        let needles = [persona, runtime, code, rule].into_iter().flatten();
        needles.map(|needle| memmem::Finder::new(needle.as_bytes()).into_owned()).collect()
    }
}

fn host_is(pattern: &str, host: &str) -> bool {
    match pattern.strip_prefix('*') {
        Some(suffix) if suffix.starts_with('.') => host.len() > suffix.len() && host.ends_with(suffix),
        _ => host == pattern,
    }
}

impl Reader {
    /// Looks at the ledger in `dir`.
    ///
    /// # Errors
    /// When the folder cannot be listed.
    pub fn open(dir: &Path) -> Result<Self, LedgerError> {
        segment::list(dir)?;
        Ok(Self { dir: dir.to_owned() })
    }

    /// The folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Gives every line from `from_seq` on, in order, until `see` breaks.
    ///
    /// # Errors
    /// When a file cannot be read, a line is not a line, or `see` fails.
    pub fn visit(
        &self,
        from_seq: u64,
        mut see: impl FnMut(RawLine<'_>) -> Result<ControlFlow<()>, LedgerError>,
    ) -> Result<(), LedgerError> {
        for first in self.segments(from_seq)? {
            if self.visit_segment(first, from_seq, &mut see)?.is_break() {
                break;
            }
        }
        Ok(())
    }

    /// First sequence numbers of the segments that may have lines from `from_seq` on.
    fn segments(&self, from_seq: u64) -> Result<Vec<u64>, LedgerError> {
        let all = segment::list(&self.dir)?;
        let with_lines: Vec<u64> = all
            .into_iter()
            .filter(|(_, files)| files.form().is_some() && !files.removed)
            .map(|(first, _)| first)
            .collect();
        let skip = with_lines.partition_point(|first| *first <= from_seq).saturating_sub(1);
        Ok(with_lines[skip..].to_vec())
    }

    fn visit_segment(
        &self,
        first: u64,
        from_seq: u64,
        see: &mut RawVisitor<'_>,
    ) -> Result<ControlFlow<()>, LedgerError> {
        let mut reader = LineReader::open(&self.dir, first)?;
        let path = reader.path().to_owned();
        loop {
            let number = reader.line() + 1;
            match reader.step()? {
                Step::Line(bytes) => {
                    let head = LineHead::read(bytes)
                        .ok_or_else(|| LedgerError::damaged(&path, Some(number), None, "this is not a ledger line"))?;
                    if head.seq >= from_seq && see(RawLine { bytes, seq: head.seq, head })?.is_break() {
                        return Ok(ControlFlow::Break(()));
                    }
                }
                Step::End { .. } => return Ok(ControlFlow::Continue(())),
                Step::TooLong => return Err(LedgerError::damaged(&path, Some(number), None, "the line has no end")),
            }
        }
    }

    /// Gives the matching lines, oldest first, until `see` breaks.
    ///
    /// # Errors
    /// As [`Reader::visit`].
    pub fn select(
        &self,
        filter: &Filter,
        mut see: impl FnMut(&RawLine<'_>, Line) -> Result<ControlFlow<()>, LedgerError>,
    ) -> Result<(), LedgerError> {
        for first in self.segments_of(filter)? {
            let from = filter.from_seq.unwrap_or(1);
            if self.select_in(first, from, filter, &mut see)?.is_break() {
                break;
            }
        }
        Ok(())
    }

    fn select_in(
        &self,
        first: u64,
        from_seq: u64,
        filter: &Filter,
        see: &mut SelectVisitor<'_>,
    ) -> Result<ControlFlow<()>, LedgerError> {
        let needles = filter.needles();
        let last = filter.to_seq.unwrap_or(u64::MAX);
        let mut past_end = false;
        let flow = self.visit_segment(first, from_seq, &mut |raw| {
            past_end = raw.seq > last;
            if past_end {
                return Ok(ControlFlow::Break(()));
            }
            if !needles.iter().all(|needle| needle.find(raw.bytes).is_some()) {
                return Ok(ControlFlow::Continue(()));
            }
            let line = raw.parse()?;
            if filter.matches(&line) { see(&raw, line) } else { Ok(ControlFlow::Continue(())) }
        })?;
        Ok(if past_end { ControlFlow::Break(()) } else { flow })
    }

    /// The segments that may have matching lines. Signed times of sealed ones spare reading them.
    fn segments_of(&self, filter: &Filter) -> Result<Vec<u64>, LedgerError> {
        let mut segments = self.segments(filter.from_seq.unwrap_or(1))?;
        if let Some(to) = filter.to_seq {
            segments.retain(|first| *first <= to);
        }
        if filter.since.is_some() || filter.until.is_some() {
            let key = std::fs::read_to_string(public_key_path(&self.dir)).ok();
            let key = key.and_then(|text| VerifierKey::parse(&text).ok());
            segments.retain(|first| {
                let path = segment::path(&self.dir, *first, SEAL);
                let record = key.as_ref().and_then(|key| SegmentRecord::load(&path, key, *first).ok());
                record.is_none_or(|record| {
                    filter.since.is_none_or(|since| record.last_time >= since)
                        && filter.until.is_none_or(|until| record.first_time < until)
                })
            });
        }
        Ok(segments)
    }

    /// The first `limit` matching lines, oldest first.
    ///
    /// # Errors
    /// As [`Reader::visit`].
    pub fn query(&self, filter: &Filter, limit: usize) -> Result<Vec<Line>, LedgerError> {
        let mut found = Vec::new();
        if limit == 0 {
            return Ok(found);
        }
        self.select(filter, |_, line| {
            found.push(line);
            Ok(if found.len() < limit { ControlFlow::Continue(()) } else { ControlFlow::Break(()) })
        })?;
        Ok(found)
    }

    /// The last `limit` matching lines, oldest first. Reads no more segments than it must.
    ///
    /// # Errors
    /// As [`Reader::visit`].
    pub fn latest(&self, filter: &Filter, limit: usize) -> Result<Vec<Line>, LedgerError> {
        let mut found = VecDeque::new();
        for first in self.segments_of(filter)?.into_iter().rev() {
            let wanted = limit - found.len();
            if wanted == 0 {
                break;
            }
            let mut here = VecDeque::new();
            let _past_end = self.select_in(first, filter.from_seq.unwrap_or(1), filter, &mut |_, line| {
                if here.len() == wanted {
                    here.pop_front();
                }
                here.push_back(line);
                Ok(ControlFlow::Continue(()))
            })?;
            here.into_iter().rev().for_each(|line| found.push_front(line));
        }
        Ok(found.into())
    }

    /// Counts over the matching lines.
    ///
    /// # Errors
    /// As [`Reader::visit`].
    pub fn stats(&self, filter: &Filter) -> Result<Stats, LedgerError> {
        let mut stats = Stats::default();
        self.select(filter, |_, line| {
            stats.add(&line);
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(stats)
    }

    /// What each rule of each persona and each lease was used for, from line `since_seq` on. A use is an `open`; its
    /// bytes are those of its `close`, also when that names no rule itself.
    ///
    /// # Errors
    /// As [`Reader::visit`].
    pub fn sums(&self, since_seq: u64) -> Result<Sums, LedgerError> {
        let mut sums = Sums::default();
        let mut opened = HashMap::<u64, Spender>::new();
        self.visit(since_seq, |raw| {
            if !raw.head.is_kind("open") && !raw.head.is_kind("close") {
                return Ok(ControlFlow::Continue(()));
            }
            let line = raw.parse()?;
            let before = line.opened.and_then(|seq| opened.remove(&seq));
            let Some(spender) = Spender::of(&line).or(before) else { return Ok(ControlFlow::Continue(())) };
            let sum = match &spender {
                Spender::Rule(persona, rule) => sums.by_rule.entry((persona.clone(), rule.clone())).or_default(),
                Spender::Lease(lease) => sums.by_lease.entry(lease.clone()).or_default(),
            };
            if line.kind == Kind::Open {
                sum.uses += 1;
                opened.insert(line.seq, spender);
            } else {
                let bytes = line.bytes_up.unwrap_or(0).saturating_add(line.bytes_down.unwrap_or(0));
                sum.bytes = sum.bytes.saturating_add(bytes);
            }
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(sums)
    }
}

/// Whose budget a line is about.
enum Spender {
    Rule(PersonaId, RuleId),
    Lease(LeaseId),
}

impl Spender {
    fn of(line: &Line) -> Option<Self> {
        if let Some((persona, rule)) = line.persona.as_ref().zip(line.rule.as_ref()) {
            return Some(Self::Rule(persona.clone(), rule.clone()));
        }
        // Where the posture grants, a lease only stands for the permission to use the proxy. A close does not say what
        // granted it.
        let leased = line.kind == Kind::Close || line.via == Some(Via::Lease);
        let lease = line.lease.as_deref().filter(|_| leased)?;
        LeaseId::parse(lease).ok().map(Self::Lease)
    }
}

/// What rules and leases were used for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sums {
    /// By persona and rule.
    pub by_rule: SumsByRule,
    /// By lease: what was granted under it.
    pub by_lease: BTreeMap<LeaseId, RuleSums>,
}

/// Uses and bytes by persona and rule.
pub type SumsByRule = BTreeMap<(PersonaId, RuleId), RuleSums>;

/// What one rule was used for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct RuleSums {
    /// Grants.
    pub uses: u64,
    /// Bytes both ways of the connections that ended.
    pub bytes: u64,
}

/// Counts over some lines.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Stats {
    /// Lines counted.
    pub lines: u64,
    /// Sequence number of the first of them.
    pub first_seq: Option<u64>,
    /// Sequence number of the last of them.
    pub last_seq: Option<u64>,
    /// Time of the first of them.
    pub first_time: Option<Timestamp>,
    /// Time of the last of them.
    pub last_time: Option<Timestamp>,
    /// By persona; `(none)` where no identity was proved.
    pub personas: BTreeMap<String, PersonaStats>,
    /// Denials by code.
    pub codes: BTreeMap<String, u64>,
    /// Grants and denials by host.
    pub hosts: BTreeMap<String, u64>,
    /// Bytes from clients to upstreams.
    pub bytes_up: u64,
    /// Bytes from upstreams to clients.
    pub bytes_down: u64,
}

/// Counts of one persona.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct PersonaStats {
    /// Grants, those in report mode included.
    pub opened: u64,
    /// Denials.
    pub denied: u64,
    /// Grants in report mode that enforcement would have denied.
    pub would_deny: u64,
    /// Bytes from clients to upstreams.
    pub bytes_up: u64,
    /// Bytes from upstreams to clients.
    pub bytes_down: u64,
}

impl Stats {
    /// Counts one more line.
    pub fn add(&mut self, line: &Line) {
        self.lines += 1;
        self.first_seq.get_or_insert(line.seq);
        self.first_time.get_or_insert(line.time);
        (self.last_seq, self.last_time) = (Some(line.seq), Some(line.time));
        let (up, down) = (line.bytes_up.unwrap_or(0), line.bytes_down.unwrap_or(0));
        self.bytes_up = self.bytes_up.saturating_add(up);
        self.bytes_down = self.bytes_down.saturating_add(down);
        if let (Some(code), Kind::Deny) = (line.code, line.kind) {
            *bounded_entry(&mut self.codes, code.code()) += 1;
        }
        if let (Some(host), Kind::Open | Kind::Deny) = (&line.host, line.kind) {
            *bounded_entry(&mut self.hosts, host) += 1;
        }
        if matches!(line.kind, Kind::Open | Kind::Deny | Kind::Close) {
            let name = line.persona.as_ref().map_or("(none)", |persona| persona.as_str());
            let persona = bounded_entry(&mut self.personas, name);
            persona.opened += u64::from(line.kind == Kind::Open);
            persona.denied += u64::from(line.kind == Kind::Deny);
            persona.would_deny += u64::from(line.kind == Kind::Open && line.decision == Some(Outcome::WouldDeny));
            persona.bytes_up = persona.bytes_up.saturating_add(up);
            persona.bytes_down = persona.bytes_down.saturating_add(down);
        }
    }
}

fn bounded_entry<'a, T: Default>(table: &'a mut BTreeMap<String, T>, key: &str) -> &'a mut T {
    let key = if table.len() < MAX_STAT_KEYS || table.contains_key(key) { key } else { "(others)" };
    table.entry(key.to_owned()).or_default()
}

/// Gives the lines that were added since it was last asked. Holds no file open between two asks, so
/// seals, restarts and repairs in between do not disturb it.
#[derive(Debug, Clone)]
pub struct Follower {
    dir: PathBuf,
    /// The next line to give.
    next_seq: u64,
    /// Where it starts, when that is known: a segment and a place in its plain file.
    place: Option<(u64, u64)>,
}

impl Follower {
    /// Follows the ledger in `dir` from line `from_seq` on.
    pub fn new(dir: &Path, from_seq: u64) -> Self {
        Self { dir: dir.to_owned(), next_seq: from_seq.max(1), place: None }
    }

    /// The same ledger from line `from_seq` on.
    #[must_use]
    pub fn from(&self, from_seq: u64) -> Self {
        Self::new(&self.dir, from_seq)
    }

    /// The sequence number of the next line that it will give.
    pub const fn next_seq(&self) -> u64 {
        self.next_seq
    }

    /// At most `limit` lines that are new; none when there is nothing new.
    ///
    /// # Errors
    /// When a file cannot be read or a line is not a line.
    pub fn poll(&mut self, limit: usize) -> Result<Vec<Line>, LedgerError> {
        let mut lines = Vec::new();
        while lines.len() < limit {
            let before = lines.len();
            let Some((first, offset)) = self.find()? else { break };
            let mut reader = match open_at(&self.dir, first, offset) {
                Ok(reader) => reader,
                // Sealed and gone, or removed by retention, since it was listed: look again next time.
                Err(LedgerError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                    self.place = None;
                    break;
                }
                Err(error) => return Err(error),
            };
            while lines.len() < limit {
                let Step::Line(bytes) = reader.step()? else { break };
                let head = LineHead::read(bytes).ok_or_else(|| {
                    LedgerError::damaged(&self.dir, None, Some(self.next_seq), "this is not a ledger line")
                })?;
                if head.seq >= self.next_seq {
                    lines.push(RawLine { bytes, seq: head.seq, head }.parse()?);
                    self.next_seq = head.seq + 1;
                }
            }
            self.place = Some((first, reader.offset()));
            if lines.len() == before {
                break;
            }
        }
        Ok(lines)
    }

    /// The segment with the next line: the one it was in, or the newest that starts at or before it.
    fn find(&self) -> Result<Option<(u64, u64)>, LedgerError> {
        let segments = Reader { dir: self.dir.clone() }.segments(self.next_seq)?;
        Ok(segments.first().map(|first| match self.place {
            Some((at, offset)) if at == *first => (at, offset),
            _ => (*first, 0),
        }))
    }
}

/// Opens a segment at a place in its plain file; a sealed one is read from its beginning.
fn open_at(dir: &Path, first: u64, offset: u64) -> Result<LineReader, LedgerError> {
    match LineReader::open_plain_at(dir, first, offset) {
        Err(LedgerError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            LineReader::open_form(dir, first, Form::Zstd)
        }
        other => other,
    }
}
