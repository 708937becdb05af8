//! Two hundred runtimes, and how long a launch takes beside bubblewrap: measurements, for an idle machine.
//!
//! `cargo test --release --test supervisor -- --ignored --nocapture --test-threads=1 measured`

use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nix::sys::signal::Signal;
use nix::time::{ClockId, clock_gettime};
use nix::unistd::Pid;

use crate::stage::{Host, bash, clock, perl};
use crate::support::wait_for;

/// As the supervisor is built for.
const CROWD: usize = 200;
/// Enough for a median that is stable to a tenth.
const ROUNDS: usize = 41;

/// CPU time of the daemon so far, in clock ticks of 10 ms (proc_pid_stat(5), fields 14 and 15).
fn ticks(pid: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64()
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2] * 1_000.0
}

#[test]
#[ignore = "a measurement, for an idle machine"]
fn measured_crowd_idles_and_ends() {
    let manifest: String =
        (0..CROWD).map(|n| bash(&format!("idle-{n}"), "sleep 100000; : crowd-mark", "auto_start = true")).collect();
    let begun = Instant::now();
    let mut host = Host::start(&manifest);
    let ready = || {
        let (_, all) = host.ask("GET", "/state/runtime_supervisor");
        all["runtimes"].as_array().unwrap().iter().filter(|view| view["state"] == "ready").count()
    };
    wait_for("all to be ready", || (ready() == CROWD).then_some(()));
    println!("{CROWD} runtimes were ready after {:?}", begun.elapsed());
    let before = ticks(host.daemon.pid());
    let window = Duration::from_secs(20);
    std::thread::sleep(window);
    let used = ticks(host.daemon.pid()) - before;
    let share = used as f64 / window.as_secs_f64();
    println!("supervised and idle they cost {share:.2} % of a core");
    let begun = Instant::now();
    host.daemon.signal(Signal::SIGINT);
    wait_for("the last process to end", || (!crate::stage::lives("crowd-mark")).then_some(()));
    println!("the last process ended {:?} after the signal", begun.elapsed());
    host.daemon.wait_for_exit();
}

#[test]
#[ignore = "a measurement, for an idle machine"]
fn measured_launch_beside_bubblewrap() {
    let word = ["/usr/bin/date", "+%s.%N"];
    let host = Host::start(&clock("clock", "[runtimes.restart]\npolicy = \"no\""));
    let home = tempfile::tempdir().unwrap();
    let (mut api, mut run, mut bwrap) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        let begun = now();
        host.must("clock", "start");
        // As whoever waits for bubblewrap: with questions meanwhile it would take a CPU from what it measures.
        std::thread::sleep(Duration::from_millis(20));
        host.wait("clock", "ended", |view| {
            view["state"] == "stopped" && view["last_death"]["run"].as_u64() == Some(round as u64 + 1)
        });
        let said = host.death("clock")["last_lines"][0].as_str().unwrap().parse::<f64>().unwrap();
        api.push(said - begun);
        run.push(print_time(
            Command::new(env!("CARGO_BIN_EXE_arw-cli"))
                .args(["run", "--persona", "demo", "--preset", "eco", "--"])
                .args(word)
                .env("HOME", home.path())
                .env("ARW_STATE_DIR", home.path().join("state")),
        ));
        bwrap.push(print_time(
            Command::new("bwrap")
                .args(["--unshare-all", "--ro-bind", "/usr", "/usr", "--symlink", "usr/lib", "/lib"])
                .args(["--symlink", "usr/lib64", "/lib64", "--symlink", "usr/bin", "/bin", "--proc", "/proc"])
                .args(["--dev", "/dev", "--tmpfs", "/tmp", "--"])
                .args(word),
        ));
    }
    let (api, run, bwrap) = (median(api), median(run), median(bwrap));
    println!("median, exec or API call to the child's own clock, the start of date(1) included:");
    println!("bwrap --unshare-all   {bwrap:6.2} ms");
    println!("API call              {api:6.2} ms  {:.2} x", api / bwrap);
    println!("arw-cli run           {run:6.2} ms  {:.2} x", run / bwrap);
}

