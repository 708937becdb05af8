//! Ids of traces and spans, made from what they are about.

use std::fmt;

use serde::{Serialize, Serializer};

use crate::domain::{TraceParent, hmac_sha256};

/// An id of `N` bytes, never of zeros; hexadecimal, as OTLP's JSON wants it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Id<const N: usize>(pub(super) [u8; N]);

/// A trace.
pub(super) type TraceId = Id<16>;
/// A span.
pub(super) type SpanId = Id<8>;

/// A span and the trace that it is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) trace: TraceId,
    pub(super) span: SpanId,
}

/// Makes ids: the same for the same thing, also after a restart, and others for another ledger.
#[derive(Debug, Clone)]
pub(super) struct Ids {
    key: Vec<u8>,
}

impl Ids {
    /// Ids below `key`, which is the ledger's own: its public key.
    pub(super) fn new(key: impl Into<Vec<u8>>) -> Self {
        Self { key: key.into() }
    }

    /// The span of the decision with number `seq`.
    pub(super) fn decision(&self, seq: u64) -> Place {
        self.place("decision", &[&seq.to_be_bytes()])
    }

    /// The span of a run.
    pub(super) fn run(&self, runtime: &str, run: u64) -> Place {
        self.place("run", &[&run.to_be_bytes(), runtime.as_bytes()])
    }

    /// The span of a run's launch, in the trace of the run.
    pub(super) fn launch(&self, runtime: &str, run: u64) -> Place {
        let span = self.place("launch", &[&run.to_be_bytes(), runtime.as_bytes()]).span;
        Place { span, ..self.run(runtime, run) }
    }

    /// A UUID of version 8 (RFC 9562, section 5.8) that stays that of this ledger.
    pub(super) fn instance(&self) -> String {
        let mut bytes = self.place("instance", &[]).trace.0;
        bytes[6] = 0x80 | bytes[6] & 0x0f;
        bytes[8] = 0x80 | bytes[8] & 0x3f;
        let text = Id(bytes).to_string();
        [&text[..8], &text[8..12], &text[12..16], &text[16..20], &text[20..]].join("-")
    }

    fn place(&self, what: &str, of: &[&[u8]]) -> Place {
        let mut parts: Vec<&[u8]> = vec![b"arw trace ", what.as_bytes(), b" "];
        parts.extend(of);
        let digest = hmac_sha256(&self.key, &parts);
        let (mut trace, mut span) = ([0; 16], [0; 8]);
        trace.copy_from_slice(&digest[..16]);
        span.copy_from_slice(&digest[16..24]);
        // Zeros mean that there is no id.
        trace[0] |= u8::from(trace == [0; 16]);
        span[0] |= u8::from(span == [0; 8]);
        Place { trace: Id(trace), span: Id(span) }
    }
}

impl From<TraceParent> for Place {
    fn from(parent: TraceParent) -> Self {
        Self { trace: Id(parent.trace), span: Id(parent.span) }
    }
}

impl<const N: usize> fmt::Display for Id<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl<const N: usize> Serialize for Id<N> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn the_same_thing_has_the_same_ids_and_nothing_else_has() {
        let (ids, other) = (Ids::new("one"), Ids::new("two"));
        assert_eq!(ids.decision(7), Ids::new("one").decision(7));
        let places =
            [ids.decision(7), ids.decision(8), other.decision(7), ids.run("a", 7), ids.run("b", 7), ids.run("a", 8)];
        assert_eq!(places.iter().map(|place| place.trace.to_string()).collect::<BTreeSet<_>>().len(), places.len());
        assert_eq!(places.iter().map(|place| place.span.to_string()).collect::<BTreeSet<_>>().len(), places.len());
        assert_eq!(ids.launch("a", 7).trace, ids.run("a", 7).trace);
        assert_ne!(ids.launch("a", 7).span, ids.run("a", 7).span);
    }

    #[test]
    fn ids_are_as_long_as_the_specification_wants() {
        let place = Ids::new("one").decision(1);
        assert_eq!((place.trace.to_string().len(), place.span.to_string().len()), (32, 16));
        let instance = Ids::new("one").instance();
        assert_eq!((instance.len(), &instance[14..15]), (36, "8"));
        assert!(matches!(&instance[19..20], "8" | "9" | "a" | "b"), "{instance}");
    }
}
