//! Writer and reader together, over real files.

use std::fs::{self, File};

use super::*;

fn at(micros: i64) -> Timestamp {
    Timestamp::from_unix_micros(1_700_000_000_000_000 + micros)
}

struct Files {
    _folder: tempfile::TempDir,
    paths: [PathBuf; 2],
}

impl Files {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("folder");
        let paths = [folder.path().join("a.log"), folder.path().join("b.log")];
        Self { _folder: folder, paths }
    }

    fn writer(&self) -> Writer {
        Writer::open(open(&self.paths).expect("files"), LEAST_BOUND)
    }

    fn reader(&self) -> LogReader {
        LogReader::new(self.paths.clone())
    }
}

fn write(writer: &mut Writer, number: i64, text: &str) {
    writer.line(at(number), Stream::Out, text.as_bytes(), false);
    writer.flush(at(number));
}

fn texts(batch: &Batch) -> Vec<String> {
    batch.lines.iter().map(Line::shown).collect()
}

fn cut(portions: &[&[u8]]) -> Vec<(Vec<u8>, bool)> {
    let mut cutter = Cutter::default();
    let mut out = Vec::new();
    for portion in portions {
        cutter.feed(portion, |text, continues| out.push((text.to_vec(), continues)));
    }
    cutter.end(|text| out.push((text.to_vec(), false)));
    out
}

#[test]
fn lines_are_the_same_in_whatever_portions_they_come() {
    let whole = b"one\n\ntwo words\nlast".as_slice();
    let expected = [("one", false), ("", false), ("two words", false), ("last", false)];
    let expected: Vec<(Vec<u8>, bool)> = expected.map(|(text, goes_on)| (text.as_bytes().to_vec(), goes_on)).to_vec();
    assert_eq!(cut(&[whole]), expected);
    let bytes: Vec<&[u8]> = whole.chunks(1).collect();
    assert_eq!(cut(&bytes), expected);
}

#[test]
fn a_long_line_comes_in_pieces_that_say_so() {
    for extra in [0, 1, MAX_PIECE - 1, MAX_PIECE] {
        let long = [vec![b'x'; MAX_PIECE + extra], b"\n".to_vec()].concat();
        let pieces = cut(&[&long[..5], &long[5..]]);
        assert_eq!(pieces.len(), if extra == 0 { 1 } else { 2 }, "{extra}");
        assert_eq!(pieces.iter().map(|(text, _)| text.len()).sum::<usize>(), MAX_PIECE + extra);
        assert!(pieces.iter().all(|(text, _)| text.len() <= MAX_PIECE));
        let marks: Vec<bool> = pieces.iter().map(|(_, continues)| *continues).collect();
        assert_eq!(marks, if extra == 0 { vec![false] } else { vec![true, false] });
    }
}

#[test]
fn a_line_reads_back_as_it_was_written_and_is_shown_harmless() {
    let files = Files::new();
    let mut writer = files.writer();
    let wild = b"\x1b[2J\xff #arw-log 9 \x00\r\xe2\x80\xae\t.";
    writer.line(at(1), Stream::Err, wild, true);
    writer.line(at(2), Stream::Out, b"#arw-log 99", false);
    writer.flush(at(2));
    let batch = files.reader().last(10).expect("lines");
    let first = Line { at: at(1), stream: Stream::Err, text: wild.to_vec(), continues: true };
    assert_eq!(batch.lines[0], first);
    assert_eq!(first.shown(), "\\u{1b}[2J\u{fffd} #arw-log 9 \\u{0}\\u{d}\\u{202e}\t.");
    assert_eq!(batch.lines[1].text, b"#arw-log 99");
    assert_eq!(batch.next.sequence, 1, "a command's text is no header");
}

#[test]
fn a_torn_or_foreign_line_is_passed_over() {
    let good = format!("{} out text", at(0));
    assert_eq!(Line::parse(good.as_bytes()).expect("a line").text, b"text");
    for bad in
        ["", "x", "2026-11-22T10:31:21.123456Z", "2026-11-22T10:31:21.123456Z xxx text", "#arw-log 3", &good[..30]]
    {
        assert_eq!(Line::parse(bad.as_bytes()), None, "{bad}");
    }
    for (start, number) in
        [("#arw-log 12\nx", Some((12, 12))), ("#arw-log 12", None), ("#arw-log \n", None), ("#arw-log -1\n", None)]
    {
        assert_eq!(parse_header(start.as_bytes()), number, "{start}");
    }
}

#[test]
fn the_two_files_take_turns_and_their_order_is_known() {
    let files = Files::new();
    let mut writer = files.writer();
    let long = "x".repeat(1_000);
    for number in 0..1_000 {
        write(&mut writer, number, &format!("{number} {long}"));
        let sizes = files.paths.each_ref().map(|path| fs::metadata(path).expect("there").len());
        assert!(sizes.iter().all(|size| *size <= LEAST_BOUND), "{sizes:?}");
    }
    let batch = files.reader().last(150).expect("lines");
    let numbers: Vec<i64> =
        texts(&batch).iter().map(|text| text.split(' ').next().expect("a number").parse().expect("a number")).collect();
    assert_eq!(numbers, (850..1_000).collect::<Vec<i64>>(), "over the border of the files, in order");
    assert!(files.reader().last(0).expect("none").lines.is_empty());
    assert!(files.reader().last(usize::MAX).expect("all").lines.len() < 300);
}

