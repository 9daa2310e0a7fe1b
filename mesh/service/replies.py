"""From what a handler gave to what is sent: one message, or a stream where that is too small."""

from __future__ import annotations

import asyncio
import logging
from http import HTTPStatus
from math import ceil
from typing import Any

import msgspec

from mesh import headers
from mesh.bus import Bus
from mesh.errors import BadRequest, MeshError, TooLarge
from mesh.service.context import Context
from mesh.service.endpoints import Declared
from mesh.service.http_messages import Request, Response
from mesh.service.streaming import IncomingBody, StreamingResponse, streamed
from mesh.service.websocket import WebSocket
from mesh.streams import Streams

HEAD_S = 0.5
"""What a handler streams begins with its first piece, so that an error before it has its own status; after this many
seconds without one it begins all the same, and the client knows that it is connected."""

_log = logging.getLogger("mesh.service")
_encode = msgspec.json.Encoder().encode


class Replies:
    """Sends the replies of one instance."""

    def __init__(self, bus: Bus, streams: Streams) -> None:
        self._bus = bus
        self._streams = streams
        self._blocks: dict[tuple[int, bytes], bytes] = {}

    # -- one message

    def encode(self, declared: Declared, result: Any) -> tuple[bytes, bytes] | None:
        """Header block and body of what a handler returned; None where it is streamed."""
        if is_streamed(result):
            return None
        if isinstance(result, Response):
            if result.status >= 400:
                declared.statistics.fail(f"{result.status}:{_phrase(result.status)}")
            return response_block(result), result.body
        if result is None:
            status = 204 if declared.status == 200 else declared.status
            return self._plain(status, b""), b""
        if isinstance(result, bytes | bytearray):
            return self._plain(declared.status, b"application/octet-stream"), bytes(result)
        return self._plain(declared.status, b"application/json"), declared.encode(result)

    def _plain(self, status: int, kind: bytes) -> bytes:
        block = self._blocks.get((status, kind))
        if block is None:
            line = b"content-type: %b\r\n" % kind if kind else b""
            block = self._blocks[status, kind] = b"NATS/1.0\r\nMesh-Status: %d\r\n%b\r\n" % (status, line)
        return block

    def send(self, reply: bytes, block: bytes, body: bytes, request_id: str = "") -> None:
        """Answer with one message; what is too large for one becomes a 502."""
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

    def incoming(self, request: Request, context: Context, reply: bytes) -> IncomingBody | None:
        """The body that follows a request as a stream; None where it is in the message."""
        kind = request.raw_header(headers.BODY)
        if kind == b"websocket":
            raise BadRequest("this path is not for WebSockets", reason="no_websocket")
        if not reply or kind != b"stream":
            return None
        stream = self._streams.answer(reply, _credit(request), reads=True, writes=True)
        return IncomingBody(self._bus, reply, stream, context)

    def socket(self, request: Request, reply: bytes) -> WebSocket:
        """The connection that a request asks for. Raises a 426 where it asks for none."""
        if not reply or request.raw_header(headers.BODY) != b"websocket":
            error = BadRequest(
                "this path is for WebSockets", reason="upgrade_required", headers={"upgrade": "websocket"}
            )
            error.status, error.title = 426, "Upgrade required"
            raise error
        stream = self._streams.answer(reply, _credit(request), reads=True, writes=True)
        return WebSocket(self._bus, request, reply, stream)

    async def stream(
        self, response: Response, request: Request, context: Context, reply: bytes, incoming: IncomingBody | None
    ) -> tuple[bytes, bytes] | None:
        """Send a response in pieces. To a caller that takes no streams it is one message: then its block and body.

        Raises what the handler raises before its first piece; later errors break the stream.
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

    async def _gathered(self, response: StreamingResponse) -> tuple[bytes, bytes]:
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
        task = asyncio.current_task()
        assert task is not None
        own = self._streams.answer(reply, credit, reads=False, writes=True) if incoming is None else None
        stream = own or incoming.stream  # type: ignore[union-attr]
        block = response_block(response)[:-2] + b"Mesh-Stream: %b\r\n\r\n" % stream.own
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

        stream.on_broken = broken
        timer = asyncio.get_running_loop().call_later(HEAD_S, begin)
        try:
            async for piece in response.pieces():
                begin()
                await stream.write(piece)
            begin()
            stream.end()
        except asyncio.CancelledError:
            stream.abort(stopped())
            raise
        except Exception as error:
            if not begun:
                raise
            _log.exception("a stream broke off: its handler failed")
            stream.abort(error if isinstance(error, MeshError) else MeshError("the service failed in mid-stream"))
        finally:
            timer.cancel()
            stream.on_broken = None
            if own is not None:
                own.close()


def is_streamed(result: Any) -> bool:
    """Whether a handler's result comes in pieces."""
    return isinstance(result, StreamingResponse) or hasattr(result, "__aiter__")


