"""Every word of git about a remote is understood: each is said by the real server, hook, lock or full disk."""

import fcntl
import os
import shutil
import subprocess
import sys
import textwrap
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from conftest import Project, executable, repository
from orchestration.clock import SystemClock
from orchestration.git import Git
from orchestration.process import Completed, Loop, Why
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


def is_no_good_commit(here: Ground, url: str) -> Completed:
    here.remote.git("config", "receive.fsckObjects", "true")
    text = here.project.git("cat-file", "commit", "HEAD").replace("person@localhost>", "person@localhost")
    (here.root / "commit").write_text(text)
    oid = here.project.git("hash-object", "-t", "commit", "--literally", "-w", str(here.root / "commit"))
    return here.push(url, f"{oid}:{MAIN}")


def meets_a_damaged_repository(here: Ground, url: str) -> Completed:
    (here.remote.path / MAIN).write_text("")
    here.remote.git("pack-refs", "--all", check=False)
    return here.push(url)


def is_killed_on_the_server(here: Ground, url: str) -> Completed:
    here.hook("pre-receive", "kill -9 $PPID\n")
    return here.push(url)


def stalls_on_the_server(here: Ground, url: str) -> Completed:
    gate = here.root / "gate"
    here.hook("pre-receive", f"exec flock {gate} false\n")
    with gate.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        return here.push(url, timeout=1)


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
    (is_no_good_commit, Kind.POLICY, "fsck error", "there"),
    (meets_a_damaged_repository, Kind.REMOTE_BROKEN, "missing necessary objects", "git fsck --full"),
    (is_killed_on_the_server, Kind.UNKNOWN, "unexpected disconnect", "git ls-remote there main"),
    (stalls_on_the_server, Kind.UNKNOWN, "git was ended after ", "git ls-remote there main"),
    (has_no_repository, Kind.NOT_FOUND, "nothing.git", "git remote set-url there <url>"),
]


@every_scheme
@pytest.mark.parametrize(("push", "kind", "text", "remedy"), PUSHES, ids=[row[0].__name__ for row in PUSHES])
def test_a_push_is_understood(
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


@every_scheme
def test_of_two_pushes_at_the_same_moment_one_lands(here: Ground, url: str) -> None:
    base, mine = here.tip(), here.project.git("rev-parse", "HEAD")
    theirs = here.project.git("commit-tree", "-p", base, "-m", "theirs", "HEAD^{tree}")
    here.hook(
        "pre-receive",
        f"echo >>{here.root}/here; until [ $(wc -l <{here.root}/here) = 2 ] || [ $((n+=1)) = 20000 ]; do :; done\n",
    )
    lease = f"--force-with-lease={MAIN}:{base}"

    begun = {id_: here.git().reach("push", "--porcelain", lease, url, f"{id_}:{MAIN}") for id_ in (mine, theirs)}
    kinds = {id_: classify(end(), MAIN) for id_, end in begun.items()}

    assert kinds.pop(here.tip()) is Kind.OK
    assert set(kinds.values()) <= {Kind.CAS_LOST, Kind.REMOTE_BUSY}


@every_scheme
def test_of_several_refs_each_has_its_own_fate(here: Ground, url: str) -> None:
    here.hook("update", f"[ $1 != {MAIN} ]\n")
    refs = [MAIN, "refs/heads/new", "refs/heads/old"]
    here.remote.git("update-ref", "refs/heads/old", MAIN)
    specs = [f"HEAD:{refs[0]}", f"HEAD:{refs[1]}", f"HEAD~1:{refs[2]}"]

    done = here.push(url, *specs)
    assert [classify(done, ref) for ref in refs] == [Kind.POLICY, Kind.OK, Kind.ALREADY]
    assert classify(done) is Kind.POLICY
    assert classify(done, "refs/heads/unheard-of") is Kind.UNKNOWN

    done = here.push(url, *specs[1:])
    assert [classify(done, ref) for ref in refs] == [Kind.UNKNOWN, Kind.ALREADY, Kind.ALREADY]
    assert trouble(done, "there", "main").text == "git does not say what became of refs/heads/main"

    here.commit()
    done = here.push(url, "--atomic", *specs[:2])
    assert [classify(done, ref) for ref in refs[:2]] == [Kind.POLICY, Kind.POLICY]
    assert classify(here.push(url, ":refs/heads/old")) is Kind.UNKNOWN  # nobody here asks for that


HOST = """
    import sys

    def receive() -> list[bytes]:
        lines = []
        while size := int(sys.stdin.buffer.read(4), 16):
            lines.append(sys.stdin.buffer.read(size - 4))
        return lines

    def send(line: str) -> None:
        sys.stdout.buffer.write(f"{len(line) + 4:04x}{line}0000".encode())
        sys.stdout.buffer.flush()

    receive()
    send("version=1")
    for command in receive():
        send(f"ng {command.split()[2].decode()} {WORDS}")
"""
"""A hook that speaks for a host, by git's own proc-receive protocol."""


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        (f"cannot lock ref '{MAIN}': is at 1{'2' * 39} but expected 0{'3' * 39}", Kind.CAS_LOST),
        ("incorrect old value provided", Kind.CAS_LOST),
        ("Internal Server Error", Kind.REMOTE_BROKEN),
        ("fatal error in commit_refs", Kind.REMOTE_BROKEN),
        ("protected branch hook declined", Kind.POLICY),
        ("push declined due to repository rule violations", Kind.POLICY),
    ],
)
@every_scheme
def test_a_host_s_own_words_for_a_refusal(here: Ground, url: str, words: str, kind: Kind) -> None:
    here.remote.git("config", "receive.procReceiveRefs", "refs")
    executable(
        here.remote.path / "hooks" / "proc-receive", f"#!{sys.executable}\nWORDS = {words!r}\n{textwrap.dedent(HOST)}"
    )

    told = trouble(here.push(url), "there", "main")

    assert (told.kind, told.text) == (kind, f"[remote rejected] ({words})")


