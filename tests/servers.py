"""Real git servers on the loopback: `git daemon`, `git http-backend` and sshd, and a wire that can be cut.

Every server listens on a port that the system chose, and ends what it started by process id.
"""

import base64
import contextlib
import getpass
import os
import select
import shutil
import socket
import socketserver
import ssl
import struct
import subprocess
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

SSHD = shutil.which("sshd") or "/usr/sbin/sshd"
_RESET = struct.pack("ii", 1, 0)
"""SO_LINGER for a connection that ends with a reset, as when the machine behind it has died."""


class _Threads(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True


@contextmanager
def _serving(server: socketserver.BaseServer) -> Iterator[int]:
    """Serve in threads; yield the port."""
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield server.server_address[1]  # type: ignore[index, misc]  # an address of the internet family
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def refused_port() -> int:
    """Return a port on which nothing listens."""
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        return int(nobody.getsockname()[1])


@contextmanager
def inetd(argv: Sequence[str], environment: Mapping[str, str]) -> Iterator[int]:
    """Start `argv` for every connection, with the connection as its input and output; yield the port."""
    running: list[subprocess.Popen[bytes]] = []

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            wire = self.request.fileno()
            process = subprocess.Popen(
                argv, stdin=wire, stdout=wire, stderr=subprocess.DEVNULL, env=dict(environment), start_new_session=True
            )
            running.append(process)
            self.request.close()  # the child's copy alone holds the connection
            process.wait()

    try:
        with _serving(_Threads(("127.0.0.1", 0), Handler)) as port:
            yield port
    finally:
        for process in running:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, 9)
            process.wait()


@contextmanager
def git_daemon(root: Path, *flags: str) -> Iterator[str]:
    """Serve the repositories below `root`; yield the URL of `root`."""
    told = ("--inetd", "--export-all", f"--base-path={root}", *(flags or ("--enable=receive-pack",)))
    with inetd(("git", "daemon", *told), os.environ) as port:
        yield f"git://127.0.0.1:{port}"


@dataclass
class Wire:
    """A proxy's wire: what has passed, and where it breaks.

    `up` and `down` are the bytes of one connection (to and from the server) after which it is cut, with a reset if
    `reset`; `hold`: it is not cut there, but says nothing any more.
    """

    port: int = 0
    up: int | None = None
    down: int | None = None
    reset: bool = False
    hold: bool = False
    passed: dict[str, int] = field(default_factory=lambda: {"up": 0, "down": 0})
    ended: threading.Event = field(default_factory=threading.Event)

    def mend(self) -> None:
        """Let everything through, and count from nothing."""
        self.up = self.down = None
        self.reset = self.hold = False
        self.passed = {"up": 0, "down": 0}


@contextmanager
def proxy(target: int) -> Iterator[Wire]:
    """Put a wire before a port."""
    wire = Wire()

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with socket.create_connection(("127.0.0.1", target)) as server:
                _pump(wire, self.request, server)
                if wire.reset:
                    self.request.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)

    try:
        with _serving(_Threads(("127.0.0.1", 0), Handler)) as wire.port:
            yield wire
    finally:
        wire.ended.set()


def _pump(wire: Wire, client: socket.socket, server: socket.socket) -> None:
    """Carry bytes both ways until both ends have closed or the wire breaks."""
    ways = {client: (server, "up", wire.up), server: (client, "down", wire.down)}
    passed = {"up": 0, "down": 0}
    while ways:
        for source in select.select(list(ways), [], [])[0]:
            sink, way, limit = ways[source]
            room = 1 << 16 if limit is None else limit - passed[way]
            try:
                data = source.recv(min(room, 1 << 16)) if room else b""
                sink.sendall(data)
            except OSError:
                return
            passed[way] += len(data)
            wire.passed[way] += len(data)
            if limit is not None and passed[way] >= limit:
                if wire.hold:
                    wire.ended.wait()
                return
            if not data:
                del ways[source]
                with contextlib.suppress(OSError):
                    sink.shutdown(socket.SHUT_WR)


@dataclass
class Web:
    """A web server before `git http-backend`.

    `status` answers the requests whose method is in `methods`, with `body` as plain text; `login` (user:password) is
    asked for.
    """

    url: str
    port: int
    status: int | None = None
    methods: Sequence[str] = ("GET", "POST")
    body: str = ""
    login: str | None = None


class _Site(ThreadingHTTPServer):
    """A web server that knows its folder, and what it was told."""

    def __init__(self, root: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Request)
        self.root = root
        self.web = Web(f"http://127.0.0.1:{self.server_address[1]}", self.server_address[1])


