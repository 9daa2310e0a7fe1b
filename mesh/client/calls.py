"""Typed calls to endpoints by name, and events: the part behind ``ctx.call`` and `MeshClient`."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from mesh import codec
from mesh.balancer import NO_RETRY, RetryPolicy
from mesh.bus import Bus
from mesh.client.attempts import CallSpec
from mesh.client.caller import Caller
from mesh.client.destinations import NamedEndpoint
from mesh.client.foreign_endpoints import ForeignEndpoints
from mesh.client.replies import Answer, decode_value, read_answer
from mesh.defaults import DEADLINE_S
from mesh.errors import MeshError, NoInstances, NoResponders
from mesh.registry import Change
from mesh.streams import TAKES_STREAMS, Streams
from mesh.watcher import Watcher

EVENT_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}(\.[A-Za-z0-9_-]{1,64}){0,7}")


class Calls:
    """Calls other services over a bus. It watches only the services that it calls, from the first call on."""

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
        """Make one call and return the decoded result.

        returns: the type of the result; bytes for the payload as it is.
        timeout: seconds until the deadline.
        carried: header lines to pass on, each ending in CRLF.
        Raises the `mesh.errors` class of an error reply, `BadReply` if the result is not of type ``returns``.
        """
        with _marked_as_call():
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
        """Make one call and yield what the endpoint yields, as it arrives. A reply that is no stream is one piece.

        returns: bytes for pieces of bytes, as they come; another type for values decoded from lines of JSON.
        timeout: seconds until the stream begins.
        carried: header lines to pass on, each ending in CRLF.
        Raises what `call` raises, and `StreamBroken` or another error if the stream ends before it is complete. The
        endpoint is told if the caller stops reading.
        """
        what = f"{service}.{endpoint}"
        with _marked_as_call():
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
                    yield decode_value(line, returns, f"{what} yields", executed="unknown")
            if rest:
                yield decode_value(rest, returns, f"{what} yields", executed="unknown")
        finally:
            stream.close()

    async def emit(
        self, event: str, data: Any, *, durable: bool = False, timeout: float = DEADLINE_S, carried: bytes = b""
    ) -> None:
        """Publish an event, ``data`` as JSON.

        durable: wait until JetStream has stored it.
        timeout: seconds to wait for that.
        Raises ValueError for a bad name, `BusUnavailable`, `TooLarge`; if durable also `Unavailable`, with the reason
        ``jetstream_off`` if JetStream is off.
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
            spec = CallSpec(destination=destination, lines=carried, deadline=deadline, policy=policy)
            return await self._caller.call(spec, payload)
        except (NoInstances, NoResponders) as error:
            if not self._watcher.registry.instances(service):
                reply = await self._foreign.call(service, endpoint, carried, payload, deadline)
                if reply is not None:
                    return Answer(reply, "", 1)
            # The first call goes to the endpoint's own subject: NATS says only that nothing listens there.
            detail = f"nobody answers {endpoint!r} of {service!r}: {error.detail}"
            named = type(error)(detail, executed=error.executed, retry_after=error.retry_after)
            named.attempts = error.attempts
            raise named from error

    def _changed(self, changes: Sequence[Change]) -> None:
        self._policies.clear()


@contextmanager
def _marked_as_call() -> Iterator[None]:
    """Mark errors as the outcome of a call: the handler that made it has run, whatever ``executed`` says of the called
    one."""
    try:
        yield
    except MeshError as error:
        error.of_call = True
        raise


def declared_policy(watcher: Watcher, service: str, endpoint: str) -> RetryPolicy:
    """The retry policy of calls by name to an endpoint: what each of its routes allows.

    Such a call has no method. So it counts as a request of each route, and without a route there are no retries.
    """
    routes = [r for c in watcher.registry.content(service) for r in c.routes if r.endpoint == endpoint]
    policies = [RetryPolicy.of(route.method, [route]) for route in routes]
    if not policies:
        return NO_RETRY
    longest = max(p.try_timeout_ms for p in policies) if all(p.try_timeout_ms for p in policies) else 0
    return RetryPolicy(after_loss=all(p.after_loss for p in policies), try_timeout_ms=longest)


def checked_event(name: str) -> str:
    """Return ``name`` if it may be an event's. Raises ValueError if not: it becomes part of a subject."""
    if not EVENT_NAME.fullmatch(name):
        raise ValueError(f"{name!r} is no event name: 1 to 8 parts of letters, digits, '-' and '_' like 'bets.settled'")
    return name
