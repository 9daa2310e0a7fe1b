"""`mesh call`: one call over the bus, to an endpoint by name or to a route, without a gateway."""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import click

from mesh.cli.bus_command import HELP, Missing, execute
from mesh.cli.completion_names import endpoints, services_and_methods
from mesh.cli.mesh_observer import InstanceSelector, MeshObserver
from mesh.cli.terminal import clean
from mesh.cli.texts import nearest
from mesh.codec import UNREADABLE
from mesh.defaults import DEADLINE_S
from mesh.subjects import is_name

if TYPE_CHECKING:
    from mesh.bus import Bus
    from mesh.headers import Pairs

METHOD: Final = re.compile(r"[A-Z]{1,32}")
METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
WITH_QUERY: Final = frozenset({"GET", "HEAD", "DELETE"})
"""Methods whose arguments become the query; of others, the body."""


class Options(NamedTuple):
    """The options of the command line. ``timeout`` in seconds, 0 if it is not given."""

    body: bytes | None
    headers: Pairs
    include: bool
    as_json: bool
    timeout: float


@click.command("call", context_settings=HELP)
@click.argument("what", metavar="SERVICE|METHOD", shell_complete=services_and_methods)
@click.argument("where", metavar="ENDPOINT|/PATH", shell_complete=endpoints)
@click.argument("arguments", nargs=-1, metavar="[KEY=VALUE|KEY:=JSON]...")
@click.option("-d", "--data", metavar="BODY|@FILE", help="The body; @- reads standard input.")
@click.option("-H", "--header", "headers", multiple=True, metavar="NAME:VALUE", help="A header; may be repeated.")
@click.option("-i", "--include", is_flag=True, help="Status and headers of the answer, on standard error.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object: status, headers, body.")
@click.option(
    "--timeout",
    type=click.FloatRange(0.001, 3600),
    metavar="SECONDS",
    help=f"How long the answer, or its first piece, may take  [default: the route's, else {DEADLINE_S:g}]",
)
def command(
    what: str,
    where: str,
    arguments: tuple[str, ...],
    data: str | None,
    headers: tuple[str, ...],
    include: bool,
    as_json: bool,
    timeout: float | None,
) -> None:
    """Call an endpoint by name with arguments, or a route as an HTTP client would; over NATS, without a gateway.

    KEY=VALUE is text, KEY:=JSON anything else. For a route they become the query (GET, HEAD, DELETE) or a JSON body.
    An answer in pieces, as of server-sent events, is printed as it comes; with --json when it has ended.

    \b
    Examples:
      mesh call wallet balance user_id:=1
      mesh call GET /users/7
      mesh call POST /users -d '{"name": "Ada"}' -i
      mesh call POST /users name=Ada age:=36
      mesh call GET /events

    Prints the body, indented on a terminal. Exit codes: 0, 1 for a status of 400 or more, no answer or one that
    breaks off, 2 for wrong usage, 75 without NATS.
    """
    pairs = [_header(text) for text in headers]
    options = Options(_read(data), pairs, include, as_json, timeout or 0.0)
    values = dict(_argument(text) for text in arguments)
    if where.startswith("/"):
        if not METHOD.fullmatch(what):
            raise click.UsageError(f"{clean(what)!r} is not an HTTP method; write it in upper case, as GET")
        if values and options.body is not None and what not in WITH_QUERY:
            raise click.UsageError("give either arguments or --data")
        execute(lambda bus: _route(bus, what, where, values, options))
    if what in METHODS:
        raise click.UsageError(f"{clean(where)!r} is not a path; did you mean {clean('/' + where)}?")
    if not is_name(what) or not is_name(where):
        raise click.UsageError("give SERVICE ENDPOINT, or METHOD /PATH")
    if values and options.body is not None:
        raise click.UsageError("give either arguments or --data")
    execute(lambda bus: _endpoint(bus, what, where, values, options))


# -- reading the command line


def _header(text: str) -> tuple[bytes, bytes]:
    name, colon, value = text.partition(":")
    if not colon or not name:
        raise click.UsageError(f"{clean(text)!r} is not a header; write NAME:VALUE")
    try:
        return name.strip().lower().encode("ascii"), value.strip().encode("latin-1")
    except UnicodeEncodeError:
        raise click.UsageError(f"the header {clean(text)!r} has characters beyond latin-1") from None


def _argument(text: str) -> tuple[str, Any]:
    import msgspec

    found = re.match(r"([^=:]+)(:?=)(.*)", text, re.DOTALL)
    if not found:
        raise click.UsageError(f"{clean(text)!r} is not an argument; write KEY=VALUE or KEY:=JSON")
    key, mark, value = found.groups()
    if mark == "=":
        return key, value
    try:
        return key, msgspec.json.decode(value.encode())
    except UNREADABLE as error:
        raise click.UsageError(f"{clean(text)!r}: {error}; for text write {key}={clean(value)}") from None


def _read(data: str | None) -> bytes | None:
    if data is None or not data.startswith("@"):
        return None if data is None else data.encode()
    try:
        with click.open_file(data[1:], "rb") as file:
            content = file.read()
            return content if isinstance(content, bytes) else bytes(content)
    except OSError as error:
        raise click.UsageError(f"cannot read {clean(data[1:])!r}: {error.strerror}") from None


# -- an endpoint by name


