"""Where an agent's executable is; one that is not found is told with what may have been meant."""

from pathlib import Path

from orchestration.errors import UsageError
from orchestration.keys import nearest
from orchestration.layers import FILE

CHECKLIST = "checklist"
"""The name of the built-in agent."""


def located(word: str, root: Path, path: str | None) -> str | None:
    """Return the executable that a word names: on PATH, or, with a slash in it, from the project's folder."""
    import shutil  # noqa: PLC0415 - with it come bz2 and lzma, of which a look that names no agent has no need

    return shutil.which(str(root / word) if "/" in word else word, path=path)


def executable(word: str, root: Path, path: str | None) -> str:
    """Return an agent's executable.

    Raises:
        UsageError: there is none (code `agent-not-found`).

    """
    found = located(word, root, path)
    if found is None:
        what, remedy = _missing(word, root, path)
        raise UsageError(f"the agent {word!r} {what}", code="agent-not-found", remedy=remedy)
    return found


def _missing(word: str, root: Path, path: str | None) -> tuple[str, str]:
    """Return what is wrong with a word that names no executable, and what to do."""
    from orchestration import presets  # noqa: PLC0415 - only for the words of an error

    is_path, there, first, *rest = "/" in word, (root / word).is_file(), *word.split()
    if there and is_path:
        return "is not executable", f"chmod +x {word}"
    if there:
        return "was not found on PATH", f"did you mean ./{word}? a file here is named with its folder"
    if rest and located(first, root, path):
        command = f"agents: {{NAME: {{command: [{', '.join([first, *rest])}]}}}}"
        return "was not found", f"its arguments belong into {FILE}: `{command}`; then name it so: --agent NAME"
    if word in presets.names():
        return "was not found on PATH", f"install {word}, or start this with a PATH that has its folder"
    near = None if is_path else nearest(word, [CHECKLIST, *presets.names()])
    meant = f"did you mean {near}? else " if near else ""
    return "was not found", f"{meant}use `{CHECKLIST}`, a name under `agents:`, or an executable's path"
