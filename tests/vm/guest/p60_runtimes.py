"""Runtimes of the daemon: launched by its unit, limited, published, alive over its end, and accounted for."""

import json
import pathlib
import time
import urllib.request

from harness import SLOW, journal, prop, sh, show, until

UNIT = "arw-server.service"
STATE = pathlib.Path("/var/lib/arw/runtimes")
LEAVES = pathlib.Path("/sys/fs/cgroup/system.slice/arw-runtimes.service/arw")
MANIFEST = pathlib.Path("/etc/arw/runtime/runtimes.toml")
PERSONA = pathlib.Path("/etc/arw/personas/worker.toml")

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
"""


def answer():
    """What the model server says: its process id inside, and when it was born. None when it does not."""
    try:
        with urllib.request.urlopen("http://127.0.0.1:8088/", timeout=20 * SLOW) as said:
            return said.read().decode()
    except OSError:
        return None


def init(runtime):
    """The process id of the runtime's init, on the host."""
    return json.loads((STATE / runtime / "run.json").read_text())["init"]


def deaths(runtime):
    file = STATE / runtime / "deaths.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


@prop("a declared model server is launched by the unit and answers on its published port")
def _():
    PERSONA.write_text('id = "worker"\nposture = "off"\n')
    MANIFEST.parent.mkdir(exist_ok=True)
    MANIFEST.write_text(DECLARED)
    sh("systemctl", "restart", UNIT)
    until("the model server answers", answer, 120 * SLOW)


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
    assert count == 3, deaths("fails")
    sh("systemctl", "restart", UNIT)
    until("the model server answers", answer)
    assert len(deaths("fails")) == count, journal(UNIT)[-1500:]


@prop("stopping the unit of the runtimes ends them all")
def _():
    sh("systemctl", "stop", UNIT)
    sh("systemctl", "stop", "arw-runtimes.service")
    assert not LEAVES.exists()
    MANIFEST.unlink()
    PERSONA.unlink()
    sh("systemctl", "start", UNIT)
