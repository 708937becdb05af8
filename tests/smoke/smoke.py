#!/usr/bin/env python3
"""Smoke tests of the built binaries: `smoke.py safe|runtime|gpu`.

Each stage is a line: `ok`, `SKIP` with the reason, or `FAIL` with what was seen. The last line counts them, and the exit
code is 0 when nothing failed. All of it ends within SMOKE_TIMEOUT_SECS (600), and nothing is left behind: the daemon is
ended by SIGINT, which ends its runtimes, and then by its process id.

RUNTIME_SMOKE_ALLOW_CPU=1, RUNTIME_SMOKE_ALLOW_GPU=1    run that stage at all
RUNTIME_SMOKE_CPU_POLICY, RUNTIME_SMOKE_GPU_POLICY      skip | auto | require (a SKIP fails) | simulate (the stub only)
RUNTIME_SMOKE_DRY_RUN=1                                 say what would be done
"""

import contextlib
import hashlib
import http.server
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time

TOKEN = "smoke-admin-token-0123456789abcdef"
PERSONA_TOKEN = "smoke-persona-token-0123456789abcdef"
BIN = pathlib.Path(os.environ.get("SMOKE_BIN", pathlib.Path(__file__).parents[2] / "target/debug"))
PATIENCE = 60


class Skip(Exception):
    """The host does not have what the stage needs."""


def wait(what, look):
    """Waits until `look` gives something."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        found = look()
        if found:
            return found
        time.sleep(0.05)
    raise AssertionError(f"waited in vain for {what}")


def lives(pid):
    """Whether the process runs; one that has ended and waits for its parent to notice does not."""
    try:
        stat = pathlib.Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rsplit(")", 1)[1].split()[0] != "Z"


class Origin(http.server.BaseHTTPRequestHandler):
    """Where the allowed requests go."""

    def do_GET(self):
        body = b"hello from the smoke origin\n"
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


BASH = "/bin/bash"
PERL = "/usr/bin/perl"
CALLER = """
get() { if exec 3<>"/dev/tcp/$1/$2"; then printf 'GET / HTTP/1.0\\r\\nHost: %s:%s\\r\\nConnection: close\\r\\n\\r\\n' "$1" "$2" >&3
grep -a hello <&3; exec 3>&-; else echo "$1 is out of reach"; fi; }
while :; do get allowed.test {PORT}; get denied.test 80; sleep 0.5; done
"""
SERVER = """
use IO::Socket::INET;
my $s = IO::Socket::INET->new(LocalAddr => '127.0.0.1', LocalPort => 8000, Listen => 8, ReuseAddr => 1) or die $!;
while (my $c = $s->accept) { while (my $l = <$c>) { last if $l =~ /^\\r?$/ }
print $c "HTTP/1.1 200 OK\\r\\nContent-Length: 2\\r\\nConnection: close\\r\\n\\r\\nok"; close $c }
"""
HANGS = """
use Socket;
sub say_it { socket(my $s, AF_UNIX, SOCK_DGRAM, 0) or die $!; connect($s, sockaddr_un($ENV{NOTIFY_SOCKET})) or die $!; syswrite($s, shift) }
say_it("READY=1"); sleep 1; say_it("WATCHDOG=1"); print "hung\\n"; sleep 1000;
"""


def runtime(name, command, script, keys="", sections=""):
    return f"""
