"""Git as a vocabulary: small verbs, one door (pre-commit's git.py is the model). Decisions live elsewhere.

Every path is relative to the top of the work tree, as text with surrogate escapes for what is not UTF-8.
"""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from orchestration.background import Task
from orchestration.environment import with_identity
from orchestration.errors import OrchestrationError
from orchestration.git_door import TIMEOUT, Door
from orchestration.git_errors import FLAGS, GitError, explained, not_a_work_tree
from orchestration.objects import ObjectReader, ReaderEndedError
from orchestration.packing import Folder, Pack
from orchestration.process import Loop
from orchestration.tree import Change, Commit, Dirt, File, Past, read_history, read_status

_OPERATIONS = {
    "MERGE_HEAD": "merge",
    "CHERRY_PICK_HEAD": "cherry-pick",
    "REVERT_HEAD": "revert",
    "BISECT_LOG": "bisect",
    "rebase-merge": "rebase",
    "rebase-apply": "rebase",
    "sequencer": "cherry-pick",
}
_STATUS = (
    *("--no-optional-locks", "status", "--porcelain=v2", "--branch"),
    *("--no-ahead-behind", "-z", "-uall", "--no-renames"),
)

Answer = TypeVar("Answer", str | None, bytes | None, int | None)


class Git(Door):
    """The verbs, bound to one work tree; for the arguments see the door."""

    def __init__(self, loop: Loop, top: Path, environment: Mapping[str, str]) -> None:
        super().__init__(loop, top, environment)
        self._ident: tuple[str, str] | None = None
        self._dir: Path | None = None
        self._paths: dict[tuple[str, ...], list[str]] = {}
        self._reader = ObjectReader(loop, ("git", *FLAGS), top, self._env, TIMEOUT)

    # --- reading -----------------------------------------------------------------------------------------------------

    def locate(self) -> tuple[Path, Path]:
        """Return the top of the work tree and this work tree's own folder for our files in the git dir.

        Raises:
            GitError: not in a work tree, a bare repository, or one that git does not trust.

        """
        try:
            top, own = self._answers([("--show-toplevel",), ("--git-path", "orchestration")])
        except GitError as error:
            bare = self.call("rev-parse", "--is-bare-repository").stdout.strip() == b"true"
            raise not_a_work_tree(error.done, bare=bare) from None
        return Path(top), (self.top / own).resolve()

    def _answers(self, questions: Sequence[tuple[str, ...]]) -> list[str]:
        """Return what rev-parse answers, each asked by itself where a path holds a line break."""
        told = self.ask("rev-parse", *(word for question in questions for word in question)).split("\n")
        return told if len(told) == len(questions) else [self.ask("rev-parse", *question) for question in questions]

    def branch(self) -> str | None:
        """Return the branch that HEAD names, None when it is detached."""
        done = self.call("symbolic-ref", "-q", "--short", "HEAD")
        if done.code not in {0, 1}:
            raise GitError(done)
        return os.fsdecode(done.stdout).strip() if done.code == 0 else None

    def has_checked_out(self, branch: str) -> bool:
        """Tell whether HEAD names the branch; git is asked only where the file HEAD does not say so plainly."""
        with suppress(OSError):
            if (self.dir() / "HEAD").read_bytes() == os.fsencode(f"ref: refs/heads/{branch}\n"):
                return True
        return self.branch() == branch

    def resolve(self, name: str) -> str | None:
        """Return the object id of a revision, None when there is none."""
        return self.ids([name])[0]

    def has(self, commit: str) -> bool:
        """Tell whether a commit is here."""
        return self.resolve(f"{commit}^{{commit}}") is not None

    def tree(self, revision: str) -> str:
        """Return the tree of a commit.

        Raises:
            OrchestrationError: there is no such commit (code `object-missing`).

        """
        found = self.resolve(f"{revision}^{{tree}}")
        if found is None:
            raise OrchestrationError(f"{revision} is not there", code="object-missing", remedy="see `git fsck`")
        return found

    def prepare(self) -> None:
        """Start what answers questions about objects, so that it is ready for the first."""
        self._reader.begin()

    def ids(self, names: Sequence[str]) -> list[str | None]:
        """Return the object id that each revision or `revision:path` means, None where it means none."""
        return self._read(lambda: self._reader.ids(names))

    def blobs(self, names: Sequence[str]) -> list[bytes | None]:
        """Return the bytes of each `revision:path`, None where there is none."""
        return self._read(lambda: self._reader.contents(names))

    def _read(self, ask: Callable[[], list[Answer]]) -> list[Answer]:
        try:
            return ask()
        except ReaderEndedError as ended:
            raise GitError(ended.done) from None

    def is_ancestor(self, old: str, new: str) -> bool:
        """Tell whether `new` contains `old`."""
        if old == new:
            return True
        done = self.call("merge-base", "--is-ancestor", old, new)
        if done.code not in {0, 1}:
            raise GitError(done)  # not knowing is not a no
        return done.code == 0

    def common(self, one: str, other: str) -> str:
        """Return the newest commit that both contain.

        Raises:
            GitError: there is none.

        """
        return self.ask("merge-base", one, other)

    def parents(self, commit: str) -> list[str]:
        """Return the parents of a commit."""
        return self.ask("rev-list", "-1", "--parents", commit).split()[1:]

    def subjects(self, old: str, new: str) -> list[tuple[str, str]]:
        """Return (short id, subject) of the commits in old..new, oldest first."""
        said = self.checked("log", "--reverse", "--format=%h %s", f"{old}..{new}").stdout
        lines = said.decode(errors="replace").splitlines()  # for people: a subject need not be UTF-8
        return [(head, tail) for head, _, tail in (line.partition(" ") for line in lines)]

    def tracked(self, paths: Sequence[str]) -> list[str]:
        """Return those of `paths` that HEAD has."""
        if self.resolve("HEAD^{commit}") is None:
            return []
        return [
            path for path in self.ask("ls-tree", "-r", "-z", "--name-only", "HEAD", "--", *paths).split("\0") if path
        ]

    def added_by(self, path: str) -> str | None:
        """Return the commit that added a path last."""
        return self.ask("log", "-1", "--diff-filter=A", "--format=%H", "HEAD", "--", path) or None

    def glance(self, branch: str, prefix: str) -> Callable[[], tuple[str | None, int]]:
        """Ask for id, subject and age of a branch's last commit, and how many refs lie below `prefix`."""
        told = "--format=%(refname) %(objectname:short) %(contents:subject) (%(committerdate:relative))"
        asked = self.checking("for-each-ref", told, ref := f"refs/heads/{branch}", prefix)

        def answer() -> tuple[str | None, int]:
            rows = asked().stdout.decode(errors="replace").splitlines()
            last = [said for name, _, said in (row.partition(" ") for row in rows) if name == ref]
            return (last[0] if last else None), len(rows) - len(last)

        return answer

    def shortstat(self, old: str, new: str) -> tuple[int, int, int]:
        """Return (files, insertions, deletions) between two commits or trees."""
        rows = self.ask("diff", "--numstat", "--no-renames", "--no-ext-diff", "--no-textconv", old, new).splitlines()
        added, removed = (
            sum(int(cell) for cell in (row.split("\t")[side] for row in rows) if cell != "-") for side in (0, 1)
        )
        return len(rows), added, removed

    def difference(self, old: str, new: str) -> list[Change]:
        """Return what differs from tree `old` in tree `new`, a rename as two paths."""
        fields = self.ask("diff-tree", "-r", "-z", "--no-renames", "--full-index", old, new).split("\0")
        changes: list[Change] = []
        for meta, path in zip(fields[0:-1:2], fields[1::2], strict=True):
            old_mode, new_mode, _, oid, _ = meta.removeprefix(":").split()
            changes.append(Change("0" if new_mode == "000000" else new_mode, oid, path, new=old_mode == "000000"))
        return changes

    def history(self, old: str, new: str) -> list[Past]:
        """Return the commits of old..new, newest first: what each changed against its first parent."""
        how = ("--raw", "--no-abbrev", "--find-renames", "--diff-merges=first-parent", "--ignore-submodules=none")
        told = ("--no-show-signature", "--no-ext-diff", "--no-textconv", "--no-color", "--format=%x01%H%x00%B")
        return read_history(self.checked("log", "-z", *how, *told, f"{old}..{new}").stdout)

    def sizes(self, oids: Iterable[str]) -> dict[str, int]:
        """Return the size in bytes of each object."""
        wanted = list(oids)
        found = self._read(lambda: self._reader.sizes(wanted)) if wanted else []
        return {oid: size for oid, size in zip(wanted, found, strict=True) if size is not None}

    def dirt(self) -> Dirt:
        """Return HEAD, branch, changed tracked paths and untracked paths, ignored ones left out."""
        return self.asking_dirt()()

    def asking_dirt(self) -> Callable[[], Dirt]:
        """Begin what `dirt` does; call what is returned for the answer."""
        asked = self.checking(*_STATUS)
        return lambda: read_status(os.fsdecode(asked().stdout))

    def seeing_dirt(self) -> Task[Dirt]:
        """Do what `dirt` does, as a task."""
        return read_status((yield from self.asking(*_STATUS)))

    def operation(self) -> str | None:
        """Return the name of an operation in progress (merge, rebase, ...), None if there is none."""
        return operation_in(self.dir())

    def dir(self) -> Path:
        """Return this work tree's git dir, asked once."""
        if self._dir is None:
            self._dir = self.top / self.ask("rev-parse", "--git-dir")
        return self._dir

    def with_identity(self) -> "Git":
        """Return these verbs for a machine on which git may not know who commits."""
        if self.call("var", "GIT_COMMITTER_IDENT").code == 0 and self.call("var", "GIT_AUTHOR_IDENT").code == 0:
            return self
        return Git(self.loop, self.top, with_identity(self.environment))

    def refs(self, prefix: str) -> dict[str, str]:
        """Return the refs below `prefix` with their object ids."""
        rows = self.ask("for-each-ref", "--format=%(objectname) %(refname)", prefix).splitlines()
        return {name: oid for oid, name in (row.split(" ", 1) for row in rows)}

    # --- writing -----------------------------------------------------------------------------------------------------

    def commit_files(self, parent: str | None, files: Iterable[File], message: str) -> str:
        """Make a commit object that is `parent` (None: nothing) with `files` changed, and return its id."""
        return self.committing_files(parent, files, message)()

    def committing_files(self, parent: str | None, files: Iterable[File], message: str) -> Callable[[], str]:
        """Begin what `commit_files` does; call what is returned for the id, once the objects are there.

        One `git unpack-objects` writes blobs, trees and commit; no more of the parent is read than the folders of
        `files`. Nothing refers to the commit yet, no hook runs, and it is not signed.
        """
        new = Pack(len(parent or self._nothing()))
        top = Folder(self._tree_object, self.tree(parent) if parent else None)
        for file in sorted(files, key=lambda file: file.gone, reverse=True):  # a folder may take a file's place
            top.change(file, new)
        tree = top.save(new) or new.add("tree", b"")
        name, zone = self._committer()
        who = f"{name} {int(self.loop.clock.now().timestamp())} {zone}"
        lines = [f"tree {tree}", *([f"parent {parent}"] if parent else [])]
        head = os.fsencode("\n".join([*lines, f"author {who}", f"committer {who}", "", ""]))
        commit = new.add("commit", head + message.encode(errors="surrogateescape"))
        unpacked = self.checking("unpack-objects", "-q", stdin=new.encode())

        def written() -> str:
            unpacked()
            self._reader.learn(f"{commit}^{{tree}}", tree)
            return commit

        return written

    def _tree_object(self, oid: str) -> bytes:
        data = self.blobs([oid])[0]
        if data is None:
            raise OrchestrationError(f"the tree {oid} is not there", code="object-missing", remedy="see `git fsck`")
        return data

    def empty_tree(self) -> str:
        """Return the id of the tree without entries."""
        return self.ask("hash-object", "-t", "tree", "--stdin")

    def _nothing(self) -> str:
        """Return the id that names no object, of the repository's length."""
        return "0" * len(self.empty_tree())

    def _committer(self) -> tuple[str, str]:
        """Return `Name <email>` and time zone, asked once."""
        if self._ident is None:
            name, _, zone = self.ask("var", "GIT_COMMITTER_IDENT").rsplit(" ", 2)
            self._ident = name, zone
        return self._ident

    def commit_tree(self, commit: Commit) -> str:
        """Make a commit object and return its id; no hook runs and it is not signed."""
        parents = [word for parent in commit.parents for word in ("-p", parent)]
        return self.ask("commit-tree", commit.tree, *parents, "-F", "-", stdin=commit.message.encode())

    def update_ref(self, ref: str, new: str, old: str, why: str) -> bool:
        """Compare-and-swap a ref; `old` may be "" for a ref that must not exist. False: it was not `old`."""
        return self.updating_ref(ref, new, old, why)()

    def updating_ref(self, ref: str, new: str, old: str, why: str, besides: str | None = None) -> Callable[[], bool]:
        """Begin what `update_ref` does; call what is returned to end it.

        With it, or not at all, the ref `besides` goes to `new`, whatever it was.
        """
        how = ("update-ref", "-m", why, "--create-reflog")
        if besides:
            rows = f"update {ref}\0{new}\0{old or '0' * len(new)}\0update {besides}\0{new}\0\0"
            started = self.start(*how, "--stdin", "-z", stdin=os.fsencode(rows))
        else:
            started = self.start(*how, ref, new, old)

        def moved() -> bool:
            done = started()
            if done.code and (self.resolve(ref) or "") == old:
                raise explained(done, locked=b".lock': File exists" in done.stderr)
            return done.code == 0

        return moved

    def delete_ref(self, ref: str, old: str) -> None:
        """Delete a ref that still has the value `old`."""
        self.ask("update-ref", "-d", ref, old)

    def paths_of(self, names: Sequence[str]) -> list[str]:
        """Return where this work tree has these files of its git dir, relative to `top` or absolute; asked once."""
        if tuple(names) not in self._paths:
            self._paths[tuple(names)] = self._answers([("--git-path", name) for name in names])
        return self._paths[tuple(names)]

    def unset_index(self, paths: Iterable[str]) -> None:
        """Take these paths out of the person's index; the files stay."""
        nothing = self._nothing()
        self.set_index([Change("0", nothing, path) for path in paths])

    def set_index(self, changes: Iterable[Change], index: Path | None = None) -> None:
        """Give just these paths new entries, in the person's index or in another."""
        self.setting_index(changes, index)()

    def setting_index(self, changes: Iterable[Change], index: Path | None = None) -> Callable[[], object]:
        """Begin what `set_index` does; call what is returned to end it."""
        rows = b"".join(os.fsencode(f"{change.mode} {change.oid}\t{change.path}") + b"\0" for change in changes)
        how = ("--add", "--remove", "--replace", "-z", "--index-info")
        return self.checking("update-index", *how, stdin=rows, index=index) if rows else lambda: None


def operation_in(git_dir: Path) -> str | None:
    """Return the name of an operation in progress in a work tree with that git dir, None if there is none."""
    return next((what for name, what in _OPERATIONS.items() if (git_dir / name).exists()), None)


def rows(paths: Iterable[str]) -> bytes:
    """Return paths as git reads them with -z."""
    return b"".join(os.fsencode(path) + b"\0" for path in paths)
