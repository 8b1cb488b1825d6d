"""A state that is damaged at the remote, and paths that lead elsewhere: refused (docs/faults.md, 56-62)."""

import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from conftest import Project, everything, untouched
from pair import Pair, events, pair, running

STATE = "sync/state.json"
Spoil = Callable[[dict[str, Any], str], str]


@pytest.fixture
def two(tmp_path: Path) -> Pair:
    """Give a remote and two clones after a full iteration."""
    two = pair(tmp_path)
    assert (two.turn("galph"), two.turn("ralph")) == (0, 0)
    return two


def publishes(two: Pair, text: str | None) -> Project:
    """Have a person write (None: remove) the state and push it, or what came of a merge."""
    person = two.person()
    (person.path / STATE).unlink()
    if text is not None:
        person.write(STATE, text)
    person.commit("a person's edit")
    person.git("push", "--quiet")
    return person


def everything_of(clone: Project) -> dict[str, object]:
    """Return all that a refusal leaves alone, but for what was seen of the remote, and for our own folder."""
    seen = untouched(clone)
    refs = clone.git("for-each-ref", "--format=%(refname) %(objectname)", "refs/heads", "refs/rescue", "refs/tags")
    return {**{name: it for name, it in seen.items() if "/.orchestrator/" not in name}, "refs": refs}


def refusal(two: Pair, role: str, agent: str | None = None) -> dict[str, Any]:
    """Start a role; return how it ended."""
    daemon = two.start(role, "--once", "--json", agent=agent)
    with running(daemon):
        last = events(daemon)[-1]
    assert daemon.returncode == 3, last
    return last


def edited(**fields: object) -> Spoil:
    """Return a state with some fields of its own."""
    return lambda state, _: json.dumps({**state, **fields}, indent=2) + "\n"


def conflicted(state: dict[str, Any], text: str) -> str:
    """Return what a merge leaves behind that was committed with its markers."""
    mine, theirs = (f'  "iteration": {number},\n' for number in (state["iteration"], 7))
    return text.replace(mine, f"<<<<<<< HEAD\n{mine}=======\n{theirs}>>>>>>> other\n")


def damaged(two: Pair, spoil: Spoil | None) -> str:
    """Publish a damaged state, and see that both roles halt with one code and change nothing; return the code.

    The remedy is run as it stands, and the loop goes on.
    """
    good = two.state()
    person = publishes(two, spoil and spoil(good, two.hub.git("show", f"main:{STATE}") + "\n"))
    tip, before = two.tip(), [everything_of(clone) for clone in two.clones()]

    said = [refusal(two, role) for role in ("galph", "ralph")]

    assert two.tip() == tip
    assert [everything_of(clone) for clone in two.clones()] == before
    (code,) = {last["code"] for last in said}
    (remedy,) = {last["remedy"] for last in said}
    typed = re.search(r"`(git .*)`", remedy)
    if typed:
        subprocess.run(["/bin/sh", "-ec", typed[1]], cwd=person.path, check=True, capture_output=True)
    else:
        person.write(STATE, json.dumps(good, indent=2) + "\n")
        person.commit("as it was")
        person.git("push", "--quiet")
    assert two.state() == good
    goes_on(two)
    return str(code)


def goes_on(two: Pair) -> None:
    """See one more full iteration, and the promises kept."""
    before = two.state()["iteration"]
    assert (two.turn("galph"), two.turn("ralph")) == (0, 0)
    assert two.state()["iteration"] == before + 1
    two.check()


def test_fault_56_a_missing_state(two: Pair) -> None:
    assert damaged(two, None) == "state-missing"


@pytest.mark.parametrize("length", [0, 1, 200, -3])
def test_fault_57_a_truncated_state(two: Pair, length: int) -> None:
    assert damaged(two, lambda _, text: text[:length]) == "state-truncated"


def test_fault_58_a_state_with_conflict_markers(two: Pair) -> None:
    assert damaged(two, conflicted) == "state-conflicted"


def test_fault_59_a_state_of_a_newer_program(two: Pair) -> None:
    assert damaged(two, edited(schema=99)) == "state-future"


@pytest.mark.parametrize("field", ["expected_actor", "last_prompt_actor"])
def test_fault_60_a_state_that_names_somebody_unknown(two: Pair, field: str) -> None:
    assert damaged(two, edited(**{field: "bruce"})) == "state-unknown-actor"


