"""What properties are written with.

A property is a function with the decorator `@prop("its name")`. It returns when it holds, raises `AssertionError`
(or anything else) when it does not, and `Skip` when this guest cannot show it. Properties run in the order in which they are
written: later ones may build on what earlier ones left.
"""

import os
import pathlib
import subprocess
import time
import traceback

# Everything takes this much longer under software emulation.
SLOW = 5
# How long something that takes a second on a real machine is waited for.
PATIENCE = 30 * SLOW

_properties = []


class Skip(Exception):
    """This guest cannot show the property; why."""


def prop(name):
    def keep(function):
        _properties.append((name, function))
        return function

    return keep


def sh(*command, check=True, env=None, input=None, timeout=PATIENCE * 2, cwd=None):
    """Runs a command; gives its CompletedProcess with text. A failure tells what was said."""
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=env, input=input, timeout=timeout,
        errors="replace", cwd=cwd,
    )
    if check and done.returncode != 0:
        raise AssertionError(f"`{' '.join(map(str, command))}` gave {done.returncode}: {done.stdout[-1500:]}")
    return done


def until(what, done, patience=PATIENCE):
    """Waits until `done()` gives something true, and gives that."""
    deadline = time.monotonic() + patience
    while True:
        found = done()
        if found:
            return found
        if time.monotonic() > deadline:
            raise AssertionError(f"{what}: it did not happen")
        time.sleep(0.3)


def show(unit, *names, user=None):
    """Properties of a unit; one name gives its value."""
    command = ["systemctl", "show", unit, *(f"--property={name}" for name in names)]
    if user:
        command[1:1] = ["--user", f"--machine={user}@.host"]
    pairs = dict(line.split("=", 1) for line in sh(*command).stdout.splitlines() if "=" in line)
    return pairs[names[0]] if len(names) == 1 else pairs


def journal(unit, since=None):
    command = ["journalctl", "--no-pager", "-o", "cat", "-u", unit]
    return sh(*command, *(["--since", since] if since else [])).stdout


def drop_in(unit, name, text):
    """An operator's override; an empty text takes it away."""
    path = pathlib.Path(f"/etc/systemd/system/{unit}.d/{name}.conf")
    if text:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    else:
        path.unlink(missing_ok=True)
        try:
            path.parent.rmdir()
        except OSError:
            pass
    sh("systemctl", "daemon-reload")


def systemd_version():
    return int(sh("systemctl", "--version").stdout.split()[1])


def kernel():
    return tuple(int(part) for part in os.uname().release.split("-")[0].split(".")[:2])


def run_all(only):
    """Runs the properties; one line each. True when all that ran held."""
    held, broken, skipped = 0, 0, 0
    for name, function in _properties:
        if only and not any(word in f"{function.__module__} {name}" for word in only):
            continue
        begun = time.monotonic()
        try:
            function()
            held += 1
            line = f"ok - {name}"
        except Skip as why:
            skipped += 1
            line = f"skip - {name}: {why}"
        except BaseException as fault:
            broken += 1
            where = traceback.extract_tb(fault.__traceback__)
            where = next((f"{os.path.basename(one.filename)}:{one.lineno}" for one in reversed(where)
                          if not one.filename.endswith("harness.py")), "")
            text = " | ".join(f"{type(fault).__name__}: {fault}".splitlines())
            line = f"not ok - {name}: {text[:4000]} ({where})"
        print(f"{line}   # {time.monotonic() - begun:.0f} s", flush=True)
    print(f"# {held} held, {broken} did not, {skipped} skipped", flush=True)
    if held == 0 and broken == 0:
        print("result: nothing ran", flush=True)
        return False
    print(f"result: {'broken' if broken else 'held'}", flush=True)
    return broken == 0
