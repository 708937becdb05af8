"""Fetches one document and says how large it is; ends with 1 if it may not."""

import os
import sys
import urllib.request

try:
    with urllib.request.urlopen(os.environ["FIGURES"], timeout=60) as answer:
        print("fetched", len(answer.read()), "bytes")
except OSError as fault:
    print("not fetched:", fault)
    sys.exit(1)
