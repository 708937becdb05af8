"""Runtimes of the daemon: launched by its unit, limited, published, alive over its end, and accounted for."""

import json
import pathlib
import re
import time
import urllib.request

from harness import SLOW, drop_in, journal, prop, sh, show, until

UNIT = "arw-server.service"
STATE = pathlib.Path("/var/lib/arw/runtimes")
LEAVES = pathlib.Path("/sys/fs/cgroup/system.slice/arw-runtimes.service/arw")
MANIFEST = pathlib.Path("/etc/arw/runtime/runtimes.toml")
PERSONA = pathlib.Path("/etc/arw/personas/worker.toml")
WORKSPACES = pathlib.Path("/usr/share/doc/arw/examples/overrides/workspaces.conf")

DECLARED = """
[[runtimes]]
id = "model"
persona = "worker"
auto_start = true
publish = ["127.0.0.1:8088:8000"]
[runtimes.process]
command = "python3"
args = ["-c", '''
import http.server, os, time
class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = f"{os.getpid()} {BORN}".encode()
        self.send_response(200); self.send_header("Content-Length", str(len(body))); self.end_headers(); self.wfile.write(body)
    def log_message(self, *_): pass
BORN = time.time()
http.server.HTTPServer(("127.0.0.1", 8000), Answer).serve_forever()
''']
[runtimes.health]
http = "http://127.0.0.1:8000/"
interval = "30s"
timeout = "20s"
grace = "5m"
[runtimes.limits]
memory = "128MiB"

[[runtimes]]
id = "writer"
persona = "worker"
auto_start = true
[runtimes.process]
command = "python3"
args = ["-c", "open('/work/made', 'w').write('inside'); print(open('/models/given').read())"]
workspaces = ["/srv/work:/work:rw", "/srv/models:/models"]
[runtimes.restart]
policy = "no"

[[runtimes]]
id = "hog"
persona = "worker"
auto_start = true
[runtimes.process]
command = "python3"
args = ["-c", "kept = [bytearray(b'x') * (1 << 20) for _ in range(400)]"]
[runtimes.restart]
policy = "no"
[runtimes.limits]
memory = "64MiB"

[[runtimes]]
id = "fails"
persona = "worker"
auto_start = true
[runtimes.process]
command = "/bin/false"
[runtimes.restart]
policy = "always"
backoff = "100ms"
backoff_max = "1s"
max = 2
window = "1h"

[[runtimes]]
id = "trainer"
persona = "worker"
auto_start = true
accelerator = "gpu"
[runtimes.process]
command = "/bin/true"
[runtimes.gpu]
count = 1
"""


def answer():
    """What the model server says: its process id inside, and when it was born. None when it does not."""
    try:
        with urllib.request.urlopen("http://127.0.0.1:8088/", timeout=20 * SLOW) as said:
            return said.read().decode()
    except OSError:
        return None


def init(runtime):
    """Which process the runtime's init is: its id on the host, when it started, and the boot."""
    return json.loads((STATE / runtime / "run.json").read_text())["init"]


def deaths(runtime):
    file = STATE / runtime / "deaths.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


@prop("a declared model server is launched by the unit and answers on its published port")
def _():
    # Not under a daemon: it would take the files up by itself, and the restart would come into the first launches.
    sh("systemctl", "stop", UNIT)
    for folder in ("/srv/work", "/srv/models"):
        pathlib.Path(folder).mkdir(exist_ok=True)
    pathlib.Path("/srv/work").chmod(0o777)
    pathlib.Path("/srv/models/given").write_text("a model")
    drop_in(UNIT, "workspaces", WORKSPACES.read_text())
    PERSONA.write_text('id = "worker"\nposture = "off"\n')
    MANIFEST.parent.mkdir(exist_ok=True)
    MANIFEST.write_text(DECLARED)
    sh("systemctl", "start", UNIT)
    until("the model server answers", answer, 120 * SLOW)


