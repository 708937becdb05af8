//! The queue on the disk over crashes at any step and at its bounds; what each sink puts on its wire.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use serde_json::json;
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, UdpSocket, UnixDatagram};

use super::super::settings::SyslogAddress;
use super::parcel::Parcel;
use super::queue::{Queue, Stats};
use super::spool::{Spool, SpoolFault, Spooled};
use super::{SinkFault, file, journald, syslog};
use crate::config::ServerConfig;
use crate::domain::{Host, SystemClock};
use crate::events::{EventBus, EventKind};
use crate::proxy::Resolver;

fn parcel(kind: EventKind, text: &str) -> Parcel {
    let bus = EventBus::new("/test", Arc::new(SystemClock));
    Parcel::of(&bus.tell(kind, Some("demo"), json!({ "severity": "critical", "code": "disk_low", "summary": text })))
}

fn alert(text: &str) -> Parcel {
    parcel(EventKind::AlertRaised, text)
}

fn first(spool: &mut Spool) -> Option<String> {
    match spool.first() {
        Some(Spooled::Whole(_, parcel)) => Some(parcel.summary),
        Some(Spooled::Broken) => Some("broken".to_owned()),
        None => None,
    }
}

#[test]
fn what_is_spooled_is_there_for_the_next_process_in_order_with_the_same_ids() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("alerts/pager");
    let mut spool = Spool::open(&path, 1 << 20).expect("opens");
    let parcels: Vec<Parcel> = (0..12).map(|number| alert(&format!("number {number}"))).collect();
    parcels.iter().for_each(|parcel| spool.put(parcel).expect("put"));
    drop(spool);
    // A process that was killed while it wrote the next one.
    std::fs::write(path.join("00000000000000000012.part"), "{\"id\":").expect("written");
    let mut spool = Spool::open(&path, 1 << 20).expect("opens again");
    assert_eq!(spool.len(), 12);
    assert!(!path.join("00000000000000000012.part").exists());
    for parcel in &parcels {
        let Some(Spooled::Whole(place, kept)) = spool.first() else { panic!("it is gone") };
        assert_eq!(kept, *parcel, "the same in all that it says");
        spool.remove(place);
    }
    assert_eq!(first(&mut spool), None);
    assert_eq!(std::fs::read_dir(&path).expect("read").count(), 0);
    use std::os::unix::fs::PermissionsExt;
    spool.put(&parcels[0]).expect("put");
    for entry in std::fs::read_dir(&path).expect("read") {
        let mode = entry.expect("read").metadata().expect("there").permissions().mode() & 0o777;
        assert_eq!(mode, 0o600);
    }
}

#[test]
fn a_file_that_a_crash_of_the_machine_cut_does_not_hold_up_the_others() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut spool = Spool::open(folder.path(), 1 << 20).expect("opens");
    for text in ["a", "b", "c"] {
        spool.put(&alert(text)).expect("put");
    }
    let file = |number: u32| folder.path().join(format!("{number:020}.json"));
    for (cut, length) in [(0, 0), (1, 17)] {
        let text = std::fs::read(file(cut)).expect("read");
        std::fs::write(file(cut), &text[..length]).expect("cut");
    }
    drop(spool);
    let stats = Arc::new(Stats::default());
    let queue = Queue::disk(Spool::open(folder.path(), 1 << 20).expect("opens"), Arc::clone(&stats));
    let taken = queue.take_now().expect("the whole one");
    assert_eq!(taken.parcel.summary, "alert.raised: c");
    assert_eq!(stats.lost.load(Ordering::Relaxed), 2, "and the two are counted");
}

#[test]
fn a_full_spool_says_so_and_keeps_half_of_itself_for_alerts() {
    let folder = tempfile::tempdir().expect("a folder");
    let news = parcel(EventKind::EgressNewDomain, "x");
    let bound = news.body.len() as u64 * 10;
    let mut spool = Spool::open(folder.path(), bound).expect("opens");
    let mut taken = 0;
    while spool.put(&news).is_ok() {
        taken += 1;
        assert!(taken < 100, "it was never full");
    }
    assert_eq!(taken, 5, "half of it");
    let mut alerts = 0;
    let fault = loop {
        match spool.put(&alert("x")) {
            Ok(()) => alerts += 1,
            Err(fault) => break fault,
        }
        assert!(alerts < 100, "it was never full");
    };
    assert!(matches!(fault, SpoolFault::Full) && alerts >= 3, "{alerts} {fault}");
    let Some(Spooled::Whole(place, _)) = spool.first() else { panic!("it is empty") };
    spool.remove(place);
    spool.put(&alert("x")).expect("there is room again");
}

#[test]
fn a_folder_that_others_may_write_or_a_link_is_no_spool() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().expect("a folder");
    let open = folder.path().join("open");
    std::fs::create_dir(&open).expect("made");
    std::fs::set_permissions(&open, std::fs::Permissions::from_mode(0o777)).expect("ours");
    assert!(Spool::open(&open, 1 << 20).is_err());
    std::os::unix::fs::symlink(&open, folder.path().join("link")).expect("linked");
    assert!(Spool::open(&folder.path().join("link"), 1 << 20).is_err());
}

