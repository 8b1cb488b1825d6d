"""What a push depends on in a clone's configuration: noted at the claim, compared before the remote is asked again.

An agent that changes it sends its turn elsewhere, or to nobody (docs/faults.md, 63-69). What our own calls override
(hooks, the refspec, `branch.*`) is left out: an agent may well `git push --set-upstream`.
"""

import hashlib
import os
import re
from collections.abc import Callable, Mapping

from orchestration.errors import Refused
from orchestration.git import Git
from orchestration.git_errors import GitError
from orchestration.process import Completed

_WATCHED = re.compile(
    r"""remote\.(?P<name>.+)\.(url|pushurl|mirror|receivepack|uploadpack|proxy|proxyauthmethod|vcs|pushoption)
    | url\..+\.(insteadof|pushinsteadof)
    | core\.(sshcommand|gitproxy)
    | ssh\.variant
    | push\.(followtags|gpgsign|pushoption|recursesubmodules)
    | protocol\.(.+\.)?allow
    | (http|credential)\..+""",
    re.VERBOSE | re.DOTALL,
)
_ADDRESS = re.compile(r"remote\..+\.(url|pushurl)", re.DOTALL)
_LOGIN = re.compile(r"(?<=://)[^/@]*@")


def asked(git: Git, remote: str) -> Callable[[], dict[str, str]]:
    """Ask git what a push to `remote` depends on, by the name of the setting; call what is returned for it.

    An address stands there as it is, without a login that it holds; of anything else, which may be a secret, a digest.

    Raises:
        GitError: the configuration cannot be read.

    """
    started = git.start("config", "--list", "--show-scope", "-z")
    return lambda: _read(started(), remote)


def _read(done: Completed, remote: str) -> dict[str, str]:
    if done.code:
        raise GitError(done, code="config-unreadable", remedy="mend it: `git config --local --edit`")
    found: dict[str, list[str]] = {}
    told = os.fsdecode(done.stdout).split("\0")
    for scope, entry in zip(told[0:-1:2], told[1::2], strict=True):
        name, _, value = entry.partition("\n")
        watched = _WATCHED.fullmatch(name)
        renewed = name.startswith(("http.", "credential.")) and scope in {"global", "system"}  # by a person, in a night
        if watched and watched["name"] in {None, remote} and not renewed:
            found.setdefault(name, []).append(value)
    return {name: _shown(name, values) for name, values in found.items()}


def address(settings: Mapping[str, str] | None) -> str | None:
    """Return the address of the remote that was noted."""
    return next((value for name, value in (settings or {}).items() if name.endswith(".url")), None)


def _shown(name: str, values: list[str]) -> str:
    if _ADDRESS.fullmatch(name):
        return " ".join(_LOGIN.sub("", value) for value in values)
    return hashlib.sha256("\0".join(values).encode(errors="surrogateescape")).hexdigest()[:16]


def require_same(then: Mapping[str, str] | None, now: Mapping[str, str] | None) -> None:
    """Refuse to publish where the configuration is not as it was at the claim; None: nothing depends on it.

    Raises:
        Refused: code `push-settings-changed`.

    """
    if then is None or now is None or then == now:
        return
    names = sorted(name for name in {*then, *now} if then.get(name) != now.get(name))
    told = "\n  ".join(_told(name, then.get(name), now.get(name)) for name in names)
    raise Refused(
        f"what a push depends on was changed during the turn, and nothing is published:\n  {told}",
        code="push-settings-changed",
        remedy=f"put it right ({'; '.join(_repair(name, then.get(name)) for name in names)}) and start again; "
        "or give the turn up: `orchestrator abandon`",
    )


def _told(name: str, then: str | None, now: str | None) -> str:
    if _ADDRESS.fullmatch(name):
        return f"{name} was {then or 'not set'} and is {now or 'not set'}"
    how = "was added" if then is None else "is gone" if now is None else "was changed"
    return f"{name} {how}"


def _repair(name: str, then: str | None) -> str:
    if then is None:
        return f"`git config --unset-all {name}`"
    return f"`git config {name} {then}`" if _ADDRESS.fullmatch(name) else f"{name} as it was"