[[runtimes]]
id = "{name}"
persona = "smoke"
{keys}
[runtimes.process]
command = "{command}"
args = ["{'-e' if command == PERL else '-c'}", '''{script}''']
stop_grace = "2s"
{sections}
"""


def manifest(port):
    once = '[runtimes.restart]\npolicy = "no"'
    return "".join([
        runtime("caller", BASH, CALLER.replace("{PORT}", str(port)), "", '[runtimes.health]\nlog = "hello from the smoke origin"'),
        runtime("server", PERL, SERVER, "", '[runtimes.health]\nhttp = "http://127.0.0.1:8000/"\ninterval = "200ms"\n'
                '[runtimes.limits]\nmemory = "96MiB"'),
        runtime("hog", PERL, "$x = q(a); $x .= $x while 1", "",
                '[runtimes.limits]\nmemory = "64MiB"\nswap = 0\n' + once),
        runtime("hangs", PERL, HANGS, "", '[runtimes.health]\nnotify = true\n[runtimes.watchdog]\nsec = 3\n' + once),
        runtime("fails", BASH, "echo on my way out; exit 7", "",
                '[runtimes.restart]\nbackoff = "100ms"\nmax = 2\nwindow = "600s"'),
    ])


class Daemon:
    """arw-server with folders of its own."""

    def __init__(self, home, with_runtimes):
        self.home = pathlib.Path(home)
        self.origin = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Origin)
        threading.Thread(target=self.origin.serve_forever, daemon=True).start()
        port = self.origin.server_address[1]
        config = self.home / "config"
        (config / "personas").mkdir(parents=True)
        (config / "runtime").mkdir()
        digest = hashlib.sha256(PERSONA_TOKEN.encode()).hexdigest()
        (config / "personas/smoke.toml").write_text(
            f'id = "smoke"\ntokens = [{{ name = "smoke", sha256 = "{digest}" }}]\n[[allow]]\nid = "origin"\n'
            f'hosts = ["allowed.test"]\ncidrs = ["127.0.0.1/32"]\nports = [{port}]\nschemes = ["http"]\n')
        if with_runtimes:
            (config / "runtime/runtimes.toml").write_text(manifest(port))
        admin = hashlib.sha256(TOKEN.encode()).hexdigest()
        (config / "arw-server.toml").write_text(
            f'[proxy]\nbind = "127.0.0.1:0"\n[control]\nbind = "127.0.0.1:0"\nadmin_token_sha256 = "{admin}"\n'
            '[dns]\nservers = ["127.0.0.1:1"]\nuse_hosts_file = false\nhosts = { "allowed.test" = "127.0.0.1" }\n'
            '[log]\njson = true\njournald = false\n')
        self.port = port
        self.process = None

    def start(self):
        log = open(self.home / "log", "ab")
        begin = log.tell()
        self.process = subprocess.Popen([BIN / "arw-server"], stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self.env())
        up = wait("the daemon", lambda: self.up(begin))
        self.proxy = up["proxy"].strip("[]").split(", ")[0]
        self.control = up["control"]

    def env(self):
        return {"PATH": os.environ.get("PATH", "/usr/bin:/bin"), "HOME": str(self.home), "ARW_CONFIG_DIR": str(self.home / "config"),
                "ARW_STATE_DIR": str(self.home / "state"), "ARW_ADMIN_TOKEN": TOKEN}

    def up(self, begin):
        text = (self.home / "log").read_bytes()[begin:].decode(errors="replace")
        if self.process.poll() is not None:
            raise AssertionError(f"the daemon ended: {text[-2000:]}")
        for line in text.splitlines():
            with contextlib.suppress(ValueError, KeyError):
                fields = json.loads(line)["fields"]
                if fields["message"] == "arw-server is up":
                    return fields
        return None

    def ask(self, method, path):
        host, port = self.control.rsplit(":", 1)
        with socket.create_connection((host, int(port)), timeout=PATIENCE) as stream:
            stream.sendall((f"{method} {path} HTTP/1.1\r\nHost: {self.control}\r\nAuthorization: Bearer {TOKEN}\r\n"
                            "Content-Length: 0\r\nConnection: close\r\n\r\n").encode())
            answer = b"".join(iter(lambda: stream.recv(65536), b""))
        head, _, body = answer.partition(b"\r\n\r\n")
        return int(head.split(b" ")[1]), json.loads(body) if body[:1] in (b"{", b"[") else body.decode()

    def view(self, name):
        return self.ask("GET", f"/orchestrator/runtimes/{name}")[1]

    def act(self, name, action):
        status, body = self.ask("POST", f"/orchestrator/runtimes/{name}/{action}")
        if status != 200:
            raise AssertionError(f"{action} {name}: {status} {body}")

    def until(self, name, what, wanted):
        def look():
            view = self.view(name)
            return view if wanted(view) else None
        try:
            return wait(f"{name} to be {what}", look)
        except AssertionError as fault:
            raise AssertionError(f"{fault}; it is {self.view(name)}") from None

    def cli(self, *words):
        return subprocess.run([BIN / "arw-cli", *words], stdin=subprocess.DEVNULL, capture_output=True, text=True, env=self.env(),
                              timeout=PATIENCE)

    def through(self, url):
        """One GET through the proxy, as the persona: status line and body."""
        host, port = self.proxy.rsplit(":", 1)
        import base64
        basic = base64.b64encode(f"smoke:{PERSONA_TOKEN}".encode()).decode()
        authority = url.split("/")[2]
        with socket.create_connection((host, int(port)), timeout=PATIENCE) as stream:
            stream.sendall(f"GET {url} HTTP/1.1\r\nHost: {authority}\r\nProxy-Authorization: Basic {basic}\r\nConnection: close\r\n\r\n".encode())
            return b"".join(iter(lambda: stream.recv(65536), b"")).decode()

    def ledger(self):
        lines = []
        for path in sorted((self.home / "state/ledger").glob("*.jsonl")):
            lines += [json.loads(line) for line in path.read_text().splitlines() if line.endswith("}")]
        return lines

    def stop(self):
        """SIGINT: the runtimes end too."""
        if self.process and self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            try:
                self.process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self.origin.shutdown()


class Run:
    def __init__(self):
        self.counts = {"ok": 0, "FAIL": 0, "SKIP": 0}

    def say(self, kind, name, text=""):
        self.counts[kind] += 1
        print(f"{kind:<4} {name}" + (f": {text}" if text else ""), flush=True)

    def stage(self, name, work, required=False):
        try:
            self.say("ok", name, work() or "")
            return True
        except Skip as why:
            self.say("FAIL" if required else "SKIP", name, str(why))
        except (AssertionError, OSError, subprocess.SubprocessError, ValueError, KeyError) as fault:
            self.say("FAIL", name, f"{type(fault).__name__}: {fault}"[:2000])
        return False

    def end(self):
        print(f"{self.counts['ok']} passed, {self.counts['FAIL']} failed, {self.counts['SKIP']} skipped", flush=True)
        return 1 if self.counts["FAIL"] else 0


def check(condition, text):
    if not condition:
        raise AssertionError(text)


def safe(run, daemon):
    """Without a sandbox: the gateway, its ledger, the files that are shipped."""
    def settings():
        root = pathlib.Path(__file__).parents[2]
        with tempfile.TemporaryDirectory() as home:
            env = {"HOME": home, "ARW_STATE_DIR": home, "ARW_CONFIG_DIR": str(root / "configs")}
            done = subprocess.run([BIN / "arw-server", "--check"], capture_output=True, text=True, env=env, timeout=PATIENCE)
        check(done.returncode == 0, done.stderr)
        return done.stdout.strip()

    def health():
        check(daemon.ask("GET", "/healthz")[0] == 200, "not healthy")
        check(daemon.ask("GET", "/readyz")[0] == 200, "not ready")

    def allowed():
        answer = daemon.through(f"http://allowed.test:{daemon.port}/")
        check("200 OK" in answer.split("\r\n")[0] and "hello from" in answer, answer)

    def denied():
        answer = daemon.through("http://denied.test/")
        check(answer.startswith("HTTP/1.1 403") and "not_allowlisted" in answer, answer)
        line = [line for line in daemon.ledger() if line.get("host") == "denied.test"][-1]
        return f"403 {line['code']}, ledger line {line['seq']}"

    def verify():
        done = daemon.cli("ledger", "verify")
        check(done.returncode == 0, done.stdout + done.stderr)

    def consent():
        done = daemon.cli("consent", "validate", str(pathlib.Path(__file__).parents[2] / "configs/runtime/bundles.json"))
        check(done.returncode == 0 and done.stdout.strip() == "Consent metadata validation passed", done.stdout + done.stderr)

    run.stage("the shipped settings and manifest are sound", settings)
    run.stage("the daemon answers", health)
    run.stage("an allowed request passes", allowed)
    run.stage("a denied request is refused and recorded", denied)
    run.stage("the ledger verifies", verify)
    run.stage("the shipped consent is sound", consent)


def stub(run, daemon):
    def declared():
        views = daemon.ask("GET", "/state/runtime_supervisor")[1]["runtimes"]
        check(len(views) == 5 and all(view["state"] == "stopped" for view in views), views)
        return f"{len(views)} runtimes are declared, none is launched"
    run.stage("stub: the manifest is read", declared)


def cpu(run, daemon, required):
    def stage(name, work):
        return run.stage(f"cpu: {name}", work, required)

    def launch():
        daemon.act("caller", "start")
        view = daemon.until("caller", "up", lambda view: view["state"] in ("ready", "error", "quarantined"))
        if view["state"] == "error" and "namespace" in (view["detail"] or ""):
            raise Skip(view["detail"])
        check(view["state"] == "ready", view)
        return f"run {view['run']}, init {view['pid']}"

    def confined():
        report = daemon.ask("GET", "/orchestrator/runtimes/caller/report")[1]
        holds = [one["control"] for one in report["report"]["findings"] if one["state"] == "enforced"]
        for needed in ["network_namespace", "pid_namespace", "root", "seccomp", "capabilities", "no_new_privs", "descriptors"]:
            check(needed in holds, f"{needed} is not enforced: {report}")
        return f"{len(holds)} of {len(report['report']['findings'])} controls enforced, claim {json.dumps(report['claim'])}"

    def egress():
        lines = wait("both ledger lines", lambda: (lambda lines: lines if {"open", "deny"} <= {line["kind"] for line in lines} else None)(
            [line for line in daemon.ledger() if line.get("runtime") == "caller"]))
        opened = next(line for line in lines if line["kind"] == "open")
        denied = next(line for line in lines if line["kind"] == "deny")
        check((opened["host"], denied["host"], denied["code"]) == ("allowed.test", "denied.test", "not_allowlisted"), lines)
        return f"allowed.test left by line {opened['seq']}, denied.test did not by line {denied['seq']}"

    def probed():
        daemon.act("server", "start")
        view = daemon.until("server", "ready", lambda view: view["state"] == "ready")
        return f"ready by its HTTP probe, {view['health']}"

    def limit():
        daemon.act("hog", "start")
        view = daemon.until("hog", "dead", lambda view: view["last_death"] is not None)
        report = daemon.ask("GET", "/orchestrator/runtimes/hog/report")[1]
        memory = next(one for one in report["applied"] if one["control"] == "memory_max")
        if memory["outcome"] != "enforced":
            raise Skip(f"memory is not limited here: {memory['reason']}")
        check(view["last_death"]["cause"] == "oom", view["last_death"])
        return f"ended by the kernel at {view['last_death']['used']['memory_peak']} bytes of 67108864: cause oom"

    def watchdog():
        daemon.act("hangs", "start")
        view = daemon.until("hangs", "ended", lambda view: view["state"] == "stopped" and view["last_death"] is not None)
        check(view["last_death"]["cause"] == "watchdog", view["last_death"])
        return "a missed beat ended it: cause watchdog"

    def throttle():
        daemon.act("fails", "start")
        view = daemon.until("fails", "quarantined", lambda view: view["state"] == "quarantined")
        check(view["last_death"]["run"] == 3, view)
        check(daemon.ask("POST", "/orchestrator/runtimes/fails/start")[0] == 409, "a start ends a quarantine")
        daemon.act("fails", "restore")
        daemon.until("fails", "run again", lambda view: view["last_death"]["run"] > 3)
        return "quarantined after 2 restarts; only restore started it again"

    def adoption():
        before = {name: daemon.view(name)["pid"] for name in ("caller", "server")}
        count = len(daemon.ledger())
        daemon.process.kill()
        daemon.process.wait()
        daemon.start()
        for name, pid in before.items():
            view = daemon.until(name, "adopted", lambda view: view["state"] == "ready")
            check(view["pid"] == pid, f"{name}: {pid} became {view['pid']}")
        wait("egress after the adoption", lambda: any(
            line["kind"] == "open" and line.get("runtime") == "caller" for line in daemon.ledger()[count:]))
        return f"kill -9 of the daemon: init {before['server']} and {before['caller']} live on, and their egress is recorded"

    def kill_switch():
        views = [daemon.view(name) for name in ("caller", "server")]
        told = daemon.cli("--json", "automation", "shutdown", "--reason", "the smoke test", "--grace", "1s")
        check(told.returncode == 0, told.stderr)
        report = json.loads(told.stdout)["shutdown"]
        check(report["done"], report)
        check(not [view for view in views if lives(view["pid"])], "a runtime lives on")
        answer = daemon.through(f"http://allowed.test:{daemon.port}/")
        check(answer.startswith("HTTP/1.1 403") and "shutdown_latched" in answer, answer[:200])
        check(daemon.ask("POST", "/orchestrator/runtimes/caller/start")[0] == 409, "a runtime starts although it is latched")
        released = daemon.cli("automation", "rearm", "--reason", "the smoke test goes on")
        check(released.returncode == 0, released.stderr)
        daemon.act("caller", "start")
        daemon.until("caller", "ready again", lambda view: view["state"] == "ready")
        last = report["steps"][-1]["done_ms"]
        return f"{report['steps'][3]['count']} runtimes ended and all egress denied after {last} ms; released, one starts again"

    def teardown():
        pids = [view["pid"] for view in daemon.ask("GET", "/state/runtime_supervisor")[1]["runtimes"] if view["pid"]]
        instance = (daemon.home / "state/runtimes/instance").read_text()
        daemon.stop()
        left = [pid for pid in pids if lives(pid)]
        check(not left, f"processes are left: {left}")
        groups = [str(path) for path in pathlib.Path("/sys/fs/cgroup").glob(f"**/rt-{instance}*")]
        check(not groups, f"cgroups are left: {groups}")
        return f"{len(pids)} runtimes ended with the daemon; no process and no cgroup is left"

    if stage("a sandboxed launch", launch):
        stage("confinement, measured from inside", confined)
        stage("egress, allowed and denied", egress)
        stage("health", probed)
        stage("a real limit", limit)
        stage("a watchdog kill", watchdog)
        stage("restart throttle and quarantine", throttle)
        stage("adoption", adoption)
        stage("the kill switch and its release", kill_switch)
        stage("teardown", teardown)


def gpu(run, daemon, required):
    def driver():
        for name in ["libnvidia-ml.so.1"]:
            import ctypes
            try:
                ctypes.CDLL(name)
            except OSError as why:
                raise Skip(f"gpu unavailable: {why}") from None
        listed = [path for path in pathlib.Path("/dev").glob("nvidia[0-9]*")]
        if not listed:
            raise Skip("gpu unavailable: the library is there and no device node is")
        return f"{len(listed)} device nodes"

    run.stage("gpu: the driver", driver, required)


def allowed(kind):
    policy = os.environ.get(f"RUNTIME_SMOKE_{kind}_POLICY", "auto" if kind == "CPU" else "skip")
    if policy not in ("skip", "auto", "require", "simulate"):
        sys.exit(f"RUNTIME_SMOKE_{kind}_POLICY is skip, auto, require or simulate")
    asked = os.environ.get(f"RUNTIME_SMOKE_ALLOW_{kind}", "") in ("1", "true", "yes", "on")
    if asked and policy == "skip" and kind == "GPU" and "RUNTIME_SMOKE_GPU_POLICY" not in os.environ:
        policy = "auto"
    return asked, policy


def main():
    which = sys.argv[1] if len(sys.argv) == 2 else ""
    if which not in ("safe", "runtime", "gpu"):
        sys.exit(__doc__)
    if os.environ.get("RUNTIME_SMOKE_DRY_RUN", "") in ("1", "true", "yes", "on"):
        stages = {"safe": "safe", "runtime": "stub cpu", "gpu": "stub gpu"}[which]
        print(f"would start {BIN / 'arw-server'} in a folder of its own and run: {stages}")
        return 0
    signal.alarm(int(os.environ.get("SMOKE_TIMEOUT_SECS", "600")))

    def give_up(number, _):
        raise SystemExit(f"FAIL the smoke test was ended by {signal.Signals(number).name}")

    for number in (signal.SIGALRM, signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, give_up)
    run = Run()
    home = tempfile.mkdtemp(prefix="arw-smoke-")
    daemon = Daemon(home, with_runtimes=which != "safe")
    try:
        if not run.stage("the daemon comes up", daemon.start):
            return run.end()
        if which == "safe":
            safe(run, daemon)
        else:
            stub(run, daemon)
            kind = "CPU" if which == "runtime" else "GPU"
            asked, policy = allowed(kind)
            name = kind.lower()
            if policy == "simulate":
                run.say("SKIP", name, "simulated: the stub stage stood in for it")
            elif policy == "skip":
                run.say("SKIP", name, f"RUNTIME_SMOKE_{kind}_POLICY=skip")
            elif not asked:
                kind_of = "FAIL" if policy == "require" else "SKIP"
                run.say(kind_of, name, f"set RUNTIME_SMOKE_ALLOW_{kind}=1 to launch something")
            else:
                (cpu if which == "runtime" else gpu)(run, daemon, policy == "require")
        return run.end()
    finally:
        signal.alarm(0)
        daemon.stop()
        shutil.rmtree(home, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
