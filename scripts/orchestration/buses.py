"""Which bus a command talks to."""

from collections.abc import Callable

from orchestration.bus import Bus
from orchestration.errors import Refused
from orchestration.file_bus import FileBus
from orchestration.git import Git
from orchestration.journal import Claim
from orchestration.local_bus import LocalBus
from orchestration.settings import Config
from orchestration.workspace import Workspace, instance_id, refuse_operation, require_branch, working_branch


def require_checked_out(git: Git, claim: Claim) -> None:
    """Refuse to go on with a turn whose branch is not checked out.

    Raises:
        Refused: code `turn-on-other-branch`.

    """
    if git.branch() != claim.branch:
        raise Refused(
            f"{claim.name} is in progress on the branch {claim.branch}, which is not checked out",
            code="turn-on-other-branch",
            remedy=f"`git switch {claim.branch}`, and start again; or give the turn up: `orchestrator abandon`",
        )


def require_configured(git: Git, config: Config) -> None:
    """Refuse a start where the branch that is asked for is not checked out.

    Raises:
        Refused: nor is any, or there is no such branch; or an operation is in progress, which has left it.

    """
    if config.sync.branch and not git.has_checked_out(config.sync.branch):
        refuse_operation(git)
        require_branch(git, config.sync.branch, git.branch())


def open_bus(
    place: Workspace,
    config: Config,
    git: Git,
    branch: str | None = None,
    hurry: Callable[[], bool] = lambda: False,
) -> Bus:
    """Return the bus of a project.

    Args:
        place: its folders.
        config: its configuration.
        git: the verbs; not used without git.
        branch: the working branch; by default the configured one, or the one checked out.
        hurry: tells whether a person waits for us to stop.

    Raises:
        Refused: HEAD is detached.

    """
    if not place.git:
        return FileBus(place.root, config.state_file)
    branch = branch or working_branch(git, config.sync.branch)
    local = LocalBus(git, place, branch, config.state_file)
    if not (local.was_shared() if config.sync.via_git is None else config.sync.via_git):
        return local
    from orchestration.remote import Remote  # noqa: PLC0415 - what sharing needs, a clone that shares nothing does not
    from orchestration.remote_bus import RemoteBus  # noqa: PLC0415

    return RemoteBus(git, place, Remote(git, config.sync.remote, branch, hurry), config, instance_id(place))
