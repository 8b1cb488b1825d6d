"""Every word of git about a remote is understood: each is said by the real server, hook, lock or full disk."""

import os
import shutil
import signal
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from conftest import Project, executable, repository
from orchestration.clock import SystemClock
from orchestration.git import TIMEOUT, Git
from orchestration.process import Completed, Loop, Request, Why
from orchestration.remote_errors import classify, trouble
from orchestration.remote_kinds import PATIENCE, Kind, pause
from servers import Web, git_daemon, proxy, refused_port, small_disk, sshd, web

SCHEMES = ["path", "git", "http", "ssh"]
MAIN = "refs/heads/main"


@dataclass
class Ground:
    """A bare repository `remote` with one commit on main, a clone of it, and git's door to it."""

    root: Path
    project: Project
    loop: Loop
    env: dict[str, str] = field(default_factory=dict)

    @property
    def remote(self) -> Project:
        """Return the bare repository as a folder."""
        return Project(self.root / "remote.git")

    def git(self, **env: str) -> Git:
        """Make the verbs, as a daemon would."""
        return Git(self.loop, self.project.path, {**os.environ, **self.env, **env})

    def push(self, url: str, *specs: str, timeout: float = 60, **env: str) -> Completed:
        """Push the clone's main, or something else."""
        told = specs or (f"HEAD:{MAIN}",)
        return self.git(**env).reach("push", "--porcelain", url, *told, timeout=timeout)()

    def fetch(self, url: str, *specs: str, **env: str) -> Completed:
        """Fetch main, or something else."""
        return self.git(**env).reach("fetch", url, *(specs or (MAIN,)))()

    def commit(self) -> str:
        """Commit something new in the clone."""
        return self.project.commit("more") if self.project.write("more.txt", os.urandom(20).hex()) else ""

    def hook(self, name: str, script: str) -> None:
        """Give the remote a hook."""
        executable(self.remote.path / "hooks" / name, f"#!/bin/sh\n{script}")

    def tip(self, ref: str = MAIN) -> str:
        """Return what the remote has."""
        return self.remote.git("rev-parse", "--verify", "--quiet", ref, check=False)


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Ground]:
    """Give a clone that is one commit ahead of its remote."""
    project = repository(tmp_path / "clone")
    subprocess.run(["git", "clone", "-q", "--bare", project.path, tmp_path / "srv" / "remote.git"], check=True)
    with Loop(SystemClock()) as loop:
        ground = Ground(tmp_path / "srv", project, loop)
        ground.remote.git("config", "http.receivepack", "true")
        ground.commit()
        yield ground