# --- what a server says of a fetch ------------------------------------------------------------------------------------


@every_scheme
def test_a_fetch_is_understood(here: Ground, url: str) -> None:
    assert classify(here.fetch(url)) is Kind.OK
    assert trouble(here.fetch(url), "there", "main") == (Kind.OK, "", "")

    gone = trouble(here.fetch(url, "refs/heads/gone"), "there", "gone")
    assert (gone.kind, gone.text) == (Kind.MISSING, "fatal: couldn't find remote ref refs/heads/gone")
    assert "`git push there gone`" in gone.remedy

    assert classify(here.fetch(url.replace("remote.git", "nothing.git"))) is Kind.NOT_FOUND


@every_scheme
def test_a_look_is_understood(here: Ground, url: str) -> None:
    def look(*words: str) -> tuple[Kind, str]:
        told = trouble(here.git().reach("ls-remote", *words)(), "there", "main")
        return told.kind, told.text

    assert look(url, MAIN) == (Kind.OK, "")
    gone = (Kind.MISSING, "the remote lists no such ref")
    assert look(url, f"{MAIN}-gone") == look("--exit-code", url, f"{MAIN}-gone") == gone
    (here.remote.path / MAIN).write_text("")
    kind, text = look(url, MAIN)
    assert (kind, text) == (Kind.REMOTE_BROKEN, "the remote lists a ref without a value: refs/heads/main")


@every_scheme
def test_damage_over_there_is_told_from_damage_here(here: Ground, url: str) -> None:
    here.project.git("push", "-q", str(here.remote.path), "HEAD:refs/heads/damaged")
    blob = here.remote.git("rev-parse", "refs/heads/damaged:more.txt")
    empty(here.remote.path / "objects", blob)
    fresh = repository(here.root / "fresh")

    over_there = Git(here.loop, fresh.path, {**os.environ, **here.env}).reach("fetch", url, "refs/heads/damaged")()
    assert classify(over_there) is Kind.REMOTE_BROKEN, over_there

    here.commit()
    empty(here.project.path / ".git" / "objects", here.project.git("rev-parse", "HEAD:more.txt"))
    assert classify(here.push(url), MAIN) is Kind.LOCAL_CORRUPT


