"""The unit: ready, watched, throttled, reloaded, activated by its sockets."""

import json
import os
import pathlib
import signal
import socket
import subprocess
import time

from harness import SLOW, Skip, drop_in, journal, prop, sh, show, systemd_version, until

UNIT = "arw-server.service"


def main_pid():
    return int(show(UNIT, "MainPID"))


def active():
    return show(UNIT, "ActiveState") == "active"


@prop("systemctl start waits until the daemon is ready")
def _():
    sh("systemctl", "start", UNIT)
    assert active()
    # Ready means that it answers at once, without waiting for it.
    assert sh("curl", "-sS", "-o", "/dev/null", "-w", "%{http_code}", "http://127.0.0.1:9080/").stdout.strip() != "000"
    assert "personas" in show(UNIT, "StatusText")


@prop("arw-cli status answers over the control socket")
def _():
    said = json.loads(sh("arw-cli", "--json", "status").stdout)
    assert said, said
    sh("arw-cli", "health")
    assert sh("runuser", "-u", "someone", "--", "arw-cli", "--state-dir", "/var/lib/arw", "status", check=False).returncode != 0


def powers(pid):
    status = dict(line.split(":\t", 1) for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines() if ":\t" in line)
    numbers = {"chown": 0, "dac_override": 1, "kill": 5, "setgid": 6, "setuid": 7, "setpcap": 8, "net_bind_service": 10,
               "net_admin": 12, "sys_admin": 21}
    held = {line: int(status[line], 16) for line in ("CapEff", "CapPrm", "CapBnd")}
    assert status["NoNewPrivs"].strip() == "1" and status["Seccomp"].strip() == "2", status
    return held, lambda names: sum(1 << numbers[name] for name in names)


@prop("the daemon keeps three powers of its unit; its launcher has those that the unit names and no other")
def _():
    held, of = powers(main_pid())
    kept = of(("dac_override", "kill", "net_bind_service"))
    assert set(held.values()) == {kept}, (held, hex(kept))
    launchers = pathlib.Path(f"/proc/{main_pid()}/task/{main_pid()}/children").read_text().split()
    assert len(launchers) == 1, launchers
    held, of = powers(launchers[0])
    wanted = of(show(UNIT, "CapabilityBoundingSet").replace("cap_", "").split())
    assert set(held.values()) == {wanted}, (held, hex(wanted))


@prop("the daemon measures its own walls")
def _():
    found = json.loads(sh("arw-cli", "--json", "confinement").stdout)
    states = {finding["control"]: finding["state"] for finding in found["controls"]}
    for control in ("seccomp", "capabilities", "no_new_privs"):
        assert states[control] == "enforced", found
    # Landlock's rules for files need its second ABI (Debian 12 has that), scopes its sixth (Debian 13).
    assert states["landlock_files"] in ("enforced", "partial"), found


@prop("the host is read-only to the daemon, and other homes are not there")
def _():
    root = f"/proc/{main_pid()}/root"
    assert os.listdir(f"{root}/home") == [] and os.listdir("/home") == ["someone"]
    mounts = pathlib.Path(f"/proc/{main_pid()}/mountinfo").read_text().splitlines()
    options = {line.split()[4]: line.split()[5].split(",") for line in mounts}
    assert "ro" in options["/"], options["/"]
    assert "rw" in options["/var/lib/arw"] and "rw" in options["/etc/arw/personas"], options


@prop("the daemon runs in a group of its own below the unit's")
def _():
    if systemd_version() < 254:
        raise Skip("DelegateSubgroup is of systemd 254; runtimes live in the group of arw-runtimes.service either way")
    groups = pathlib.Path(f"/proc/{main_pid()}/cgroup").read_text()
    assert groups.strip().endswith("/system.slice/arw-server.service/arw-supervisor"), groups
    handed = set(pathlib.Path("/sys/fs/cgroup/system.slice/arw-server.service/cgroup.controllers").read_text().split())
    assert {"cpu", "cpuset", "io", "memory", "pids"} <= handed, handed