/// A perl client that makes `connections` one after the other, each for one small request.
fn client(id: &str, connections: usize, reach: &str) -> String {
    let program = format!(
        "use Socket; \
         for (1..{connections}) {{ {reach} \
         syswrite $s, \"GET / HTTP/1.1\\r\\nHost: allowed.test\\r\\nConnection: close\\r\\n\\r\\n\"; \
         my $all = ''; while ($all !~ m{{\\r\\n\\r\\n.}}) {{ sysread $s, $all, 4096, length $all or die $all }} \
         $all =~ m{{^HTTP/1.1 200}} or die $all; close $s }} print \"all answered\\n\";"
    );
    perl(id, &program, "[runtimes.restart]\npolicy = \"no\"")
}

/// CPU time of the daemon so far, all threads that were included.
fn cpu_time(pid: u32) -> Duration {
    let clock = ClockId::pid_cpu_clock_id(Pid::from_raw(i32::try_from(pid).unwrap())).unwrap();
    clock_gettime(clock).unwrap().into()
}

#[test]
#[ignore = "a measurement, for an idle machine"]
fn measured_transparent_beside_explicit() {
    const CONNECTIONS: usize = 500;
    let dial = |to: &str| format!("socket(my $s, PF_INET, SOCK_STREAM, 0); connect($s, {to}) or die \"connect: $!\";");
    let proxy = dial("pack_sockaddr_in(9080, inet_aton('127.0.0.1'))");
    let by_name = dial("pack_sockaddr_in({PORT}, scalar gethostbyname 'allowed.test')");
    let by_address = dial("pack_sockaddr_in({PORT}, $to //= scalar gethostbyname 'allowed.test')");
    let tunnel = "syswrite $s, \"CONNECT allowed.test:{PORT} HTTP/1.1\\r\\nHost: allowed.test:{PORT}\\r\\n\\r\\n\"; \
                  my $head = ''; while ($head !~ /\\r\\n\\r\\n/) { sysread $s, $head, 4096, length $head or die $head } \
                  $head =~ m{^HTTP/1.1 200} or die $head;";
    let kinds = [
        ("explicit", format!("{proxy} {tunnel}")),
        ("transparent", format!("our $to; {by_address}")),
        ("looked-up", by_name),
        ("nothing", "last;".to_owned()),
    ];
    let manifest: String = kinds.iter().map(|(id, reach)| client(id, CONNECTIONS, reach)).collect();
    let host = Host::start(&manifest);
    let mut costs = kinds.each_ref().map(|_| Vec::new());
    for round in 1..=7 {
        for ((id, _), costs) in kinds.iter().zip(&mut costs) {
            let before = cpu_time(host.daemon.pid());
            host.must(id, "start");
            host.wait(id, "ended", |view| {
                view["state"] == "stopped" && view["last_death"]["run"].as_u64() == Some(round)
            });
            assert_eq!(host.death(id)["last_lines"][0], "all answered", "{}", host.death(id));
            costs.push((cpu_time(host.daemon.pid()) - before).as_secs_f64());
        }
    }
    let nothing = median(costs[3].clone());
    let each = |costs: &Vec<f64>| (median(costs.clone()) - nothing) * 1_000.0 / CONNECTIONS as f64;
    let [explicit, transparent, looked_up, _] = costs.each_ref().map(each);
    println!("CPU time of the daemon for a connection with one small request, its launch taken off:");
    println!("explicit                      {explicit:6.1} us");
    println!("transparent                   {transparent:6.1} us  {:.2} x", transparent / explicit);
    println!("transparent, name looked up   {looked_up:6.1} us  {:.2} x", looked_up / explicit);
}

/// From before the exec to what the child says of the time.
fn print_time(command: &mut Command) -> f64 {
    let begun = now();
    let output = command.stdin(Stdio::null()).stderr(Stdio::inherit()).output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().parse::<f64>().expect("a time") - begun
}
