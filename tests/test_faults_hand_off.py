"""The faults of the hand-off through a remote, each made for real; the number in a test's id is the fault's.

Every story ends with the loop going on for an iteration more, and with the promises of `pair.Pair.check`.
"""

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from conftest import DOOR, Project
from pair import Pair, events, pair, running, until
from prove_kills import STATE
from scene import LEFTOVER, OPERATOR, Scene
from world import PATCHED

KILLED = -signal.SIGKILL


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    """Give a remote, two clones, and what it takes to make faults."""
    return Scene(pair(tmp_path))


def refs(two: Pair) -> list[str]:
    """Return every ref of all three repositories."""
    return [repository.git("show-ref", "--head", check=False) for repository in (two.hub, *two.clones())]


def closing(said: str) -> dict[str, object]:
    """Return the last thing that a daemon said with --json."""
    last: dict[str, object] = json.loads(said.splitlines()[-1])
    return last


# --- kills (1 to 7) ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("failpoint", "meanwhile"),
    [
        pytest.param("journal.before_write", "nothing", id="fault-01-before-the-claim-is-noted"),
        pytest.param("journal.after_write", "a person pushes", id="fault-02-the-claim-is-noted-and-a-person-pushes"),
        pytest.param("claim.before_push", "nothing", id="fault-02-before-the-push-of-the-claim"),
    ],
)
def test_a_claim_that_was_not_pushed_leaves_no_trace(scene: Scene, failpoint: str, meanwhile: str) -> None:
    before = scene.two.tip()
    assert scene.turn("galph", f"{failpoint}:KILL") == KILLED
    assert (scene.two.tip(), scene.two.galph.git("rev-parse", "HEAD")) == (before, before)
    assert scene.runs("1/galph") == 0
    if meanwhile != "nothing":
        scene.push()

    assert scene.turn("galph") == 0
    assert [(stamp.epoch, stamp.kind) for stamp in scene.two.stamps()] == [(1, "claim"), (1, "hand-off")]
    assert scene.runs("1/galph") == 1
    assert scene.turn("ralph") == 0
    scene.goes_on()


@pytest.mark.parametrize("lands", ["before the restart", "after the restart's own push", "with the journal gone"])
def test_fault_03_a_claim_that_lands_after_its_daemon_was_killed_is_known_again(scene: Scene, lands: str) -> None:
    let_go = scene.holds_push()
    before = scene.two.tip()
    daemon = scene.two.start("galph", "--once", agent=scene.agent())
    with running(daemon):
        until(scene.is_held)
        daemon.kill()
        assert daemon.wait() == KILLED
    assert scene.two.tip() == before

    if lands == "after the restart's own push":
        assert scene.turn("galph") == 0
        tip = scene.two.tip()
        let_go()
        until(lambda: not list(scene.two.hub.path.glob("objects/tmp_objdir-*")))
        assert scene.two.tip() == tip
    else:
        let_go()
        until(lambda: scene.two.tip() != before)
        until(lambda: not (scene.two.hub.path / "refs/heads/main.lock").exists())
        if lands == "with the journal gone":
            (scene.two.galph.path / ".git/orchestration/journal.json").unlink()
        assert scene.turn("galph") == 0
    epochs = [(1, "claim"), (2, "claim"), (2, "hand-off")] if "gone" in lands else [(1, "claim"), (1, "hand-off")]
    assert [(stamp.epoch, stamp.kind) for stamp in scene.two.stamps()] == epochs
    assert scene.runs("1/galph") == 1
    assert scene.turn("ralph") == 0
    scene.goes_on()


