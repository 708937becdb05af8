//! What is fuzzed: one function per parser of foreign bytes, which panics when a property is broken.
//!
//! Shared by the bounded runner (`main.rs`) and by the coverage-guided one (`libfuzzer/`). To add a
//! target: a function here, a row in [`TARGETS`], and a few inputs in `seeds/<name>/`.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use arw::config::PersonaFile;
use arw::domain::{Host, HostName, Target as Destination, Timestamp, decoded_path, normalise_path};
use arw::governance::bundles::read_catalogue_text;
use arw::governance::recipes;
use arw::governance::signed::{Kind, Material, Signers, Tree, Version, verify};
use arw::ledger::Line;
use arw::policy::{PolicySettings, Snapshot};
use arw::proxy::body::{BodyReader, Step};
use arw::proxy::first_flight::{MAX_FLIGHT, Verdict, inspect};
use arw::proxy::head::{Framing, RequestHead, RequestTarget, ResponseHead, head_length};
use arw::proxy::transparent::message::{Code, Query, Unread};
use arw::sandbox::charter::{Charter, Judge};
use arw::sandbox::notify::{MAX_STATUS, Notice, parse as read_notices};
use arw::sandbox::plan::{Access, Mount};
use arw::sandbox::{Plan, Profile, ProfileName, Spoken, User};
use arw::sys::message::{MAX_DESCRIPTORS, pair, send};
use bytes::{Bytes, BytesMut};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use serde_json::{Value, json};

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
        name: "bundles_file",
        run: bundles_file,
        words: &[
            b"{\"version\":1,\"bundles\":[",
            b"\"metadata\":{\"consent\":{\"required\":true",
            b"\"scopes\":[\"text:read\"]",
            b"\"modalities\":[\"text\"]",
            b"\"artifacts\":[{\"path\":\"../x\"",
            b"\\u0061",
            b"\\ud83d\\ude00",
            b"\\ud800",
            b"null",
            b"-0",
            b"1e999",
            b"{",
            b"}",
            b"[",
            b"]",
            b",",
            b":",
            b"\"",
        ],
    },
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
        name: "dns_query",
        run: dns_query,
        words: &[
            b"\x00\x01\x00\x00\x00\x00\x00\x00",
            b"\x00\x01\x00\x00\x00\x00\x00\x01",
            b"\x00\x01\x00\x01",
            b"\x00\x1c\x00\x01",
            b"\x00\x41\x00\x01",
            b"\x00\x00\x29\x04\xd0\x00\x00\x80\x00\x00\x00",
            b"\xc0\x0c",
            b"\x01a\x04test\x00",
            b"\x3f",
            b"\x80\x00",
            b"\x01\x00",
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
        name: "ledger_line",
        run: ledger_line,
        words: &[
            b"{\"seq\":1,",
            b"\"time\":\"2026-11-22T10:31:21.123456Z\",",
            b"\"kind\":\"open\"",
            b"\"kind\":\"close\"",
            b"\"persona\":\"demo\"",
            b"\"bytes_up\":18446744073709551615",
            b"\\u0000",
            b"null",
            b"}",
            b"\"opened\":1",
        ],
    },
    Target {
        name: "recipe_file",
        run: recipe_file,
        words: &[
            b"id = \"a\"\n",
            b"version = \"1.0.0\"\n",
            b"egress = [\"https://a.example\"]\n",
            b"[process]\ncommand = \"/recipe/x\"\n",
            b"secrets = { A = \"/etc/shadow\" }\n",
            b"user = 0\n",
            b"schedule = \"0 0 29 2 *\"\n",
            b"{\"id\":\"a\",",
            b"\"process\":{\"command\":\"x\"}",
            b"\"",
            b"\n",
        ],
    },
    Target {
        name: "plan",
        run: plan,
        words: &[
            b"\"user\":{\"host\":{\"uid\":0,\"gid\":0}}",
            b"{\"bind\":{\"source\":\"/\",\"target\":\"/x\",\"access\":\"read_write\",\"absent\":\"fault\",\"owner\":\"command\"}},",
            b"\"without\":[\"seccomp\"]",
            b"\"terminals\",",
            b"4294967295",
            b"18446744073709551616",
            b"-1",
            b"[0,255,256]",
            b"\\u0000",
            b"null",
            b"..",
            b",",
            b"\"",
            b"{",
            b"}",
        ],
    },
    Target {
        name: "signed_note",
        run: signed_note,
        words: &[
            b"arw.recipe/v1\n",
            b"arw.bundle/v1\n",
            b"\nsigned 2026-11-27T13:04:03.012565Z\n",
            b"\ntree sha256:",
            b"\nversion ",
            b"\n\n",
            "\n\n\u{2014} release-2026 ".as_bytes(),
            b"=\n",
            b"\r",
        ],
    },
    Target {
        name: "notice",
        run: notice,
        words: &[b"READY=1\n", b"WATCHDOG=1\n", b"STATUS=", b"\n", b"\0", b"\xff", b"\x1b[2J", "\u{85}".as_bytes()],
    },
    Target {
        name: "stage_message",
        run: stage_message,
        words: &[
            b"{\"launch\":{",
            b"{\"prepare\":{",
            b"{\"exec\":{",
            b"{\"failed\":{",
            b"\"namespaces\":[\"mount\",\"pid\"]",
            b"\"joins\":18446744073709551615",
            b"\"joins\":2",
            b"\"cgroup\":true",
            b"\"log\":9",
            b"\"exit_record\":true",
            b"\"adoption\":true",
            b"\"ask\":7",
            b"\"listeners\"",
            b"\"notify\"",
            b"\"stray\":1",
            b"null",
            b",",
            b"\"",
            b"{",
            b"}",
            b"[",
            b"]",
        ],
    },
    Target {
        name: "persona_file",
        run: persona_file,
        words: &[
            b"[[allow]]\n",
            b"[[deny]]\n",
            b"hosts = [\"*.example.com\"]\n",
            b"cidrs = [\"10.0.0.0/8\"]\n",
            b"ports = [443, \"8000-8010\"]\n",
            b"schemes = [\"tcp\"]\n",
            b"posture = \"public\"\n",
            b"id = \"a\"\n",
            b"max_bytes = \"1GiB\"\n",
            b"rate = \"10/s\"\n",
            b"paths = [\"/a/*\"]\n",
            b"\"",
            b"[",
            b"]",
            b"\n",
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
    Target {
        name: "request_head",
        run: request_head,
        words: &[
            b"GET ",
            b"CONNECT ",
            b"http://",
            b" HTTP/1.1\r\n",
            b" HTTP/1.0\r\n",
            b"\r\n",
            b"\r\n\r\n",
            b"\n",
            b"\r",
            b"Host: a\r\n",
            b"Content-Length: 5\r\n",
            b"Transfer-Encoding: chunked\r\n",
            b"Connection: close, a\r\n",
            b"Upgrade: websocket\r\n",
            b"\0",
            b" ",
            b"\t",
            b":",
            b"@",
            b"%2e%2e",
            b"PRI * HTTP/2.0",
        ],
    },
    Target {
        name: "chunked_body",
        run: chunked_body,
        words: &[
            b"0\r\n",
            b"\r\n",
            b"5\r\nhello\r\n",
            b";a=b",
            b"\n",
            b"\r",
            b"ffffffffffffffff",
            b"X: y\r\n",
            b"+",
            b"0x",
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

/// A head that passes has one reading: a second parse of what we would send agrees with the first.
fn request_head(data: &[u8]) {
    const MAX: usize = 4 << 10;
    let mut scanned = 0;
    let Ok(Some(length)) = head_length(data, &mut scanned, MAX) else { return };
    assert!(length <= data.len() && length <= MAX);
    let mut bytewise = 0;
    let found = (1..=length).find_map(|end| head_length(&data[..end], &mut bytewise, MAX).ok().flatten());
    assert_eq!(found, Some(length), "the end does not depend on how the head arrives");
    let raw = Bytes::copy_from_slice(&data[..length]);
    let _ = ResponseHead::parse(raw.clone(), "GET");
    let Ok(head) = RequestHead::parse(raw.clone()) else { return };
    assert!(!raw.contains(&0), "no NUL passes");
    let bare = raw.iter().enumerate().any(|(at, byte)| *byte == b'\n' && (at == 0 || raw[at - 1] != b'\r'));
    assert!(!bare, "no bare line feed passes");
    for (name, value) in head.fields.iter() {
        assert!(!name.is_empty() && !name.iter().any(|byte| *byte <= b' '));
        assert!(!value.contains(&b'\r') && !value.contains(&b'\n'));
    }
    let lengths = head.fields.all("content-length").count();
    let codings = head.fields.all("transfer-encoding").count();
    assert!(lengths + codings <= 1, "a body has one length");
    if let RequestTarget::Forward { path, wire, .. } = &head.target {
        assert!(wire.starts_with('/') || wire == "*");
        assert!(!path.split('/').any(|segment| segment == ".." || segment == "."));
    }
}

/// An answer belongs to its query, is not much longer, and is no query itself.
fn dns_query(data: &[u8]) {
    match Query::parse(data) {
        Err(Unread::Ignore) => assert!(data.len() < 12 || data[2] & 0x80 != 0, "a readable header is answered"),
        Err(Unread::Answer(header)) => {
            assert_eq!(header[..2], data[..2]);
            assert!(header[2] & 0x80 != 0 && header[3] & 0x0f != 0 && header[4..] == [0; 8]);
        }
        Ok(query) => {
            if let Some(host) = query.host() {
                assert!(host.len() <= 253 && !host.contains(&0) && !host.windows(2).any(|two| two == b".."));
                assert_eq!(host.iter().filter(|byte| **byte == b'.').count() + 2, labels(&data[12..]), "one name");
            }
            for (code, address) in [(Code::NxDomain, None), (Code::NoError, Some([0; 16].into()))] {
                let answer = query.answer(code, address);
                assert!(answer.len() <= data.len() + 28, "no amplification");
                assert_eq!(answer[..2], data[..2]);
                assert_eq!(Query::parse(&answer), Err(Unread::Ignore), "nothing to answer in turn");
            }
        }
    }
}

/// Length bytes of the name at the front of `data`, the last one included.
fn labels(data: &[u8]) -> usize {
    let (mut at, mut count) = (0, 1);
    while data[at] != 0 {
        at += 1 + usize::from(data[at]);
        count += 1;
    }
    count
}

/// However a chunked body is cut, its payload, its end and its faults are the same.
fn chunked_body(data: &[u8]) {
    let whole = decode(data, data.len().max(1));
    assert_eq!(whole, decode(data, 1), "byte by byte");
    assert_eq!(whole, decode(data, 3), "in threes");
}

/// Payload and what is left behind the end; `None` for a fault.
fn decode(data: &[u8], cut: usize) -> Option<(Vec<u8>, Vec<u8>, Option<usize>)> {
    let mut reader = BodyReader::new(Framing::Chunked);
    let (mut buf, mut payload, mut fed) = (BytesMut::new(), Vec::new(), 0);
    loop {
        match reader.step(&mut buf).ok()? {
            Step::Data(count) => payload.extend_from_slice(&buf.split_to(count)),
            Step::End => return Some((payload, reader.trailers().to_vec(), Some(buf.len() + data.len() - fed))),
            Step::NeedMore if fed == data.len() => return Some((payload, Vec::new(), None)),
            Step::NeedMore => {
                let next = (fed + cut).min(data.len());
                buf.extend_from_slice(&data[fed..next]);
                fed = next;
            }
        }
    }
}

/// A line that parses is written and read back as the same line.
fn ledger_line(data: &[u8]) {
    let Ok(line) = Line::parse(data) else { return };
    let written = serde_json::to_vec(&line).expect("a line is JSON");
    let again = Line::parse(&written).expect("our own form is read");
    assert_eq!(serde_json::to_vec(&again).expect("a line is JSON"), written);
}

/// A persona file is a policy or a list of faults; never both, never nothing.
fn persona_file(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    match PersonaFile::parse(Path::new("fuzz.toml"), text) {
        Err(document) => assert!(!document.into_faults().is_empty()),
        Ok(file) => {
            if let Err(faults) = Snapshot::compile(vec![file], &PolicySettings::default()) {
                assert!(!faults.0.is_empty());
            }
        }
    }
}

/// A catalogue is bundles or a list of faults, each with its file; what serde_json cannot read is never bundles.
fn bundles_file(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    match read_catalogue_text(Path::new("fuzz.json"), text) {
        Err(faults) => assert!(!faults.0.is_empty()),
        Ok(bundles) => {
            let value: serde_json::Value = serde_json::from_str(text).expect("what is read is JSON");
            assert_eq!(value["bundles"].as_array().map(Vec::len), Some(bundles.len()));
            for bundle in &bundles {
                assert!(!bundle.consent.required || !bundle.consent.scopes.is_empty());
                assert_eq!(bundle.consent.digest(), bundle.clone().consent.digest());
            }
        }
    }
}

/// A recipe's manifest is a recipe of this host's rules or a list of faults, in either form.
fn recipe_file(data: &[u8]) {
    for name in ["recipe.toml", "recipe.json"] {
        let manifest_name = name.to_owned();
        let material = Material { tree: Tree::default(), manifest_name, manifest: data.to_vec(), signature: None };
        match recipes::read(Path::new("fuzz"), &material) {
            Err(faults) => assert!(!faults.0.is_empty()),
            Ok(recipe) => {
                assert!(recipe.spec.process.user.is_none() && recipe.spec.process.secrets.is_empty());
                assert!(recipe.spec.publish.is_empty() && recipe.spec.depends_on.is_empty());
            }
        }
    }
}

/// The seed is signed by this key over another tree: no change of it makes it one over this.
fn signed_note(data: &[u8]) {
    const SIGNERS: &str = r#"{"version":1,"signers":[{"id":"release-2026",
        "public_key":"release-2026+bd1732b9+AZ5x0FfWIBy6djoeiGQNOL98npRAL7V+GxdMXd5Tw6hb","signs":["recipe","bundle"],
        "valid_from":"2026-01-01T00:00:00Z","valid_to":"2030-01-01T00:00:00Z"}]}"#;
    let signers = Signers::parse(Path::new("fuzz.json"), SIGNERS).expect("sound");
    let (now, version) =
        (Timestamp::parse("2026-12-01T00:00:00Z").expect("valid"), Version::parse("1.0.0").expect("valid"));
    let subject = ("nightly-report", version);
    let fault = verify(Some(data), &signers, Kind::Recipe, subject, &Tree::default(), now).expect_err("never good");
    assert!(!fault.code().is_empty() && fault.to_string().len() < 1_024);
}

/// Two bytes say who hears it, what is wrong with it and how many descriptors come along; the rest is what is said. Whatever it
/// is, no descriptor stays open, what is understood is understood again, and nothing stands beside it or behind it.
fn stage_message(data: &[u8]) {
    let Some(Stranger { party, count, said, too_long, no_room }) = Stranger::of(data) else { return };
    let before = open_descriptors();
    let heard = if no_room { with_a_full_table(|| say(party, &said, count)) } else { say(party, &said, count) };
    assert_eq!(open_descriptors(), before, "descriptors stay open");
    match heard {
        Err(_) => {}
        Ok(None) => assert!(said.is_empty(), "what was said is not the end"),
        Ok(Some(understood)) => {
            assert!(!too_long && count <= MAX_DESCRIPTORS, "over the bound");
            assert!(understood.len() <= 8 * said.len(), "it grows");
            let hear = |said: &[u8]| say(party, said, count).ok().flatten();
            assert_eq!(
                hear(&understood).as_ref(),
                Some(&understood),
                "it does not mean the same when it is said again"
            );
            assert_eq!(hear(&[&understood, b"0".as_slice()].concat()), None, "a byte behind it is passed over");
            for stray in with_strays(&understood) {
                assert_eq!(hear(&stray), None, "a field that nobody knows is passed over: {}", stray.escape_ascii());
            }
        }
    }
}

struct Stranger {
    party: Spoken,
    count: usize,
    said: Vec<u8>,
    too_long: bool,
    no_room: bool,
}

impl Stranger {
    fn of(data: &[u8]) -> Option<Self> {
        const PARTIES: [Spoken; 4] = [Spoken::ToLauncher, Spoken::ToSpare, Spoken::ToInit, Spoken::ToCaller];
        let [how, count, said @ ..] = data else { return None };
        let (too_long, no_room) = (how & 4 != 0, how & 8 != 0);
        let mut said = said.to_vec();
        if too_long {
            said.resize(65 << 10, b' ');
        }
        // The kernel takes no more descriptors at once.
        let party = if how & 16 == 0 { PARTIES[usize::from(how & 3)] } else { Spoken::ToKeeper };
        let count = usize::from(*count).min(253);
        Some(Self { party, count, said, too_long, no_room })
    }
}

/// Whether a party understands it.
pub(crate) fn is_understood(data: &[u8]) -> bool {
    let stranger = Stranger::of(data).filter(|stranger| !stranger.no_room);
    stranger.is_some_and(|Stranger { party, count, said, .. }| matches!(say(party, &said, count), Ok(Some(_))))
}

/// Whether it is a plan.
pub(crate) fn is_a_plan(data: &[u8]) -> bool {
    serde_json::from_slice::<Plan>(data).is_ok()
}

fn say(party: Spoken, said: &[u8], count: usize) -> io::Result<Option<Vec<u8>>> {
    let (one, two) = pair()?;
    let null = File::open("/dev/null")?;
    send(&one, said, &vec![null.as_fd(); count])?;
    party.overhear(&two)
}

fn open_descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").expect("proc").count()
}

