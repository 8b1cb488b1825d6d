"""What an actor left uncommitted: which of it may be committed, and how its bytes are kept.

Everything is a difference of trees: the work tree at the claim, HEAD after the agent, the work tree now.
"""

import re
from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath
from typing import NamedTuple

from pathspec import GitIgnoreSpec

from orchestration import failpoints
from orchestration.background import Task, complete
from orchestration.errors import UsageError
from orchestration.git import Git
from orchestration.git_errors import PathGoneError
from orchestration.journal import Claim, Turn
from orchestration.scratch_index import taking_tree, tree_with
from orchestration.settings import Config
from orchestration.state import Actor
from orchestration.tree import Change, Commit, Dirt, File
from orchestration.workspace import Workspace

MIB = 1 << 20
_PATIENCE = 5
"""Looks at a tree in which files come and go, before that is an error."""
_LISTED = 20
"""Paths that a message lists before it only counts."""


class Sorted(NamedTuple):
    """The leftovers of a turn: allowed by a rule, and the rest."""

    allowed: list[Change]
    rest: list[Change]


class Trees(NamedTuple):
    """The trees of a turn: `origin` and `head` are committed, at the first claim and now; the others are as it lies."""

    origin: str
    before: str
    head: str
    now: str


class Rules:
    """The configuration's rules about leftovers, applied to git paths.

    Args:
        config: whitelist, globs, extensions.
        workspace: maps project paths to git paths.

    """

    def __init__(self, config: Config, workspace: Workspace) -> None:
        self._config = config
        self._prefix = workspace.in_git(".")
        self.state = workspace.in_git(config.state_file)
        self._folders = [workspace.in_git(config.logs_dir) + "/", workspace.in_git(config.tmp_dir) + "/"]
        self._docs = self._globs(config.doc_whitelist)
        self._reports = self._globs(config.report_path_globs)
        self._outputs = self._globs(config.tracked_output_globs)
        self._may_show = self._globs(config.limits.secrets)
        self._scopes = {actor: self._globs(config.actors.of(actor).scope) for actor in Actor}

    def ours(self, path: str) -> bool:
        """Tell whether a path is the tool's: the state file, logs, tmp; never a leftover."""
        return path == self.state or any(path.startswith(folder) for folder in self._folders)

    def sort(self, changes: Sequence[Change], sizes: dict[str, int]) -> Sorted:
        """Split leftovers into what a rule allows and the rest; over a size cap is not allowed."""
        budget = {"report": 20 * MIB, "output": 100 * MIB}
        result = Sorted([], [])
        for change in changes:
            size = sizes.get(change.oid, 0)
            kind, cap = self._kind(change.path, tracked=not change.new)
            fits = size <= cap and size <= budget.get(kind, size)
            if kind in budget and fits:
                budget[kind] -= size
            (result.allowed if kind and fits else result.rest).append(change)
        return result

    def _kind(self, path: str, *, tracked: bool) -> tuple[str, int]:
        inside = self.inside(path) or ""
        suffix = PurePosixPath(inside).suffix.lower()
        extensions = self._config.tracked_output_extensions
        if self._docs.match_file(inside):
            return "doc", 1 * MIB
        if suffix in self._config.report_extensions and self._reports.match_file(inside):
            return "report", 5 * MIB
        if tracked and self._outputs.match_file(inside) and (not extensions or suffix in extensions):
            return "output", 32 * MIB
        return "", 0

    def outside_scope(self, actor: Actor, changes: Iterable[Change]) -> list[str]:
        """Return the changed paths that no glob of an actor's scope allows, but for the tool's own."""
        scope = self._scopes[actor]

        def allowed(path: str) -> bool:
            inside = self.inside(path)
            return inside is not None and scope.match_file(inside)

        return [change.path for change in changes if not self.ours(change.path) and not allowed(change.path)]

    def may_show(self, path: str) -> bool:
        """Tell whether a path may be published although it holds what looks like a token."""
        inside = self.inside(path)
        return inside is not None and self._may_show.match_file(inside)

    def must_be_clean(self, path: str) -> bool:
        """Tell whether a tracked path that is changed refuses a start: in the project, and not in logs or tmp."""
        return self.inside(path) is not None and (path == self.state or not self.ours(path))

    def inside(self, path: str) -> str | None:
        """Return a git path relative to the project, None outside of it."""
        if self._prefix == ".":
            return path
        return path.removeprefix(f"{self._prefix}/") if path.startswith(f"{self._prefix}/") else None

    @staticmethod
    def _globs(patterns: Iterable[str]) -> GitIgnoreSpec:
        """Anchor the globs at the project: `input.md` is that one file; `!` before a glob excludes."""

        def anchored(pattern: str) -> str:
            sign, glob = ("!", pattern[1:]) if pattern.startswith("!") else ("", pattern)
            return sign + (glob if glob.startswith(("/", "**")) else f"/{glob}")

        try:
            return GitIgnoreSpec.from_lines(anchored(pattern) for pattern in patterns)
        except (ValueError, re.error) as error:
            raise UsageError(
                f"a glob cannot be read: {error}",
                code="config-bad-value",
                remedy="see doc_whitelist, report_path_globs, tracked_output_globs and scope in orchestration.yaml",
            ) from None