async def _endpoint(bus: Bus, service: str, endpoint: str, values: dict[str, Any], options: Options) -> int:
    import msgspec

    from mesh.cli.response_output import show
    from mesh.client import Calls
    from mesh.errors import NoInstances, NoResponders, NotFound
    from mesh.streams import TAKES_STREAMS, Streams

    payload = options.body if options.body is not None else msgspec.json.encode(values)
    lines = _lines(options.headers) + TAKES_STREAMS
    streams = Streams(bus)
    calls = Calls(bus, streams)
    try:
        answer = await calls.send(service, endpoint, payload, options.timeout or DEADLINE_S, lines)
        return await show(answer, head=False, include=options.include, as_json=options.as_json)
    except (NoResponders, NoInstances, NotFound):
        raise await _reason_unanswered(bus, service, endpoint) from None
    finally:
        await streams.aclose()
        await calls.aclose()


async def _reason_unanswered(bus: Bus, service: str, endpoint: str) -> Missing:
    """Why no instance answered: what is there instead, in the mesh and among foreign services."""
    from mesh.foreign import subjects_of, survey

    async with MeshObserver(bus) as observer:
        _, micros = await asyncio.gather(observer.synchronise(), survey(bus, "INFO"))
        foreign = [m for m in micros if m.kind(bus.subjects.prefix)]
        own = observer.instances(InstanceSelector(service))
        names = {e.name for i in own for e in i.content.endpoints}
        names |= subjects_of((m for m in foreign if m.name == service), bus.subjects.prefix).keys()
        if not names:
            return observer.missing(InstanceSelector(service), (m.name for m in foreign))
        if endpoint in names:
            return Missing(f"no instance of {service} that has {endpoint!r} listens now; see 'mesh ls {service}'")
        hint = nearest(endpoint, names) or f" It has: {', '.join(sorted(names))}."
        return Missing(f"{service} has no endpoint {endpoint!r}.{hint}")


# -- a route


async def _route(bus: Bus, method: str, target: str, values: dict[str, Any], options: Options) -> int:
    from urllib.parse import quote

    from mesh.cli.response_output import show
    from mesh.cli.routes import observe_gateway
    from mesh.client import Caller, CallSpec, RouteDestination
    from mesh.routes import Gone, Match, NotAllowed, RefusedTarget, parse_target
    from mesh.streams import TAKES_STREAMS, Streams
    from mesh.subjects import new_id

    # A person writes a path as it reads: blanks and letters of any script, which HTTP wants encoded.
    target = quote(target.partition("#")[0], safe="!$%&'()*+,-./:;=?@[]_~|")
    target, body, pairs = _fill(method, target, values, options)
    path, _, query = target.partition("?")
    parsed = parse_target(path.encode(), query.encode())
    if isinstance(parsed, RefusedTarget):
        raise Missing(parsed.detail)
    async with observe_gateway(bus) as observer:
        streams = Streams(bus)
        caller = Caller(bus, observer.watcher, streams)
        await observer.synchronise()
        match = observer.routes.match(method, parsed.segments)
        if isinstance(match, NotAllowed):
            raise Missing(f"{path} answers {', '.join(match.allow)}, and not {method}")
        if isinstance(match, Gone):
            raise Missing(f"no live instance of {match.route.service} serves {path}")
        if not isinstance(match, Match):
            near = observer.routes.nearest(path)
            raise Missing(f"no service announces {path}." + (f" Near: {', '.join(near)}." if near else ""))
        route = match.route
        identifier = new_id().encode()
        first = [(b"mesh-request", f"{method} {target}".encode()), (b"mesh-id", identifier)]
        common = _lines([*first, (b"x-request-id", identifier), *pairs]) + TAKES_STREAMS
        timeout = options.timeout or route.policy.timeout_ms / 1000 or DEADLINE_S
        try:
            destination = RouteDestination(route.service, route.revisions, match.values)
            spec = CallSpec(destination=destination, lines=common, deadline=bus.now() + timeout)
            answer = await caller.call(spec, body)
            return await show(answer, head=method == "HEAD", include=options.include, as_json=options.as_json)
        finally:
            await streams.aclose()


def _fill(method: str, target: str, values: dict[str, Any], options: Options) -> tuple[str, bytes, Pairs]:
    """Target, body and headers with the arguments in their place."""
    from urllib.parse import urlencode

    import msgspec

    from mesh.cli.response_output import is_json
    from mesh.version import VERSION

    body, pairs = options.body or b"", list(options.headers)
    if values and method in WITH_QUERY:
        flat = {k: v if isinstance(v, str) else msgspec.json.encode(v).decode() for k, v in values.items()}
        target += ("&" if "?" in target else "?") + urlencode(flat)
    elif values:
        body = msgspec.json.encode(values)
    names = {name for name, _ in pairs}
    if body and b"content-type" not in names:
        pairs.append((b"content-type", b"application/json" if is_json(body) else b"application/octet-stream"))
    if b"user-agent" not in names:
        pairs.append((b"user-agent", b"mesh-call/" + VERSION.encode()))
    return target, body, pairs


def _lines(pairs: Pairs) -> bytes:
    """Header lines, each ending in CRLF."""
    from mesh import headers

    for name, _ in pairs:
        if not headers.crosses(name) and name not in (headers.REQUEST, headers.ID):
            raise Missing(f"the header {name.decode()!r} does not cross the bus")
    try:
        return headers.encode(pairs)[len(headers.START) : -len(headers.END)]
    except headers.BadHeader as error:
        raise Missing(str(error)) from None