@pytest.mark.parametrize("fields", [{"iteration": 1}, {"epoch": 1}, {"epoch": 0, "iteration": 1}], ids=str)
def test_fault_61_a_state_that_went_backwards(two: Pair, fields: dict[str, int]) -> None:
    assert damaged(two, edited(**fields)) == "state-backwards"


def test_fault_59_fields_that_are_not_known_survive_an_iteration_in_both_clones(two: Pair) -> None:
    more = {"workflow": {"step": [1, 2.5, None], "owner": "Grüße"}, "zz": "last"}
    publishes(two, edited(**more)(two.state(), ""))
    goes_on(two)

    assert {name: two.state()[name] for name in more} == more
    assert all({name: clone.state()[name] for name in more} == more for clone in two.clones()[1:])


# --- 62: links --------------------------------------------------------------------------------------------------------

WAYS: dict[str, list[str]] = {
    "remote": ["--role", "galph"],
    "local": ["run"],
    "alone": ["supervisor"],
    "no git": ["run", "--no-git"],
}
LINKS = {
    "the state": STATE,
    "the state's folder": "sync",
    "the logs": "logs",
}


def behind_a_link(project: Project, path: str) -> Path:
    """Move a path of the project outside and leave a link; return the folder outside."""
    outside = project.path.parent / "outside"
    outside.mkdir()
    moved = outside / Path(path).name
    (project.path / path).rename(moved)
    (project.path / path).symlink_to(moved)
    return outside


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("link", LINKS)
def test_fault_62_a_state_or_logs_behind_a_link_are_refused_on_every_bus(tmp_path: Path, way: str, link: str) -> None:
    two = pair(tmp_path)
    project = two.galph
    outside = behind_a_link(project, LINKS[link])
    before, there, tip = everything_of(project), everything(outside), two.tip()
    agent = project.agent("touch ran")

    done = project.run(*WAYS[way], "--once", "--json", "--agent", agent)

    assert (done.returncode, '"path-linked"' in done.stdout) == (3, True), done.stdout
    assert f"{LINKS[link]} is a symbolic link" in done.stdout
    assert (everything_of(project), everything(outside), two.tip()) == (before, there, tip)

    (project.path / LINKS[link]).unlink()
    (outside / Path(LINKS[link]).name).rename(project.path / LINKS[link])
    goes_on(two)


def test_fault_62_a_link_that_a_peer_publishes_is_refused_before_the_claim(two: Pair) -> None:
    person = two.person()
    (person.path / "logs/.gitignore").unlink()
    (person.path / "logs").rmdir()
    (person.path / "logs").symlink_to("../elsewhere")
    person.commit("logs on another disk")
    person.git("push", "--quiet")
    tip = two.tip()

    refused = refusal(two, "galph")
    assert refused["code"] in {"path-linked", "would-overwrite"}, "the clone does not even go there"
    assert "logs" in str(refused["reason"])
    assert two.tip() == tip
    assert two.galph.journal() == "idle"
    assert not (two.galph.path.parent / "elsewhere").exists()

    person.git("revert", "--no-edit", "HEAD")
    person.git("push", "--quiet")
    goes_on(two)


def test_fault_62_a_link_that_the_agent_makes_is_not_written_through(two: Pair) -> None:
    links = "mkdir ../elsewhere; rm -r sync; ln -s ../elsewhere sync"
    last = refusal(two, "galph", two.galph.agent(links, "linker"))

    assert (last["code"], two.galph.journal()) == ("path-linked", "stamped")
    assert list((two.galph.path.parent / "elsewhere").iterdir()) == []

    (two.galph.path / "sync").unlink()
    assert two.turn("galph", agent=two.galph.agent("touch ../twice", "never")) == 4  # it left what it must not write
    assert not (two.galph.path.parent / "twice").exists()
    assert two.galph.run("retry").returncode == 0
    goes_on(two)


@pytest.mark.parametrize("path", ["../state.json", "/tmp/state.json", "a/../../state.json"])  # noqa: S108
@pytest.mark.parametrize("key", ["state_file", "logs_dir"])
def test_fault_62_a_path_that_leads_out_of_the_project_is_no_setting(project: Project, key: str, path: str) -> None:
    before = everything_of(project)

    assert project.call("run", "--once", "-c", f"{key}={path}", "--agent", project.agent("touch ran")) == 2
    assert everything_of(project) == before
