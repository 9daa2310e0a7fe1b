"""Sends the result of a handler: in one message, or as a stream if it is one or is too large for a message."""

from __future__ import annotations

import asyncio
import logging
from http import HTTPStatus
from math import ceil
from typing import Any, Final

from mesh import codec, headers
from mesh.bus import Bus
from mesh.errors import BadRequest, MeshError, TooLarge
from mesh.numbers import parse_count
from mesh.service.context import Context
from mesh.service.endpoints import DeclaredEndpoint
from mesh.service.http_messages import Request, Response
from mesh.service.streaming import IncomingBody, StreamingResponse, streamed
from mesh.service.websocket import WebSocket
from mesh.streams import Streams

FIRST_PIECE_S: Final = 0.5
"""Seconds that a streamed response waits for its first piece. An error before that has a status of its own; after
that the response begins without a piece, and the client knows that it is connected."""

Reply = tuple[bytes, bytes]
"""A reply message: its header block and its body."""

_log = logging.getLogger("mesh.service")


class Replies:
    """Sends the replies of one instance."""

    def __init__(self, bus: Bus, streams: Streams) -> None:
        self._bus = bus
        self._streams = streams
        self._blocks: dict[tuple[int, bytes], bytes] = {}

    # -- one message

    def encode(self, endpoint: DeclaredEndpoint, result: Any) -> Reply | None:
        """The reply for a handler's result; None if the result is a stream."""
        if is_streamed(result):
            return None
        if isinstance(result, Response):
            if result.status >= 400:
                endpoint.statistics.fail(f"{result.status}:{_phrase(result.status)}")
            return response_block(result), result.body
        if result is None:
            status = 204 if endpoint.status == 200 else endpoint.status
            return self._block(status, b""), b""
        if isinstance(result, bytes | bytearray):
            return self._block(endpoint.status, b"application/octet-stream"), bytes(result)
        return self._block(endpoint.status, b"application/json"), endpoint.encode(result)

    def _block(self, status: int, kind: bytes) -> bytes:
        """The header block of a status and a content type; each is made once."""
        block = self._blocks.get((status, kind))
        if block is None:
            line = b"content-type: %b\r\n" % kind if kind else b""
            block = self._blocks[status, kind] = b"NATS/1.0\r\nMesh-Status: %d\r\n%b\r\n" % (status, line)
        return block

    def send(self, reply: bytes, block: bytes, body: bytes, request_id: str = "") -> None:
        """Send a reply of one message; a reply that is too large becomes a 502."""
        if not reply:
            return
        try:
            self._bus.reply(reply, body, block)
        except TooLarge as error:
            _log.error("a reply was too large: %s", error.detail)
            block, body = problem_reply(_too_large(error), request_id)
            self._bus.reply(reply, body, block)
        except MeshError as error:
            _log.warning("a reply could not be sent: %s", error.detail)

    # -- streams

    def open_body(self, request: Request, context: Context, reply: bytes) -> IncomingBody | None:
        """The body that follows a request as a stream; None if it is in the message."""
        kind = request.raw_header(headers.BODY)
        if kind == b"websocket":
            raise BadRequest("this path is not for WebSockets", reason="no_websocket")
        if not reply or kind != b"stream":
            return None
        stream = self._streams.accept(reply, _credit(request))
        return IncomingBody(self._bus, reply, stream, context)

    def open_websocket(self, request: Request, reply: bytes) -> WebSocket:
        """The WebSocket that a request asks for. Raises an error with status 426 if it asks for none."""
        if not reply or request.raw_header(headers.BODY) != b"websocket":
            error = BadRequest(
                "this path is for WebSockets", reason="upgrade_required", headers={"upgrade": "websocket"}
            )
            error.status, error.title = 426, "Upgrade required"
            raise error
        stream = self._streams.accept(reply, _credit(request))
        return WebSocket(self._bus, request, reply, stream)

    async def stream(
        self, response: Response, request: Request, context: Context, reply: bytes, incoming: IncomingBody | None
    ) -> Reply | None:
        """Stream a response; returns a reply of one message instead if the caller takes no streams.

        Raises what the handler raises before its first piece; a later error breaks the stream.
        """
        credit = _credit(request)
        if not isinstance(response, StreamingResponse):
            if not credit:
                return response_block(response), response.body  # too large: `send` says so
            response = _in_pieces(response)
        try:
            if not credit or not reply:
                return await self._gathered(response)
            await self._stream(response, context, reply, incoming, credit)
            return None
        finally:
            await response.aclose()

    async def _gathered(self, response: StreamingResponse) -> Reply:
        """The pieces as one message. Raises `TooLarge`."""
        pieces: list[bytes] = []
        size = 0
        async for piece in response.pieces():
            pieces.append(piece)
            size += len(piece)
            if size > self._bus.max_payload:
                raise TooLarge("the answer is a stream of more than one message, and the caller takes none")
        return response_block(response), b"".join(pieces)

    async def _stream(
        self, response: StreamingResponse, context: Context, reply: bytes, incoming: IncomingBody | None, credit: int
    ) -> None:
        """Write the pieces on the stream of the request's body, if it has one, else on a new one."""
        task = asyncio.current_task()
        assert task is not None
        own = self._streams.accept(reply, credit, reads=False) if incoming is None else None
        stream = own or incoming.stream  # type: ignore[union-attr]
        block = response_block(response)[:-2] + b"Mesh-Stream: %b\r\n\r\n" % stream.own_subject
        begun = False

        def begin() -> None:
            nonlocal begun
            if not begun:
                try:
                    self._bus.reply(reply, b"", block)
                except TooLarge as error:
                    raise _too_large(error) from None
                begun = True

        def broken(error: MeshError) -> None:
            context.cancelled.set()
            task.cancel()

        stream.listen(broken=broken)
        timer = asyncio.get_running_loop().call_later(FIRST_PIECE_S, begin)
        try:
            async for piece in response.pieces():
                begin()
                await stream.write(piece)
            begin()
            stream.end()
        except asyncio.CancelledError:
            stream.abort(stopped_error())
            raise
        except Exception as error:
            if not begun:
                raise
            _log.exception("a stream broke off: its handler failed")
            stream.abort(error if isinstance(error, MeshError) else MeshError("the service failed in mid-stream"))
        finally:
            timer.cancel()
            stream.stop_listening()
            if own is not None:
                own.close()


