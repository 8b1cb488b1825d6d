"""The door `python scripts/orchestration/supervisor.py`: turns of galph alone, as `orchestrator supervisor`."""

import os
import runpy
import sys

sys.argv[1:1] = ["supervisor"]
runpy.run_path(os.path.join(os.path.dirname(os.path.realpath(__file__)), "orchestrator.py"), run_name="__main__")  # noqa: PTH118, PTH120