def empty(objects: Path, oid: str) -> None:
    """Leave an object as a power cut does."""
    file = objects / oid[:2] / oid[2:]
    file.chmod(0o644)
    file.write_bytes(b"")


# --- what a host says before git does ---------------------------------------------------------------------------------


@pytest.fixture
def site(here: Ground) -> Iterator[Web]:
    """Serve the remote over HTTP."""
    with web(here.root) as made:
        yield made


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (401, Kind.AUTH),
        (403, Kind.AUTH),
        (404, Kind.NOT_FOUND),
        (413, Kind.POLICY),
        (429, Kind.THROTTLED),
        (500, None),
        (503, None),
    ],
)
def test_an_answer_of_a_web_server_is_understood(
    here: Ground, site: Web, status: int, kind: Kind | None, method: str
) -> None:
    site.status, site.methods, site.body = status, (method,), "fatal: detected dubious ownership"

    done = here.push(f"{site.url}/remote.git")

    may_have_landed = Kind.NETWORK if method == "GET" else Kind.UNKNOWN
    assert classify(done, MAIN) is (kind or may_have_landed), done
    assert here.tip() != here.project.git("rev-parse", "HEAD")


def test_a_login_is_asked_for_and_never_shown(here: Ground, site: Web) -> None:
    site.login = "me:secret"
    wrong = site.url.replace("//", "//me:wr%40ng@")

    assert classify(here.push(site.url.replace("//", "//me:secret@") + "/remote.git"), MAIN) is Kind.OK
    for url, text in ((site.url, "terminal prompts disabled"), (wrong, "Authentication failed for")):
        told = trouble(here.push(f"{url}/remote.git"), url, "main")
        assert told.kind is Kind.AUTH
        assert text in told.text
        assert "git config credential.helper store" in told.remedy
        assert "wr%40ng" not in told.text + told.remedy

    name = trouble(here.push("https://token@nohost.invalid/x"), "https://token@nohost.invalid/x", "main")
    assert "https://***@nohost.invalid/x" in name.remedy
    assert "token" not in name.text + name.remedy


def test_a_repository_that_may_be_read_only_says_so(here: Ground, site: Web) -> None:
    here.remote.git("config", "http.receivepack", "false")

    assert classify(here.push(f"{site.url}/remote.git")) is Kind.AUTH
    assert classify(here.fetch(f"{site.url}/remote.git")) is Kind.OK
    with git_daemon(here.root, "--informative-errors") as url:
        told = trouble(here.push(f"{url}/remote.git"), "there", "main")
    assert told.kind is Kind.AUTH
    assert "until `git ls-remote there` answers" in told.remedy


def test_ssh_tells_who_does_not_trust_whom(here: Ground, tmp_path: Path) -> None:
    with sshd(tmp_path / "sshd") as shell:
        url = f"{shell.url}{here.remote.path}"
        stranger = trouble(here.push(url, GIT_SSH_COMMAND=shell.command("stranger")), "there", "main")
        host = trouble(here.push(url, GIT_SSH_COMMAND=shell.command(hosts="wrong-hosts")), "there", "main")
        new = trouble(here.push(url, GIT_SSH_COMMAND=shell.command(hosts="no-hosts")), "there", "main")

    assert (stranger.kind, host.kind, new.kind) == (Kind.AUTH, Kind.AUTH, Kind.AUTH)
    assert "Permission denied (publickey)" in stranger.text
    assert "ssh-add" in stranger.remedy
    assert "Host key verification failed" in host.text
    assert f'`ssh-keygen -f "{tmp_path}/sshd/wrong-hosts" -R "[127.0.0.1]:{shell.port}"`' in host.remedy
    assert "answer `git ls-remote there` by hand" in new.remedy
    assert "ssh-keygen -f" not in new.remedy


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        ("ERROR: Repository not found.", Kind.NOT_FOUND),
        ("ERROR: Permission to them/their.git denied to me.", Kind.AUTH),
        ("ERROR: something that nobody has thought of", Kind.UNKNOWN),
    ],
)
def test_a_host_s_own_words_over_ssh(here: Ground, tmp_path: Path, words: str, kind: Kind) -> None:
    with sshd(tmp_path / "sshd") as shell:
        (shell.folder / "words").write_text(f"{words}\n")
        authorized = shell.folder / "authorized"
        authorized.write_text(f'command="cat {shell.folder}/words >&2; exit 1" {authorized.read_text()}')
        assert classify(here.push(f"{shell.url}/x", GIT_SSH_COMMAND=shell.command()), MAIN) is kind


