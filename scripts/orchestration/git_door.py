"""The door to git: how every command of ours is started, and what its failure is called."""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from orchestration.background import Task
from orchestration.environment import for_git, for_remote
from orchestration.errors import OrchestrationError
from orchestration.git_errors import FLAGS, explained
from orchestration.process import Completed, Loop, Request, Started

TIMEOUT = 600.0
"""Seconds of one call."""
_LOCK_PATIENCE = 10.0
"""Seconds that somebody else's lock is waited for."""


class Door:
    """Starts git in one work tree.

    Args:
        loop: serves git's pipes and ends it when it stalls.
        top: any folder of the work tree; verbs that name paths need its top.
        environment: the environment to clean and use.

    """

    def __init__(self, loop: Loop, top: Path, environment: Mapping[str, str]) -> None:
        self.loop = loop
        self.top = top
        self.environment = dict(environment)
        self._env = for_git(environment)
        self._remote_env: dict[str, str] | None = None

    def call(self, *args: str, stdin: bytes = b"", index: Path | None = None) -> Completed:
        """Run git and return what happened, whatever it was.

        Raises:
            OrchestrationError: git is not installed (code `git-missing`).

        """
        return self.start(*args, stdin=stdin, index=index)()

    def start(self, *args: str, stdin: bytes = b"", index: Path | None = None) -> Started:
        """Start git; call what is returned for what happened.

        Raises:
            OrchestrationError: git is not installed (code `git-missing`).

        """
        return self._start(args, {**self._env, "GIT_INDEX_FILE": str(index)} if index else self._env, stdin, TIMEOUT)

    def reach(self, *args: str, stdin: bytes = b"", timeout: float = TIMEOUT) -> Started:
        """Start a git that talks to a remote, for `timeout` seconds at most; otherwise as `start`."""
        if self._remote_env is None:
            configured = self.call("config", "--get", "core.sshCommand").code == 0
            self._remote_env = for_remote(self._env, ssh_configured=configured)
        return self._start(args, self._remote_env, stdin, timeout)

    def _start(self, args: Sequence[str], env: dict[str, str], stdin: bytes, timeout: float) -> Started:
        request = Request(argv=("git", *FLAGS, *args), cwd=self.top, env=env, stdin=stdin, timeout=timeout)
        try:
            return self.loop.start(request)
        except FileNotFoundError:
            if not self.top.is_dir():
                raise
            raise OrchestrationError(
                "git was not found", code="git-missing", remedy="install git 2.38 or newer"
            ) from None

    def ask(self, *args: str, stdin: bytes = b"", index: Path | None = None) -> str:
        """Run git and return its standard output without the final newline.

        Raises:
            GitError: it failed.

        """
        return os.fsdecode(self.checked(*args, stdin=stdin, index=index).stdout).rstrip("\n")

    def asking(self, *args: str, stdin: bytes = b"", index: Path | None = None) -> Task[str]:
        """Ask as a task; a lock in the way is not waited for.

        Raises:
            GitError: it failed.

        """
        started = self.start(*args, stdin=stdin, index=index)
        yield started
        done = started()
        if done.code:
            raise explained(done, locked=b".lock': File exists" in done.stderr)
        return os.fsdecode(done.stdout).rstrip("\n")

    def checked(self, *args: str, stdin: bytes = b"", index: Path | None = None) -> Completed:
        """Run git and return what happened; somebody else's lock is waited for a while.

        Raises:
            GitError: it failed.

        """
        return self.checking(*args, stdin=stdin, index=index)()

    def checking(self, *args: str, stdin: bytes = b"", index: Path | None = None) -> Callable[[], Completed]:
        """Begin what `checked` does; call what is returned for what happened."""
        started = self.start(*args, stdin=stdin, index=index)

        def check() -> Completed:
            deadline, done = self.loop.clock.monotonic() + _LOCK_PATIENCE, started()
            while done.code:
                locked = b".lock': File exists" in done.stderr
                if not locked or self.loop.clock.monotonic() > deadline:
                    raise explained(done, locked=locked)
                self.loop.pause(0.05)
                done = self.call(*args, stdin=stdin, index=index)
            return done

        return check