#[tokio::test]
async fn memory_forgets_the_oldest_and_counts_them_and_loss_of_news_of_loss_is_none() {
    let stats = Arc::new(Stats::default());
    let queue = Arc::new(Queue::memory(Arc::clone(&stats)));
    for number in 0..1_030 {
        queue.put(alert(&number.to_string())).await;
    }
    assert_eq!((queue.waiting(), stats.lost.load(Ordering::Relaxed)), (1_024, 6));
    let taken = queue.take().await;
    assert_eq!(taken.parcel.summary, "alert.raised: 6");
    assert_eq!(queue.waiting(), 1_024, "what is in hand waits too");
    queue.give_back(taken);
    assert_eq!(queue.take().await.parcel.summary, "alert.raised: 6", "in order");
    let bus = EventBus::new("/test", Arc::new(SystemClock));
    let of_loss = Parcel::of(&bus.tell(EventKind::AlertRaised, None, json!({ "code": "sink_losing" })));
    stats.lose(&of_loss);
    assert_eq!((stats.lost.load(Ordering::Relaxed), stats.lost_of_loss.load(Ordering::Relaxed)), (7, 1));
}

fn resolver() -> Resolver {
    let mut config = ServerConfig::defaults("/nowhere".into(), "/nowhere".into());
    config.dns.servers = vec!["127.0.0.1:1".parse().expect("literal")];
    Resolver::new(&config.dns, tokio::runtime::Handle::current()).expect("made")
}

/// Takes an RFC 5424 message apart as its grammar says (section 6), or says where it is not one.
fn rfc5424(message: &[u8]) -> Result<(u8, String, String), String> {
    let text = std::str::from_utf8(message).map_err(|fault| fault.to_string())?;
    let rest = text.strip_prefix('<').ok_or("no PRI")?;
    let (priority, rest) = rest.split_once('>').ok_or("no end of PRI")?;
    if priority.len() > 3 || (priority.len() > 1 && priority.starts_with('0')) {
        return Err(format!("PRI {priority}"));
    }
    let priority: u8 = priority.parse().map_err(|_| "PRI is no number")?;
    let rest = rest.strip_prefix("1 ").ok_or("VERSION is not 1")?;
    let fields: Vec<&str> = rest.splitn(6, ' ').collect();
    let [time, hostname, app, process, id, rest] = fields[..] else { return Err("too few fields".to_owned()) };
    // TIME-SECFRAC has 1 to 6 digits; the letters are upper case.
    let digits = time.strip_suffix('Z').and_then(|time| time.split_once('.')).map_or(0, |(_, digits)| digits.len());
    if crate::domain::Timestamp::parse(time).is_err() || time.as_bytes()[10] != b'T' || !(1..=6).contains(&digits) {
        return Err(format!("TIMESTAMP {time}"));
    }
    for (field, most) in [(hostname, 255), (app, 48), (process, 128), (id, 32)] {
        if field.is_empty() || field.len() > most || !field.bytes().all(|byte| (33..=126).contains(&byte)) {
            return Err(format!("field `{field}`"));
        }
    }
    let rest = rest.strip_prefix("[origin software=\"arw-server\" swVersion=\"").ok_or("no `origin`")?;
    let (version, body) = rest.split_once("\"] ").ok_or("no end of `origin`")?;
    if version.contains(['"', '\\', ']']) {
        return Err("an escape is missing".to_owned());
    }
    Ok((priority, id.to_owned(), body.to_owned()))
}

