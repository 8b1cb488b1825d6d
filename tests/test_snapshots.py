"""Snapshots of the work tree while an agent runs: who wrecks what it has not committed loses little of it."""

import os
import signal
from pathlib import Path

import pytest

from conftest import Capture, Project, executable, kept, script
from pair import events, pair, running, until

SOON = ("-c", "limits.snapshot_interval=0.05")
HOLDS = """
holds() {
    for i in $(seq 600); do
        ref=$(git for-each-ref --format='%(refname)' 'refs/rescue/**/0')
        git cat-file -e "$ref:$1" 2>&- && return
        sleep 0.05
    done
    exit 9
}
cat >/dev/null
"""
"""Gives an agent `holds FILE`, which waits until the snapshots hold it."""
WRECKS = f"{HOLDS} echo precious >'my work'; holds 'my work'; rm 'my work'; "


def moving(project: Project) -> list[str]:
    """Return the refs that the snapshots of a turn have moved."""
    return [ref for ref in project.rescued() if ref.endswith("/0")]


@pytest.fixture(params=["local", "remote"])
def place(request: pytest.FixtureRequest, tmp_path: Path, project: Project) -> tuple[Project, tuple[str, ...]]:
    """Give a project, and how its turns are run on each bus."""
    if request.param == "local":
        return project, ("run",)
    return pair(tmp_path / "two").galph, ("run", "--role", "galph", "--once")


def test_what_an_agent_wrote_and_then_wrecked_comes_back(
    place: tuple[Project, tuple[str, ...]], capsys: Capture
) -> None:
    project, run = place
    project.write(".git/info/exclude", "index.before\n")
    agent = project.agent(f"{HOLDS} cp .git/index index.before; {WRECKS} cmp .git/index index.before || exit 8; exit 3")
    assert project.call(*run, "--agent", agent, *SOON) == 4
    assert project.state()["failure"]["exit_code"] == 3

    (ref,) = moving(project)
    (item,) = [item for item in script(project, capsys, "rescue", "list") if item["name"].endswith("/0")]
    assert (item["why"], item["paths"]) == ("while the agent ran", ["my work"])
    assert kept(project, ref, "my work") == "precious"
    assert script(project, capsys, "rescue", "restore", item["name"]) == {"restored": ["my work"]}
    assert (project.path / "my work").read_text() == "precious\n"


def test_a_turn_that_ends_well_leaves_no_snapshot(place: tuple[Project, tuple[str, ...]]) -> None:
    project, run = place
    commits = "echo x >docs.md; git add docs.md; git commit -qm work"
    assert project.call(*run, "--once", "--agent", project.agent(WRECKS + commits), *SOON) == 0
    assert project.rescued() == []
    assert not list((project.path / ".git/orchestration").glob("index.*"))


def test_each_snapshot_reaches_the_one_before_it(project: Project, capsys: Capture) -> None:
    script_ = f"{WRECKS} echo other >other; holds other; exit 3"
    assert project.call("run", "--agent", project.agent(script_), *SOON) == 4
    (ref,) = moving(project)
    assert kept(project, ref, "other") == "other"
    assert "precious" in project.git("log", "-p", "--diff-merges=first-parent", ref)
    capsys.readouterr()
    assert project.call("rescue", "show", ref) == 0
    assert "+other" in capsys.readouterr().out


def test_a_file_above_the_limit_and_an_ignored_one_are_not_in_it(project: Project) -> None:
    project.write(".git/info/exclude", "ignored\n")
    makes = "head -c 2000000 /dev/zero >huge; echo x >ignored; "
    limit = ("-c", "limits.snapshot_file=1")
    assert project.call("run", "--agent", project.agent(f"{makes}{WRECKS} exit 3"), *SOON, *limit) == 4
    (ref,) = moving(project)
    assert project.git("diff-tree", "-r", "--name-only", f"{ref}^", ref) == "my work"


def git_that(project: Project, does: str) -> dict[str, str]:
    """Return the environment of a daemon whose git first does what this shell text says of its arguments."""
    shelf = project.path.parent / "shelf"
    shelf.mkdir()
    real = project.git("--exec-path") + "/git"
    executable(shelf / "git", f'#!/bin/sh\n{does}\nexec {real} "$@"\n')
    return {"PATH": f"{shelf}:{os.environ['PATH']}"}