def is_streamed(result: Any) -> bool:
    """True if a handler's result comes in pieces."""
    return isinstance(result, StreamingResponse) or hasattr(result, "__aiter__")


def _too_large(error: TooLarge) -> MeshError:
    """The error for the caller of a handler whose reply NATS does not take."""
    large = MeshError(f"the reply is too large: {error.detail}", reason="bad_reply", executed="yes")
    large.status, large.title = 502, "Unusable reply"
    return large


def stopped_error() -> MeshError:
    """The error for the caller of a handler that was stopped with its instance."""
    error = MeshError("the instance stopped before the handler ended", reason="stopped", executed="unknown")
    error.status = 503
    return error


def _credit(request: Request) -> int:
    """The bytes of a streamed response that the caller takes at first; 0 if it takes no streams."""
    return parse_count(request.raw_header(headers.CREDIT)) or 0


def _in_pieces(response: Response) -> StreamingResponse:
    """The stream for a response that is too large for one message."""

    async def whole() -> Any:
        yield response.body

    pieces = StreamingResponse(whole(), response.status)
    pieces.pairs = [pair for pair in response.pairs if pair[0] != b"content-length"]
    pieces.pairs.append((b"content-length", b"%d" % len(response.body)))
    return pieces


def as_response(endpoint: DeclaredEndpoint, request: Request, result: Any) -> Response:
    """A handler's result as a full response."""
    if isinstance(result, Response):
        return result
    if hasattr(result, "__aiter__"):
        return streamed(result, endpoint.items, endpoint.encode, endpoint.status, request.header("accept") or "")
    if result is None:
        return Response(None, 204 if endpoint.status == 200 else endpoint.status)
    if isinstance(result, bytes | bytearray):
        return Response(bytes(result), endpoint.status)
    return Response(endpoint.encode(result), endpoint.status, content_type="application/json")


def response_block(response: Response) -> bytes:
    """The header block of a full response. Raises `headers.BadHeader`."""
    pairs = [(name, value) for name, value in response.pairs if headers.crosses(name)]
    if response.status >= 400:
        pairs = [*_error_headers(response.status, _phrase(response.status)), *pairs]
    return headers.encode([(b"Mesh-Status", b"%d" % response.status), *pairs])


def _phrase(status: int) -> str:
    """The phrase of a status, for errors that say no more."""
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return f"status {status}"


def _error_headers(status: int, detail: str) -> headers.Pairs:
    """NATS ADR-32's error headers: a number, and a description that is never empty."""
    text = "".join(c if " " <= c <= "~" else " " for c in detail)[:512].strip()
    return [(b"Nats-Service-Error-Code", b"%d" % status), (b"Nats-Service-Error", (text or _phrase(status)).encode())]


def problem_reply(error: MeshError, request_id: str) -> Reply:
    """The reply for an error: problem+json (RFC 9457), and NATS ADR-32's error headers for other clients."""
    body = codec.encode(error.problem(request_id))
    pairs = [
        (b"Mesh-Status", b"%d" % error.status),
        *_error_headers(error.status, error.detail),
        (b"content-type", b"application/problem+json"),
    ]
    if error.retry_after is not None:
        pairs.append((b"retry-after", b"%d" % max(1, ceil(error.retry_after))))
    pairs += [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in error.headers.items()]
    return headers.encode(pairs), body
