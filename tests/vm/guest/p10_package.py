"""The package installs, and what it brings is sound."""

import pathlib
import re
import stat

from harness import prop, sh, show, systemd_version


@prop("the package installs without the network")
def _():
    sh("apt-get", "install", "--yes", "--no-install-recommends", "/share/arw.deb")
    assert "install ok installed" in sh("dpkg", "-s", "arw").stdout


@prop("installing starts and enables nothing")
def _():
    for unit in ("arw-server.service", "arw-server.socket", "arw-control.socket"):
        assert show(unit, "ActiveState") == "inactive", unit
        assert sh("systemctl", "is-enabled", unit, check=False).stdout.strip() == "disabled", unit


@prop("the units are sound to systemd-analyze verify")
def _():
    units = ["arw-server.service", "arw-runtimes.service", "arw-server.socket", "arw-control.socket"]
    said = sh("systemd-analyze", "verify", "--man=no", *units, check=False).stdout
    # Keys of systemd 254 are passed over by 252, and said so.
    later = ("RestartSteps", "RestartMaxDelaySec", "DelegateSubgroup")
    lines = [line for line in said.splitlines() if "arw" in line]
    if systemd_version() < 254:
        lines = [line for line in lines if not any(key in line for key in later)]
    assert not lines, lines
    said = sh("systemd-analyze", "--user", "verify", "--man=no", "/usr/lib/systemd/user/arw-server.service", "/usr/lib/systemd/user/arw-runtimes.service", check=False).stdout
    lines = [line for line in said.splitlines() if "arw" in line]
    if systemd_version() < 254:
        lines = [line for line in lines if not any(key in line for key in later)]
    assert not lines, lines


@prop("the folders have their modes and the group is there")
def _():
    for path, mode in (("/run/arw", 0o755), ("/var/lib/arw", 0o700), ("/etc/arw/personas", 0o700), ("/etc/arw", 0o755)):
        found = pathlib.Path(path).stat()
        assert stat.S_IMODE(found.st_mode) == mode and found.st_uid == 0, (path, oct(found.st_mode))
    sh("getent", "group", "arw")


@prop("the installed configuration is the default one")
def _():
    said = sh("arw-server", "--check").stdout
    assert "0 personas" in said and "sound" in said, said


@prop("the exposure of the unit is as the handbook of operations says")
def _():
    said = sh("systemd-analyze", "security", "--no-pager", "arw-server.service").stdout
    overall = next(line for line in said.splitlines() if "Overall exposure" in line)
    print(f"# {overall.strip().lstrip('→ ')}", flush=True)
    said = re.search(r": ([\d.]+ \w+)", overall)[1]
    handbook = pathlib.Path("/usr/share/doc/arw/ops/systemd_overrides.md").read_text()
    assert f"**{said}**" in handbook, (overall, "docs/ops/systemd_overrides.md")
