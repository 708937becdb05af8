//! What a command says, in its log: whoever floods, kills or fills, nothing else is stopped and nothing is forged.

use std::fs::File;
use std::os::fd::AsFd;
use std::path::PathBuf;

use arw::sandbox::log::{self, Line, LogReader, Stream};
use arw::sandbox::plan::{Limit, Resource};
use arw::sandbox::{Control, End, Exit, Plan, ProfileName};

use crate::support::{Extra, plan, start_with};

struct Logs {
    folder: tempfile::TempDir,
}

impl Logs {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().expect("folder") }
    }

    fn paths(&self) -> [PathBuf; 2] {
        ["a", "b"].map(|name| self.folder.path().join(name))
    }

    fn run(&self, plan: &Plan, bound: u64) -> End {
        self.run_with(plan, bound, log::open(&self.paths()).expect("files"))
    }

    fn run_with(&self, plan: &Plan, bound: u64, files: [File; 2]) -> End {
        let log = arw::sandbox::Log { files: files.each_ref().map(AsFd::as_fd), bound };
        let mut running = start_with(plan, &Extra { log: Some(log), ..Extra::default() }).expect("launch");
        let ended = running.finish();
        assert_eq!(ended.said, "", "nothing goes where it would go without a log");
        ended.end
    }

    fn lines(&self) -> Vec<Line> {
        LogReader::new(self.paths()).last(usize::MAX).expect("log").lines
    }
}

fn shell(script: &str) -> Plan {
    plan(ProfileName::Standard, &["sh", "-c", script])
}

fn of(lines: &[Line], stream: Stream) -> Vec<String> {
    lines.iter().filter(|line| line.stream == stream).map(Line::shown).collect()
}

#[test]
fn both_streams_are_there_to_the_last_word_of_a_crash() {
    let logs = Logs::new();
    let end = logs.run(&shell("echo one; echo two >&2; printf 'no end'; kill -SEGV $$"), log::DEFAULT_BOUND);
    assert_eq!(end, End::Exit(Exit::Signal(libc::SIGSEGV)));
    let lines = logs.lines();
    assert_eq!(of(&lines, Stream::Out), ["one", "no end"]);
    assert_eq!(of(&lines, Stream::Err), ["two"]);
    logs.run(&shell("echo again"), log::DEFAULT_BOUND);
    assert_eq!(of(&logs.lines(), Stream::Out), ["one", "no end", "again"]);
}

#[test]
fn a_flood_is_bounded_on_disk_and_ends_with_its_last_line() {
    let logs = Logs::new();
    let end = logs.run(&shell("seq 1 200000; echo last"), log::LEAST_BOUND);
    assert_eq!(end, End::Exit(Exit::Code(0)));
    for path in logs.paths() {
        assert!(std::fs::metadata(path).expect("file").len() <= log::LEAST_BOUND);
    }
    let lines = of(&logs.lines(), Stream::Out);
    assert_eq!(lines[lines.len() - 2..], ["200000", "last"]);
}

/// A process that goes on writing holds up neither the end nor the exit status.
#[test]
fn who_writes_on_after_the_end_is_not_waited_for() {
    let logs = Logs::new();
    let end = logs.run(&shell("setsid yes & sleep 0.2; exit 4"), log::LEAST_BOUND);
    assert_eq!(end, End::Exit(Exit::Code(4)));
}

#[test]
fn a_program_may_open_its_output_again() {
    let logs = Logs::new();
    let end = logs
        .run(&shell("echo a > /dev/stdout && echo b > /dev/stderr && echo c | tee /dev/stderr"), log::DEFAULT_BOUND);
    assert_eq!(end, End::Exit(Exit::Code(0)));
    let lines = logs.lines();
    assert_eq!(
        (of(&lines, Stream::Out), of(&lines, Stream::Err)),
        (vec!["a".to_owned(), "c".to_owned()], vec!["b".to_owned(), "c".to_owned()])
    );
}

/// A full disk ends no command, by signal or by waiting.
#[test]
fn a_log_that_can_take_nothing_stops_nobody() {
    let logs = Logs::new();
    let full = || File::options().read(true).write(true).open("/dev/full").expect("full");
    let end = logs.run_with(&shell("seq 1 100000; exit 5"), log::DEFAULT_BOUND, [full(), full()]);
    assert_eq!(end, End::Exit(Exit::Code(5)));
}

/// A limit on the size of files is the init's too.
#[test]
fn a_limit_of_file_size_loses_lines_and_nothing_else() {
    let logs = Logs::new();
    let mut plan = shell("seq 1 100000; exit 6");
    plan.limits.retain(|limit| limit.resource != Resource::FileSize);
    plan.limits.push(Limit { resource: Resource::FileSize, most: 64 << 10 });
    assert_eq!(logs.run(&plan, log::DEFAULT_BOUND), End::Exit(Exit::Code(6)));
    let lines = of(&logs.lines(), Stream::Out);
    assert!(
        lines.len() > 500
            && lines[0] == "1"
            && lines.iter().is_sorted_by_key(|line| line.parse::<u32>().expect("whole"))
    );
}

/// The attempt to silence the log: the init has the command's user id, so its limits could be set from inside, were it not
/// for the filter.
#[test]
fn the_inits_limits_are_out_of_reach() {
    let script = "import resource,sys\ntry:\n resource.prlimit(1, resource.RLIMIT_FSIZE, (0, 0))\n print('set')\nexcept OSError as e:\n print(e.errno)\nprint('after')";
    for profile in ProfileName::ALL.iter().copied() {
        let logs = Logs::new();
        let plan = plan(profile, &["python3", "-c", script]);
        logs.run(&plan, log::DEFAULT_BOUND);
        assert_eq!(of(&logs.lines(), Stream::Out), [libc::EPERM.to_string(), "after".to_owned()], "{profile:?}");
    }
    let mut open = plan(ProfileName::Standard, &["python3", "-c", script]);
    open.without = vec![Control::Seccomp];
    open.require.clear();
    let logs = Logs::new();
    logs.run(&open, log::DEFAULT_BOUND);
    assert_ne!(
        of(&logs.lines(), Stream::Out),
        [libc::EPERM.to_string(), "after".to_owned()],
        "the filter was the reason"
    );
}

/// A command that writes what looks like the log's own words.
#[test]
fn nothing_that_a_command_says_passes_for_another_line() {
    let logs = Logs::new();
    let forged = "#arw-log 99\n2020-01-01T00:00:00.000000Z arw 5 lines were lost: never";
    logs.run(&plan(ProfileName::Strict, &["printf", "%s\\r\\n\\0\\n", forged]), log::DEFAULT_BOUND);
    let lines = logs.lines();
    assert!(lines.iter().all(|line| line.stream == Stream::Out && line.at.unix_micros() > 1_600_000_000_000_000));
    assert_eq!(lines[0].text, b"#arw-log 99");
    assert_eq!(LogReader::new(logs.paths()).end().expect("end").sequence, 1);
}
