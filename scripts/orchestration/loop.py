"""The door `python scripts/orchestration/loop.py`: turns of ralph alone, as `orchestrator loop`."""

import os
import runpy
import sys

sys.argv[1:1] = ["loop"]
runpy.run_path(os.path.join(os.path.dirname(os.path.realpath(__file__)), "orchestrator.py"), run_name="__main__")  # noqa: PTH118, PTH120
