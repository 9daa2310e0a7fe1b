"""A nats-server as an async context manager: started, killed, frozen and restarted by a test or by `mesh up`."""

from __future__ import annotations

import asyncio
import json
import shutil
import signal
import subprocess
import tempfile
import time
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

import anyio

from mesh.embedded.binary import ServerError, find_nats_server
from mesh.embedded.leash import leashed

_POLL_S = 0.004
_BUSY = "address already in use"
# Seconds for which the server's own port may be in use at a restart: a client that dials a closed port of the ephemeral
# range can connect to itself, and so occupy it for a moment.
_REBIND_S = 5.0
_LOG_LINES = 20


@dataclass(frozen=True, slots=True)
class Tls:
    """PEM files of a server. With ``ca`` and ``verify``, clients must present a certificate too."""

    cert: Path
    key: Path
    ca: Path | None = None
    verify: bool = False


@dataclass(frozen=True, slots=True)
class Cluster:
    """Membership of a cluster. JetStream needs ``routes`` from the start: choose ports with `free_port(0)`."""

    name: str
    port: int = 0
    routes: tuple[str, ...] = ()


class NatsServer:
    """One nats-server process. Most callers need only ``async with NatsServer() as server``.

    port: 0 takes a free one, which a restart keeps
    host, name: its address, and its name
    jetstream, store: JetStream, and the folder of its data; without one they are in a temporary folder until `aclose`
    user, password, tls: what clients need to connect
    cluster: makes it a member of a cluster
    max_payload: bytes of a message at most; the server's default is 1 MiB
    ping_max: a client is dropped after so many pings without an answer, one a second, so that frozen ones show quickly
    monitoring: True opens the HTTP monitoring port
    extra_config: further text in the server's configuration language
    program: the program; `find_nats_server` unless given
    start_timeout_s, stop_timeout_s: seconds until a start has failed, and until a stop becomes a kill

    Attributes ``url``, ``port`` and ``pid`` are valid after `start`. Errors are `ServerError`. The server is not bound
    to an event loop: start and stop may run in different ones, one after the other.
    """

    def __init__(
        self,
        *,
        port: int = 0,
        host: str = "127.0.0.1",
        name: str = "",
        jetstream: bool = True,
        store: Path | None = None,
        user: str = "",
        password: str = "",
        tls: Tls | None = None,
        cluster: Cluster | None = None,
        max_payload: int | None = None,
        ping_max: int = 2,
        monitoring: bool = False,
        extra_config: str = "",
        program: Path | None = None,
        start_timeout_s: float = 15.0,
        stop_timeout_s: float = 5.0,
    ) -> None:
        self.host = host
        self.port = max(port, 0)
        self.cluster = cluster
        self.pid = 0
        self.endpoints: dict[str, list[str]] = {}
        """The server's own URLs by kind: ``nats``, ``monitoring``, ``cluster``, ``websocket``."""
        self._name = name
        self._jetstream = jetstream
        self._store = store
        self._login = (user, password)
        self._tls = tls
        self._max_payload = max_payload
        self._ping_max = ping_max
        self._monitoring = monitoring
        self._extra_config = extra_config
        self._program = program
        self._start_timeout_s = start_timeout_s
        self._stop_timeout_s = stop_timeout_s
        # From the first start to aclose; stop, kill and restart are inside.
        self._folder: Path | None = None
        self._cleanup: weakref.finalize[..., Self] | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._log_start = 0
        self._last_log = ""
        self._ports_known = False

    @property
    def url(self) -> str:
        """Where clients connect, without user and password."""
        return f"{'tls' if self._tls else 'nats'}://{_bracketed(self.host)}:{self.port}"

    @property
    def monitor_url(self) -> str:
        """The HTTP monitoring address; needs ``monitoring=True``."""
        return self.endpoints["monitoring"][0]

    @property
    def cluster_url(self) -> str:
        """The URL for the ``routes`` of other members; needs ``cluster``."""
        return self.endpoints["cluster"][0]

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def log_path(self) -> Path:
        """The log file. After `aclose` it is gone, but `log` still has its text."""
        return self._path / "server.log"

    def log(self) -> str:
        """The server's log since the first start, restarts included."""
        if self._folder is None:
            return self._last_log
        return self.log_path.read_text(encoding="utf-8", errors="replace") if self.log_path.exists() else ""

    async def start(self) -> Self:
        """Start, and return when connections are accepted. After `kill` or `stop` it starts again, on the same port."""
        if self.running:
            raise ServerError(f"nats-server runs already, as process {self.pid}")
        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix="nats-server-"))
            self._cleanup = weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
        clock = asyncio.get_running_loop().time
        rebind_until = clock() + (_REBIND_S if self._ports_known else 0)
        try:
            while True:
                self._spawn()
                if await self._ready(clock() + self._start_timeout_s):
                    return self
                if not (_BUSY in self._own_log() and clock() < rebind_until):
                    raise ServerError(self._failure())
                await asyncio.sleep(_POLL_S * 10)
        except BaseException:
            self._kill()
            self._remove()
            raise

    async def stop(self) -> None:
        """Ask it to end, and kill it if it does not. Its data stay for the next `start`."""
        process = self._process
        try:
            if process is not None:
                process.send_signal(signal.SIGTERM)
                process.send_signal(signal.SIGCONT)  # a paused process would never see the other one
                await self._ended(process, self._stop_timeout_s)
        finally:
            self._kill()

    async def kill(self) -> None:
        """Kill it with SIGKILL. JetStream's data on disk stay for the next `start`."""
        self._kill()

    async def restart(self) -> None:
        """`stop` and `start`, with the same port and the same JetStream data."""
        await self.stop()
        await self.start()

    async def aclose(self) -> None:
        """`stop`, and remove the temporary files. It may be called again."""
        try:
            await self.stop()
        finally:
            self._remove()

    def lame_duck(self) -> None:
        """Make it tell its clients that it will end, as an operator does before maintenance (SIGUSR2)."""
        self._signal(signal.SIGUSR2)

    def pause(self) -> None:
        """Freeze it (SIGSTOP): its sockets stay open, and nothing answers. Returns when no thread runs any more."""
        self._signal(signal.SIGSTOP)
        _await_stopped(self.pid)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    async def __aenter__(self) -> Self:
        return await self.start()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # A cancelled scope would cancel every await here too, and the server would not be stopped in order.
        with anyio.CancelScope(shield=True):
            await self.aclose()

    # -- parts

    @property
    def _path(self) -> Path:
        if self._folder is None:
            raise ServerError("nats-server was not started")
        return self._folder

    def _spawn(self) -> None:
        for stale in self._path.glob("*.ports"):  # kill -9 leaves them behind
            stale.unlink()
        config = self._path / "server.conf"
        config.write_text("\n".join(self._config()), encoding="utf-8")
        self._log_start = self.log_path.stat().st_size if self.log_path.exists() else 0
        program = self._program or find_nats_server()
        with self.log_path.open("ab") as log:
            # A session of its own: Ctrl-C in a terminal is for the parent, which then stops this one in order.
            self._process = subprocess.Popen(
                leashed([str(program), "-c", str(config)]),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.pid = self._process.pid

    def _config(self) -> Iterator[str]:
        quote = json.dumps
        yield f"listen: {quote(f'{_bracketed(self.host)}:{self.port or -1}')}"
        yield f"ports_file_dir: {quote(str(self._path))}"
        yield 'ping_interval: "1s"'
        yield f"ping_max: {self._ping_max}"
        if self._name:
            yield f"server_name: {quote(self._name)}"
        if self._max_payload is not None:
            yield f"max_payload: {self._max_payload}"
        if self._monitoring:
            yield f"http: {quote(f'{_bracketed(self.host)}:-1')}"
        if self._jetstream:
            yield f"jetstream {{ store_dir: {quote(str(self._store or self._path / 'jetstream'))} }}"
        if self._login[0]:
            yield f"authorization {{ user: {_quoted(self._login[0])}, password: {_quoted(self._login[1])} }}"
        if self._tls:
            ca = f", ca_file: {quote(str(self._tls.ca))}" if self._tls.ca else ""
            verify = ", verify: true" if self._tls.verify else ""
            cert, key = quote(str(self._tls.cert)), quote(str(self._tls.key))
            yield f"tls {{ cert_file: {cert}, key_file: {key}{ca}{verify} }}"
        if self.cluster:
            listen = quote(f"{_bracketed(self.host)}:{self.cluster.port or -1}")
            routes = ", ".join(map(quote, self.cluster.routes))
            yield f"cluster {{ name: {quote(self.cluster.name)}, listen: {listen}, routes: [{routes}] }}"
        yield self._extra_config

    async def _ready(self, deadline: float) -> bool:
        """Wait for the file in which the server names its ports; False when it ended instead."""
        process = self._process
        assert process is not None
        file = self._path / f"nats-server_{process.pid}.ports"
        loop = asyncio.get_running_loop()
        while loop.time() < deadline:
            if process.poll() is not None:
                return False
            try:
                self.endpoints = json.loads(file.read_bytes())
            except (FileNotFoundError, json.JSONDecodeError):  # not there, or not whole yet
                await asyncio.sleep(_POLL_S)
                continue
            self.port = _port(self.endpoints["nats"][0])
            if self.cluster and "cluster" in self.endpoints:
                known = _port(self.endpoints["cluster"][0])
                self.cluster = Cluster(self.cluster.name, known, self.cluster.routes)
            self._ports_known = True
            return True
        raise ServerError(f"nats-server is not ready after {self._start_timeout_s:g} s\n{self._tail()}")

    async def _ended(self, process: subprocess.Popen[bytes], timeout_s: float) -> None:
        """Return when ``process`` has ended, or after ``timeout_s``."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        # There is no portable event for the end of another process that works without an event loop.
        while process.poll() is None and loop.time() < deadline:
            await asyncio.sleep(_POLL_S)

    def _signal(self, number: signal.Signals) -> None:
        if self._process is None:
            raise ServerError("nats-server does not run")
        self._process.send_signal(number)

    def _kill(self) -> None:
        """End the process now, without an await, so that this works in a cancelled task too."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def _remove(self) -> None:
        if self._cleanup is not None:
            self._last_log = self.log()
            self._cleanup()
            self._folder = self._cleanup = None

    def _own_log(self) -> str:
        """The log of the present process."""
        return self.log_path.read_bytes()[self._log_start :].decode(errors="replace")

    def _tail(self) -> str:
        return "\n".join(self._own_log().splitlines()[-_LOG_LINES:]) or "(its log is empty)"

    def _failure(self) -> str:
        code = self._process.returncode if self._process else None
        return f"nats-server ended at once with exit code {code}; its log:\n{self._tail()}"


def _port(url: str) -> int:
    port = urlsplit(url).port
    if port is None:
        raise ServerError(f"nats-server reports an address without a port: {url}")
    return port


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _quoted(text: str) -> str:
    # The configuration language knows the short escapes of JSON, and not \u.
    return json.dumps(text, ensure_ascii=False)


def _await_stopped(pid: int) -> None:
    """Return when no thread of a process runs any more (Linux): a busy machine takes a moment to stop them."""
    until = time.monotonic() + 2
    while time.monotonic() < until:
        try:
            states = [
                task.read_text().rpartition(")")[2].split()[0] for task in Path(f"/proc/{pid}/task").glob("*/stat")
            ]
        except OSError:  # a thread has ended meanwhile
            continue
        if all(state in "TtZ" for state in states):
            return
        time.sleep(0.001)