@prop("workspaces that the shipped override names are there, and one of them can be written")
def _():
    try:
        found = until("the writer's end", lambda: deaths("writer"))[-1]
    except AssertionError as fault:
        raise AssertionError(sh("arw-cli", "runtime", "status", "writer", check=False).stdout) from fault
    assert (found["cause"], found["code"], found["last_lines"]) == ("exit", 0, ["a model"]), found
    assert pathlib.Path("/srv/work/made").read_text() == "inside"
    # Left to the operator by a purge, and nothing here writes any more.
    drop_in(UNIT, "workspaces", "")


@prop("its limits hold in the group of runtimes")
def _():
    leaves = [leaf for leaf in LEAVES.glob("rt-*") if (leaf / "memory.max").read_text().strip() == str(128 << 20)]
    assert len(leaves) == 1, [(leaf.name, (leaf / "memory.max").read_text()) for leaf in LEAVES.glob("rt-*")]
    assert (leaves[0] / "pids.max").read_text().strip() == "512" and (leaves[0] / "cgroup.procs").read_text()


@prop("a restart of the daemon keeps the model server's process, and it is served again")
def _():
    before, process = answer(), init("model")
    assert before
    sh("systemctl", "restart", UNIT)
    assert init("model") == process
    assert until("it answers again", answer) == before


@prop("a killed daemon comes back and adopts the model server as it is")
def _():
    before, process, pid = answer(), init("model"), show(UNIT, "MainPID")
    sh("kill", "-9", pid)
    until("another daemon", lambda: show(UNIT, "ActiveState") == "active" and show(UNIT, "MainPID") not in ("0", pid))
    assert until("it answers again", answer) == before and init("model") == process


@prop("an upgrade of the package keeps the model server's process")
def _():
    before, pid = answer(), show(UNIT, "MainPID")
    sh("apt-get", "install", "--yes", "--reinstall", "-o", "Dpkg::Options::=--force-confold", "/share/arw.deb", timeout=1200)
    assert show(UNIT, "MainPID") != pid and until("it answers again", answer) == before


@prop("a runtime that was killed for its memory is recorded as such")
def _():
    found = until("the death record", lambda: deaths("hog"))
    assert "oom" in json.dumps(found[-1]), found[-1]
    time.sleep(1)
    assert answer(), "what ran beside it lives"


@prop("a runtime that keeps failing is quarantined, and stays so over a restart")
def _():
    saved = STATE / "fails" / "saved.json"
    until("the quarantine", lambda: saved.exists() and json.loads(saved.read_text())["life"]["quarantined"])
    count = len(deaths("fails"))
    assert count == 3, (deaths("fails"), [line for line in journal(UNIT).splitlines() if "not launched" in line or "fails" in line])
    sh("systemctl", "restart", UNIT)
    until("the model server answers", answer)
    assert len(deaths("fails")) == count, journal(UNIT)[-1500:]


@prop("a runtime that asks for a GPU is refused on a host without one, with the reason, and nothing else is")
def _():
    view = json.loads(sh("arw-cli", "--json", "runtime", "status", "trainer").stdout)
    assert (view["state"], view["health"], view["run"]) == ("error", "launch_refused", None), view
    assert "gpu unavailable: the NVIDIA management library is not installed" in view["detail"], view
    # Families without a GPU have no sample: not even a 0.
    said = metrics()
    assert "# TYPE arw_gpu_adapter_memory_bytes gauge" in said and "\narw_gpu_" not in said, said
    assert answer(), "what is declared beside it runs"


def metrics():
    return control("/metrics")


def control(path):
    return sh("curl", "-fsS", "--unix-socket", "/var/lib/arw/control.sock", f"http://localhost{path}").stdout