@pytest.mark.parametrize("remote", ["there", "away"])
def test_fault_04_an_agent_that_outlives_its_daemon_is_ended_and_its_tree_kept(scene: Scene, remote: str) -> None:
    assert scene.turn("galph") == 0
    gated = scene.agent(f"echo half >half.txt; {scene.gate()}", name="gated")
    daemon = scene.two.start("ralph", "--once", agent=gated)
    with running(daemon):
        until(scene.waits)
        daemon.kill()
        daemon.wait()
    assert scene.ledger.somebody_runs()
    if remote == "away":
        scene.away()
    again = scene.two.start("ralph", "--once", "--json", agent=scene.agent())
    with running(again):
        if remote == "away":
            assert again.stdout
            assert any('"waiting"' in line for line in again.stdout)
            assert (scene.runs("1/ralph"), scene.ledger.somebody_runs()) == (1, False)  # dead, and nobody in its place
            scene.back()
        again.communicate(timeout=180)  # a repository that is not there is asked for once a minute
    assert again.returncode == 0
    assert not scene.ledger.lines("overlap")
    assert (scene.runs("1/ralph"), scene.runs("1/ralph", "ended")) == (2, 1)
    kept = [scene.two.ralph.git("show", f"{ref}:half.txt", check=False) for ref in scene.two.ralph.rescued()]
    assert "half" in kept
    assert [stamp.kind for stamp in scene.two.stamps()] == ["claim", "hand-off"] * 2
    scene.goes_on()


AFTER_THE_AGENT = {
    "05": ("turn.agent_ended", "turn.ran", "turn.checked"),
    "06": ("stamp.built", "settle.before_push"),
    "07": (
        *("settle.after_push", "settle.before_ref:2", "settle.after_ref:2"),
        *("settle.after_file:2", "settle.after_index:2", "turn.settled"),
    ),
}
"""Where a daemon is killed, by fault; the first pass of some is the claim's."""

OTHERS = [
    ("05", "turn.ran", "a person pushes"),
    ("06", "settle.before_push", "a person pushes"),
    ("07", "settle.after_push", "a person pushes"),
    ("07", "settle.after_push", "the peer goes on"),
    ("07", "turn.settled", "the peer goes on"),
]


@pytest.mark.parametrize(
    ("failpoint", "meanwhile"),
    [
        pytest.param(name, meanwhile, id=f"fault-{fault}-{name}-{meanwhile}")
        for fault, name, meanwhile in [
            *((fault, name, "nothing") for fault, names in AFTER_THE_AGENT.items() for name in names),
            *OTHERS,
        ]
    ],
)
def test_a_daemon_killed_after_its_agent_ended_runs_none_again(scene: Scene, failpoint: str, meanwhile: str) -> None:
    assert scene.turn("galph") == 0
    name, _, nth = failpoint.partition(":")
    leaving = scene.agent(last=LEFTOVER, name="leaving")
    assert scene.turn("ralph", f"{name}:KILL:{nth or 1}", agent=leaving) == KILLED
    landed = scene.two.state()["expected_actor"] == "galph"
    if meanwhile == "a person pushes":
        scene.push()
    elif meanwhile == "the peer goes on":
        assert scene.turn("galph") == 0

    assert scene.turn("ralph", agent=leaving) == 0
    turns = 3 if landed and meanwhile == "the peer goes on" else 2
    assert [stamp.kind for stamp in scene.two.stamps()] == ["claim", "hand-off"] * turns
    assert scene.runs("1/ralph") == 1
    assert scene.two.hub.git("show", "main:src/left-ralph.txt") == "1/ralph"
    scene.goes_on()


