//! W3C Trace Context: what a client's `traceparent` says (<https://www.w3.org/TR/trace-context/>).

use std::fmt;

/// The span that a client names as the parent of its request. Chosen by the client and believed for nothing but that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceParent {
    /// The trace.
    pub trace: [u8; 16],
    /// The span in it.
    pub span: [u8; 8],
    /// The flags, as sent.
    pub flags: u8,
}

impl TraceParent {
    /// Reads version 00 exactly: 55 bytes, lower-case hexadecimal, no id of zeros. A later version might mean something
    /// else, so none is read.
    pub fn parse(text: &[u8]) -> Option<Self> {
        let text: &[u8; 55] = text.try_into().ok()?;
        let dashes = [2, 35, 52].iter().all(|at| text[*at] == b'-');
        if !dashes || &text[..2] != b"00" {
            return None;
        }
        let trace: [u8; 16] = unhex(&text[3..35])?;
        let span: [u8; 8] = unhex(&text[36..52])?;
        let [flags] = unhex(&text[53..])?;
        (trace != [0; 16] && span != [0; 8]).then_some(Self { trace, span, flags })
    }
}

/// The form of version 00, which reads back as the same.
impl fmt::Display for TraceParent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("00-")?;
        self.trace.iter().try_for_each(|byte| write!(f, "{byte:02x}"))?;
        f.write_str("-")?;
        self.span.iter().try_for_each(|byte| write!(f, "{byte:02x}"))?;
        write!(f, "-{:02x}", self.flags)
    }
}

fn unhex<const N: usize>(text: &[u8]) -> Option<[u8; N]> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(text.chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The example of the specification, section 3.2.4.
    const EXAMPLE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn the_example_of_the_specification_reads_back() {
        let parent = TraceParent::parse(EXAMPLE.as_bytes()).expect("valid");
        assert_eq!((parent.trace[0], parent.span[1], parent.flags), (0x4b, 0xf0, 1));
        assert_eq!(parent.to_string(), EXAMPLE);
    }

    #[test]
    fn anything_else_is_none() {
        for bad in [
            "",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-what",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01 ",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0g",
            "00_4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e473\u{e9}00f067aa0ba902b7-01",
        ] {
            assert_eq!(TraceParent::parse(bad.as_bytes()), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn what_is_read_is_what_was_written(bytes in proptest::collection::vec(any::<u8>(), 0..64), at in 0..55_usize, byte: u8) {
            let mut near = EXAMPLE.as_bytes().to_vec();
            near[at] = byte;
            for text in [bytes, near] {
                if let Some(parent) = TraceParent::parse(&text) {
                    prop_assert_eq!(parent.to_string().into_bytes(), text);
                }
            }
        }
    }
}
