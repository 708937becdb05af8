"""Traffic: the demonstration of the README, and a persona that an operator wrote."""

import hashlib
import http.server
import json
import pathlib
import re
import threading

from harness import journal, prop, sh, until

UNIT = "arw-server.service"
ORIGIN = 8800
TOKEN = "a-token-of-the-trial-0123456789"


class Origin(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = b"hello from the origin\n"
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def curl(url, proxy):
    """Status and body."""
    done = sh("curl", "-sS", "--max-time", "120", "-w", "\n%{http_code}", "-x", proxy, url)
    body, status = done.stdout.rsplit("\n", 1)
    return int(status), body


@prop("the two commands of the first start work as they are pasted")
def _():
    lines = [line for line in journal(UNIT).splitlines() if line.startswith("curl -sS -x http://demo:")]
    assert len(lines) >= 2, journal(UNIT)[-2000:]
    allowed, denied = lines[-2:]
    assert "hello from the demonstration origin" in sh("sh", "-c", allowed).stdout
    assert '"code":"not_allowlisted"' in sh("sh", "-c", denied).stdout


@prop("the further lines of the first start work as they are pasted: the ledger, the runtime's life, walls and log")
def _():
    lines = [line for line in journal(UNIT).splitlines() if re.match(r"tail -n 4 |\S*arw-cli .* runtime ", line)]
    tail = [line for line in lines if line.startswith("tail ")][-1]
    until("a line in the ledger", lambda: "not_allowlisted" in sh("sh", "-c", tail).stdout)
    for verb, wanted in (("status", "ready"), ("report", "enforced"), ("logs", "hello from the demonstration origin")):
        line = [line for line in lines if f" runtime {verb} demo-runtime" in line][-1].removesuffix(" -f")
        until(line, lambda: wanted in sh("sh", "-c", line).stdout)


@prop("the demonstration's runtime knows of no proxy and goes through the gateway all the same")
def _():
    until("its lines in the ledger", lambda: all(
        word in sh("arw-cli", "--json", "ledger", "query", "--persona", "demo", "--runtime", "demo-runtime").stdout
        for word in ("origin.demo.test", "not_allowlisted")))


@prop("a persona reaches what a rule names and nothing else, and both are in the ledger")
def _():
    with open("/etc/hosts", "a") as hosts:
        hosts.write("127.0.0.1 origin.test other.test\n")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", ORIGIN), Origin)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    hashed = hashlib.sha256(TOKEN.encode()).hexdigest()
    persona = pathlib.Path("/etc/arw/personas/trial.toml")
    persona.write_text(
        f'id = "trial"\ntokens = [{{ name = "trial", sha256 = "{hashed}" }}]\n'
        f'[[allow]]\nid = "origin"\nhosts = ["origin.test"]\ncidrs = ["127.0.0.1/32"]\nports = [{ORIGIN}]\nschemes = ["http"]\n'
    )
    sh("systemctl", "restart", UNIT)
    proxy = f"http://trial:{TOKEN}@127.0.0.1:9080"
    assert curl(f"http://origin.test:{ORIGIN}/", proxy) == (200, "hello from the origin\n")
    status, body = curl(f"http://other.test:{ORIGIN}/", proxy)
    assert status == 403 and json.loads(body)["code"] == "not_allowlisted", (status, body)
    assert curl(f"http://origin.test:{ORIGIN}/", f"http://trial:wrong@127.0.0.1:9080")[0] == 407
    assert curl("http://169.254.169.254/", proxy)[0] == 403

    def recorded():
        said = sh("arw-cli", "--json", "ledger", "query", "--persona", "trial").stdout
        return "origin.test" in said and "other.test" in said and "not_allowlisted" in said

    until("both are in the ledger", recorded)
    sh("arw-cli", "ledger", "verify")
    server.shutdown()
    # Without it the demonstration is there again for what follows.
    persona.unlink()
    sh("systemctl", "restart", UNIT)
