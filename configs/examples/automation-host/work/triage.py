"""Looks at the ticket queue now and then. Being refused is no reason to stop: it says so and idles."""

import os
import signal
import sys
import time
import urllib.error
import urllib.request

signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
print("triage is up")
while True:
    try:
        # urllib goes by HTTP_PROXY, which the sandbox sets.
        with urllib.request.urlopen(os.environ["QUEUE"], timeout=30) as answer:
            print("tickets:", len(answer.read()), "bytes")
    except urllib.error.HTTPError as refused:
        # The gateway says why in the reason: a code, a host and a decision's number.
        print("not now:", refused.code, refused.reason)
    except OSError as fault:
        print("not now:", fault)
    time.sleep(float(os.environ["PAUSE"]))
