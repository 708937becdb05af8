"""Asks the model once, through the gateway; ends with 1 if it gets no answer."""

import os
import sys
import urllib.request

try:
    with urllib.request.urlopen(os.environ["MODEL"], timeout=60) as answer:
        print("answered:", answer.read().decode().strip())
except OSError as fault:
    print("no answer:", fault)
    sys.exit(1)
