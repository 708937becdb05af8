#!/bin/sh
# A job: says who it is, and ends well.
set -eu
echo "job of persona $ARW_PERSONA_ID, run $ARW_RUNTIME_RUN"