def _too_large(error: TooLarge) -> MeshError:
    """What the caller is told of a reply that NATS does not take."""
    large = MeshError(f"the reply is too large: {error.detail}", reason="bad_reply", executed="yes")
    large.status, large.title = 502, "Unusable reply"
    return large


def stopped() -> MeshError:
    """For callers whose handler was stopped with its instance."""
    error = MeshError("the instance stopped before the handler ended", reason="stopped", executed="unknown")
    error.status = 503
    return error


def _credit(request: Request) -> int:
    """What the caller takes of a streamed response to begin with; 0 where it takes none."""
    value = request.raw_header(headers.CREDIT)
    return int(value) if value and value.isdigit() and len(value) < 10 else 0


def _in_pieces(response: Response) -> StreamingResponse:
    """A response whose body is too large for one message."""

    async def whole() -> Any:
        yield response.body

    pieces = StreamingResponse(whole(), response.status)
    pieces.pairs = [pair for pair in response.pairs if pair[0] != b"content-length"]
    pieces.pairs.append((b"content-length", b"%d" % len(response.body)))
    return pieces


def as_response(declared: Declared, request: Request, result: Any) -> Response:
    """What a handler returned, as a full response."""
    if isinstance(result, Response):
        return result
    if hasattr(result, "__aiter__"):
        return streamed(result, declared.items, declared.encode, declared.status, request.header("accept") or "")
    if result is None:
        return Response(None, 204 if declared.status == 200 else declared.status)
    if isinstance(result, bytes | bytearray):
        return Response(bytes(result), declared.status)
    return Response(declared.encode(result), declared.status, content_type="application/json")


def response_block(response: Response) -> bytes:
    """The header block of a full response. Raises `headers.BadHeader`."""
    pairs = [(name, value) for name, value in response.pairs if headers.crosses(name)]
    if response.status >= 400:
        pairs = [*_error_headers(response.status, _phrase(response.status)), *pairs]
    return headers.encode([(b"Mesh-Status", b"%d" % response.status), *pairs])


def _phrase(status: int) -> str:
    """What a status means, for errors that say no more."""
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return f"status {status}"


def _error_headers(status: int, detail: str) -> headers.Pairs:
    """NATS ADR-32's error headers: a number, and a description that is never empty."""
    text = "".join(c if " " <= c <= "~" else " " for c in detail)[:512].strip()
    return [(b"Nats-Service-Error-Code", b"%d" % status), (b"Nats-Service-Error", (text or _phrase(status)).encode())]


def problem_reply(error: MeshError, request_id: str) -> tuple[bytes, bytes]:
    """Header block and body of an error: problem+json, with NATS ADR-32's error headers beside it."""
    body = _encode(error.problem(request_id))
    pairs = [
        (b"Mesh-Status", b"%d" % error.status),
        *_error_headers(error.status, error.detail),
        (b"content-type", b"application/problem+json"),
    ]
    if error.retry_after is not None:
        pairs.append((b"retry-after", b"%d" % max(1, ceil(error.retry_after))))
    pairs += [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in error.headers.items()]
    return headers.encode(pairs), body
