"""The agent's parent: it notes the exit code where a new daemon finds it.

A code other than 0 counts only while the daemon lives: an agent whose daemon died may have failed of that alone (its
pipes were closed). A daemon is dead from PF_EXITING (4) on, which the kernel sets before it closes the pipes; its pid
answers for a while longer.
"""

from collections.abc import Sequence
from pathlib import Path

_SCRIPT = """
record=$1; shift; stopped=
trap 'stopped=1' HUP INT QUIT USR1 USR2 TERM
[ "$stopped" ] && exit 143  # before the agent began: it would never hear of it
"$@"
code=$?
dying() { read -r stat <"/proc/$PPID/stat" && set -- ${stat##*) } && [ $(($7 & 4)) != 0 ]; }
alive() { kill -0 "$PPID" && ! dying; }
if [ "$code" = 0 ] || alive; then echo "$code" >"$record"; fi 2>/dev/null
exit "$code"
"""


def witnessed(argv: Sequence[str], record: Path) -> list[str]:
    """Return the command line that runs another one, and notes how it ended."""
    return ["/bin/sh", "-c", _SCRIPT, "orchestrator-turn", str(record), *argv]


def noted(record: Path) -> int | None:
    """Return the exit code, None if nothing is noted."""
    try:
        return int(record.read_text(encoding="ascii"))
    except (FileNotFoundError, ValueError):
        return None
