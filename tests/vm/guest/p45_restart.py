"""What a restart does to processes in groups below the unit's, as runtimes are."""

import pathlib

from harness import journal, prop, sh, show, until

UNIT = "arw-lives.service"
FILE = pathlib.Path("/run/systemd/system") / UNIT
GROUP = pathlib.Path("/sys/fs/cgroup/system.slice") / UNIT

# The life of a daemon in five lines: it leaves its unit's group, hands controllers down, and starts a runtime once.
DAEMON = """#!/bin/sh
set -e
cd /sys/fs/cgroup/system.slice/arw-lives.service
mkdir -p arw-supervisor arw/rt-one
echo $$ > arw-supervisor/cgroup.procs
echo '+cpu +memory +pids' > cgroup.subtree_control
echo '+cpu +memory +pids' > arw/cgroup.subtree_control
if ! grep -q . arw/rt-one/cgroup.procs; then
    setsid sleep 100000 & echo $! > arw/rt-one/cgroup.procs; echo 100 > arw/rt-one/pids.max
fi
exec sleep 100000
"""


def pid_of_runtime():
    return (GROUP / "arw/rt-one/cgroup.procs").read_text().strip()


@prop("the unit's settings let what runs in its groups live through a restart, with its limits")
def _():
    text = pathlib.Path("/usr/lib/systemd/system/arw-server.service").read_text()
    keep = ("KillMode=", "Delegate", "OOMPolicy=", "Restart", "TimeoutStop")
    lines = [line for line in text.splitlines() if line.startswith(keep)]
    assert any(line == "KillMode=process" for line in lines), lines
    script = pathlib.Path("/run/arw-lives")
    script.write_text(DAEMON)
    FILE.write_text("[Service]\nType=exec\nExecStart=/bin/sh /run/arw-lives\n" + "\n".join(lines) + "\n")
    try:
        sh("systemctl", "daemon-reload")
        started = sh("systemctl", "start", UNIT, check=False)
        assert started.returncode == 0, journal(UNIT)
        until("the runtime", lambda: (GROUP / "arw/rt-one/pids.max").exists() and (GROUP / "arw/rt-one/pids.max").read_text() == "100\n")
        runtime, daemon = pid_of_runtime(), show(UNIT, "MainPID")
        assert runtime
        sh("systemctl", "restart", UNIT)
        until("another daemon", lambda: show(UNIT, "ActiveState") == "active" and show(UNIT, "MainPID") not in ("0", daemon))
        assert pid_of_runtime() == runtime
        daemon = show(UNIT, "MainPID")
        sh("kill", "-9", daemon)
        until("another daemon after kill -9", lambda: show(UNIT, "ActiveState") == "active" and show(UNIT, "MainPID") not in ("0", daemon))
        assert pid_of_runtime() == runtime and (GROUP / "arw/rt-one/pids.max").read_text() == "100\n"
        sh("systemctl", "stop", UNIT)
        assert pid_of_runtime() == runtime
    finally:
        sh("systemctl", "stop", UNIT, check=False)
        if (GROUP / "cgroup.kill").exists():
            (GROUP / "cgroup.kill").write_text("1")
        FILE.unlink()
        script.unlink()
        sh("systemctl", "reset-failed", UNIT, check=False)
        sh("systemctl", "daemon-reload")