/// Room for the pair, the file, and a few descriptors of a message.
fn with_a_full_table<T>(work: impl FnOnce() -> T) -> T {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("limit");
    let few = u64::try_from(open_descriptors() + 5).expect("few");
    setrlimit(Resource::RLIMIT_NOFILE, few.min(hard), hard).expect("limit");
    let done = work();
    setrlimit(Resource::RLIMIT_NOFILE, soft, hard).expect("limit");
    done
}

/// What was understood, with one more field here or there. A report is not among it: it is data for people.
fn with_strays(understood: &[u8]) -> Vec<Vec<u8>> {
    let whole: Value = serde_json::from_slice(understood).expect("our own form");
    let Value::Object(fields) = &whole else { return Vec::new() };
    let mut strays = Vec::new();
    let mut beside = fields.clone();
    beside.insert("stray".to_owned(), json!(1));
    strays.push(Value::Object(beside));
    for (name, inner) in fields.iter().filter(|(name, _)| *name != "measured") {
        let Value::Object(inner) = inner else { continue };
        let (mut inner, mut outer) = (inner.clone(), fields.clone());
        inner.insert("stray".to_owned(), json!(1));
        outer.insert(name.clone(), Value::Object(inner));
        strays.push(Value::Object(outer));
    }
    strays.iter().map(|stray| serde_json::to_vec(stray).expect("JSON")).collect()
}

