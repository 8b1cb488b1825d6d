"""The local bus: a register moved by compare-and-swap in one clone (docs/architecture.md)."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from conftest import Project
from grounds import NOW, GitGround, ground, stamped, token
from orchestration import failpoints, state
from orchestration.bus import Fenced, Landed, Moved
from orchestration.errors import Refused
from orchestration.local_bus import LocalBus
from orchestration.state import State, Token


@pytest.fixture
def here(tmp_path: Path) -> Iterator[GitGround]:
    """Give a project that `init` has set up."""
    with ground("local", tmp_path) as made:
        assert isinstance(made, GitGround)
        yield made


@pytest.fixture
def project(here: GitGround) -> Project:
    """Give the project alone."""
    return here.project


@pytest.fixture
def bus(here: GitGround) -> LocalBus:
    """Give its bus."""
    return here.local()


def commit_state(project: Project, now: State, message: str = "by hand") -> None:
    project.write("sync/state.json", state.encode(now))
    project.commit(message)


def meanwhile(monkeypatch: pytest.MonkeyPatch, moment: str, act: Callable[[], object]) -> None:
    """Let a person act at a named moment."""
    monkeypatch.setattr(failpoints, "hit", lambda here: act() if here == moment else None)


def test_a_hand_off_is_one_commit_of_the_state_alone(project: Project, bus: LocalBus) -> None:
    view = bus.look()
    hand_off = stamped(bus, view)

    assert isinstance(bus.settle(hand_off), Landed)

    assert project.git("rev-parse", "HEAD") == hand_off.commit
    assert project.dirt() == ""
    assert project.git("rev-list", "--count", f"{view.tip}..HEAD") == "1"
    assert project.git("diff", "--name-only", view.tip, "HEAD") == "sync/state.json"
    assert project.git("log", "-1", "--format=%(trailers:key=Orchestration-Epoch,valueonly)") == "1"


def test_a_hand_off_has_landed_also_below_a_person_s_commit(project: Project, bus: LocalBus) -> None:
    hand_off = stamped(bus, bus.look())
    project.git("update-ref", "refs/heads/main", hand_off.commit)
    project.write("theirs.txt", "theirs")
    project.git("add", "theirs.txt")
    project.git("commit", "-qm", "theirs", "theirs.txt")

    assert isinstance(bus.settle(hand_off), Landed)

    assert project.subjects()[-1] == "theirs"
    assert project.dirt() == ""


@pytest.mark.parametrize("damage", ["deleted", "changed", "link"])
def test_settling_mends_the_file_and_the_index_entry(project: Project, bus: LocalBus, damage: str) -> None:
    hand_off = stamped(bus, bus.look())
    project.git("update-ref", "refs/heads/main", hand_off.commit)
    file = project.path / "sync/state.json"
    file.unlink()
    if damage == "changed":
        file.write_text("{")
    if damage == "link":
        outside = project.write("../outside.json", project.git("show", "HEAD:sync/state.json") + "\n")
        file.symlink_to(outside)

    assert isinstance(bus.settle(hand_off), Landed)

    assert not file.is_symlink()
    assert project.dirt() == ""


def test_settling_leaves_the_index_and_the_tree_of_another_branch_alone(project: Project, bus: LocalBus) -> None:
    hand_off = stamped(bus, bus.look())
    project.git("switch", "-qc", "feature")

    assert isinstance(bus.settle(hand_off), Landed)

    assert project.git("rev-parse", "main") == hand_off.commit
    assert project.dirt() == ""


def test_settling_after_a_person_removed_the_state_does_not_bring_it_back(project: Project, bus: LocalBus) -> None:
    hand_off = stamped(bus, bus.look())
    assert isinstance(bus.settle(hand_off), Landed)
    project.git("rm", "-q", "sync/state.json")
    project.commit("no more")

    assert isinstance(bus.settle(hand_off), Landed)

    assert project.dirt() == ""
    assert not (project.path / "sync/state.json").exists()


@pytest.mark.parametrize("moment", ["", "settle.before_ref"])
def test_a_commit_below_which_the_state_is_the_same_asks_for_a_new_hand_off(
    project: Project, bus: LocalBus, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    hand_off = stamped(bus, bus.look())
    project.write("theirs.txt", "theirs")
    if moment:
        meanwhile(monkeypatch, moment, lambda: project.commit("theirs"))
    else:
        project.commit("theirs")

    answer = bus.settle(hand_off)

    assert isinstance(answer, Moved)
    assert answer.tip == project.git("rev-parse", "HEAD")
    assert project.subjects()[-1] == "theirs"
    assert project.dirt() == ""


def delete(project: Project) -> None:
    project.git("update-ref", "-d", "refs/heads/main")


def rewind(project: Project) -> None:
    project.git("reset", "-q", "--hard", "HEAD^")


def rewrite(project: Project) -> None:
    project.git("commit", "-q", "--amend", "-m", "rewritten")


def take_over(project: Project) -> None:
    now = state.parse((project.path / "sync/state.json").read_bytes())
    commit_state(project, state.retried(replace(now, status=state.Status.FAILED), Token(9, "other", "2" * 32), NOW))


def truncate(project: Project) -> None:
    project.write("sync/state.json", "{")
    project.commit("damaged")


@pytest.mark.parametrize("moment", ["", "settle.before_ref"])
@pytest.mark.parametrize(
    ("act", "why"),
    [
        (delete, "was deleted"),
        (rewind, "lacks the turn's commits"),
        (rewrite, "lacks the turn's commits"),
        (take_over, "the state was changed by"),
        (truncate, "the state was changed by"),
    ],
)
def test_a_hand_off_is_fenced_when_its_ground_is_gone(
    project: Project,
    bus: LocalBus,
    monkeypatch: pytest.MonkeyPatch,
    act: Callable[[Project], None],
    why: str,
    moment: str,
) -> None:
    hand_off = stamped(bus, bus.look())
    if moment:
        meanwhile(monkeypatch, moment, lambda: act(project))
    else:
        act(project)
    before = project.git("for-each-ref")

    answer = bus.settle(hand_off)

    assert isinstance(answer, Fenced)
    assert why in answer.why
    assert hand_off.commit not in project.git("for-each-ref")
    assert moment or project.git("for-each-ref") == before


def test_a_state_before_its_parent_s_is_refused(project: Project, bus: LocalBus) -> None:
    first = bus.look()
    assert isinstance(bus.settle(stamped(bus, first)), Landed)
    commit_state(project, first.state)
    with pytest.raises(Refused) as caught:
        bus.look()
    assert (caught.value.code, "git log --oneline -- sync/state.json" in caught.value.remedy) == (
        "state-backwards",
        True,
    )


def test_a_hand_off_may_mend_a_state_that_an_agent_moved_forward(project: Project, bus: LocalBus) -> None:
    first = bus.look()
    commit_state(project, replace(first.state, iteration=9), "an agent's")
    edited = bus.look()
    after = state.succeeded(first.state, token(first), edited.tip, NOW)

    assert isinstance(bus.settle(bus.stamp(edited.tip, first.state, after)), Landed)
    assert bus.look().state.iteration == 1

    project.git("commit", "-q", "--amend", "-m", "by hand")
    with pytest.raises(Refused) as caught:
        bus.look()
    assert caught.value.code == "state-backwards"


def test_the_state_is_read_from_the_commit_and_never_from_the_work_tree(project: Project, bus: LocalBus) -> None:
    before = bus.look()
    project.write("sync/state.json", json.dumps({**project.state(), "iteration": 7}) + "\n")
    project.git("add", "sync/state.json")
    assert bus.look() == before
    project.commit("now it counts")
    assert bus.look().state.iteration == 7
    assert bus.state_at("HEAD^") == before.state


def test_another_branch_s_state_is_shown_as_it_is(project: Project, bus: LocalBus) -> None:
    commit_state(project, replace(bus.look().state, branch="feature"))
    assert bus.look(epoch=5, iteration=5).state.branch == "feature"
