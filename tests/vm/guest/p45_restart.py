"""What a restart does to runtimes: the units' groups, with a daemon of five lines in the place of ours."""

import pathlib

from harness import drop_in, journal, prop, sh, show, until

UNIT = "arw-server.service"
GROUP = pathlib.Path("/sys/fs/cgroup/system.slice/arw-runtimes.service")
LEAF = GROUP / "arw/rt-one"

DAEMON = """
set -e
cd /sys/fs/cgroup/system.slice/arw-runtimes.service
mkdir -p arw/rt-one
for group in . arw; do for one in cpu memory pids; do echo +$one > $group/cgroup.subtree_control; done; done
if ! grep -q . arw/rt-one/cgroup.procs; then
    setsid sleep 100000 & echo $! > arw/rt-one/cgroup.procs; echo 100 > arw/rt-one/pids.max
fi
systemd-notify --ready
exec sleep 100000
"""


def runtime():
    return (LEAF / "cgroup.procs").read_text().strip()


def another(pid):
    return show(UNIT, "ActiveState") == "active" and show(UNIT, "MainPID") not in ("0", pid)


@prop("the group of runtimes holds no process of its own and has every controller")
def _():
    sh("systemctl", "start", UNIT)
    assert show("arw-runtimes.service", "ActiveState") == "active", journal("arw-runtimes.service")
    assert (GROUP / "cgroup.procs").read_text() == ""
    assert {"cpu", "cpuset", "io", "memory", "pids"} <= set((GROUP / "cgroup.controllers").read_text().split())


@prop("a runtime in its group lives through restart, crash and stop of the daemon's unit, with its limits")
def _():
    pathlib.Path("/run/trial-daemon").write_text(DAEMON)
    drop_in(UNIT, "trial", "[Service]\nExecStart=\nExecStart=/bin/sh /run/trial-daemon\nNotifyAccess=all\nWatchdogSec=0\n")
    try:
        sh("systemctl", "restart", UNIT)
        first, daemon = runtime(), show(UNIT, "MainPID")
        assert first and (LEAF / "pids.max").read_text() == "100\n"
        sh("systemctl", "restart", UNIT)
        assert another(daemon) and runtime() == first, journal(UNIT)[-1500:]
        daemon = show(UNIT, "MainPID")
        sh("kill", "-9", daemon)
        until("another daemon after kill -9", lambda: another(daemon))
        assert runtime() == first and (LEAF / "pids.max").read_text() == "100\n"
        sh("systemctl", "stop", UNIT)
        assert runtime() == first
        sh("systemctl", "stop", "arw-runtimes.service")
        assert not pathlib.Path(f"/proc/{first}").exists() and not GROUP.exists()
    finally:
        drop_in(UNIT, "trial", "")
        sh("systemctl", "reset-failed", UNIT, check=False)
    sh("systemctl", "start", UNIT)
