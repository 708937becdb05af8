"""Stands for a model server: answers /health as long as the card answers, and everything else with one sentence."""

import http.server
import subprocess
import sys


class Answers(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        if self.path == "/health":
            # A server whose card is dead must not call itself healthy.
            asked = subprocess.run(["nvidia-smi", "-L"], capture_output=True, check=False)
            status, text = (200, b"ok\n") if asked.returncode == 0 else (503, asked.stdout + asked.stderr)
        else:
            status, text = 200, b"an answer\n"
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)


http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Answers).serve_forever()