@prop("every series of the shipped rules and dashboards is one of this daemon's")
def _():
    kinds = dict(re.findall(r"^# TYPE (\S+) (\S+)$", metrics(), re.M))
    suffixes = {"counter": ("_total",), "histogram": ("_bucket", "_count", "_sum"), "summary": ("_count", "_sum", "")}
    known = {f"{name}{suffix}" for name, kind in kinds.items() for suffix in suffixes.get(kind, ("",))}
    # `arw_build_info` is a family `arw_build` of the kind info.
    known |= {f"{name}_info" for name, kind in kinds.items() if kind == "info"}
    shipped = pathlib.Path("/usr/share/doc/arw/examples")
    asked = set()
    for path in shipped.glob("prometheus/*.rules.yml"):
        asked |= set(re.findall(r"(?<![:\w])arw_[a-z_]+(?=[{\[ )]|$)", "\n".join(expressions(path.read_text())), re.M))
    for path in shipped.glob("grafana/*.json"):
        for panel in json.loads(path.read_text())["panels"]:
            for target in panel["targets"]:
                asked |= set(re.findall(r"(?<![:\w])arw_[a-z_]+(?![\w:])", target["expr"]))
    assert len(asked) > 40 and any(name.startswith("arw_gpu_") for name in asked), asked
    assert not asked - known, asked - known


def expressions(text):
    """The expressions of a rule file: after `expr:`, on that line or in the lines that are further in."""
    deep = None
    for line in text.splitlines():
        indent = len(line) - len(line.lstrip())
        if deep is not None and (not line.strip() or indent > deep):
            yield line
            continue
        deep = None
        if line.strip().startswith("expr:"):
            rest = line.split("expr:", 1)[1].strip()
            if rest == "|":
                deep = indent
            else:
                yield rest


def latched():
    return json.loads(control("/state/automation/shutdown"))["latched"]


@prop("the kill switch ends the model server, and stays latched over restart, crash and upgrade")
def _():
    process = init("model")["pid"]
    assert pathlib.Path(f"/proc/{process}").exists()
    sh("arw-cli", "automation", "shutdown", "--reason", "a trial", "--grace", "5s")
    assert latched() and not pathlib.Path(f"/proc/{process}").exists() and not answer()
    sh("systemctl", "restart", UNIT)
    assert latched() and not answer()
    pid = show(UNIT, "MainPID")
    sh("kill", "-9", pid)
    until("another daemon", lambda: show(UNIT, "ActiveState") == "active" and show(UNIT, "MainPID") not in ("0", pid))
    assert latched() and not answer()
    sh("apt-get", "install", "--yes", "--reinstall", "-o", "Dpkg::Options::=--force-confold", "/share/arw.deb", timeout=1200)
    assert latched() and not answer()
    assert not list(LEAVES.glob("rt-*/cgroup.procs")), "nothing runs"
    refused = sh("arw-cli", "runtime", "start", "model", check=False)
    assert refused.returncode == 1 and not answer(), refused.stdout


@prop("released with a reason, nothing starts by itself, and the model server starts when it is asked for")
def _():
    assert sh("arw-cli", "automation", "rearm", check=False).returncode == 2 and latched()
    sh("arw-cli", "automation", "rearm", "--reason", "the trial is over")
    assert not latched()
    time.sleep(2 * SLOW)
    assert not answer()
    sh("arw-cli", "runtime", "start", "model")
    until("the model server answers", answer, 120 * SLOW)


@prop("latched without a daemon, the daemon comes up latched and ends what it adopts")
def _():
    process = init("model")["pid"]
    sh("systemctl", "stop", UNIT)
    assert pathlib.Path(f"/proc/{process}").exists(), "it outlives the daemon"
    sh("arw-cli", "automation", "shutdown", "--reason", "no daemon")
    sh("systemctl", "start", UNIT)
    assert latched()
    until("the adopted model server ends", lambda: not pathlib.Path(f"/proc/{process}").exists())
    until("everything has ended", lambda: sh("arw-cli", "automation", "rearm", "--reason", "over", check=False).returncode == 0)
    sh("arw-cli", "runtime", "start", "model")
    until("the model server answers", answer, 120 * SLOW)
    audit = sh("arw-cli", "admin", "audit", "--json", check=False).stdout
    assert "no daemon" in audit and "over" in audit, audit[-1500:]


@prop("stopping the unit of the runtimes ends them all")
def _():
    sh("systemctl", "stop", UNIT)
    sh("systemctl", "stop", "arw-runtimes.service")
    assert not LEAVES.exists()
    MANIFEST.unlink()
    PERSONA.unlink()
    sh("systemctl", "start", UNIT)