def test_nothing_is_kept_where_nothing_has_changed(project: Project) -> None:
    looks = project.path.parent / "looks"
    counts = git_that(project, f'case "$*" in *" status "*) echo look >>{looks} ;; esac')
    waits = f">{looks}; until [ $(wc -l <{looks}) -ge 5 ]; do sleep 0.02; done; "
    done = project.run("run", "--agent", project.agent(f"{HOLDS} {waits} exit 3"), *SOON, env=counts)
    assert done.returncode == 4
    assert project.rescued() == []


def test_an_interval_of_nothing_means_no_snapshots(project: Project) -> None:
    agent = project.agent("cat >/dev/null; echo x >left; sleep 0.5; rm left; exit 3")
    assert project.call("run", "--agent", agent, "-c", "limits.snapshot_interval=0") == 4
    assert project.rescued() == []


def test_nothing_is_kept_while_a_merge_is_in_progress(project: Project) -> None:
    conflicts = """
    git switch -qc side; echo side >src/app.py; git commit -qam side; git switch -q main
    echo main >src/app.py; git commit -qam main; git merge -q side >&- 2>&-
    sleep 0.5; git merge --abort; git branch -qD side
    """
    assert project.call("run", "--json", "--agent", project.agent(f"{HOLDS}{conflicts} exit 3"), *SOON) == 4
    assert "snapshot" not in [event.get("code") for event in project.events()]
    assert not any("<<<<" in project.git("log", "-p", "--diff-merges=first-parent", ref) for ref in moving(project))


def test_a_snapshot_that_fails_is_told_once_and_costs_the_turn_nothing(project: Project) -> None:
    tries = project.path.parent / "tries"
    says = "echo 'fatal: write error: No space left on device' >&2; exit 128"
    full = git_that(project, f'case "$*" in *"while the agent ran"*) echo try >>{tries}; {says} ;; esac')
    waits = f"echo x >left; >{tries}; until [ $(wc -l <{tries}) -ge 3 ]; do sleep 0.02; done; rm left"
    done = project.run("run", "--once", "--agent", project.agent(f"{HOLDS} {waits}"), *SOON, env=full)
    assert done.returncode == 0
    (told,) = [event for event in project.events() if event.get("code") == "snapshot"]
    assert "No space left on device" in told["text"]


def test_a_git_that_stalls_in_a_snapshot_holds_nobody_up(project: Project) -> None:
    """The agent waits until it stalls, prints more than a pipe takes, and ends."""
    here = project.path.parent
    stalls = git_that(
        project, f'case "$*" in *" status "*) [ ! -e {here}/armed ] || exec sleep 600 >{here}/stalls ;; esac'
    )
    waits = f"touch {here}/armed; until [ -e {here}/stalls ]; do sleep 0.02; done; rm {here}/armed; "
    floods = "head -c 3000000 /dev/zero | tr '\\0' x"
    agent = project.agent(f"{HOLDS} {waits} {floods}")
    done = project.run("run", "--once", "--agent", agent, *SOON, env=stalls, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_killed_daemon_leaves_the_snapshot_and_its_next_one_goes_on_from_it(project: Project) -> None:
    folder = project.path.parent
    agent = project.agent(
        f"{HOLDS} if [ -e {folder}/again ]; then echo more >more; holds more; exit 3; fi; "
        f"touch {folder}/again; echo precious >'my work'; holds 'my work'; touch {folder}/kept; sleep 600"
    )
    daemon = project.start("run", "--json", "--agent", agent, *SOON)
    with running(daemon):
        until((folder / "kept").exists)
        daemon.send_signal(signal.SIGKILL)
        events(daemon)
    (ref,) = moving(project)
    before = project.git("rev-parse", ref)
    assert kept(project, ref, "my work") == "precious"
    (project.path / "my work").unlink()

    assert project.call("run", "--agent", agent, *SOON) == 4

    assert moving(project) == [ref]
    assert kept(project, ref, "more") == "more"
    assert before in project.git("rev-list", ref).split()
