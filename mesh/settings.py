"""The settings of the mesh: flag > environment > mesh.toml > default, all checked at start.

`load_all` reads several classes at once and raises one `ConfigError` that names every mistake; `documentation`
yields every setting, so that the documents and ``.env.example`` can be checked against the code.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self, TypeVar, overload
from urllib.parse import urlsplit

from mesh import setting_types as types
from mesh import settings_reader
from mesh.defaults import DEADLINE_S
from mesh.settings_reader import Documented, Settings, Variable, setting

DEFAULT_FILE = "mesh.toml"
FILE_VARIABLE = "MESH_CONFIG"

A = TypeVar("A", bound=Settings)
B = TypeVar("B", bound=Settings)
C = TypeVar("C", bound=Settings)


@dataclass(frozen=True, repr=False)
class MeshSettings(Settings):
    """Base of the classes below: adds reading one class alone."""

    @classmethod
    def load(cls, *, flags: Mapping[str, Any] | None = None, environ: Mapping[str, str], file: Path | None) -> Self:
        """Read this class; ``flags`` maps field names to values, None meaning "not given".

        Raises `ConfigError` with every mistake, including names that no setting of any class has.
        """
        (loaded,) = load_all(cls, flags=flags, environ=environ, file=file)
        return loaded


@dataclass(frozen=True, repr=False)
class BusSettings(MeshSettings):
    """How to reach NATS, and as whom."""

    section = "bus"

    servers: tuple[str, ...] = setting(
        ("nats://127.0.0.1:4222",), types.servers(), env=["NATS_URL"], doc="The NATS servers to connect to."
    )
    credentials: Path | None = setting(
        None, types.readable_file(), env=["NATS_CREDS"], doc="A credentials file (JWT and key)."
    )
    user: str | None = setting(None, types.text(), env=["NATS_USER"], doc="The user's name.")
    password: str | None = setting(None, types.secret(), env=["NATS_PASSWORD"], secret=True, doc="The user's password.")
    token: str | None = setting(
        None, types.secret(), env=["NATS_TOKEN"], secret=True, doc="A token, instead of user and password."
    )
    nkey: Path | None = setting(None, types.readable_file(), env=["NATS_NKEY"], doc="A file with an NKey seed.")
    tls_ca: Path | None = setting(
        None, types.readable_file(), env=["NATS_CA"], doc="Certificates of the authorities to trust."
    )
    tls_cert: Path | None = setting(
        None, types.readable_file(), env=["NATS_CERT"], doc="The client's certificate; needs tls_key."
    )
    tls_key: Path | None = setting(
        None, types.readable_file(), env=["NATS_KEY"], doc="The client's private key; needs tls_cert."
    )
    prefix: str = setting(
        "mesh", types.name(), env=["MESH_PREFIX"], doc="First token of every subject; separates meshes on an account."
    )
    lane: Literal["auto", "plain"] = setting(
        "auto",
        types.choice("auto", "plain"),
        env=["MESH_LANE"],
        doc="How messages leave the socket: auto takes the hot lane if it can, plain never does.",
    )
    bundles: bool = setting(
        True,
        types.switch(),
        env=["MESH_BUNDLES"],
        doc="Small messages to one receiver that are ready at the same time may share a NATS message.",
    )
    connect_timeout_s: float = setting(
        5.0,
        types.number(0.1, 300, "seconds"),
        env=["MESH_CONNECT_TIMEOUT_S"],
        doc="How long the first connection may take; a command ends after a second if every server fails.",
    )

    def conflicts(self, sources: Mapping[str, str]) -> Iterator[str]:
        ways = [name for name in ("credentials", "nkey", "token", "user") if getattr(self, name) is not None]
        if len(ways) > 1:
            told = ", ".join(f"{name} ({sources[name]})" for name in ways)
            yield f"bus: {told} are different ways to log in; give one of them"
        for first, second in (("user", "password"), ("password", "user"), ("tls_cert", "tls_key")):
            yield from self._needs(first, second, sources)
        yield from self._needs("tls_key", "tls_cert", sources)
        encrypted = self.tls_ca or self.tls_cert or any(url.startswith(("tls://", "wss://")) for url in self.servers)
        if len({url.startswith(("ws://", "wss://")) for url in self.servers}) > 1:
            yield f"bus.servers ({sources['servers']}): give either WebSocket URLs or others, not both kinds"
        elif encrypted and any(url.startswith("ws://") for url in self.servers):
            yield f"bus.servers ({sources['servers']}): ws:// is never encrypted, as other settings demand; give wss://"
        if len({bool(urlsplit(url).password is None) for url in self.servers if "@" in url}) > 1:
            yield f"bus.servers ({sources['servers']}): give either tokens in all URLs or users with passwords"

    def _needs(self, first: str, second: str, sources: Mapping[str, str]) -> Iterator[str]:
        if getattr(self, first) is not None and getattr(self, second) is None:
            yield f"bus.{first} ({sources[first]}): is useless alone; give {second} too"


@dataclass(frozen=True, repr=False)
class ServiceSettings(MeshSettings):
    """How one service instance runs."""

    section = "service"

    heartbeat_ms: int = setting(
        2000, types.whole(250, 30_000, "milliseconds"), env=["MESH_HEARTBEAT_MS"], doc="Time between two heartbeats."
    )
    concurrency: int = setting(
        1000, types.whole(1, 1_000_000), env=["MESH_CONCURRENCY"], doc="Requests that run at the same time."
    )
    queue: int = setting(
        1000, types.whole(0, 1_000_000), env=["MESH_QUEUE"], doc="Requests that may wait until others have ended."
    )
    max_body: int = setting(
        16 * 1024 * 1024,
        types.whole(1024, 1 << 40, "bytes"),
        env=["MESH_MAX_BODY"],
        doc="Largest body that a handler gets as a whole; one that takes AsyncIterator[bytes] has no limit.",
    )
    drain_s: float = setting(
        25.0, types.number(0, 3600, "seconds"), env=["MESH_DRAIN_S"], doc="How long a stop waits for running requests."
    )
    linger_ms: int = setting(
        500,
        types.whole(0, 60_000, "milliseconds"),
        env=["MESH_LINGER_MS"],
        doc="How long to keep serving after announcing the drain, while callers move away.",
    )
    blocked_ms: int | None = setting(
        None,
        types.whole(0, 60_000, "milliseconds"),
        env=["MESH_BLOCKED_MS"],
        doc="How long a handler may hold up the event loop before a warning names it; 0 for no warnings. "
        "By default 100 on a terminal and with --reload, else 1000.",
    )
    log_level: str = setting(
        "info",
        types.choice("debug", "info", "warning", "error", "critical", aliases={"warn": "warning", "fatal": "critical"}),
        env=["MESH_LOG_LEVEL", "LOG_LEVEL"],
        doc="The least severe messages that are logged.",
    )
    log_format: Literal["auto", "json", "text"] = setting(
        "auto",
        types.choice("auto", "json", "text"),
        env=["MESH_LOG_FORMAT"],
        doc="Form of the log; auto is text on a terminal and JSON elsewhere.",
    )


@dataclass(frozen=True, repr=False)
class GatewaySettings(MeshSettings):
    """The HTTP edge: its addresses, and what it lets through."""

    section = "gateway"

    host: str = setting("127.0.0.1", types.host(), env=["MESH_GATEWAY_HOST"], doc="Address for clients.")
    port: int = setting(
        8080,
        types.whole(0, 65_535),
        env=["MESH_GATEWAY_PORT", "PORT"],
        doc="Port for clients; 0 takes any free one.",
    )
    ops_host: str = setting("127.0.0.1", types.host(), env=["MESH_OPS_HOST"], doc="Address of the operator's plane.")
    ops_port: int = setting(
        8081, types.whole(0, 65_535), env=["MESH_OPS_PORT"], doc="Port of the operator's plane; 0 takes any free one."
    )
    workers: int = setting(
        1,
        types.whole(1, 256),
        env=["MESH_WORKERS"],
        doc="Processes that serve clients; limits are for each. Number n has its operator's plane at ops_port + n - 1.",
    )
    timeout_ms: int = setting(
        int(DEADLINE_S * 1000),
        types.whole(1, 3_600_000, "milliseconds"),
        env=["MESH_TIMEOUT_MS"],
        doc="Deadline of a request whose route names none.",
    )
    max_target: int = setting(
        8192, types.whole(64, 1_000_000, "bytes"), env=["MESH_MAX_TARGET"], doc="Longest request target."
    )
    max_header_bytes: int = setting(
        32_768, types.whole(1024, 1_000_000, "bytes"), env=["MESH_MAX_HEADER_BYTES"], doc="All headers of a request."
    )
    max_headers: int = setting(
        100, types.whole(1, 10_000), env=["MESH_MAX_HEADERS"], doc="Number of headers of a request."
    )
    max_request_body: int = setting(
        0,
        types.whole(0, 1 << 50, "bytes"),
        env=["MESH_MAX_REQUEST_BODY"],
        doc="Largest body of a request; 0 leaves it to the services.",
    )
    body_memory: int = setting(
        256 * 1024 * 1024,
        types.whole(1024 * 1024, 1 << 50, "bytes"),
        env=["MESH_BODY_MEMORY"],
        doc="Memory for bodies of requests and messages of WebSockets, of all clients; what needs more is refused.",
    )
    http_lane: Literal["direct", "asgi"] = setting(
        "direct",
        types.choice("direct", "asgi"),
        env=["MESH_HTTP_LANE"],
        doc="How a request of one message each way is served: direct in its connection, asgi by an ASGI call.",
    )
    head_s: float = setting(
        15.0,
        types.number(0, 86_400, "seconds"),
        env=["MESH_HEAD_S"],
        doc="How long a client may take for a request's headers; 0 for ever.",
    )
    body_idle_s: float = setting(
        60.0,
        types.number(0, 86_400, "seconds"),
        env=["MESH_BODY_IDLE_S"],
        doc="How long a client may send nothing of a body that it has begun; 0 for ever.",
    )
    stream_idle_s: float = setting(
        0.0,
        types.number(0, 86_400, "seconds"),
        env=["MESH_STREAM_IDLE_S"],
        doc="How long a streamed response may be silent; 0 for ever.",
    )
    stream_total_s: float = setting(
        0.0,
        types.number(0, 31_536_000, "seconds"),
        env=["MESH_STREAM_TOTAL_S"],
        doc="How long a streamed response or a WebSocket may last; 0 for ever.",
    )
    foreign_s: float = setting(
        10.0,
        types.number(0, 3600, "seconds"),
        env=["MESH_FOREIGN_S"],
        doc="Time between two questions for foreign NATS micro services; 0 for never.",
    )
    max_inflight: int = setting(
        10_000, types.whole(1, 10_000_000), env=["MESH_MAX_INFLIGHT"], doc="Requests in flight at the same time."
    )
    route_inflight: int = setting(
        2000,
        types.whole(1, 10_000_000),
        env=["MESH_ROUTE_INFLIGHT"],
        doc="Requests of one route in flight at the same time.",
    )
    route_queue: int = setting(
        1000,
        types.whole(0, 10_000_000),
        env=["MESH_ROUTE_QUEUE"],
        doc="Requests of one route that may wait until others have ended.",
    )
    window_ms: int = setting(
        500,
        types.whole(0, 60_000, "milliseconds"),
        env=["MESH_WINDOW_MS"],
        doc="Time over which services spread their answers to a discovery.",
    )
    owners: Mapping[str, str] = setting(
        {}, types.owners(), env=["MESH_OWNERS"], doc="Which service owns a path prefix; others are refused there."
    )
    show_routes: Literal["auto", "always", "never"] = setting(
        "auto",
        types.choice("auto", "always", "never"),
        env=["MESH_SHOW_ROUTES"],
        doc="Clients may see the routes: always, never, or auto: on loopback only.",
    )
    cors_origins: tuple[str, ...] = setting(
        (), types.origins(), env=["MESH_CORS_ORIGINS"], doc="Web origins whose pages may read answers; none by default."
    )
    trusted_proxies: tuple[str, ...] = setting(
        (),
        types.networks(),
        env=["MESH_TRUSTED_PROXIES"],
        doc="Proxies in front that are believed who their client is; none by default.",
    )
    proxy_header: Literal["x-forwarded", "forwarded"] = setting(
        "x-forwarded",
        types.choice("x-forwarded", "forwarded"),
        env=["MESH_PROXY_HEADER"],
        doc="How trusted proxies say it: X-Forwarded-For, -Proto and -Host, or Forwarded (RFC 7239).",
    )
    ops_hosts: tuple[str, ...] = setting(
        (),
        types.host_names(),
        env=["MESH_OPS_HOSTS"],
        doc="Names with a dot by which the operator's plane may be called; * for any.",
    )
    linger_ms: int = setting(
        1000,
        types.whole(0, 600_000, "milliseconds"),
        env=["MESH_GATEWAY_LINGER_MS"],
        doc="How long to keep accepting after readiness fails, while a load balancer moves away.",
    )
    drain_s: float = setting(
        25.0,
        types.number(0, 3600, "seconds"),
        env=["MESH_GATEWAY_DRAIN_S"],
        doc="How long a stop waits for requests in flight.",
    )
    access_log: bool = setting(True, types.switch(), env=["MESH_ACCESS_LOG"], doc="Log one line per request.")

    def conflicts(self, sources: Mapping[str, str]) -> Iterator[str]:
        if self.port and (self.host, self.port) == (self.ops_host, self.ops_port):
            ports = ((name, sources.get(name, "default")) for name in ("port", "ops_port"))
            told = " and ".join(f"{name} ({source})" for name, source in ports)
            yield f"gateway: {told} are both {self.port} on {self.host}; give each listener its own port"
        if self.proxy_header != "x-forwarded" and not self.trusted_proxies:
            yield f"gateway.proxy_header ({sources['proxy_header']}): is useless alone; give trusted_proxies too"


CLASSES: tuple[type[MeshSettings], ...] = (BusSettings, ServiceSettings, GatewaySettings)
VARIABLES = (
    Variable(FILE_VARIABLE, f"Path of the configuration file, instead of ./{DEFAULT_FILE} if that exists."),
    Variable("MESH_NATS_SERVER", "Path of the nats-server program that `mesh up` and the test fixtures start."),
)


@overload
def load_all(
    a: type[A], /, *, environ: Mapping[str, str], file: Path | None, flags: Mapping[str, Any] | None = None
) -> tuple[A]: ...
@overload
def load_all(
    a: type[A], b: type[B], /, *, environ: Mapping[str, str], file: Path | None, flags: Mapping[str, Any] | None = None
) -> tuple[A, B]: ...
@overload
def load_all(
    a: type[A],
    b: type[B],
    c: type[C],
    /,
    *,
    environ: Mapping[str, str],
    file: Path | None,
    flags: Mapping[str, Any] | None = None,
) -> tuple[A, B, C]: ...
def load_all(
    *classes: type[Settings],
    environ: Mapping[str, str],
    file: Path | None,
    flags: Mapping[str, Any] | None = None,
) -> tuple[Settings, ...]:
    """Instances of ``classes`` in their order, or one `ConfigError` with the mistakes of all of them.

    ``flags`` maps field names to values; a name that several classes have goes to each of them. Names of
    ``mesh.toml`` keys that belong to no class of this module are mistakes too, and so are MESH_* variables that look
    like a misspelt one. Other MESH_* variables are warned of, once.
    """
    return settings_reader.read_all(
        classes, environ=environ, file=file, flags=flags, known=CLASSES, variables=VARIABLES
    )


def foreign_variables(environ: Mapping[str, str]) -> list[str]:
    """The MESH_* variables in ``environ`` that are no setting of the mesh, nor a misspelt one."""
    return settings_reader.strangers(environ, settings_reader.names_of(CLASSES, VARIABLES))


def find_file(environ: Mapping[str, str], flag: str | Path | None = None) -> Path | None:
    """The configuration file: ``flag``, else $MESH_CONFIG, else ./mesh.toml if it exists, else None.

    A file that was named is returned even if it does not exist: reading it says so.
    """
    named = flag or environ.get(FILE_VARIABLE)
    if named:
        return Path(named).expanduser()
    default = Path(DEFAULT_FILE)
    return default if default.is_file() else None


def documentation() -> Iterator[Documented]:
    """Every setting of this module, in order, then the variables that belong to no class."""
    yield from settings_reader.documentation(CLASSES)
    for variable in VARIABLES:
        yield Documented(variable.name, (variable.name,), "", "", "a path", variable.doc, secret=False)
