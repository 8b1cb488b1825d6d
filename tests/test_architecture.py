"""Rules of the house that no linter knows; the layers are import-linter's, the bans ruff's (pyproject.toml)."""

import ast
import re
from pathlib import Path

import pytest

from orchestration import failpoints
from orchestration.errors import MEANING

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "scripts" / "orchestration"
MODULES = sorted(path for path in SOURCE.rglob("*.py") if "templates" not in path.parts)


def strings(path: Path) -> list[str]:
    tree = ast.parse(path.read_text())
    return [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)]


def calls(path: Path) -> list[list[str]]:
    """Return the literal words of every call that has any."""
    tree = ast.parse(path.read_text())
    nodes = [node for node in ast.walk(tree) if isinstance(node, ast.Call | ast.Tuple | ast.List)]
    words = [node.args if isinstance(node, ast.Call) else node.elts for node in nodes]
    return [
        [word.value for word in group if isinstance(word, ast.Constant) and isinstance(word.value, str)]
        for group in words
    ]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_nothing_destructive_reaches_a_persons_work(path: Path) -> None:
    """Two doors alone may do more than add: the leased push, and the branch that leaves what a rescue ref holds.

    Such a move, or one forward, that a kill cut short is finished once what it left half-written is in a rescue ref.
    """
    forbidden = {"reset", "clean", "checkout", "restore", "stash", "rebase", "push", "gc", "prune"}
    used = [words for words in calls(path) if words and words[0] in forbidden]
    allowed = {
        "remote.py": [["push", "--porcelain", "--no-verify"]],
        "branches.py": [["restore", "--staged", "--worktree", "--quiet"], ["reset", "--keep", "--quiet"]],
    }

    assert used == allowed.get(path.name, []), f"{path.name} calls git {used}"
    forces = {text for text in strings(path) if re.match(r"--force(?!-remove)|\+refs|--hard", text)}
    assert forces == ({"--force-with-lease="} if path.name == "remote.py" else set())


def test_every_failpoint_is_hit_somewhere_and_every_hit_is_named() -> None:
    text = "".join(path.read_text() for path in MODULES)

    assert set(re.findall(r'failpoints\.hit\("([^"]+)"\)', text)) == failpoints.NAMES


def test_the_readme_holds_the_exit_table_of_the_code() -> None:
    rows = "\n".join(f"| {int(code)} | {meaning} |" for code, meaning in MEANING.items())

    assert rows in (ROOT / "README.md").read_text()


def test_the_prompts_of_this_repository_are_those_that_init_writes() -> None:
    templates = {path.name: path.read_bytes() for path in (SOURCE / "templates" / "prompts").iterdir()}

    assert {path.name: path.read_bytes() for path in (ROOT / "prompts").iterdir()} == templates


def test_no_room_is_a_hall() -> None:
    sizes = {path.name: len(path.read_text().splitlines()) for path in MODULES}

    assert {name: size for name, size in sizes.items() if size > 430} == {}
    assert sorted(sizes.values())[len(sizes) // 2] <= 150