# --- the power is cut (9, 10) -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file", "part"),
    [
        pytest.param(STATE, "nothing", id="fault-10-empty-state-in-the-work-tree"),
        pytest.param(STATE, "half", id="fault-10-half-a-state-in-the-work-tree"),
        pytest.param(STATE, "all but a byte", id="fault-10-most-of-a-state-in-the-work-tree"),
        pytest.param(".git/orchestration/.journal.json.tmp", "half", id="fault-10-journal-being-written"),
        pytest.param(".git/orchestration/.instance.json.tmp", "nothing", id="fault-10-identity-being-written"),
        pytest.param(".git/orchestration/observed.json", "half", id="fault-10-what-was-observed"),
    ],
)
def test_a_file_cut_short_in_mid_turn_stops_nobody(scene: Scene, file: str, part: str) -> None:
    assert scene.turn("galph") == 0
    assert scene.turn("ralph", "turn.ran:KILL") == KILLED
    whole = (scene.two.ralph.path / STATE).read_bytes()
    half = {"nothing": b"", "half": whole[: len(whole) // 2], "all but a byte": whole[:-1]}[part]
    scene.two.ralph.write(file, half)

    assert scene.turn("ralph") == 0
    assert scene.runs("1/ralph") == 1
    assert scene.two.ralph.dirt() == ""
    scene.goes_on()


def test_fault_10_a_journal_cut_at_any_byte_is_never_taken_for_another(scene: Scene) -> None:
    assert scene.turn("galph") == 0
    assert scene.turn("ralph", "turn.ran:KILL") == KILLED
    journal = scene.two.ralph.path / ".git/orchestration/journal.json"
    whole, before = journal.read_bytes(), refs(scene.two)
    for length in range(0, len(whole) - 1, 97):
        journal.write_bytes(whole[:length])
        done = scene.two.ralph.run("--role", "ralph", "--once", "--json", "--agent", scene.agent())
        assert (done.returncode, closing(done.stdout)["error"]) == (3, "journal-unreadable")
        assert (journal.read_bytes(), refs(scene.two)) == (whole[:length], before)
    journal.write_bytes(whole)
    assert scene.turn("ralph") == 0
    assert scene.runs("1/ralph") == 1
    scene.goes_on()


@pytest.mark.parametrize(
    ("path", "remedy"),
    [
        pytest.param("index", "rm .git/index; git reset --quiet", id="fault-09-index"),
        pytest.param("HEAD", "echo ref: refs/heads/main >.git/HEAD", id="fault-09-head"),
        pytest.param(
            "refs/heads/main",
            "rm .git/refs/heads/main; git update-ref refs/heads/main $(tail -n 1 .git/logs/HEAD | cut -d ' ' -f 2)",
            id="fault-09-ref",
        ),
        pytest.param("object", "find .git/objects -size 0 -delete; git fetch --quiet --refetch", id="fault-09-object"),
    ],
)
def test_an_empty_file_of_git_halts_its_clone_and_costs_nothing(scene: Scene, path: str, remedy: str) -> None:
    assert scene.turn("galph") == 0
    assert scene.turn("ralph", "turn.ran:KILL") == KILLED
    clone, tip = scene.two.ralph, scene.two.tip()
    blob = clone.git("rev-parse", f"HEAD:{STATE}")
    file = clone.path / ".git" / (f"objects/{blob[:2]}/{blob[2:]}" if path == "object" else path)
    file.chmod(0o644)
    file.write_bytes(b"")
    for _ in range(2):
        done = clone.run("--role", "ralph", "--once", "--json", "--agent", scene.agent())
        assert done.returncode == 3, done.stdout
        assert closing(done.stdout)
    assert (scene.two.tip(), file.read_bytes()) == (tip, b"")

    subprocess.run(["sh", "-ec", remedy], cwd=clone.path, check=True)
    assert scene.turn("ralph") == 0
    assert scene.runs("1/ralph") == 1
    scene.goes_on()


# --- the server dies (11, 12) -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("push", ["the claim's", "the hand-off's"])
def test_fault_11_a_server_that_dies_after_it_moved_the_branch_is_counted_once(scene: Scene, push: str) -> None:
    mark, nth = scene.folder / "died", 1 + (push != "the claim's")
    scene.hook(
        "reference-transaction",
        f'[ "$1" = committed ] && grep -q refs/heads/main && echo x >>{mark} || exit 0\n'
        f"[ $(wc -l <{mark}) -ne {nth} ] || kill -9 $PPID",
    )
    assert scene.turn("galph") == 0
    assert mark.read_text() == "x\n" * 2
    assert [stamp.kind for stamp in scene.two.stamps()] == ["claim", "hand-off"]
    assert scene.runs("1/galph") == 1
    assert scene.turn("ralph") == 0
    scene.goes_on()


@pytest.mark.parametrize(
    ("push", "daemon"), [("the claim's", "is killed and started again"), ("the hand-off's", "waits")]
)
def test_fault_12_a_server_that_dies_holding_a_lock_is_waited_for(scene: Scene, push: str, daemon: str) -> None:
    mark, nth = scene.folder / "died", 1 + (push != "the claim's")
    scene.hook(
        "reference-transaction",
        f'[ "$1" = prepared ] && grep -q refs/heads/main && echo x >>{mark} || exit 0\n'
        f"[ $(wc -l <{mark}) -ne {nth} ] || kill -9 $PPID",
    )
    lock = scene.two.hub.path / "refs/heads/main.lock"
    waiting = scene.two.start("galph", "--once", "--json", agent=scene.agent())
    with running(waiting):
        assert waiting.stdout
        assert any('"waiting"' in line for line in waiting.stdout)
        assert lock.exists()
        if daemon != "waits":
            waiting.kill()
            waiting.wait()
            waiting = scene.two.start("galph", "--once", "--json", agent=scene.agent())
            assert waiting.stdout
            assert any('"waiting"' in line for line in waiting.stdout)
        for left in scene.two.hub.path.rglob("*.lock"):  # as the server's person does
            left.unlink()
        with running(waiting):
            waiting.communicate(timeout=60)
    assert waiting.returncode == 0
    assert [stamp.kind for stamp in scene.two.stamps()] == ["claim", "hand-off"]
    assert scene.runs("1/galph") == 1
    assert scene.turn("ralph") == 0
    scene.goes_on()


# --- a person is at work, too (24 to 26) ------------------------------------------------------------------------------


@pytest.mark.parametrize("killed", [False, True], ids=["undisturbed", "killed-before-the-merge-lands"])
def test_fault_24_what_a_person_pushes_while_the_agent_runs_is_merged(scene: Scene, killed: bool) -> None:
    person = scene.two.person()
    person.write("early.txt", "one commit\n")
    person.commit("first of two")
    args = {"GALPH_FAILPOINT": "settle.before_push:KILL:2"} if killed else {}
    daemon = scene.two.start("galph", "--once", agent=scene.agent(scene.gate(), name="gated"), env=args)
    with running(daemon):
        until(scene.waits)
        person.git("pull", "--quiet", "--no-rebase", "--no-edit")
        scene.push()
        scene.open()
        daemon.communicate(timeout=60)
    assert daemon.returncode == (KILLED if killed else 0)
    assert scene.turn("galph") == 0  # killed: the hand-off; else: nothing to do
    assert [stamp.kind for stamp in scene.two.stamps()] == ["claim", "hand-off"]
    assert scene.two.hub.git("show", "main:note.txt") == "by hand"
    assert scene.two.hub.git("show", "main:early.txt") == "one commit"
    assert scene.two.hub.git("show", "main:work-galph.txt") == "1/galph"
    assert scene.two.galph.git("rev-parse", "HEAD") == scene.two.tip()
    assert scene.two.galph.dirt() == ""
    assert scene.runs("1/galph") == 1
    assert scene.turn("ralph") == 0
    scene.goes_on()


@pytest.mark.parametrize("decision", ["retry", "skip"])
def test_fault_25_work_that_conflicts_with_a_persons_is_kept_and_fails_the_turn(scene: Scene, decision: str) -> None:
    code, _ = scene.during("galph", lambda: scene.push("work-galph.txt", "mine\n"))
    assert code in {0, 4}
    now = scene.two.state()
    assert (now["status"], now["failure"]["code"]) == ("failed", "conflict")
    assert scene.two.hub.git("show", "main:work-galph.txt") == "mine"
    ref = now["failure"]["reason"].partition("kept in ")[2].rstrip(")")
    assert scene.two.galph.git("show", f"{ref}:work-galph.txt") == "1/galph"
    assert scene.two.galph.git("rev-parse", "HEAD") == scene.two.tip()
    assert scene.two.galph.dirt() == ""
    assert scene.turn("galph") == 4
    scene.two.check()

    assert scene.two.galph.run(decision).returncode == 0
    if decision == "retry":
        assert scene.turn("galph") == 0
    assert scene.turn("ralph") == 0
    scene.goes_on()


def test_fault_26_a_state_with_a_higher_epoch_fences_the_holder(scene: Scene) -> None:
    code, said = scene.during("galph", scene.take_over)
    assert (code, closing(said)["code"]) == (8, "fenced")
    assert scene.two.state()["holder"] == OPERATOR
    assert "work 1/galph" not in scene.two.hub.subjects()
    assert scene.two.galph.git("rev-parse", "HEAD") == scene.two.tip()
    assert any("1/galph" in scene.two.galph.git("show", f"{r}:work-galph.txt") for r in scene.two.galph.rescued())
    assert scene.turn("galph") == 0
    assert scene.turn("ralph") == 0
    scene.goes_on()


def test_fault_26_a_flag_that_a_person_sets_meanwhile_is_handed_on(scene: Scene) -> None:
    code, _ = scene.during("galph", lambda: scene.edit(exit=True, exit_reason="enough"))
    assert code == 0
    now = scene.two.state()
    assert (now["expected_actor"], now["exit"], now["exit_reason"]) == ("ralph", True, "enough")
    before = scene.two.tip()
    assert scene.turn("ralph") == 0
    assert scene.two.tip() == before
    assert scene.two.galph.run("resume").returncode == 0
    assert scene.turn("ralph") == 0
    scene.goes_on()


def test_fault_26_a_damaged_state_is_nobodys_and_the_work_is_kept(scene: Scene) -> None:
    whole: list[str] = []

    def damage() -> None:
        whole.append(scene.two.hub.git("show", f"main:{STATE}") + "\n")
        scene.push(STATE, whole[0][: len(whole[0]) // 2])

    code, said = scene.during("galph", damage)
    assert (code, closing(said)["code"]) == (8, "fenced")
    tip = scene.two.tip()
    for role in ("galph", "ralph"):
        assert scene.turn(role) == 3
    assert scene.two.tip() == tip
    assert any("1/galph" in scene.two.galph.git("show", f"{r}:work-galph.txt") for r in scene.two.galph.rescued())
    scene.push(STATE, whole[0])
    assert scene.turn("galph") == 0
    assert scene.turn("ralph") == 0
    scene.goes_on()


# --- the branch at the server is moved by force (27 to 29) ------------------------------------------------------------


def _rewound(scene: Scene) -> None:
    scene.moved_by_hand(scene.two.hub.git("rev-parse", "main~1"))


def _rewritten(scene: Scene) -> None:
    hub = scene.two.hub
    commit = hub.git("commit-tree", "main^{tree}", "-p", "main~1", "-m", "rewritten by force")
    scene.moved_by_hand(commit)


def _deleted(scene: Scene) -> None:
    scene.two.hub.git("update-ref", "-d", "refs/heads/main")


def _renamed(scene: Scene) -> None:
    scene.two.hub.git("branch", "-m", "main", "trunk")


@pytest.mark.parametrize(
    ("act", "code"),
    [
        pytest.param(_rewound, "remote-rewound", id="fault-27-rewound"),
        pytest.param(_rewritten, "remote-rewound", id="fault-27-rewritten"),
        pytest.param(_deleted, "remote-branch-gone", id="fault-28-deleted"),
        pytest.param(_renamed, "remote-branch-gone", id="fault-29-renamed"),
    ],
)
@pytest.mark.parametrize("when", ["between turns", "while the agent runs"])
def test_a_branch_that_was_moved_by_force_halts_everybody(
    scene: Scene, act: Callable[[Scene], None], code: str, when: str
) -> None:
    assert scene.turn("galph") == 0
    assert scene.turn("ralph") == 0
    heads: list[str] = []

    def now() -> None:
        heads.append(scene.two.tip())
        act(scene)

    if when == "between turns":
        now()
        done = scene.two.ralph.run("--role", "ralph", "--once", "--json", "--agent", scene.agent())
        assert (done.returncode, closing(done.stdout)["code"]) == (3, code)
    else:
        said = scene.during("galph", now)
        assert said[0] == 3
        assert closing(said[1])["code"] == code
    before = refs(scene.two)
    for _ in range(2):
        assert scene.turn("ralph" if when == "between turns" else "galph") == 3
        assert refs(scene.two) == before, "something was moved"

    scene.moved_by_hand(heads[0])  # whoever did it puts it right
    scene.two.hub.git("update-ref", "-d", "refs/heads/trunk")
    scene.forgive()
    assert scene.turn("galph") == 0
    assert scene.runs("2/galph") == 1
    assert scene.turn("ralph") == 0
    scene.goes_on()


# --- two of a kind (30 to 33) -----------------------------------------------------------------------------------------


def third(scene: Scene, name: str, of: Project) -> Project:
    """Copy a whole clone, its own notes and all, as a backup or an image of a machine does."""
    shutil.copytree(of.path, scene.folder / name, symlinks=True)
    return Project(scene.folder / name)


def arrive_together(scene: Scene) -> Path:
    """Have the server look at the first two pushes only when both are there; return where they are noted."""
    count = scene.folder / "arrived"
    both = f"until [ $(wc -l <{count}) -ge 2 ]; do sleep 0.01; done"
    scene.hook("pre-receive", f"read old new ref; echo $new >>{count}; [ $(wc -l <{count}) -gt 2 ] || {both}")
    return count


def test_fault_30_of_the_same_role_on_two_machines_one_wins(scene: Scene) -> None:
    other = scene.folder / "other"
    scene.two.hub.git("clone", "--quiet", str(scene.two.hub.path), str(other))
    arrive_together(scene)
    daemons = [
        clone.start("--role", "galph", "--once", "--json", "--agent", scene.agent())
        for clone in (scene.two.galph, Project(other))
    ]
    with running(*daemons):
        said = [events(daemon) for daemon in daemons]
    assert [daemon.returncode for daemon in daemons] == [0, 0]
    assert sorted(str(lines[-1]["code"]) for lines in said) == ["not-my-turn", "once"]
    assert [(stamp.epoch, stamp.kind) for stamp in scene.two.stamps()] == [(1, "claim"), (1, "hand-off")]
    assert scene.runs("1/galph") == 1
    assert Project(other).run("--role", "galph", "--once", "--agent", scene.agent()).returncode == 0
    assert scene.turn("ralph") == 0
    scene.goes_on()


def start_patched(clone: Project, patch: str, *args: str) -> subprocess.Popen[str]:
    """Start a daemon before which Python runs."""
    door = ["-c", PATCHED.format(scripts=str(DOOR.parents[1]), patch=patch), str(DOOR)]
    return subprocess.Popen(
        [sys.executable, *door, *args], cwd=clone.path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def commit_text(commit: str, *clones: Project) -> str:
    """Return a commit that one of the clones has, as git keeps it."""
    return next(text for clone in clones if (text := clone.git("cat-file", "-p", commit, check=False)))


def test_fault_31_a_second_daemon_on_one_clone_names_the_first(scene: Scene) -> None:
    first = scene.two.start("galph", "--once", agent=scene.agent(scene.gate(), name="gated"))
    with running(first):
        until(scene.waits)
        for role in ("galph", "ralph"):
            done = scene.two.galph.run("--role", role, "--once", "--agent", scene.agent())
            assert done.returncode == 7
            assert f"process {first.pid}" in done.stderr
        scene.open()
        first.communicate(timeout=60)
    assert (first.returncode, scene.runs("1/galph")) == (0, 1)
    assert scene.turn("ralph") == 0
    scene.goes_on()


@pytest.mark.parametrize(
    "failpoint",
    [
        pytest.param("", id="fault-32-copied-between-turns"),
        pytest.param("turn.ran:KILL", id="fault-32-copied-after-the-agent"),
        pytest.param("turn.claimed:KILL", id="fault-32-copied-before-the-agent"),
        pytest.param("settle.before_push:KILL", id="fault-32-copied-before-the-hand-off"),
        pytest.param("claim.before_push:KILL", id="fault-33-copied-with-a-claim-unpushed"),
        pytest.param("claim.after_push:KILL", id="fault-33-copied-with-a-claim-pushed"),
    ],
)
def test_a_copied_clone_is_somebody_else(scene: Scene, failpoint: str) -> None:
    assert scene.turn("galph", failpoint) == (KILLED if failpoint else 0)
    runs = scene.runs("1/galph")
    copy = third(scene, "copy", scene.two.galph)
    done = copy.run("--role", "galph", "--once", "--json", "--agent", scene.agent())
    scene.ledger.wait_until_nobody_runs()
    assert done.returncode in {0, 8}, done.stdout
    known = [(clone.path / ".git/orchestration/instance.json").read_text() for clone in (copy, scene.two.galph)]
    assert json.loads(known[0])["id"] != json.loads(known[1])["id"]
    if failpoint != "claim.before_push:KILL":  # that turn was nobody's yet
        assert scene.runs("1/galph") == runs
    assert scene.turn("galph") == 0
    assert scene.runs("1/galph") == 1
    assert scene.again() == []
    assert [stamp.kind for stamp in scene.two.stamps()] == ["claim", "hand-off"]
    assert scene.turn("ralph") == 0
    scene.goes_on()


SAME_CLAIM = """
import secrets
from datetime import UTC, datetime
from orchestration.clock import SystemClock
SystemClock.now = lambda self: datetime(2030, 1, 1, tzinfo=UTC)
secrets.token_hex = lambda size: "b" * (2 * size)
"""
"""Takes from two daemons everything in which their claims differ, but for the clone's own id."""


def test_fault_33_of_two_claims_of_one_second_and_one_nonce_one_wins(scene: Scene) -> None:
    other = Project(scene.folder / "other")
    scene.two.hub.git("clone", "--quiet", str(scene.two.hub.path), str(other.path))
    arrived = arrive_together(scene)
    daemons = [
        start_patched(clone, SAME_CLAIM, "--role", "galph", "--once", "--json", "--agent", scene.agent())
        for clone in (scene.two.galph, other)
    ]
    with running(*daemons):
        said = [events(daemon) for daemon in daemons]

    offers = arrived.read_text().split()[:2]
    one, two = (commit_text(offer, scene.two.galph, other).splitlines() for offer in offers)
    differ = [line.split()[0] for line, its in zip(one, two, strict=True) if line != its]
    assert differ == ["tree", "Orchestration-Holder:"]
    assert sorted(str(lines[-1]["code"]) for lines in said) == ["not-my-turn", "once"]
    assert [(stamp.epoch, stamp.kind) for stamp in scene.two.stamps()] == [(1, "claim"), (1, "hand-off")]
    assert scene.runs("1/galph") == 1
    assert scene.turn("ralph") == 0
    scene.goes_on()


@pytest.mark.parametrize("by", ["the same clone, late", "another clone"])
def test_fault_33_a_claim_that_is_there_already_counts_by_its_nonce(scene: Scene, by: str) -> None:
    """Git says `=` to the second of two identical pushes, as if it had done something."""
    assert scene.turn("galph", "claim.before_push:KILL") == KILLED
    journal = json.loads((scene.two.galph.path / ".git/orchestration/journal.json").read_text())
    offer = journal["entry"]["offer"]
    if by == "another clone":  # with a claim of its own: the nonces differ, so the commits do
        assert scene.two.galph.git("cat-file", "-t", offer) == "commit"
        other = scene.folder / "other"
        scene.two.hub.git("clone", "--quiet", str(scene.two.hub.path), str(other))
        done = Project(other).run("--role", "galph", "--once", "--agent", scene.agent())
        assert done.returncode == 0
        assert scene.turn("galph") == 0
    else:
        scene.two.galph.git("push", "--quiet", "origin", f"{offer}:main")
        assert scene.turn("galph") == 0
        assert scene.two.stamps()[0].commit == offer
    assert scene.runs("1/galph") == 1
    assert [stamp.kind for stamp in scene.two.stamps()] == ["claim", "hand-off"]
    assert scene.turn("ralph") == 0
    scene.goes_on()


# --- leases (34 to 36) ------------------------------------------------------------------------------------------------

STANDBY = ["-c", "sync.stale=standby"]


def standby(scene: Scene) -> Project:
    """Return a third clone, which may take galph's turns over."""
    path = scene.folder / "standby"
    if not path.exists():
        scene.two.hub.git("clone", "--quiet", str(scene.two.hub.path), str(path))
    return Project(path)


def stands_by(scene: Scene, *args: str) -> str:
    """Have the standby look once; return how it ended."""
    clone = standby(scene)
    done = clone.run("--role", "galph", "--once", "--json", "--agent", scene.agent(), *STANDBY, *args)
    assert done.returncode == 0, done.stdout
    return str(closing(done.stdout)["code"])


def let_pass(scene: Scene, seconds: float) -> None:
    """Put the standby's stopwatch on."""
    path = standby(scene).path / ".git/orchestration/observed.json"
    seen = json.loads(path.read_text())
    path.write_text(json.dumps(seen | {"since": seen["since"] - seconds}))


REBASES = "git branch mine; git pull -q --rebase origin main"


@pytest.mark.parametrize(
    ("act", "peer"),
    [
        pytest.param("", "has only claimed", id="fault-34-while-the-peer-runs"),
        pytest.param("", "has handed off", id="fault-34-after-the-peer-has-handed-off"),
        pytest.param(REBASES, "has only claimed", id="fault-35-rebases-onto-the-claim"),
        pytest.param("git pull -q --no-rebase --no-edit origin main", "has handed off", id="fault-35-merges"),
        pytest.param(f"{REBASES}; git push -q origin main", "has handed off", id="fault-35-rebases-and-pushes"),
    ],
)
def test_a_holder_whose_lease_expired_publishes_no_hand_off(scene: Scene, act: str, peer: str) -> None:
    zombie = scene.two.start("galph", "--once", "--json", agent=scene.agent(scene.gate(), last=act, name="gated"))
    with running(zombie):
        until(scene.waits)
        zombie.send_signal(signal.SIGSTOP)
        assert stands_by(scene) == "not-my-turn"
        let_pass(scene, 601)
        if peer == "has handed off":
            assert stands_by(scene) == "once"
        else:
            dead = standby(scene).run(
                *("--role", "galph", "--once", "--agent", scene.agent(), *STANDBY),
                env={"GALPH_FAILPOINT": "turn.claimed:KILL"},
            )
            assert dead.returncode == KILLED
        scene.open()
        zombie.send_signal(signal.SIGCONT)
        said, _ = zombie.communicate(timeout=60)
    assert (zombie.returncode, closing(said)["code"]) == (8, "fenced")
    assert [stamp.holder for stamp in scene.two.stamps() if stamp.epoch == 1] == [scene.two.stamps()[0].holder]
    assert scene.two.galph.git("rev-parse", "HEAD") == scene.two.tip()
    kept = [scene.two.galph.git("show", f"{ref}:work-galph.txt") for ref in scene.two.galph.rescued()]
    assert any("1/galph" in text for text in kept)
    if peer == "has only claimed":
        assert stands_by(scene) == "once"
    assert scene.turn("galph") == 0
    assert scene.turn("ralph") == 0
    scene.goes_on()


def test_fault_36_a_peer_that_sleeps_is_taken_over_only_after_a_whole_lease(scene: Scene) -> None:
    sleeper = scene.two.start(
        "galph", "--once", "--json", "-c", "sync.heartbeat=0.1", agent=scene.agent(scene.gate(), name="gated")
    )
    lease = "refs/orchestration/main/lease/galph"

    def beat() -> str:
        return scene.two.hub.git("for-each-ref", "--format=%(objectname)", lease)

    def changed(last: list[str]) -> bool:
        return beat() not in last

    with running(sleeper):
        until(scene.waits)
        until(beat)
        for _ in range(2):  # it sleeps for less than a lease, twice
            sleeper.send_signal(signal.SIGSTOP)
            assert stands_by(scene) == "not-my-turn"
            let_pass(scene, 500)
            assert stands_by(scene) == "not-my-turn"
            last = [beat()]
            sleeper.send_signal(signal.SIGCONT)
            until(partial(changed, last))
        sleeper.send_signal(signal.SIGSTOP)
        assert stands_by(scene) == "not-my-turn"
        let_pass(scene, 599)
        path = standby(scene).path / ".git/orchestration/observed.json"
        seen = json.loads(path.read_text())
        path.write_text(json.dumps(seen | {"boot": "another", "since": 0.0}))  # begins anew
        assert stands_by(scene) == "not-my-turn"
        let_pass(scene, 601)
        assert stands_by(scene) == "once"
        sleeper.send_signal(signal.SIGCONT)
        said, _ = sleeper.communicate(timeout=60)
    assert (sleeper.returncode, closing(said)["code"]) == (8, "fenced")
    assert scene.runs("1/galph", "ended") == 1
    assert scene.turn("galph") == 0
    assert scene.turn("ralph") == 0
    scene.goes_on()
