"""The only reader of the process environment."""

import os
from collections.abc import Mapping


def inherited() -> dict[str, str]:
    """Return a copy of this process's environment."""
    return dict(os.environ)  # noqa: TID251 - this is the one door


def for_git(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of every git call of ours (handoff.md, "Environment of every git call").

    Variables that git exports to hooks (GIT_DIR, GIT_INDEX_FILE, ...) are dropped: with them a daemon that was
    started from a hook would write to another repository's index.
    """
    return for_agent(environment) | {
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_ASKPASS": "/bin/false",
        "SSH_ASKPASS_REQUIRE": "never",
        "GIT_EDITOR": "true",
        "GIT_LITERAL_PATHSPECS": "1",
        "LC_ALL": "C",
        "LANGUAGE": "C",
    }


def for_agent(environment: Mapping[str, str]) -> dict[str, str]:
    """Return an agent's environment: all of ours, but for what ties git to another repository, and with fsync.

    An armed failpoint is ours alone.
    """
    kept = ("GIT_AUTHOR_", "GIT_COMMITTER_", "GIT_CONFIG_", "GIT_EXEC_PATH", "GIT_SSH", "GIT_SSL_CAINFO", "GIT_ASKPASS")
    return _with_fsync(
        {
            name: value
            for name, value in environment.items()
            if name.startswith(kept) or not name.startswith(("GIT_", "GALPH_"))
        }
    )


def with_identity(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the environment with a committer for a machine on which git knows none."""
    names = ("GIT_AUTHOR_NAME", "GIT_COMMITTER_NAME"), ("GIT_AUTHOR_EMAIL", "GIT_COMMITTER_EMAIL")
    values = "orchestrator", "orchestrator@localhost"
    return {name: value for group, value in zip(names, values, strict=True) for name in group} | dict(environment)


def _with_fsync(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the environment with core.fsync=all appended to git's injected configuration.

    `git commit` makes no fsync of its own by default (handoff.md, fact 6): a power cut would leave empty objects.
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
