"""An ordinary user: the user unit, and a run in a delegated scope."""

import pathlib
import re

from harness import prop, sh, until
from p40_sandbox import HOG, report

USER = "someone"


def as_user(script, check=True):
    """A script in the session of the user's own manager."""
    uid = sh("id", "-u", USER).stdout.strip()
    return sh("runuser", "-u", USER, "--", "env", f"XDG_RUNTIME_DIR=/run/user/{uid}",
              f"DBUS_SESSION_BUS_ADDRESS=unix:path=/run/user/{uid}/bus", f"HOME=/home/{USER}",
              "sh", "-c", f"cd; {script}", check=check)


def manager():
    """The user's own manager runs, without a session."""
    sh("loginctl", "enable-linger", USER)
    uid = sh("id", "-u", USER).stdout.strip()
    until("the manager of the user", lambda: pathlib.Path(f"/run/user/{uid}/bus").exists())
    until("it answers", lambda: as_user("systemctl --user is-system-running --wait", check=False).stdout)


@prop("a user's manager runs without a session")
def _():
    manager()


@prop("an ordinary user's run in a delegated scope has the limits that the host handed down")
def _():
    said = as_user("systemd-run --user --scope --quiet -p Delegate=yes -- "
                   "arw-cli run --persona demo --preset eco --report -- true").stdout
    found = report(said)
    print(f"# {({key: found[key][0] for key in ('cpu_quota', 'memory_max', 'pids_max') if key in found})}", flush=True)
    for control in ("memory_max", "pids_max"):
        assert found.get(control, ("missing",))[0] == "enforced", (control, said)
    if found["cpu_quota"][0] == "enforced":
        assert re.search(r"^preset +eco$", said, re.M), said
    else:
        assert re.search(r"^preset +not eco: .*cpu_quota", said, re.M), said


@prop("an ordinary user's run without a scope is reduced and says so")
def _():
    said = as_user("arw-cli run --persona demo --preset eco --report -- true").stdout
    assert report(said)["memory_max"][0] != "enforced" and re.search(r"^preset +not eco", said, re.M), said


@prop("an ordinary user's hog is killed in its own group")
def _():
    done = as_user("systemd-run --user --scope --quiet -p Delegate=yes -- "
                   f"arw-cli run --persona demo --preset eco -- python3 -c '{HOG}'; echo code $?").stdout
    assert "code 137" in done, done


@prop("nobody escapes from an ordinary user's sandbox")
def _():
    done = as_user("arw-cli sandbox check", check=False)
    assert done.returncode == 0, done.stdout


@prop("the user unit starts beside the host's gateway and answers")
def _():
    sh("systemctl", "start", "arw-server.service")
    as_user("mkdir -p .config/arw; printf '[proxy]\\nbind = [\"127.0.0.1:19080\"]\\n[control]\\nbind = \"127.0.0.1:18091\"\\n' "
            "> .config/arw/arw-server.toml")
    as_user("systemctl --user start arw-server.service")
    as_user("arw-cli health")
    assert sh("arw-cli", "health").returncode == 0
    stopped = as_user("systemctl --user stop arw-server.service; systemctl --user is-active arw-server.service", check=False).stdout
    assert "inactive" in stopped, stopped


@prop("a user's program finds the host's settings and its own demonstration")
def _():
    as_user("rm -rf .config/arw")
    said = as_user("arw-cli run --persona demo -- sh -c 'curl -sS $ARW_DEMO_ORIGIN'").stdout
    assert "hello from the demonstration origin" in said, said
