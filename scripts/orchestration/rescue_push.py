"""A rescue ref goes to the remote only where it holds commits alone, and commits that a turn may publish."""

from orchestration.collect import Rules, listed
from orchestration.errors import Refused
from orchestration.remote import Remote
from orchestration.scan import Scanner
from orchestration.settings import Config
from orchestration.workspace import Workspace


def publish(remote: Remote, config: Config, place: Workspace, ref: str) -> None:
    """Push a rescue ref to the remote, under its own name; again, where it is there already, changes nothing.

    Raises:
        Refused: it holds what was not committed, which may be a person's, or commits that must not be published.
        Unreachable: the remote does not answer.

    """
    git = remote.git
    name, commit = ref.removeprefix("refs/rescue/"), git.ask("rev-parse", "--verify", ref)
    changes = git.difference(f"{commit}^", commit)
    if changes:
        paths = listed([change.path for change in changes])
        raise Refused(
            f"{name} holds what nobody has committed, which may be a person's: {paths}",
            code="rescue-uncommitted",
            remedy=f"`orchestrator rescue restore {name}` brings it back; commit what may be seen",
        )
    scanner = Scanner(git, Rules(config, place), config)
    failure = scanner.commits(git.common(remote.tip(), commit), commit)
    if failure:
        raise Refused(
            f"{name}: {failure.reason}",
            code=f"rescue-{failure.code}",
            remedy="it stays here; take out of its commits what must not be seen, and push a branch of your own",
        )
    remote.publish(ref, commit)