#[test]
fn a_later_run_goes_on_behind_the_earlier_one_also_behind_a_torn_line() {
    let files = Files::new();
    write(&mut files.writer(), 1, "first run");
    let before = files.reader().end().expect("end");
    {
        let mut torn = File::options().append(true).open(&files.paths[0]).expect("file");
        std::io::Write::write_all(&mut torn, b"2026-11-22T10:3").expect("write");
        assert_eq!(files.reader().end().expect("end"), before, "half a line is not there yet");
    }
    write(&mut files.writer(), 2, "second run");
    assert_eq!(texts(&files.reader().last(9).expect("lines")), ["first run", "second run"]);
    assert_eq!(texts(&files.reader().since(before).expect("lines")), ["second run"]);
}

#[test]
fn what_is_followed_is_seen_once_and_in_order_over_every_switch() {
    let files = Files::new();
    let reader = files.reader();
    assert_eq!(reader.since(Place::START).expect("none").lines, []);
    let mut writer = files.writer();
    let (mut place, mut seen) = (Place::START, Vec::new());
    let long = "y".repeat(700);
    for number in 0..2_000 {
        write(&mut writer, number, &format!("{number} {long}"));
        if number % 37 == 0 {
            loop {
                let batch = reader.since(place).expect("lines");
                assert!(!batch.missed);
                seen.extend(batch.lines.iter().map(|line| line.at));
                place = batch.next;
                if !batch.more {
                    break;
                }
            }
        }
    }
    assert_eq!(seen, (0..=1_998).map(at).collect::<Vec<_>>());
}

#[test]
fn what_was_overwritten_before_it_was_read_is_said_to_be_missed() {
    let files = Files::new();
    let mut writer = files.writer();
    write(&mut writer, 0, "seen");
    let place = files.reader().end().expect("end");
    let long = "z".repeat(10_000);
    for number in 1..100 {
        write(&mut writer, number, &long);
    }
    let batch = files.reader().since(place).expect("lines");
    assert!(batch.missed && !batch.lines.is_empty());
    assert!(!files.reader().since(batch.next).expect("lines").missed);
}

/// Somebody empties the current file from outside: what was read before is not read again, and nothing is garbled.
#[test]
fn a_file_emptied_from_outside_starts_anew() {
    let files = Files::new();
    let mut writer = files.writer();
    write(&mut writer, 1, "before");
    let place = files.reader().end().expect("end");
    File::options().write(true).truncate(true).open(&files.paths[0]).expect("emptied");
    write(&mut writer, 2, "after");
    let batch = files.reader().since(place).expect("lines");
    assert_eq!((texts(&batch), batch.missed), (vec!["after".to_owned()], true));
}

/// While one thread writes as fast as it can, another follows: every line whole, the times rising.
#[test]
fn a_reader_beside_a_writer_sees_no_torn_line() {
    let files = Files::new();
    let mut writer = files.writer();
    let reader = files.reader();
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for number in 0..20_000 {
                let text = "w".repeat(usize::try_from(number % 300).expect("small"));
                write(&mut writer, number, &text);
            }
            done.store(true, std::sync::atomic::Ordering::SeqCst);
        });
        let (mut place, mut last) = (Place::START, None);
        loop {
            let was_done = done.load(std::sync::atomic::Ordering::SeqCst);
            let batch = reader.since(place).expect("lines");
            for line in &batch.lines {
                assert!(last.is_none_or(|last| last < line.at), "in order, and once");
                let number = line.at.unix_micros() - at(0).unix_micros();
                assert_eq!(line.text.len(), usize::try_from(number % 300).expect("small"), "whole");
                last = Some(line.at);
            }
            place = batch.next;
            if was_done && !batch.more {
                assert_eq!(last, Some(at(19_999)));
                break;
            }
        }
    });
}

/// A file that can take nothing is like a full disk: nobody is stopped, and it is told of later.
#[test]
fn lost_lines_are_counted_and_told_of() {
    let files = Files::new();
    write(&mut files.writer(), 0, "before");
    let [_, other] = open(&files.paths).expect("files");
    let read_only = File::open(&files.paths[0]).expect("file");
    let mut writer = Writer::open([read_only, other], LEAST_BOUND);
    for number in 1..=3 {
        write(&mut writer, number, "lost");
    }
    writer.files[0] = File::options().read(true).write(true).open(&files.paths[0]).expect("file");
    write(&mut writer, 4, "after");
    let batch = files.reader().last(9).expect("lines");
    let texts = texts(&batch);
    assert_eq!((texts[0].as_str(), texts[2].as_str(), texts.len()), ("before", "after", 3));
    assert_eq!(batch.lines[1].stream, Stream::Gateway);
    assert!(texts[1].starts_with("3 lines were lost: "), "{texts:?}");
}

#[test]
fn the_files_are_for_their_owner_alone_and_never_a_link() {
    use std::os::unix::fs::PermissionsExt;
    let files = Files::new();
    open(&files.paths).expect("files");
    assert_eq!(fs::metadata(&files.paths[0]).expect("there").permissions().mode() & 0o777, 0o600);
    fs::remove_file(&files.paths[1]).expect("removed");
    std::os::unix::fs::symlink("/dev/null", &files.paths[1]).expect("link");
    assert!(open(&files.paths).is_err());
    assert!(files.reader().last(1).is_err());
}
