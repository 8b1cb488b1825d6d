#!/bin/sh
# The wrapper: `./orchestrator.sh --mode combined` runs the program of this folder, with its .venv where there is one.
set -eu
here=$(dirname "$0")
python=$here/.venv/bin/python
[ -x "$python" ] || python=python3
exec "$python" "$here/scripts/orchestration/orchestrator.py" "$@"