def test_a_certificate_that_nobody_vouches_for(here: Ground, tmp_path: Path) -> None:
    told = ["-x509", "-nodes", "-newkey", "rsa:2048", "-subj", "/CN=127.0.0.1", "-days", "2"]
    made = ["-keyout", str(tmp_path / "pem"), "-out", str(tmp_path / "crt")]
    subprocess.run(["openssl", "req", *told, *made], check=True, capture_output=True)
    with web(here.root, (tmp_path / "crt", tmp_path / "pem")) as site:
        done = here.push(f"{site.url}/remote.git")

    assert classify(done, MAIN) is Kind.AUTH, done


@pytest.mark.parametrize("scheme", ["git", "http", "ssh"])
def test_a_remote_that_is_not_reached_is_the_network_s(here: Ground, scheme: str) -> None:
    for host in (f"127.0.0.1:{refused_port()}", "nohost.invalid"):
        for done in (here.push(f"{scheme}://{host}/x"), here.git().reach("ls-remote", f"{scheme}://{host}/x")()):
            assert classify(done, MAIN) is Kind.NETWORK, done


def test_a_stalled_transfer_ends_by_itself_or_is_ended(here: Ground, site: Web) -> None:
    with proxy(site.port) as wire:
        wire.down, wire.hold = 10, True
        url = f"http://127.0.0.1:{wire.port}/remote.git"
        done = here.push(url, GIT_HTTP_LOW_SPEED_TIME="1")
        assert classify(done, MAIN) is Kind.NETWORK
        assert b"Operation too slow" in done.stderr
    with git_daemon(here.root) as daemon, proxy(int(daemon.rpartition(":")[2])) as wire:
        wire.down, wire.hold = 10, True
        done = here.push(f"git://127.0.0.1:{wire.port}/remote.git", timeout=0.5)
        assert (done.why, classify(done, MAIN)) == (Why.TIMEOUT, Kind.UNKNOWN)


# --- fault 13: a connection that breaks at any byte ------------------------------------------------------------------


