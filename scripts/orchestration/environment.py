"""The only reader of the process environment."""

import os
from collections.abc import Collection, Mapping

_SSH = "ssh -o BatchMode=yes -o ConnectTimeout=10 -o ServerAliveInterval=15 -o ServerAliveCountMax=3"
_UNHURRIED = {"GIT_HTTP_LOW_SPEED_LIMIT": "1000", "GIT_HTTP_LOW_SPEED_TIME": "30"}
"""Bytes a second, and how many seconds of less end a transfer."""
_KEPT = (
    "GIT_AUTHOR_",
    "GIT_COMMITTER_",
    "GIT_CONFIG_",
    "GIT_EXEC_PATH",
    "GIT_SSH",
    "GIT_SSL_",
    "GIT_HTTP_",
    "GIT_PROXY_",
    "GIT_ASKPASS",
)
"""What says who commits and how remotes are reached; any other GIT_* may tie git to another repository."""


def inherited() -> dict[str, str]:
    """Return a copy of this process's environment."""
    return dict(os.environ)  # noqa: TID251 - this is the one door


def for_git(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of every git call of ours.

    Variables that git exports to hooks (GIT_DIR, GIT_INDEX_FILE, ...) are dropped: with them a daemon that was
    started from a hook would write to another repository's index. A stalled HTTP transfer ends by itself, sooner or
    later as the person's own GIT_HTTP_LOW_SPEED_* say.
    """
    return (
        _UNHURRIED
        | for_agent(environment)
        | {
            "GIT_TERMINAL_PROMPT": "0",
            "GIT_ASKPASS": "/bin/false",
            "SSH_ASKPASS_REQUIRE": "never",
            "GIT_EDITOR": "true",
            "GIT_LITERAL_PATHSPECS": "1",
            "LC_ALL": "C",
            "LANGUAGE": "C",
        }
    )


def for_remote(environment: Mapping[str, str], *, ssh_configured: bool) -> dict[str, str]:
    """Return the environment of a git call of ours that talks to a remote: ssh asks nothing and ends a dead connection.

    A person's own ssh command is left as it is, whichever variable or configuration (`ssh_configured`) names it.
    """
    if ssh_configured or not {"GIT_SSH", "GIT_SSH_COMMAND"}.isdisjoint(environment):
        return dict(environment)
    return {**environment, "GIT_SSH_COMMAND": _SSH}


def for_agent(environment: Mapping[str, str]) -> dict[str, str]:
    """Return an agent's environment: all of ours, but for what ties git to another repository, and with fsync.

    An armed failpoint is ours alone.
    """
    return _with_fsync(
        {
            name: value
            for name, value in environment.items()
            if name.startswith(_KEPT) or not name.startswith(("GIT_", "GALPH_"))
        }
    )


def for_preset(environment: Mapping[str, str], passed: Collection[str], given: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of an agent of a preset: what is named, and no key that happens to lie around.

    Its clock is UTC, so that a time which it tells without a zone can be read.

    Args:
        environment: the environment that the others would get.
        passed: the variables that it inherits, besides ORCH_* and what tells its git who commits.
        given: what it is given whatever is inherited.

    """
    kept = {
        name: value
        for name, value in environment.items()
        if name in passed or name.startswith(("ORCH_", "GIT_AUTHOR_", "GIT_COMMITTER_", "GIT_CONFIG_"))
    }
    return _with_fsync(kept) | {"TZ": "UTC"} | dict(given)


def with_identity(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the environment with a committer for a machine on which git knows none."""
    names = ("GIT_AUTHOR_NAME", "GIT_COMMITTER_NAME"), ("GIT_AUTHOR_EMAIL", "GIT_COMMITTER_EMAIL")
    values = "orchestrator", "orchestrator@localhost"
    return {name: value for group, value in zip(names, values, strict=True) for name in group} | dict(environment)


def _with_fsync(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the environment with core.fsync=all appended to git's injected configuration.

    `git commit` makes no fsync of its own by default: a power cut would leave empty objects.
    The agent's git gets it too.
    """
    try:
        count = int(environment.get("GIT_CONFIG_COUNT", "0"))
    except ValueError:
        count = 0
    return {
        **environment,
        "GIT_CONFIG_COUNT": str(count + 1),
        f"GIT_CONFIG_KEY_{count}": "core.fsync",
        f"GIT_CONFIG_VALUE_{count}": "all",
    }
