"""The properties of the package on this guest, in order."""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parent))

import harness  # noqa: E402

import p10_package  # noqa: E402,F401
import p15_shipped  # noqa: E402,F401
import p20_unit  # noqa: E402,F401
import p30_egress  # noqa: E402,F401
import p40_sandbox  # noqa: E402,F401
import p45_restart  # noqa: E402,F401
import p50_rootless  # noqa: E402,F401
import p60_runtimes  # noqa: E402,F401
import p90_purge  # noqa: E402,F401

print(f"# systemd {harness.systemd_version()}, Linux {'.'.join(map(str, harness.kernel()))}", flush=True)
words = (pathlib.Path(__file__).parent / "only").read_text().split()
harness.run_all(words)
