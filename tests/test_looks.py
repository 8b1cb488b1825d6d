"""What a shared turn asks of its remote, and what wakes the side that waits for it."""

import json
import os
from pathlib import Path

import pytest

from orchestration.clock import SystemClock
from orchestration.errors import Refused
from orchestration.git import Git
from orchestration.process import Loop
from orchestration.remote import Remote
from orchestration.watch import watching
from pair import Pair, pair, until


@pytest.fixture
def two(tmp_path: Path) -> Pair:
    """Give a remote and two clones."""
    return pair(tmp_path)


def asked(trace: Path) -> list[str]:
    """Return the commands to a remote that git noted, in their order; what git itself started for them is left out."""
    starts = [row for row in map(json.loads, trace.read_text().splitlines()) if row["event"] == "start"]
    words = [row["argv"] for row in starts if "/" not in row["sid"] and "--get-url" not in row["argv"]]
    return [verb for argv in words for verb in argv if verb in {"ls-remote", "fetch", "push"}]


def test_a_turn_asks_its_remote_no_more_than_it_must(two: Pair, tmp_path: Path) -> None:
    assert two.turn("galph") == 0
    trace = tmp_path / "trace"
    two.ralph.git("config", "--global", "trace2.eventTarget", str(trace))

    assert two.turn("ralph") == 0

    assert asked(trace) == ["ls-remote", "fetch", "push", "push"]  # a look, the claim and the hand-off
    trace.unlink()
    assert two.turn("ralph") == 0
    assert asked(trace) == ["ls-remote"]  # what it has pushed itself is known
    two.check()


def test_a_ref_wakes_when_it_has_its_new_value(two: Pair) -> None:
    person, ref, seen = two.person(), two.hub.path / "refs" / "heads" / "main", list[str]()
    for text in ("one", "two"):
        person.write("notes.txt", text)
        person.commit(text)
    person.git("push", "--quiet", "origin", "main~1:main")  # until now the ref was packed

    with watching(two.hub.path / "refs", lambda: seen.append(ref.read_text().strip()), refs=True) as watched:
        assert watched
        person.git("push", "--quiet")
        until(lambda: seen)

    assert set(seen) == {two.tip()}


def test_a_look_after_a_wake_knows_the_tip_the_beats_and_a_branch_that_is_gone(two: Pair) -> None:
    person = two.person()
    with Loop(SystemClock()) as loop:
        remote = Remote(Git(loop, two.ralph.path, os.environ), "origin", "main")
        assert remote.tip() == two.tip()
        assert remote.beat("galph") == ""
        beat = person.git("commit-tree", "HEAD^{tree}", "-m", "1 nonce 7")
        person.write("notes.txt", "more")
        person.commit("notes")
        person.git("push", "--quiet", "origin", "main", f"{beat}:{remote.lease('galph')}")

        remote.stir()

        assert remote.tip() == two.tip() == person.git("rev-parse", "HEAD")
        assert remote.beat("galph") == "1 nonce 7"
        two.hub.git("update-ref", "-d", "refs/heads/main")
        remote.stir()
        with pytest.raises(Refused) as gone:
            remote.tip()
        assert gone.value.code == "remote-branch-gone"