@pytest.mark.parametrize("url", ["git", "http", "ssh"], indirect=True)
@pytest.mark.parametrize("way", ["up", "down"])
def test_a_cut_push_never_counts_as_landed_unless_it_has(here: Ground, url: str, way: str) -> None:
    kinds: dict[str, Kind] = {}
    port = int(url.split(":")[2].partition("/")[0])
    with proxy(port) as wire:
        through = url.replace(f":{port}/", f":{wire.port}/")
        here.env = {name: f"{value} -o HostKeyAlias=[127.0.0.1]:{port}" for name, value in here.env.items()}

        def push(number: int) -> Kind:
            commit = here.project.git("commit-tree", "-p", "HEAD", "-m", f"{number:4}", "HEAD^{tree}")
            return classify(here.push(through, f"{commit}:refs/heads/{number:04}"), f"refs/heads/{number:04}")

        assert push(9999) is Kind.OK
        size = wire.passed[way]
        for number in range(20):
            setattr(wire, way, size * number // 19)
            wire.reset = bool(number % 2)
            kinds[f"refs/heads/{number:04}"] = push(number)

    for ref, kind in kinds.items():
        # Lost to itself: a request whose answer is cut off before its first byte is sent once more by libcurl.
        landed = {Kind.OK, Kind.UNKNOWN, Kind.CAS_LOST}
        assert kind in (landed if here.tip(ref) else {Kind.UNKNOWN, Kind.NETWORK}), (ref, kind)
    assert Counter(kinds.values())[Kind.UNKNOWN] > 1


@pytest.mark.parametrize("url", ["git", "http", "ssh"], indirect=True)
def test_a_cut_fetch_is_no_fetch(here: Ground, url: str) -> None:
    here.project.git("push", "-q", str(here.remote.path), MAIN)
    port = int(url.split(":")[2].partition("/")[0])
    with proxy(port) as wire:
        through = url.replace(f":{port}/", f":{wire.port}/")
        here.env = {name: f"{value} -o HostKeyAlias=[127.0.0.1]:{port}" for name, value in here.env.items()}

        def fetch(name: str) -> tuple[Kind, bool]:
            clone = repository(here.root / name)
            git = Git(here.loop, clone.path, {**os.environ, **here.env})
            done = git.reach("fetch", through, f"{MAIN}:{MAIN}-there")()
            return classify(done), clone.git("rev-parse", "-q", "--verify", f"{MAIN}-there", check=False) == here.tip()

        def look() -> tuple[Kind, bool]:
            done = here.git().reach("ls-remote", through, MAIN)()
            return classify(done), done.stdout == f"{here.tip()}\t{MAIN}\n".encode()

        assert (fetch("whole"), look()) == ((Kind.OK, True), (Kind.OK, True))
        size = wire.passed["down"]
        for number in range(16):
            wire.down = size * number // 16
            # libcurl takes half a header for an answer without a body, and git that for a repository without refs.
            failed = {(kind, False) for kind in (Kind.UNKNOWN, Kind.NETWORK, Kind.MISSING)}
            assert {fetch(f"cut-{number}"), look()} <= {(Kind.OK, True), *failed}


# --- disks, locks and owners ------------------------------------------------------------------------------------------


def test_a_full_disk_over_there_or_here(here: Ground, tmp_path: Path) -> None:
    here.project.write("large.bin", os.urandom(2_000_000))
    here.project.commit("large")
    with small_disk(tmp_path / "disk", "1m") as disk:
        subprocess.run(["git", "init", "-q", "--bare", disk / "remote.git"], check=True)
        with git_daemon(disk) as url:
            for address in (str(disk / "remote.git"), f"{url}/remote.git"):
                told = trouble(here.push(address), "there", "main")
                cut = address.startswith("git:") and told.kind is Kind.UNKNOWN  # its last words may be lost on the wire
                assert cut or told.kind is Kind.REMOTE_FULL
                assert cut or "No space left on device" in told.text
        small = Git(here.loop, disk / "remote.git", os.environ)
        told = trouble(small.reach("fetch", str(here.project.path), MAIN)(), "there", "main")
        assert (told.kind, told.remedy) == (Kind.LOCAL_FULL, "free space here; it is tried again")


def test_a_remote_that_cannot_be_written(here: Ground, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "1m") as disk:
        shutil.copytree(here.remote.path, disk / "remote.git")
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        told = trouble(here.push(str(disk / "remote.git")), "there", "main")
    assert told.kind is Kind.REMOTE_BROKEN
    assert "unable to create temporary object directory" in told.text


def test_a_lock_here_is_told_from_one_over_there(here: Ground) -> None:
    here.project.git("remote", "add", "there", str(here.remote.path))
    lock = here.project.write(".git/refs/remotes/there/main.lock", "")

    told = trouble(here.git().reach("fetch", "there", "main")(), "there", "main")
    assert told.kind is Kind.LOCAL_LOCK
    assert f"`rm {lock}`" in told.remedy
    assert classify(here.push("there"), MAIN) is Kind.OK  # only what we remember of it is late


@pytest.mark.parametrize("damage", ["object", "commit", "index", "ref"])
def test_damage_here_is_ours(here: Ground, damage: str) -> None:
    git_dir = here.project.path / ".git"
    if damage == "index":
        (git_dir / "index").write_bytes(b"DIRC")
    elif damage == "ref":
        here.project.write(".git/refs/heads/other", "0" * 20)
    else:
        empty(git_dir / "objects", here.project.git("rev-parse", "HEAD" if damage == "commit" else "HEAD^{tree}"))

    remote = str(here.remote.path)
    asked = {"index": ["merge", "--ff-only", "HEAD"], "ref": ["fetch", remote, MAIN]}
    done = here.git().reach(*asked.get(damage, ["push", "--porcelain", remote, f"{MAIN}:{MAIN}"]))()

    told = trouble(done, "there", "main")
    assert told.kind is Kind.LOCAL_CORRUPT, done
    assert "`git fsck --full`" in told.remedy


@pytest.mark.parametrize("way", ["dirty", "untracked", "diverged"])
def test_a_work_tree_that_cannot_follow(here: Ground, way: str) -> None:
    here.project.git("branch", "ahead")
    here.project.git("reset", "-q", "--hard", "HEAD~1")
    if way == "dirty":
        here.project.write("more.txt", "mine")
        here.project.git("add", "more.txt")
    elif way == "untracked":
        here.project.write("more.txt", "mine")
    else:
        here.project.git("commit", "-q", "--allow-empty", "-m", "mine")

    told = trouble(here.git().call("merge", "--ff-only", "ahead"), "there", "main")

    assert told.kind is Kind.LOCAL_TREE
    assert "`git pull there main`" in told.remedy


@pytest.mark.parametrize("url", ["path", "ssh"], indirect=True)
def test_a_repository_of_somebody_else_is_named(here: Ground, url: str, tmp_path: Path) -> None:
    real, bin_ = shutil.which("git"), tmp_path / "bin"
    bin_.mkdir()
    executable(bin_ / "git", f'#!/bin/sh\nexport GIT_TEST_ASSUME_DIFFERENT_OWNER=1\nexec {real} "$@"\n')

    done = here.git().reach("fetch", f"--upload-pack={bin_}/git upload-pack", url, MAIN)()

    told = trouble(done, "there", "main")
    assert told.kind is Kind.OWNERSHIP, done
    assert f"`git config --global --add safe.directory {here.remote.path}`" in told.remedy

    ours = here.git(PATH=f"{bin_}:{os.environ['PATH']}").call("status")
    assert f"safe.directory {here.project.path}`" in trouble(ours, "there", "main").remedy


# --- how a remote is reached, and how long one waits ------------------------------------------------------------------


@pytest.mark.parametrize("whose", ["ours", "core.sshCommand", "GIT_SSH_COMMAND", "GIT_SSH"])
def test_ssh_is_told_not_to_ask_unless_a_person_told_it_something_else(
    here: Ground, tmp_path: Path, whose: str
) -> None:
    script = f'#!/bin/sh\necho "$@" >{tmp_path}/told\nexit 255\n'
    (tmp_path / "bin").mkdir()
    ssh, own = executable(tmp_path / "bin" / "ssh", script), executable(tmp_path / "own", script)
    here.env["PATH"] = f"{Path(ssh).parent}:{os.environ['PATH']}"
    if whose == "core.sshCommand":
        here.project.git("config", whose, own)
    elif whose != "ours":
        here.env[whose] = own

    here.push("ssh://nohost.invalid/x")

    told = (tmp_path / "told").read_text()
    assert ("BatchMode=yes" in told, "ServerAliveInterval=15" in told) == (whose == "ours", whose == "ours")


def test_what_can_be_waited_out_is_waited_out_slowly_enough() -> None:
    assert set(PATIENCE) == set(Kind) - {Kind.OK, Kind.ALREADY}
    assert [pause(Kind.NETWORK, failures, 0) for failures in range(1, 9)] == [1, 2, 4, 8, 16, 32, 45, 45]
    assert [pause(Kind.NETWORK, 10_000, luck) for luck in (0, 0.5, 1)] == [45, 50.625, 56.25]
    assert pause(Kind.POLICY, 1, 0) is None
    assert all((pause(kind, 1, 0) or 60) >= 60 for kind in (Kind.AUTH, Kind.THROTTLED, Kind.REMOTE_FULL))
    assert [pause(Kind.NOT_FOUND, failures, 0) for failures in (1, 9)] == [5, 45]  # a folder not mounted just now
