"""Sandboxes of root: limits of cgroup v2, what ends above them, what this kernel's Landlock can hold."""

import pathlib
import re

from harness import Skip, kernel, prop, sh, until

# The rules of one unit's own group: what `systemd-run --scope -p Delegate=yes` makes is ours alone.
SCOPE = ["systemd-run", "--scope", "--quiet", "-p", "Delegate=yes", "--"]


def sandbox(*arguments, command=("true",), check=True, before=SCOPE):
    return sh(*before, "arw-cli", "--state-dir", "/var/lib/arw-trial", "run", "--persona", "demo", *arguments, "--",
              *command, check=check)


def report(text):
    """The lines of a report: control → (state, why)."""
    found = {}
    for line in text.splitlines():
        parts = re.match(r"^([a-z_]+) +(enforced|partial|unavailable) *(.*)$", line)
        if parts:
            found[parts[1]] = (parts[2], parts[3])
    return found


LIMITS = ("cpu_quota", "cpu_weight", "memory_high", "memory_max", "swap_max", "pids_max")


@prop("the limits of a preset are enforced by cgroup v2, and the preset is claimed")
def _():
    said = sandbox("--preset", "eco", "--report").stdout
    found = report(said)
    for control in LIMITS:
        assert found.get(control, ("missing",))[0] == "enforced", (control, said)
    assert re.search(r"^preset +eco$", said, re.M), said


