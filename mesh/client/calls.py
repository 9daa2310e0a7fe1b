"""Typed calls to endpoints by name."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import msgspec

from mesh import codec, headers
from mesh.balancer import NEVER, RetryPolicy
from mesh.bus import Bus
from mesh.client.call import Answer
from mesh.client.caller import Caller
from mesh.client.destinations import NamedEndpoint
from mesh.client.foreign_endpoints import ForeignEndpoints
from mesh.defaults import DEADLINE_S
from mesh.errors import BadReply, MeshError, NoInstances, NoResponders, from_problem
from mesh.registry import Change
from mesh.streams import TAKES_STREAMS, Streams
from mesh.watcher import Watcher

EVENT = re.compile(r"[A-Za-z0-9_-]{1,64}(\.[A-Za-z0-9_-]{1,64}){0,7}")


class Calls:
    """Calls other services over a bus; watches only those that it calls, from their first call on."""

    def __init__(self, bus: Bus, streams: Streams) -> None:
        self._bus = bus
        self._streams = streams
        self._watcher: Watcher | None = None
        self._caller: Caller | None = None
        self._foreign = ForeignEndpoints(bus)
        self._policies: dict[tuple[str, str], RetryPolicy] = {}

    async def aclose(self) -> None:
        watcher, self._watcher = self._watcher, None
        if watcher is not None:
            await watcher.aclose()

    async def call(
        self,
        service: str,
        endpoint: str,
        arguments: Mapping[str, Any],
        *,
        returns: Any = Any,
        timeout: float = DEADLINE_S,
        carried: bytes = b"",
    ) -> Any:
        """The decoded result of one call. ``carried`` are header lines to pass on, each ending in CRLF.

        Raises the `mesh.errors` class of an error reply, `BadReply` where the result is not of type ``returns``.
        """
        with _marked():
            answer = await self.send(service, endpoint, codec.encode(arguments), timeout, carried)
            return read_answer(answer, returns, f"{service}.{endpoint}")

    async def stream(
        self,
        service: str,
        endpoint: str,
        arguments: Mapping[str, Any],
        *,
        returns: Any = bytes,
        timeout: float = DEADLINE_S,
        carried: bytes = b"",
    ) -> AsyncIterator[Any]:
        """What an endpoint yields, as it comes: pieces of bytes, or, with ``returns``, values decoded from its lines.

        ``timeout`` is until it begins, in seconds. An answer that is no stream is one piece. Raises as `call` does,
        and `StreamBroken` or another error where it ends before its end. The endpoint is told when nobody reads on.
        """
        what = f"{service}.{endpoint}"
        with _marked():
            answer = await self.send(service, endpoint, codec.encode(arguments), timeout, carried + TAKES_STREAMS)
            whole = read_answer(answer, returns, what) if answer.stream is None else None
        if answer.stream is None:
            yield whole
            return
        stream, rest = answer.stream, b""
        try:
            while (frame := await stream.read()) is not None:
                if returns is bytes:
                    yield frame.payload
                    continue
                *lines, rest = (rest + frame.payload).split(b"\n")
                for line in lines:
                    yield _item(line, returns, what)
            if rest:
                yield _item(rest, returns, what)
        finally:
            stream.close()

    async def emit(
        self, event: str, data: Any, *, durable: bool = False, timeout: float = DEADLINE_S, carried: bytes = b""
    ) -> None:
        """Publish an event, ``data`` as JSON. ``durable`` waits until JetStream has stored it.

        Raises `BusUnavailable`, `TooLarge`; durable: `Unavailable`, with reason ``jetstream_off`` where it is off.
        """
        subject = self._bus.subjects.event(checked_event(event))
        block = b"NATS/1.0\r\n%b\r\n" % carried if carried else b""
        if durable:
            from mesh.bus.jetstream import publish

            await publish(self._bus, subject, codec.encode(data), block, timeout)
        else:
            self._bus.publish(self._bus.address(subject), codec.encode(data), block)

    async def send(self, service: str, endpoint: str, payload: bytes, timeout: float, carried: bytes) -> Answer:
        """The answer of one instance as it is, an error reply too; the parameters are those of `call`.

        Raises as `Caller.call` does, and `NotFound` if a foreign service of that name has no such endpoint.
        """
        if self._watcher is None or self._caller is None:
            self._watcher = Watcher(self._bus, everything=False)
            self._caller = Caller(self._bus, self._watcher, self._streams)
            self._watcher.on_change(self._changed)
            await self._watcher.start()
        await self._watcher.watch(service)
        key = (service, endpoint)
        policy = self._policies.get(key)
        if policy is None:
            policy = self._policies[key] = declared_policy(self._watcher, service, endpoint)
        destination = NamedEndpoint(service, endpoint, self._bus.subjects.request(service, endpoint))
        deadline = self._bus.now() + timeout
        try:
            return await self._caller.call(destination, carried, payload, timeout, policy)
        except (NoInstances, NoResponders) as error:
            if not self._watcher.registry.instances(service):
                reply = await self._foreign.call(service, endpoint, carried, payload, deadline)
                if reply is not None:
                    return Answer(reply, "", 1)
            # The first call goes by the endpoint's name, and NATS says no more than that nobody listens there.
            detail = f"nobody answers {endpoint!r} of {service!r}: {error.detail}"
            told = type(error)(detail, executed=error.executed, retry_after=error.retry_after)
            told.attempts = error.attempts
            raise told from error

    def _changed(self, changes: Sequence[Change]) -> None:
        self._policies.clear()


@contextmanager
def _marked() -> Iterator[None]:
    """Mark errors as the outcome of a call: whoever made it has run, whatever they say of who was called."""
    try:
        yield
    except MeshError as error:
        error.of_call = True
        raise


def declared_policy(watcher: Watcher, service: str, endpoint: str) -> RetryPolicy:
    """What may be repeated of the calls to an endpoint, which go past its routes: what all of these allow.

    A call has no method of its own. So it counts as a request of each route, and without a route nothing is repeated.
    """
    routes = [r for c in watcher.registry.content(service) for r in c.routes if r.endpoint == endpoint]
    policies = [RetryPolicy.of(route.method, [route]) for route in routes]
    if not policies:
        return NEVER
    longest = max(p.try_timeout_ms for p in policies) if all(p.try_timeout_ms for p in policies) else 0
    return RetryPolicy(after_loss=all(p.after_loss for p in policies), try_timeout_ms=longest)


def _item(line: bytes, returns: Any, what: str) -> Any:
    try:
        return codec.decode(line, returns)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise BadReply(f"{what} yields something else than asked for: {error}", executed="unknown") from error


def checked_event(name: str) -> str:
    """``name``, or a ValueError: it becomes a subject."""
    if not EVENT.fullmatch(name):
        raise ValueError(f"{name!r} is no event name: 1 to 8 parts of letters, digits, '-' and '_' like 'bets.settled'")
    return name


def read_answer(answer: Answer, returns: Any, what: str) -> Any:
    """The value in a reply, or the error that it stands for."""
    block, payload = answer.reply.block, answer.reply.payload
    pairs = headers.decode(block)
    status = headers.status_of(pairs)
    if status is None:
        raise BadReply(f"{what} replied with the status {headers.find(pairs, headers.STATUS)!r}")
    if status >= 400:
        raise remote_error(status, pairs, payload, what)
    if returns is bytes:
        return payload
    if not payload and status in (204, 202, 200):
        return None
    try:
        return codec.decode(payload, returns)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise BadReply(f"{what} replied with something else than asked for: {error}", executed="yes") from error


def remote_error(status: int, pairs: headers.Pairs, payload: bytes, what: str) -> MeshError:
    """The typed error of an error reply."""
    document: dict[str, Any] = {}
    if (headers.find(pairs, b"content-type") or b"").startswith(b"application/problem+json"):
        try:
            document = msgspec.json.decode(payload, type=dict[str, Any])
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            document = {}
    text = headers.find(pairs, b"nats-service-error")
    error = from_problem(status, document, text.decode("latin-1") if text else f"{what} answered {status}")
    after = headers.find(pairs, b"retry-after")
    if after and after.isdigit() and len(after) < 10:
        error.retry_after = float(after)
    return error