class _Request(BaseHTTPRequestHandler):
    """A request, carried to `git http-backend` as any web server does (RFC 3875)."""

    protocol_version = "HTTP/1.1"
    server: _Site

    def handle(self) -> None:
        with contextlib.suppress(ConnectionError, ValueError, ssl.SSLError):  # a cut request need not be one
            super().handle()

    def do_GET(self) -> None:
        told, body = self.server.web, self._body()
        if told.status and self.command in told.methods:
            self._say(told.status, {"Content-Type": "text/plain"}, told.body.encode())
        elif not self._may_enter(told.login):
            self._say(401, {"WWW-Authenticate": 'Basic realm="git"'}, b"")
        else:
            self._backend(body)

    def do_POST(self) -> None:
        self.do_GET()

    def _may_enter(self, login: str | None) -> bool:
        return login is None or self.headers["Authorization"] == f"Basic {base64.b64encode(login.encode()).decode()}"

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", "0")))
        chunks = []
        while size := int(self.rfile.readline(), 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(chunks)

    def _backend(self, body: bytes) -> None:
        path, _, query = self.path.partition("?")
        told = {
            "GIT_PROJECT_ROOT": str(self.server.root),
            "GIT_HTTP_EXPORT_ALL": "1",
            "REQUEST_METHOD": self.command,
            "PATH_INFO": path,
            "QUERY_STRING": query,
            "CONTENT_TYPE": self.headers.get("Content-Type", ""),
            "CONTENT_LENGTH": str(len(body)),
            "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""),
            "GIT_PROTOCOL": self.headers.get("Git-Protocol", ""),
            "REMOTE_USER": "somebody",
        }
        done = subprocess.run(
            ["git", "http-backend"], env={**os.environ, **told}, input=body, capture_output=True, check=False
        )
        head, _, answer = done.stdout.partition(b"\r\n\r\n")
        headers = dict(line.split(": ", 1) for line in head.decode().splitlines())
        self._say(int(headers.pop("Status", "200").split()[0]), headers, answer)

    def _say(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def web(root: Path, certificate: tuple[Path, Path] | None = None) -> Iterator[Web]:
    """Serve the repositories below `root` over HTTP, or HTTPS with a certificate and its key.

    Pushes need `http.receivepack` there.
    """
    site = _Site(root)
    if certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate[0], certificate[1])
        site.socket = context.wrap_socket(site.socket, server_side=True, do_handshake_on_connect=False)
        site.web.url = site.web.url.replace("http:", "https:")
    with _serving(site):
        yield site.web


@dataclass
class Shell:
    """An sshd: `url` of the root folder, and the command that a person would set to reach it."""

    url: str
    port: int
    folder: Path

    def command(self, key: str = "key", hosts: str = "hosts") -> str:
        """Return an ssh command with one of our keys, and a file of known hosts."""
        told = f"-o IdentitiesOnly=yes -o UserKnownHostsFile={self.folder / hosts} -o GlobalKnownHostsFile=/dev/null"
        return f"ssh -F none -i {self.folder / key} -o BatchMode=yes {told}"


@contextmanager
def sshd(folder: Path) -> Iterator[Shell]:
    """Serve this account over ssh with keys of the test's own; `key` may enter, `stranger` may not."""
    if not Path(SSHD).exists():
        pytest.skip("sshd is missing; on Debian: apt-get install openssh-server")
    folder.mkdir()
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # where sshd confines itself; its service would make it
    for name in ("host", "other", "key", "stranger"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name], check=True)
    (folder / "authorized").write_text((folder / "key.pub").read_text())
    (folder / "config").write_text(
        f"HostKey {folder}/host\nAuthorizedKeysFile {folder}/authorized\nStrictModes no\nUsePAM no\n"
        f"PasswordAuthentication no\nKbdInteractiveAuthentication no\nPermitRootLogin yes\nPidFile none\n"
        f"SetEnv HOME={os.environ['HOME']} GIT_CONFIG_NOSYSTEM=1\n"
    )
    with inetd((SSHD, "-i", "-f", str(folder / "config")), os.environ) as port:
        for name, key in (("hosts", "host"), ("wrong-hosts", "other")):
            (folder / name).write_text(f"[127.0.0.1]:{port} {(folder / f'{key}.pub').read_text()}")
        yield Shell(f"ssh://{getpass.getuser()}@127.0.0.1:{port}", port, folder)


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Path]:
    """Mount a disk of that size."""
    folder.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "none", folder], capture_output=True, text=True, check=False
    )
    if made.returncode:
        pytest.skip(f"no small disk can be mounted here: {made.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)
