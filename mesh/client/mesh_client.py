"""`MeshClient`: calls services from a program that is not a service itself."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Mapping
from types import TracebackType
from typing import Any, Self, TypeVar, overload

from mesh.bus import Bus
from mesh.client.calls import Calls
from mesh.defaults import DEADLINE_S
from mesh.settings import BusSettings, find_file, load_all
from mesh.streams import Streams

T = TypeVar("T")


class MeshClient:
    """Calls and events for scripts, jobs and tests; services use their `Context`.

    ::

        async with MeshClient() as client:
            balance = await client.call("wallet", "balance", user_id=1, returns=Balance)

    - settings: how to reach NATS; without it, and without ``url``, the environment and ``mesh.toml`` say so.
    url: NATS servers, separated by commas; used only without ``settings``.

    Raises `ConfigError` for wrong settings. Entering raises `BusUnavailable` if NATS cannot be reached.
    """

    def __init__(self, settings: BusSettings | None = None, *, url: str = "") -> None:
        if settings is None and url:
            settings = BusSettings(servers=tuple(url.split(",")))
        if settings is None:
            (settings,) = load_all(BusSettings, environ=os.environ, file=find_file(os.environ))
        self._bus = Bus(settings)
        self._streams = Streams(self._bus)
        self._calls = Calls(self._bus, self._streams)

    async def __aenter__(self) -> Self:
        await self._bus.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connection; may be called twice."""
        await self._calls.aclose()
        await self._streams.aclose()
        await self._bus.aclose()

    @overload
    async def call(
        self,
        service: str,
        endpoint: str,
        more: Mapping[str, Any] | None = None,
        /,
        *,
        returns: type[T],
        timeout: float = ...,
        **arguments: Any,
    ) -> T: ...

    @overload
    async def call(
        self,
        service: str,
        endpoint: str,
        more: Mapping[str, Any] | None = None,
        /,
        *,
        returns: Any = ...,
        timeout: float = ...,
        **arguments: Any,
    ) -> Any: ...

    async def call(
        self,
        service: str,
        endpoint: str,
        more: Mapping[str, Any] | None = None,
        /,
        *,
        returns: Any = Any,
        timeout: float = DEADLINE_S,
        **arguments: Any,
    ) -> Any:
        """Make one call and return the decoded result.

        - more: arguments that cannot be given by name, as they are called ``returns`` or ``timeout``.
        - returns: the type of the result.
        - timeout: seconds until the deadline.
        - arguments: the endpoint's arguments, by name.

        Raises the `mesh.errors` class of an error reply, `BadReply` if the result is not of type ``returns``.
        """
        return await self._calls.call(
            service, endpoint, {**(more or {}), **arguments}, returns=returns, timeout=timeout
        )

    @overload
    def stream(
        self,
        service: str,
        endpoint: str,
        more: Mapping[str, Any] | None = None,
        /,
        *,
        returns: type[bytes] = ...,
        timeout: float = ...,
        **arguments: Any,
    ) -> AsyncIterator[bytes]: ...

    @overload
    def stream(
        self,
        service: str,
        endpoint: str,
        more: Mapping[str, Any] | None = None,
        /,
        *,
        returns: type[T],
        timeout: float = ...,
        **arguments: Any,
    ) -> AsyncIterator[T]: ...

    @overload
    def stream(
        self,
        service: str,
        endpoint: str,
        more: Mapping[str, Any] | None = None,
        /,
        *,
        returns: Any,
        timeout: float = ...,
        **arguments: Any,
    ) -> AsyncIterator[Any]: ...

    def stream(
        self,
        service: str,
        endpoint: str,
        more: Mapping[str, Any] | None = None,
        /,
        *,
        returns: Any = bytes,
        timeout: float = DEADLINE_S,
        **arguments: Any,
    ) -> AsyncIterator[Any]:
        """Make one call and yield what the endpoint yields, as it arrives.

        - returns: bytes for pieces of bytes, as they come; another type for values decoded from lines of JSON.
        - timeout: seconds until the stream begins.

        Other parameters as for `call`. Raises what `call` raises, and `StreamBroken` if the stream ends early.
        """
        given = {**(more or {}), **arguments}
        return self._calls.stream(service, endpoint, given, returns=returns, timeout=timeout)

    async def emit(self, event: str, data: Any, *, durable: bool = False) -> None:
        """Publish an event, ``data`` as JSON.

        - durable: wait until JetStream has stored it.

        Raises ValueError for a bad name, `BusUnavailable`, `TooLarge`, `Unavailable` if JetStream is off.
        """
        await self._calls.emit(event, data, durable=durable)