#[tokio::test]
async fn syslog_says_rfc_5424_over_udp_tcp_and_unix() {
    let folder = tempfile::tempdir().expect("a folder");
    let host = Host::parse(b"127.0.0.1").expect("literal");
    let udp = UdpSocket::bind("127.0.0.1:0").await.expect("bound");
    let unix = UnixDatagram::bind(folder.path().join("log")).expect("bound");
    let tcp = TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let port = |addr: std::net::SocketAddr| addr.port();
    let news = parcel(EventKind::EgressNewDomain, "x");
    let alert = alert("two\nlines and a ] and a \"");

    let mut sink =
        syslog::Syslog::new(SyslogAddress::Udp(host.clone(), port(udp.local_addr().expect("bound"))), 16, resolver());
    let mut buffer = vec![0; 64 << 10];
    for (parcel, priority) in [(&alert, 16 * 8 + 2), (&news, 16 * 8 + 6)] {
        sink.deliver(parcel).await.expect("sent");
        let length = udp.recv(&mut buffer).await.expect("received");
        let (found, id, body) = rfc5424(&buffer[..length]).expect("RFC 5424");
        assert_eq!((found, id.as_str(), body.as_str()), (priority, parcel.kind.as_str(), &*parcel.body));
    }
    let long = parcel(EventKind::EgressNewDomain, &"x".repeat(12 << 10));
    assert!(long.body.len() > 8 << 10);
    sink.deliver(&long).await.expect("sent");
    let length = udp.recv(&mut buffer).await.expect("received");
    let (_, _, body) = rfc5424(&buffer[..length]).expect("RFC 5424");
    let body: serde_json::Value = serde_json::from_str(&body).expect("JSON, not a part of it");
    assert_eq!(
        (body["id"].as_str(), body["data"]["oversize"].as_u64()),
        (Some(long.id.as_str()), Some(long.body.len() as u64))
    );

    let mut sink = syslog::Syslog::new(SyslogAddress::Unix(folder.path().join("log")), 3, resolver());
    sink.deliver(&alert).await.expect("sent");
    let length = unix.recv(&mut buffer).await.expect("received");
    assert_eq!(rfc5424(&buffer[..length]).expect("RFC 5424").0, 3 * 8 + 2);
    drop(unix);
    assert!(matches!(sink.deliver(&alert).await, Err(SinkFault::Later(_))), "nobody receives");

    let mut sink = syslog::Syslog::new(SyslogAddress::Tcp(host, port(tcp.local_addr().expect("bound"))), 3, resolver());
    for _ in 0..2 {
        let receive = async {
            let (mut stream, _) = tcp.accept().await.expect("accepted");
            for parcel in [&alert, &long] {
                let mut length = Vec::new();
                loop {
                    match stream.read_u8().await.expect("a frame") {
                        b' ' => break,
                        digit => length.push(digit),
                    }
                }
                let length: usize = String::from_utf8(length).expect("digits").parse().expect("MSG-LEN");
                let mut message = vec![0; length];
                stream.read_exact(&mut message).await.expect("as long as it says");
                assert_eq!(rfc5424(&message).expect("RFC 5424").2, *parcel.body, "whole over TCP");
            }
            // It goes away: the next event must not be written into the void.
        };
        let send = async {
            sink.deliver(&alert).await.expect("sent");
            sink.deliver(&long).await.expect("sent");
        };
        tokio::join!(receive, send);
        // Until the end of the stream has come through loopback.
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn the_journal_gets_one_datagram_of_whole_fields() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("socket");
    let journal = UnixDatagram::bind(&path).expect("bound");
    let alert = alert("two\nlines\nPRIORITY=0\u{85}ARW_X=1\u{9b}31m\u{202e}");
    let sink = journald::Journald::new(path);
    sink.deliver(&alert).await.expect("sent");
    let mut buffer = vec![0; 64 << 10];
    let length = journal.recv(&mut buffer).await.expect("received");
    let text = std::str::from_utf8(&buffer[..length]).expect("text");
    let names: Vec<&str> = text.lines().filter_map(|line| line.split_once('=').map(|(name, _)| name)).collect();
    assert_eq!(names, ["MESSAGE", "PRIORITY", "SYSLOG_IDENTIFIER", "ARW_EVENT_ID", "ARW_EVENT_TYPE", "ARW_EVENT"]);
    assert!(text.contains("\nPRIORITY=2\n") && text.ends_with('\n'), "{text}");
    assert!(text.contains(&*alert.body));
    assert!(text.lines().all(|line| !line.contains(crate::domain::is_deceptive)), "{text:?}");
}

#[tokio::test]
async fn lines_go_to_a_file_that_is_begun_anew_at_its_size() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("alerts.jsonl");
    let alert = alert("x");
    let mut sink = file::JsonLines::new(path.clone(), alert.body.len() as u64 * 3 + 3);
    for _ in 0..4 {
        sink.deliver(&alert).await.expect("written");
    }
    let lines = |name: &str| std::fs::read_to_string(folder.path().join(name)).expect("read").lines().count();
    assert_eq!((lines("alerts.jsonl.1"), lines("alerts.jsonl")), (3, 1));
    assert_eq!(std::fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o600);

    let victim = folder.path().join("victim");
    std::fs::write(&victim, "precious").expect("written");
    std::fs::remove_file(&path).expect("removed");
    std::os::unix::fs::symlink(&victim, &path).expect("linked");
    assert!(sink.deliver(&alert).await.is_err(), "a link is not followed");
    assert_eq!(std::fs::read_to_string(&victim).expect("read"), "precious");
    let open = folder.path().join("open");
    std::fs::create_dir(&open).expect("made");
    std::fs::set_permissions(&open, std::fs::Permissions::from_mode(0o777)).expect("ours");
    let mut sink = file::JsonLines::new(open.join("alerts.jsonl"), 1 << 20);
    assert!(sink.deliver(&alert).await.is_err(), "others could put a link there");
    let mut sink = file::JsonLines::new("/dev/full".into(), 1 << 20);
    assert!(sink.deliver(&alert).await.is_err(), "a device is not a file");
}