class Collector:
    """Snapshots, leftovers and rescue refs of one work tree."""

    def __init__(self, git: Git, workspace: Workspace, config: Config) -> None:
        self.rules = Rules(config, workspace)
        self.git = git
        self._workspace = workspace
        self._cap = int(config.limits.snapshot_file * MIB)
        self._named = set[str]()

    def snapshot(self, dirt: Dirt) -> str:
        """Return a tree of the work tree as it is: HEAD, changed tracked files, untracked ones that are not ignored.

        A file over `limits.snapshot_file` and a nested repository stay where they are.
        """
        return complete(self.git.loop, self.snapping(dirt))

    def snapping(self, dirt: Dirt) -> Task[str]:
        """Do what `snapshot` does, as a task."""
        for _ in range(_PATIENCE):
            try:
                return (yield from self._snapping(dirt))
            except PathGoneError:
                dirt = (yield from self.git.seeing_dirt())._replace(head=dirt.head)
        return (yield from self._snapping(dirt))

    def _snapping(self, dirt: Dirt) -> Task[str]:
        mine = set(dirt.unmerged)  # an index with such an entry has no tree: it is settled like the person's files
        removed = set(dirt.removed)  # from the index already: git add would miss them
        paths = [
            path
            for path in [*(path for path in dirt.tracked if path not in removed), *dirt.untracked]
            if (path in mine or not self.rules.ours(path)) and self._fits(path)
        ]
        if not paths and not removed:
            return self.git.tree(dirt.head or "HEAD")
        return (yield from taking_tree(self.git, paths, self._workspace.own))

    def left_out(self, dirt: Dirt) -> list[str]:
        """Return what a snapshot leaves where it is; every path is returned once."""
        paths = [path for path in [*dirt.tracked, *dirt.untracked] if not self.rules.ours(path)]
        fresh = [path for path in paths if not self._fits(path) and path not in self._named]
        self._named.update(fresh)
        return fresh

    def _fits(self, path: str) -> bool:
        if path.endswith("/"):
            return False
        try:
            return (self._workspace.top / path).lstat().st_size <= self._cap
        except OSError:  # deleted: the deletion itself is the change
            return True

    def changes(self, trees: Trees) -> list[Change]:
        """Return what the turn changed, committed or not; what was uncommitted at the claim counts if it moved."""
        theirs = {change.path for change in self._differing(trees.origin, trees.before)}
        committed = [change for change in self._differing(trees.before, trees.head) if change.path not in theirs]
        found = {change.path: change for change in [*committed, *self._differing(trees.before, trees.now)]}
        return [found[path] for path in sorted(found)]

    def leftovers(self, trees: Trees) -> tuple[list[Change], list[Change]]:
        """Return what the turn changed and did not commit: inside of the project, and outside of it.

        A path that was uncommitted at the claim, and is as it was, is the person's.
        """
        changes = self._differing(trees.head, trees.now)
        if changes:
            moved = {change.path for change in self._differing(trees.before, trees.now)}
            theirs = {change.path for change in self._differing(trees.origin, trees.before)} - moved
            changes = [change for change in changes if change.path not in theirs and not self.rules.ours(change.path)]
        inside, outside = (
            [change for change in changes if (self.rules.inside(change.path) is None) is out] for out in (False, True)
        )
        return inside, outside

    def _differing(self, old: str, new: str) -> list[Change]:
        return self.git.difference(old, new) if old != new else []

    def overlay(self, tree: str, old: str, new: str) -> str:
        """Return `tree` with what differs between `old` and `new` as it is in `new`."""
        changes = self._differing(old, new)
        return tree_with(self.git, tree, changes, self._workspace.own) if changes else tree

    def sort(self, changes: Sequence[Change]) -> Sorted:
        """Apply the rules to leftovers."""
        sizes = self.git.sizes(change.oid for change in changes if change.mode not in {"0", "160000"})
        return self.rules.sort(changes, sizes)

    def commit(self, branch: str, head: str, changes: Sequence[Change], message: str) -> str | None:
        """Commit just these paths on `head`: index entries, then the branch; None if it no longer was at `head`.

        Between the two a crash leaves them staged, and the next start commits them again.
        """
        wanted = [File(path, oid=None if mode == "0" else oid, mode=mode) for mode, oid, path, _ in changes]
        commit = self.git.commit_files(head, wanted, message)
        failpoints.hit("collect.before_index")
        self.git.set_index(changes)
        failpoints.hit("collect.before_ref")
        moved = self.git.update_ref(f"refs/heads/{branch}", commit, head, "orchestrator: leftovers")
        failpoints.hit("collect.after_ref")
        return commit if moved else None

    def rescue(self, claim: Claim, tree: str, parent: str, why: str, besides: str | None = None) -> str:
        """Keep a tree, and the commits below `parent`, under a rescue ref of this claim; return the ref.

        The same bytes are kept once; a ref that they are to be kept `besides`, or that moves, does not count.
        """
        prefix = _prefix(claim)
        have = self.git.refs(prefix)
        for ref, oid in have.items():
            if ref not in {besides, moving_ref(claim)} and self.git.ids([f"{oid}^{{tree}}", f"{oid}^"]) == [
                tree,
                parent,
            ]:
                return ref
        commit = self.git.commit_tree(Commit(tree, [parent], f"rescue: {why}\n"))
        ref = f"{prefix}/{1 + max((int(ref.rpartition('/')[2]) for ref in have), default=0)}"
        failpoints.hit("rescue.before_ref")
        self.git.update_ref(ref, commit, "", f"rescue: {why}")
        failpoints.hit("rescue.after_ref")
        return ref

    def rescued(self, claim: Claim) -> list[str]:
        """Return the rescue refs of a claim, oldest first."""
        return sorted(self.git.refs(_prefix(claim)), key=lambda ref: int(ref.rpartition("/")[2]))

    def drop(self, ref: str) -> None:
        """Delete a rescue ref whose bytes are safe elsewhere."""
        old = self.git.resolve(ref)
        if old:
            self.git.delete_ref(ref, old)