/// A plan that is read is written and read as the same; a field that nobody knows is not passed over, nor is a byte behind it.
fn plan(data: &[u8]) {
    let Ok(plan) = serde_json::from_slice::<Plan>(data) else { return };
    let written = serde_json::to_vec(&plan).expect("a plan is JSON");
    assert!(written.len() <= 8 * data.len());
    if admits(&plan) {
        let User::Host { uid, gid } = plan.user else { panic!("{:?}", plan.user) };
        assert!(uid == gid && (70_000..70_016).contains(&uid) && plan.without.is_empty());
    }
    // The same, with the root and the walls of a profile before it.
    let mut whole = plan.clone();
    whole.mounts.splice(0..0, Profile::embedded(ProfileName::Strict).ground());
    whole.require.clone_from(&Profile::embedded(ProfileName::Strict).require);
    whole.limits.clone_from(&Profile::embedded(ProfileName::Strict).limits);
    if admits(&whole) {
        let devices = whole.mounts.iter().filter_map(|entry| match entry {
            Mount::Bind { access: Access::Device, source, .. } => source.to_str(),
            _ => None,
        });
        let shared = ["/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty"];
        assert!(devices.into_iter().all(|path| shared.contains(&path) || path.starts_with("/dev/nvidia")));
        assert!(matches!(whole.user, User::Host { uid: 70_000..70_016, .. }) && whole.without.is_empty());
    }
    assert_eq!(serde_json::from_slice::<Plan>(&written).expect("our own form"), plan);
    assert!(serde_json::from_slice::<Plan>(&[&written, b"0".as_slice()].concat()).is_err());
    for stray in with_strays(&written) {
        // A list of tuples has no fields.
        assert!(serde_json::from_slice::<Plan>(&stray).is_err(), "{}", stray.escape_ascii());
    }
}

/// Whether a launcher of root's would carry it out, as far as that can be told from the plan alone.
fn admits(plan: &Plan) -> bool {
    thread_local! {
        static JUDGE: Judge = Judge::for_root(Charter {
            first_uid: 70_000,
            uids: 16,
            manifest: "/nonexistent".into(),
            follows: false,
            shelves: Vec::new(),
            kept: Vec::new(),
            written: Vec::new(),
        });
    }
    JUDGE.with(|judge| judge.judge(plan).is_ok())
}

/// What a command says to its service manager is a few words, and a line for a person that steers no terminal.
fn notice(data: &[u8]) {
    let notices = read_notices(data);
    assert!(notices.len() <= data.split(|byte| *byte == b'\n').count());
    for notice in notices {
        if let Notice::Status(status) = notice {
            assert!(status.chars().count() <= MAX_STATUS && !status.chars().any(char::is_control), "{status:?}");
        }
    }
}
