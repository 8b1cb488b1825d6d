"""Which bus a command talks to."""

from orchestration.bus import Bus
from orchestration.file_bus import FileBus
from orchestration.git import Git
from orchestration.local_bus import LocalBus
from orchestration.settings import Config
from orchestration.workspace import Workspace, working_branch


def open_bus(place: Workspace, config: Config, git: Git, branch: str | None = None) -> Bus:
    """Return the bus of a project.

    Args:
        place: its folders.
        config: its configuration.
        git: the verbs; not used without git.
        branch: the working branch; by default the configured one, or the one checked out.

    Raises:
        Refused: HEAD is detached.

    """
    if not place.git:
        return FileBus(place.root, config.state_file)
    return LocalBus(git, place, branch or working_branch(git, config.sync.branch), config.state_file)