@prop("a reload reads the personas again and keeps the process")
def _():
    pid = main_pid()
    persona = pathlib.Path("/etc/arw/personas/reloaded.toml")
    persona.write_text('id = "reloaded"\nposture = "off"\n')
    try:
        sh("systemctl", "reload", UNIT)
        until("the persona is known", lambda: "reloaded" in sh("arw-cli", "persona", "list").stdout)
    finally:
        persona.unlink()
    sh("systemctl", "reload", UNIT)
    assert active() and main_pid() == pid


@prop("a daemon that hangs is killed by the watchdog and started again")
def _():
    # On emulated processors a shorter one would fire at a daemon that is only slow.
    drop_in(UNIT, "watchdog", "[Service]\nWatchdogSec=15s\n")
    try:
        sh("systemctl", "restart", UNIT)
        pid = main_pid()
        os.kill(pid, signal.SIGSTOP)
        until("another daemon", lambda: active() and main_pid() not in (0, pid))
        assert int(show(UNIT, "NRestarts")) == 1
        assert "Watchdog timeout" in journal(UNIT), journal(UNIT)[-1000:]
        sh("arw-cli", "health")
    finally:
        drop_in(UNIT, "watchdog", "")
        sh("systemctl", "restart", UNIT)


@prop("a daemon that is alive is left alone by the watchdog")
def _():
    drop_in(UNIT, "watchdog", "[Service]\nWatchdogSec=15s\n")
    try:
        sh("systemctl", "restart", UNIT)
        pid = main_pid()
        time.sleep(40)
        assert main_pid() == pid and show(UNIT, "NRestarts") == "0"
    finally:
        drop_in(UNIT, "watchdog", "")


@prop("a daemon whose workers hang on a dead disk is killed by the watchdog")
def _():
    sh("systemctl", "stop", UNIT)
    state = pathlib.Path("/var/lib/arw")
    sh("truncate", "-s", "64M", "/var/lib/state.ext4")
    sh("mke2fs", "-q", "-F", "-t", "ext4", "/var/lib/state.ext4")
    sh("mount", "-o", "loop", "/var/lib/state.ext4", str(state))
    frozen = False
    asker = None
    drop_in(UNIT, "watchdog", "[Service]\nWatchdogSec=20s\n")
    try:
        sh("systemctl", "start", UNIT)
        pid = main_pid()
        sh("fsfreeze", "--freeze", str(state))
        frozen = True
        # A refusal is a line in the ledger: the worker that decides waits for the disk, all others and the clock go on.
        asker = subprocess.Popen(["curl", "-s", "-o", "/dev/null", "-x", "http://127.0.0.1:9080", "http://example.com/"])
        until("the watchdog", lambda: show(UNIT, "Result") == "watchdog" or "Watchdog timeout" in journal(UNIT, "-60s"))
        assert "proxy workers do not answer" in journal(UNIT, "-120s"), journal(UNIT, "-120s")
        sh("fsfreeze", "--unfreeze", str(state))
        frozen = False
        until("another daemon", lambda: active() and main_pid() not in (0, pid))
        sh("arw-cli", "health")
    finally:
        if frozen:
            sh("fsfreeze", "--unfreeze", str(state))
        if asker:
            asker.kill()
            asker.wait()
        drop_in(UNIT, "watchdog", "")
        sh("systemctl", "stop", UNIT)
        sh("umount", str(state))
        pathlib.Path("/var/lib/state.ext4").unlink()
        sh("systemctl", "reset-failed", UNIT, check=False)


@prop("a killed daemon is started again, and its ledger is whole")
def _():
    sh("systemctl", "restart", UNIT)
    pid = main_pid()
    os.kill(pid, signal.SIGKILL)
    until("another daemon", lambda: active() and main_pid() not in (0, pid))
    sh("arw-cli", "ledger", "verify")