@pytest.fixture
def url(here: Ground, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[str]:
    """Serve the remote by the scheme that the test names, and give its address."""
    with ExitStack() as stack:
        if request.param == "path":
            base = str(here.root)
        elif request.param == "git":
            base = stack.enter_context(git_daemon(here.root))
        elif request.param == "http":
            base = stack.enter_context(web(here.root)).url
        else:
            shell = stack.enter_context(sshd(tmp_path / "sshd"))
            here.env["GIT_SSH_COMMAND"] = shell.command()
            base = shell.url + str(here.root)
        yield f"{base}/remote.git"


every_scheme = pytest.mark.parametrize("url", SCHEMES, indirect=True)


# --- what a server says of a push -------------------------------------------------------------------------------------


def lands(here: Ground, url: str) -> Completed:
    return here.push(url)


def is_there_already(here: Ground, url: str) -> Completed:
    here.project.git("push", "-q", str(here.remote.path), MAIN)
    return here.push(url)


def comes_after_somebody_else_s(here: Ground, url: str) -> Completed:
    here.remote.git("update-ref", MAIN, here.remote.git("commit-tree", "-p", MAIN, "-m", "theirs", f"{MAIN}^{{tree}}"))
    return here.push(url)


def holds_an_old_lease(here: Ground, url: str) -> Completed:
    here.project.git("push", "-q", str(here.remote.path), MAIN)
    here.commit()
    return here.push(url, f"--force-with-lease={MAIN}:{here.project.git('rev-parse', 'HEAD~2')}", f"HEAD:{MAIN}")


def is_overtaken_on_the_server(here: Ground, url: str) -> Completed:
    theirs = here.remote.git("commit-tree", "-p", MAIN, "-m", "theirs", f"{MAIN}^{{tree}}")
    here.hook("update", f"git update-ref {MAIN} {theirs}\n")
    return here.push(url)


def finds_a_lock(here: Ground, url: str) -> Completed:
    here.hook("reference-transaction", "[ $1 != prepared ] || kill -9 $PPID\n")
    assert classify(here.push(url), MAIN) is Kind.UNKNOWN
    (here.remote.path / "hooks" / "reference-transaction").unlink()
    return here.push(url)


def is_forbidden_by_a_protected_branch(here: Ground, url: str) -> Completed:
    here.hook("pre-receive", "echo 'error: \033[31mGH006\033[0m: Protected branch update failed' >&2; exit 1\n")
    return here.push(url)


def is_forbidden_by_an_update_hook(here: Ground, url: str) -> Completed:
    here.hook("update", "echo \"Unable to create 'x.lock': File exists\"; exit 1\n")
    return here.push(url)


def goes_to_a_hidden_ref(here: Ground, url: str) -> Completed:
    here.remote.git("config", "transfer.hideRefs", MAIN)
    return here.push(url)


def lies_below_another_branch(here: Ground, url: str) -> Completed:
    here.remote.git("update-ref", f"{MAIN}-x/y", MAIN)
    return here.push(url, f"HEAD:{MAIN}-x")


def is_too_large(here: Ground, url: str) -> Completed:
    here.remote.git("config", "receive.maxInputSize", "100")
    here.project.write("large.bin", os.urandom(1000))
    here.project.commit("large")
    return here.push(url)


def meets_a_damaged_repository(here: Ground, url: str) -> Completed:
    (here.remote.path / MAIN).write_text("")
    here.remote.git("pack-refs", "--all", check=False)
    return here.push(url)


def is_killed_on_the_server(here: Ground, url: str) -> Completed:
    here.hook("pre-receive", "kill -9 $PPID\n")
    return here.push(url)


def stalls_on_the_server(here: Ground, url: str) -> Completed:
    here.hook("pre-receive", f"echo $$ > {here.root}/hook; exec tail -f /dev/null\n")
    try:
        return here.push(url, timeout=1.5)
    finally:
        os.kill(int((here.root / "hook").read_text()), signal.SIGKILL)


def has_no_repository(here: Ground, url: str) -> Completed:
    return here.push(url.replace("remote.git", "nothing.git"))


PUSHES = [
    (lands, Kind.OK, "..", ""),
    (is_there_already, Kind.ALREADY, "[up to date]", ""),
    (comes_after_somebody_else_s, Kind.CAS_LOST, "[rejected] (fetch first)", "git fetch there main"),
    (holds_an_old_lease, Kind.CAS_LOST, "[rejected] (stale info)", "git fetch there main"),
    (is_overtaken_on_the_server, Kind.CAS_LOST, "but expected", "git fetch there main"),
    (finds_a_lock, Kind.REMOTE_BUSY, "File exists", "remote.git/./refs/heads/main.lock"),
    (is_forbidden_by_a_protected_branch, Kind.POLICY, "(pre-receive hook declined): error: GH006: Prot", "there"),
    (is_forbidden_by_an_update_hook, Kind.POLICY, "(hook declined): Unable to create", "there"),
    (goes_to_a_hidden_ref, Kind.POLICY, "(deny updating a hidden ref)", "there"),
    (lies_below_another_branch, Kind.POLICY, "cannot create 'refs/heads/main-x'", "there"),
    (is_too_large, Kind.POLICY, "pack exceeds maximum allowed size", "there"),
    (meets_a_damaged_repository, Kind.REMOTE_BROKEN, "missing necessary objects", "git fsck --full"),
    (is_killed_on_the_server, Kind.UNKNOWN, "unexpected disconnect", "git ls-remote there main"),
    (stalls_on_the_server, Kind.UNKNOWN, "git was ended after 2 s (timeout)", "git ls-remote there main"),
    (has_no_repository, Kind.NOT_FOUND, "nothing.git", "git remote set-url there <url>"),
]


@every_scheme
@pytest.mark.parametrize(("push", "kind", "text", "remedy"), PUSHES, ids=[row[0].__name__ for row in PUSHES])
def test_a_push_is_understood(  # noqa: PLR0913, PLR0917 - the columns of the table
    here: Ground, url: str, push: Callable[[Ground, str], Completed], kind: Kind, text: str, remedy: str
) -> None:
    done = push(here, url)

    ref = MAIN if push is not lies_below_another_branch else f"{MAIN}-x"
    told = trouble(done, "there", ref.removeprefix("refs/heads/"))
    assert told.kind is classify(done, ref) is classify(done) is kind, done
    assert text in told.text
    assert remedy in told.remedy
    assert bool(told.remedy) == (kind not in {Kind.OK, Kind.ALREADY})
    assert (here.tip() == here.project.git("rev-parse", "HEAD")) == (kind in {Kind.OK, Kind.ALREADY})
