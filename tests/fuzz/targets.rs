//! What is fuzzed: one function per parser of foreign bytes, which panics when a property is broken.
//!
//! Shared by the bounded runner (`main.rs`) and by the coverage-guided one (`libfuzzer/`). To add a
//! target: a function here, a row in [`TARGETS`], and a few inputs in `seeds/<name>/`.

use arw::domain::{Host, HostName, Target as Destination, decoded_path, normalise_path};
use arw::proxy::first_flight::{MAX_FLIGHT, Verdict, inspect};

/// A parser under test.
pub(crate) struct Target {
    /// As `FUZZ_TARGET` and the folder of its seeds name it.
    pub(crate) name: &'static str,
    /// Panics when `data` breaks a property.
    pub(crate) run: fn(&[u8]),
    /// Bytes with a meaning for this parser, which blind mutation would not find.
    pub(crate) words: &'static [&'static [u8]],
}

/// All of them.
pub(crate) const TARGETS: &[Target] = &[
    Target {
        name: "client_hello",
        run: client_hello,
        words: &[
            b"\x16\x03\x01",
            b"\x16\x03\x03\x00\x01",
            b"\x15\x03\x03\x00\x02\x01\x5a",
            b"\x80\x2e\x01\x00\x02",
            b"\x01\x00\x00",
            b"\xfe\x0d\x00\x00",
            b"\x00\x00\x00\x0e\x00\x0c\x00\x00\x09a.example",
            b"\x00\x2b\x00\x03\x02\x03\x04",
            b"\x00\x10\x00\x05\x00\x03\x02h2",
            b"\x00\x00",
            b"\xff\xff",
            b"example",
        ],
    },
    Target {
        name: "host",
        run: host,
        words: &[
            b".",
            b"..",
            b"-",
            b"_",
            b":",
            b"[",
            b"]",
            b"::",
            b"%",
            b"%25",
            b"@",
            b"\0",
            b"0x",
            b"127.0.0.1",
            b":443",
            b"xn--",
            b"xn--bcher-kva",
            b"ffff:",
            "ü".as_bytes(),
            "。".as_bytes(),
            "１".as_bytes(),
            "ß".as_bytes(),
            "\u{ad}".as_bytes(),
            "\u{200d}".as_bytes(),
            "\u{212a}".as_bytes(),
            "א".as_bytes(),
            "Σ".as_bytes(),
            "\u{308}".as_bytes(),
        ],
    },
    Target {
        name: "path",
        run: path,
        words: &[
            b"/", b"//", b"/.", b"/..", b"/../", b"%2e", b"%2E%2e", b"%2f", b"%5c", b"\\", b";", b"%3b", b"%00",
            b"%25", b"%c0%ae", b"%c3%a9", b"%", b"|", b"?", b"#", b"*",
        ],
    },
];

/// A verdict is final, and does not depend on how the hello is cut into records.
fn client_hello(data: &[u8]) {
    let whole = inspect(data);
    // All cuts of a short input, some of a long one: each costs a look at everything before it.
    let step = data.len() / 64 + 1;
    for end in (0..data.len()).step_by(step) {
        let early = inspect(&data[..end]);
        assert!(early == Verdict::NeedMore || early == whole, "cut at {end}: {early:?}, later {whole:?}");
    }
    assert!(data.len() < MAX_FLIGHT || whole != Verdict::NeedMore, "a full buffer has a verdict");
    let Verdict::Hello(hello) = whole else { return };
    if let Some(name) = &hello.sni {
        assert_eq!(HostName::parse(name.as_str().as_bytes()).as_ref(), Ok(name));
    }
    assert!(hello.alpn.iter().all(|name| !name.is_empty()));
    let first = usize::from(u16::from_be_bytes([data[3], data[4]]));
    let in_one_record = data.len() >= 9 && first == 4 + usize::from(u16::from_be_bytes([data[7], data[8]]));
    if in_one_record && first <= 4096 {
        let size = 1 + first % 7;
        let cut: Vec<u8> = data[5..5 + first]
            .chunks(size)
            .flat_map(|part| [&[22, 3, 3, 0, u8::try_from(part.len()).expect("at most seven")][..], part].concat())
            .collect();
        assert_eq!(inspect(&cut), Verdict::Hello(hello), "in records of {size} bytes");
    }
}

/// What is accepted has one normal form, which is plain and means the same when read again.
fn host(data: &[u8]) {
    if let Ok(host) = Host::parse(data) {
        let shown = host.to_string();
        assert_eq!(Host::parse(shown.as_bytes()).as_ref(), Ok(&host));
        if let Host::Name(name) = &host {
            let text = name.as_str();
            assert!(text.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.')), "{text}");
            assert!(text.len() <= 253 && name.labels().all(|label| (1..=63).contains(&label.len())), "{text}");
            let last = name.labels().next_back().expect("a name has a label");
            assert!(!last.bytes().all(|byte| byte.is_ascii_digit()), "{text} may be an address");
            assert_eq!(HostName::parse(data).as_ref(), Ok(name));
            assert_eq!(HostName::parse(format!("{}.", text.to_ascii_uppercase()).as_bytes()).as_ref(), Ok(name));
        }
    }
    for default_port in [None, Some(443)] {
        if let Ok(target) = Destination::parse(data, default_port) {
            assert!(target.port != 0);
            assert_eq!(Destination::parse(target.to_string().as_bytes(), None).as_ref(), Ok(&target));
        }
    }
}

/// What is accepted has one normal form without dot segments, hidden slashes or raw special bytes.
fn path(data: &[u8]) {
    let Ok(raw) = std::str::from_utf8(data) else { return };
    let _ = decoded_path(raw);
    let Ok(normal) = normalise_path(raw) else { return };
    assert_eq!(normalise_path(&normal).as_ref(), Ok(&normal));
    assert!(normal.starts_with('/') && normal.bytes().all(|byte| byte.is_ascii_graphic()), "{normal}");
    assert!(!normal.split('/').any(|segment| matches!(segment, "." | "..")), "{normal}");
    let decoded = decoded_path(&normal);
    assert!(decoded.len() <= normal.len() && !decoded.contains('\\'), "{decoded}");
    assert_eq!(decoded.matches('/').count(), normal.matches('/').count(), "{decoded}");
}