@prop("a crash loop gets slower and is given up, and nothing listens then")
def _():
    drop_in(UNIT, "crash", "[Service]\nExecStart=\nExecStart=/usr/bin/arw-server --config /nonexistent\n")
    try:
        sh("systemctl", "reset-failed", UNIT, check=False)
        sh("systemctl", "stop", UNIT)
        sh("systemctl", "start", UNIT, check=False)
        pauses = []

        def given_up():
            state = show(UNIT, "ActiveState", "Result", "NRestarts", "RestartUSecNext")
            if state.get("RestartUSecNext") and state["RestartUSecNext"] not in pauses:
                pauses.append(state["RestartUSecNext"])
            return state if state["ActiveState"] == "failed" else None

        state = until("the unit is given up", given_up, 120 + 60 * SLOW)
        assert state["Result"] in ("start-limit-hit", "exit-code"), state
        assert "Start request repeated too quickly" in journal(UNIT), journal(UNIT)[-600:]
        assert 3 <= int(state["NRestarts"]) <= 8, state
        if systemd_version() >= 254:
            assert len(pauses) >= 3, pauses
        with socket.socket() as client:
            assert client.connect_ex(("127.0.0.1", 9080)) != 0
    finally:
        drop_in(UNIT, "crash", "")
        sh("systemctl", "reset-failed", UNIT, check=False)
    sh("systemctl", "start", UNIT)


@prop("a wrong configuration is told in the journal with file and line")
def _():
    path = pathlib.Path("/etc/arw/arw-server.toml")
    sound = path.read_text()
    path.write_text(sound.replace('drain = "10s"', 'drian = "10s"'))
    try:
        said = sh("arw-server", "--check", check=False)
        assert said.returncode != 0 and "drian" in said.stdout and "arw-server.toml" in said.stdout, said.stdout
    finally:
        path.write_text(sound)


def refused(address):
    """Tries one request; whether the connection was refused or reset before an answer."""
    try:
        with socket.create_connection(address, timeout=30 * SLOW) as client:
            client.sendall(b"GET http://example.com/ HTTP/1.1\r\nHost: example.com\r\n\r\n")
            return not client.recv(64).startswith(b"HTTP/1.1 407")
    except OSError:
        return True


@prop("with sockets that systemd holds, the first connection starts the daemon")
def _():
    sh("systemctl", "stop", UNIT)
    sh("systemctl", "start", "arw-server.socket", "arw-control.socket")
    assert not active()
    assert not refused(("127.0.0.1", 9080))
    # The proxy answers a moment before the whole daemon is ready.
    until("it is ready", active)
    sh("arw-cli", "status")
    assert pathlib.Path("/var/lib/arw/control.sock").stat().st_mode & 0o777 == 0o600
    assert pathlib.Path("/run/arw/proxy.sock").stat().st_mode & 0o777 == 0o660


@prop("with sockets that systemd holds, a restart refuses no connection")
def _():
    from concurrent.futures import ThreadPoolExecutor

    assert not refused(("127.0.0.1", 9080))
    with ThreadPoolExecutor(2) as pool:
        restart = pool.submit(sh, "systemctl", "restart", UNIT)
        tried = 0
        while not restart.done() or tried < 20:
            assert not refused(("127.0.0.1", 9080)), f"after {tried}"
            tried += 1
        restart.result()
    print(f"# {tried} connections over one restart", flush=True)


@prop("the proxy's Unix socket is for members of the group arw")
def _():
    probe = "import socket; s = socket.socket(socket.AF_UNIX); s.connect('/run/arw/proxy.sock')"
    outsider = sh("setpriv", "--reuid=65501", "--regid=65501", "--clear-groups", "python3", "-c", probe, check=False)
    assert outsider.returncode != 0 and "PermissionError" in outsider.stdout, outsider.stdout
    group = sh("getent", "group", "arw").stdout.split(":")[2]
    member = sh("setpriv", "--reuid=65501", "--regid=65501", f"--groups={group}", "python3", "-c", probe, check=False)
    assert member.returncode == 0, (member.stdout, group, sh("ls", "-lan", "/run/arw").stdout, sh("id", "arw", check=False).stdout)


@prop("without those sockets the daemon opens its own again")
def _():
    sh("systemctl", "stop", "arw-server.socket", "arw-control.socket", UNIT)
    assert not pathlib.Path("/run/arw/proxy.sock").exists()
    sh("systemctl", "start", UNIT)
    assert not refused(("127.0.0.1", 9080))
    sh("arw-cli", "health")
