"""The door `python scripts/orchestration/orchestrator.py`, through which the console script goes, too."""

import os
import sys

if not __package__:
    # Started as a file: sys.path[0] is this folder, where our modules would shadow others. It must be right before
    # anything is imported that Python has not loaded by itself.
    sys.path[0] = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))  # noqa: PTH120
    __package__ = "orchestration"

try:
    from orchestration.cli import main
except ModuleNotFoundError as missing:
    if missing.name and missing.name.startswith("orchestration"):
        raise
    sys.stderr.write(
        f"error: the package {missing.name!r} is not installed for {sys.executable}\n"
        "  install the tool (`pip install .` in its folder), or run it with the Python of its .venv  [not-installed]\n"
    )
    sys.exit(2)
except KeyboardInterrupt:  # while all of it is being loaded
    os._exit(130)

__all__ = ["main"]

if __name__ == "__main__":
    main()