def _prefix(claim: Claim) -> str:
    return f"refs/rescue/{claim.branch}/{claim.actor}/{claim.token.epoch}-{claim.token.nonce}"


def moving_ref(claim: Claim) -> str:
    """Return the rescue ref that follows the work tree while an agent of this claim runs."""
    return f"{_prefix(claim)}/0"


def printable(path: str) -> str:
    """Return a path for one line of text: control characters and what is not UTF-8 are escaped."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in path)


def listed(paths: Sequence[str], between: str = ", ") -> str:
    """Return paths for a message, many of them counted."""
    more = [f"and {len(paths) - _LISTED} more"] if len(paths) > _LISTED else []
    return between.join([*(printable(path) for path in paths[:_LISTED]), *more])


def subject(turn: Turn, prompt: str, changes: Sequence[Change]) -> str:
    """Return the subject of a commit of leftovers, with the paths in its body."""
    who = "SUPERVISOR" if turn.claim.actor == "galph" else "RALPH"
    names = [printable(change.path) for change in changes]
    some = ", ".join(names[:3]) + (", …" if len(names) > 3 else "")  # noqa: PLR2004
    plural = "file" if len(names) == 1 else "files"
    head = f"{who} AUTO (prompt={prompt}) (iter={turn.claim.iteration:05d}): {len(names)} {plural}: {some}"
    return head + "\n\n" + "".join(f"{name}\n" for name in names)
