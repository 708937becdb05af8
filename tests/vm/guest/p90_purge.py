"""Upgrade, removal and purge."""

import pathlib

from harness import prop, sh, show
from p50_rootless import as_user, manager

UNIT = "arw-server.service"


@prop("installing again keeps the operator's configuration and brings the daemon to the new program")
def _():
    path = pathlib.Path("/etc/arw/arw-server.toml")
    path.write_text(path.read_text().replace('drain = "10s"', 'drain = "11s"'))
    sh("systemctl", "start", UNIT)
    before = int(show(UNIT, "MainPID"))
    sh("apt-get", "install", "--yes", "--reinstall", "-o", "Dpkg::Options::=--force-confold", "/share/arw.deb")
    assert 'drain = "11s"' in path.read_text()
    assert show(UNIT, "ActiveState") == "active" and int(show(UNIT, "MainPID")) != before


@prop("removing stops the daemon and those of users, and keeps configuration and ledger")
def _():
    manager()
    as_user("systemctl --user start arw-runtimes.service")
    sh("systemctl", "enable", UNIT, "arw-server.socket")
    sh("apt-get", "remove", "--yes", "arw")
    assert sh("systemctl", "is-active", UNIT, check=False).stdout.strip() != "active"
    assert pathlib.Path("/etc/arw/arw-server.toml").exists() and pathlib.Path("/var/lib/arw/ledger").is_dir()
    assert sh("pgrep", "-x", "arw-server", check=False).returncode == 1
    assert as_user("systemctl --user is-active arw-runtimes.service", check=False).stdout.strip() != "active"


@prop("purging leaves nothing")
def _():
    sh("apt-get", "purge", "--yes", "arw")
    left = sh("find", "/etc", "/usr", "/var", "/run", "/sys/fs/cgroup", "-xdev", "-iname", "*arw*", "-not", "-path", "/var/log/*",
              "-not", "-path", "/var/lib/arw-trial*", "-not", "-name", "*arwin*").stdout.split()
    # The names of other packages' files, such as Perl's, may have the letters too: only ours count.
    left += sh("find", "/sys/fs/cgroup", "-name", "*arw*").stdout.split()
    assert not left, left
    assert sh("getent", "group", "arw", check=False).returncode == 2
    assert "arw" not in sh("systemctl", "list-unit-files", "--no-legend").stdout
    assert not sh("dpkg", "-s", "arw", check=False).stdout.startswith("Package")