@prop("inside, the files of the group say the same")
def _():
    script = "import time; print('up', flush=True); time.sleep(600)"
    import subprocess

    process = subprocess.Popen([*SCOPE, "arw-cli", "--state-dir", "/var/lib/arw-trial", "run", "--persona", "demo",
                                "--preset", "eco", "--", "python3", "-c", script], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "up\n"
        leaf = next(pathlib.Path("/sys/fs/cgroup").glob("system.slice/run-*.scope/arw/rt-*"))
        assert (leaf / "pids.max").read_text() == "512\n"
        quota, period = (leaf / "cpu.max").read_text().split()
        assert int(quota) * 4 == int(period), (quota, period)
        total = int(re.search(r"MemTotal: +(\d+)", pathlib.Path("/proc/meminfo").read_text())[1]) * 1024
        limit = int((leaf / "memory.max").read_text())
        assert abs(limit - total // 4) < 1 << 20, (limit, total)
        assert (leaf / "cgroup.procs").read_text() or (leaf / "cgroup.procs")
    finally:
        process.terminate()
        process.wait(120)
    until("the group is gone", lambda: not leaf.exists())


@prop("without a group of its own, root's run says which limits are missing")
def _():
    said = sandbox("--preset", "eco", "--report", before=[]).stdout
    found = report(said)
    assert found["memory_max"][0] != "enforced" and "not ours alone" in said, said
    assert re.search(r"^preset +not eco", said, re.M), said


# Huge pages and many threads: above `memory.high` the kernel looks for what to give back at each charge, which takes
# minutes page by page on an emulated processor, and lets each thread wait up to two seconds.
HOG = """
import mmap, os, threading
zero, kept = os.open("/dev/zero", os.O_RDONLY), []
def fill():
    memory = mmap.mmap(-1, 64 << 20)
    memory.madvise(mmap.MADV_HUGEPAGE)
    kept.append(memory)
    os.readv(zero, [memory])
for thread in [threading.Thread(target=fill) for _ in range(24)]:
    thread.start()
"""


@prop("a hog is killed in its own group, and what ran beside it lives")
def _():
    done = sandbox("--preset", "eco", command=("python3", "-c", HOG), check=False)
    assert done.returncode == 137, (done.returncode, done.stdout[-500:])
    said = sh("journalctl", "-k", "-o", "cat", "--no-pager").stdout
    kills = [line for line in said.splitlines() if "oom-kill:" in line]
    assert kills and "CONSTRAINT_MEMCG" in kills[-1] and "/arw/rt-" in kills[-1], kills
    sh("arw-cli", "health")


@prop("a fork bomb stops at the limit of tasks")
def _():
    bomb = (
        "import os, sys\nmade = 0\n"
        "try:\n    while made < 5000:\n        if os.fork() == 0:\n            import time; time.sleep(600)\n        made += 1\n"
        "except OSError as fault:\n    print('stopped', made, fault.errno)\nsys.stdout.flush()\nos._exit(0)\n"
    )
    said = sandbox("--preset", "eco", command=("python3", "-c", bomb)).stdout
    made = int(re.search(r"stopped (\d+) 11", said)[1])
    assert made <= 512, said


@prop("Landlock is reported as this kernel has it")
def _():
    # `standard` leaves ports open, `strict` does not.
    found = report(sandbox("--profile", "strict", "--report").stdout)
    if kernel() >= (6, 12):
        wanted = {"landlock_files": "enforced", "landlock_tcp": "enforced", "landlock_scopes": "enforced"}
    elif kernel() == (6, 1):
        # ABI 2: neither truncation nor device ioctls, no ports, no scopes.
        wanted = {"landlock_files": "partial", "landlock_tcp": "unavailable", "landlock_scopes": "unavailable"}
    else:
        raise Skip(f"nothing is written down for Linux {kernel()}")
    got = {control: found[control] for control in wanted}
    for control, (state, why) in got.items():
        print(f"# {control} {state} {why}", flush=True)
    assert {control: state for control, (state, _) in got.items()} == wanted, got


@prop("nobody escapes from a sandbox")
def _():
    said = sh("arw-cli", "sandbox", "check", check=False)
    assert said.returncode == 0, said.stdout


@prop("nobody escapes from a strict sandbox")
def _():
    said = sh("arw-cli", "sandbox", "check", "--profile", "strict", check=False)
    assert said.returncode == 0, said.stdout


@prop("the command's way out is the gateway, and its ledger is written")
def _():
    said = sandbox("--report", command=("sh", "-c", "curl -sS $ARW_DEMO_ORIGIN; curl -sS http://example.com/")).stdout
    assert "hello from the demonstration origin" in said and '"code":"not_allowlisted"' in said, said
    folder = re.search(r"^ledger: (.*)$", said, re.M)[1]
    assert "example.com" in "".join(path.read_text() for path in pathlib.Path(folder).glob("*.jsonl"))


# What it takes for the daemon's unit to launch a sandbox: the same walls, with one run in the place of the daemon.
TRIAL = pathlib.Path("/run/systemd/system/arw-trial.service")


def in_the_unit(capabilities=None):
    """Runs a sandbox within the walls of arw-server.service; what it said, and whether the preset was claimed."""
    lines = pathlib.Path("/usr/lib/systemd/system/arw-server.service").read_text().splitlines()
    keep, gone = [], ("Type=", "Exec", "Restart", "Watchdog", "Timeout", "StateDirectory", "Configuration", "Start", "WantedBy")
    for line in lines:
        if line.startswith("CapabilityBoundingSet=") and capabilities is not None:
            line = f"CapabilityBoundingSet={' '.join(capabilities)}"
        if not line.startswith(gone):
            keep.append(line)
    text = "\n".join(keep).replace(
        "[Service]",
        "[Service]\nType=exec\nStateDirectory=arw-trial\nStandardOutput=file:/run/trial.log\nStandardError=file:/run/trial.log\n"
        "ExecStart=/usr/bin/arw-cli --state-dir /var/lib/arw-trial run --persona demo --preset eco --report -- "
        "sh -c 'curl -sS $$ARW_DEMO_ORIGIN; kill -9 $$$$'",
    )
    TRIAL.write_text(text)
    pathlib.Path("/run/trial.log").write_text("")
    try:
        sh("systemctl", "daemon-reload")
        sh("systemctl", "start", TRIAL.name, check=False)
        until("the trial ends", lambda: sh("systemctl", "is-active", TRIAL.name, check=False).stdout.strip() in ("failed", "inactive"))
        return pathlib.Path("/run/trial.log").read_text()
    finally:
        sh("systemctl", "reset-failed", TRIAL.name, check=False)
        TRIAL.unlink()


def launched(said):
    found = report(said)
    bad = {control: found.get(control) for control in
           (*LIMITS, "identity", "groups", "root", "network_namespace", "seccomp", "capabilities", "no_new_privs", "descriptors")
           if found.get(control, ("missing",))[0] != "enforced"}
    return "hello from the demonstration origin" in said and not bad, bad


@prop("within the walls of the daemon's unit a sandbox is launched, limited and served")
def _():
    said = in_the_unit()
    held, bad = launched(said)
    assert held, (bad, said)


# For ending and taking over runtimes of other users, and reading what is theirs: not for a launch.
LATER = ("CAP_KILL", "CAP_DAC_OVERRIDE")


@prop("each power of the unit is needed, most of them for a launch")
def _():
    line = next(line for line in pathlib.Path("/usr/lib/systemd/system/arw-server.service").read_text().splitlines()
                if line.startswith("CapabilityBoundingSet="))
    powers = line.split("=", 1)[1].split()
    assert launched(in_the_unit(powers))[0], "not even with all of them"
    assert set(LATER) <= set(powers), powers
    first = [power for power in powers if power not in LATER]
    idle = [power for power in first if launched(in_the_unit([other for other in powers if other != power]))[0]]
    assert not idle, idle
