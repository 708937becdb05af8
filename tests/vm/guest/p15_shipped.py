"""What the package brings beside its programs: pages, completions, examples, rules and dashboards."""

import gzip
import json
import pathlib
import re
import struct

from harness import prop, sh, show

DOC = pathlib.Path("/usr/share/doc/arw")
EXAMPLES = DOC / "examples"
UNITS = ("arw-server.service", "arw-runtimes.service", "arw-server.socket", "arw-control.socket")


def page(name, section):
    """The text of a manual page."""
    return gzip.decompress(pathlib.Path(f"/usr/share/man/man{section}/{name}.{section}.gz").read_bytes()).decode()


def commands(*words):
    """Every command of the client, as words; from its own help."""
    lines = sh("arw-cli", *words, "--help").stdout.split("Commands:\n", 1)
    if len(lines) < 2:
        return
    for line in lines[1].split("\n\n", 1)[0].splitlines():
        found = re.match(r"^  (\S+)  ", line)
        if found and found[1] != "help":
            yield (*words, found[1])


@prop("each command has a manual page, and each page that a unit names is there")
def _():
    first = list(commands())
    assert len(first) > 10, first
    for words in [(), *first, *commands("ledger"), *commands("automation")]:
        name = "-".join(("arw-cli", *words))
        assert ".TH" in page(name, 1) and "SYNOPSIS" in page(name, 1), name
    assert ".TH" in page("arw-server", 8)
    for unit in UNITS:
        named = show(unit, "Documentation").split()
        assert named, unit
        for where in (word.strip('"') for word in named):
            kind, _, rest = where.partition(":")
            if kind == "man":
                name, section = re.match(r"(.*)\((.)\)", rest).groups()
                assert page(name, section), where
            else:
                assert pathlib.Path(rest.removeprefix("//")).is_file(), where


@prop("completions are where each shell looks, and bash completes with them")
def _():
    script = (
        "source /usr/share/bash-completion/completions/arw-cli\n"
        "asked=$(complete -p arw-cli | sed 's/.* -F \\([^ ]*\\) .*/\\1/')\n"
        "COMP_WORDS=(arw-cli automation sh); COMP_CWORD=2\n"
        "$asked arw-cli sh automation\n"
        'printf "%s\\n" "${COMPREPLY[@]}"\n'
    )
    said = sh("bash", "-euc", script).stdout.splitlines()
    assert "shutdown" in said, said
    zsh = pathlib.Path("/usr/share/zsh/vendor-completions/_arw-cli").read_text()
    fish = pathlib.Path("/usr/share/fish/vendor_completions.d/arw-cli.fish").read_text()
    assert zsh.startswith("#compdef arw-cli\n") and "complete -c arw-cli" in fish


def sections(content):
    """The names of the sections of a 64-bit ELF file."""
    table, = struct.unpack_from("<Q", content, 40)
    size, count, names = struct.unpack_from("<HHH", content, 58)
    starts = [struct.unpack_from("<IIQQQQ", content, table + size * index) for index in range(count)]
    return [content[starts[names][4] + start[0]:].split(b"\0", 1)[0].decode() for start in starts]


@prop("the programs are stripped")
def _():
    for program in ("arw-server", "arw-cli"):
        content = pathlib.Path("/usr/bin", program).read_bytes()
        found = sections(content)
        # `.debug_gdb_scripts` is loaded, and a dozen bytes.
        assert ".text" in found and not {".symtab", ".strtab", ".debug_info", ".debug_line", ".debug_str"} & set(found), found
        print(f"# {program} {len(content) >> 20} MiB", flush=True)


@prop("every example is a whole configuration that the daemon takes as it stands")
def _():
    found = sorted(path.parent for path in EXAMPLES.glob("*/arw-server.toml"))
    assert len(found) >= 4, found
    for folder in found:
        said = sh("arw-server", "--config-dir", folder, "--state-dir", "/var/lib/arw-trial", "--check").stdout
        assert "are sound" in said, (folder, said)
        said = sh("arw-cli", "consent", "validate", folder / "runtime/bundles.json").stdout
        assert "passed" in said, (folder, said)


@prop("single files of the examples are sound where they are put")
def _():
    etc = pathlib.Path("/run/arw-trial-etc")
    sh("install", "-d", "-m", "700", etc)
    try:
        sh("cp", "-r", EXAMPLES / "personas", EXAMPLES / "runtime", EXAMPLES / "alerts.toml", EXAMPLES / "policy.json", etc)
        said = sh("arw-server", "--config-dir", etc, "--state-dir", "/var/lib/arw-trial", "--check").stdout
        assert "are sound" in said, said
        # The other language of the same policy, which only packages understand.
        sh("rm", etc / "policy.json")
        sh("cp", EXAMPLES / "policy.cedar", etc)
        said = sh("arw-server", "--config-dir", etc, "--state-dir", "/var/lib/arw-trial", "--check").stdout
        assert "are sound" in said, said
    finally:
        sh("rm", "-r", etc)


@prop("the recipe that is shipped can be signed and inspected")
def _():
    trial = pathlib.Path("/run/arw-trial-recipe")
    sh("install", "-d", "-m", "700", trial)
    try:
        sh("cp", "-r", EXAMPLES / "recipes/nightly-report", trial)
        said = sh("arw-cli", "recipes", "inspect", trial / "nightly-report").stdout
        assert "nightly-report" in said, said
    finally:
        sh("rm", "-r", trial)


@prop("the documentation is there, and its links to files lead somewhere")
def _():
    pages = list(DOC.glob("**/*.md"))
    assert len(pages) > 20, pages
    links = [(path, target) for path in pages for target in re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", path.read_text())]
    assert len(links) > 50, links
    lost = [(str(path.relative_to(DOC)), target) for path, target in links if not (path.parent / target).exists()]
    assert not lost, lost


@prop("dashboards can be read")
def _():
    boards = [json.loads(path.read_text()) for path in (EXAMPLES / "grafana").glob("*.json")]
    assert {board["uid"] for board in boards} == {"arw-gateway", "arw-runtimes", "arw-gpus"}, boards
