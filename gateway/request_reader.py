"""Reading the requests of one HTTP connection: what the parser finds becomes requests of one of the lanes.

Framing (what is one request, where it ends) is llhttp's. Added here is what a request must be beyond that
(`gateway.framing`), and the decision which lane it begins on. `gateway.http_connection` gives the parser its bytes, and
answers one request after the other.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from enum import Enum
from typing import Any
from urllib.parse import unquote

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from gateway.asgi_lane import AsgiLane
from gateway.asgi_response import AsgiResponse, Flow
from gateway.direct_lane import DirectRequest
from gateway.fair_turns import HEADERS, RESTED_S
from gateway.framing import bad_request, check_handshake, check_head, check_trailer, length_of, read_target
from gateway.header_translation import Head, Pairs, read_head
from gateway.known_headers import (
    CONNECTION,
    CONTENT_LENGTH,
    EXPECT,
    HOST,
    PROXY_CONNECTION,
    TRANSFER_ENCODING,
    UPGRADE,
)
from gateway.problems import refuse
from gateway.request_lifecycle import RequestLifecycle
from mesh.errors import MeshError
from mesh.settings import GatewaySettings

REMEMBERED = 2048
"""Bytes of headers that are remembered for a connection."""


_NOT_DIRECT = frozenset({EXPECT, TRANSFER_ENCODING, UPGRADE})
_log = logging.getLogger("mesh.gateway")

OngoingRequest = AsgiResponse | DirectRequest
"""A request that has begun: on the ASGI lane, or on the direct lane."""


class Stage(Enum):
    """What comes next from the client of a connection."""

    BETWEEN = "the first byte of a request"
    HEAD = "the rest of its request line or headers"
    BODY = "the rest of its body, chunks and trailers"
    LAST = "nothing that is a request: the one that came is the last"
    OVER = "nothing that is read; responses are still due"
    LINGER = "nothing that is looked at; all responses are sent"


BETWEEN, HEAD, BODY, LAST, OVER, LINGER = Stage  # members of an enum take long to find


class RequestReader(HttpToolsProtocol):
    """uvicorn's protocol, whose callbacks of the parser begin requests of the gateway."""

    flow: Flow

    def __init__(
        self, lifecycle: RequestLifecycle, asgi_lane: AsgiLane, settings: GatewaySettings, /, **uvicorn: Any
    ) -> None:
        super().__init__(**uvicorn)
        self.asgi_lane = asgi_lane
        self.address = ""
        self._lifecycle = lifecycle
        self._direct = settings.http_lane == "direct"
        # Headers that are not complete cannot be judged by their number; nothing sensible is longer than this.
        self._most = settings.max_header_bytes + settings.max_target + 4096
        self._max_target = settings.max_target
        self._stage = BETWEEN
        self._left = 0  # bytes of a body of known length that are to come
        self._work = 0  # done at a stretch, see `gateway.fair_turns`
        self._head_bytes = 0  # of the head, or since the last piece of the body: chunk sizes and trailers
        self._incoming: OngoingRequest | None = None  # its body is coming; earlier ones may have to be answered first
        self._is_handshake = False
        self._known: tuple[Pairs, Head] | None = None  # headers that came before, and what was read in them
        self._since = self.loop.time()  # when something came that counts, or was answered

    def _enqueue(self, request: OngoingRequest, app: Any) -> None:
        """Answer a request when those before it are answered."""
        raise NotImplementedError

    def _refuse_later(self, error: MeshError) -> None:
        """Answer with an error and close, after the responses to requests that came before."""
        raise NotImplementedError

    def write(self, status: int, lines: bytes, body: bytes, *, close: bool) -> None:
        """See `ClientConnection.write`."""
        raise NotImplementedError

    def hand_over(self, direct: DirectRequest, run: Callable[..., Any]) -> None:
        """See `ClientConnection.hand_over`."""
        raise NotImplementedError

    # -- from the parser

    def on_message_begin(self) -> None:
        self.url = b""
        self.headers = []
        self._stage = HEAD
        self._head_bytes = 0
        now = self.loop.time()
        if now - self._since > RESTED_S:
            self._work = 0
        self._since = now

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._stage is HEAD:
            self.headers.append((name, value))
        else:
            check_trailer(name)  # and it is dropped

    def on_headers_complete(self) -> None:
        self._stage = BODY
        self._head_bytes = 0
        self._is_handshake = False
        self._left = 0
        known, url = self._known, self.url
        if known is not None and known[0] == self.headers:
            head = known[1]
        else:
            head = read_head(self.headers)
            check_head(head, self.headers, self.parser.get_http_version())
            self._work += len(self.headers) // HEADERS
            self._known = (self.headers, head) if head.hosts == 1 and head.size <= REMEMBERED else None
        if url[:1] == b"/" and url.find(b"#") < 0:
            path, _, query = url.partition(b"?")
        else:
            path, query, host = read_target(url, head.known.get(HOST))
            if host is not None and not head.hosts:  # HTTP/1.0
                self.headers.append((b"host", host))
                head = read_head(self.headers)
        if CONTENT_LENGTH in head.known:
            self._left = length_of(head.known[CONTENT_LENGTH]) or 0
        if not self._direct or not self._begin_direct(head, path, query):
            self._begin_asgi(head, path, query)

    def _begin_direct(self, head: Head, path: bytes, query: bytes) -> bool:
        """Begin a request on the direct lane, if it may take that: it is at most one message."""
        known, parser = head.known, self.parser
        if (
            not _NOT_DIRECT.isdisjoint(known) or path[:1] != b"/" or parser.should_upgrade()
        ):  # CONNECT has no such header
            return False
        keep_alive = parser.should_keep_alive()
        # With another version, llhttp keeps the connection only if one of these headers asks for it.
        asks = CONNECTION in known or PROXY_CONNECTION in known
        if (asks or not keep_alive) and parser.get_http_version() != "1.1":
            return False
        if self._left and self._left >= self._lifecycle.bus.max_payload:
            return False
        method = parser.get_method().decode("ascii")
        # By position: a class that is called with keywords makes a dict of them, for each request.
        direct = DirectRequest(self._lifecycle, self, method, path, query, head, keep_alive)
        self._enqueue(direct, None)
        return True

    def _begin_asgi(self, head: Head, path: bytes, query: bytes) -> None:
        """Begin a request whose answer is an ASGI call, or a WebSocket's."""
        parser = self.parser
        version, method = parser.get_http_version(), parser.get_method().decode("ascii")
        if version not in ("1.0", "1.1"):
            raise bad_request(f"HTTP/{version} is not spoken here")
        self.headers = [(name.lower(), value) for name, value in self.headers]
        scope = self._scope(method, version, self.headers)
        self.scope = scope  # type: ignore[assignment]
        if parser.should_upgrade() and self._should_upgrade():
            if version != "1.1" or method != "GET":  # RFC 6455 section 4.2.1
                raise bad_request("the handshake of a WebSocket is a GET of HTTP/1.1")
            check_handshake(self.headers)
            self.url = b"%b?%b" % (path, query) if query else path
            self._is_handshake = True
            return
        scope["path"], scope["raw_path"], scope["query_string"], scope["head"] = _text(path), path, query, head
        # HTTP/1.0 knows no interim response (RFC 9110 section 10.1.1). Bytes after an upgrade are not read as HTTP.
        expects = version == "1.1" and head.known.get(EXPECT, b"").lower() == b"100-continue"
        keep_alive = version == "1.1" and parser.should_keep_alive() and not parser.should_upgrade()
        request = self._cycle(scope, expects, keep_alive)
        if CONTENT_LENGTH in head.known or TRANSFER_ENCODING in head.known:
            request.share = scope["share"] = self._lifecycle.body_memory.share(self._refuse_later, self._left)
        self._enqueue(request, self.app)

    def on_body(self, body: bytes) -> None:
        self._since = self.loop.time()
        self._head_bytes = 0
        self._left -= len(body)
        self._work += 1
        request = self._incoming
        if request is None or request.response_complete:
            return
        if request.share is None:
            request.share = self._lifecycle.body_memory.share(self._refuse_later, max(0, self._left + len(body)))
        request.share.take(len(body))
        request.take(body)

    def on_message_complete(self) -> None:
        self._stage = BETWEEN
        self._left = 0
        request, self._incoming = self._incoming, None
        if request is not None:
            if not (request.keep_alive and self.parser.should_keep_alive()):
                # The parser drops what follows without a word: the connection must not outlive the answer.
                self._stage, request.keep_alive = LAST, False
                if request.response_complete:
                    self.transport.close()
            if request.share is not None:
                request.share.keep()
            request.complete()

    def _too_large(self) -> MeshError:
        if self._stage is BODY:
            return refuse(431, "headers_too_large", f"trailers or chunk sizes of more than {self._most} bytes")
        if len(self.url) > self._max_target:
            return refuse(414, "target_too_long", f"the target is longer than {self._max_target} bytes")
        return refuse(431, "headers_too_large", f"headers of more than {self._most} bytes")

    # -- requests of the ASGI lane

    def _cycle(self, scope: dict[str, Any], expects: bool, keep_alive: bool) -> AsgiResponse:
        return AsgiResponse(
            scope=scope,  # type: ignore[arg-type]
            transport=self.transport,
            flow=self.flow,
            logger=self.logger,
            access_logger=self.access_logger,
            access_log=False,
            default_headers=self.server_state.default_headers,
            message_event=asyncio.Event(),
            expect_100_continue=expects,
            keep_alive=keep_alive,
            on_response=self.on_response_complete,
        )

    def _scope(self, method: str, version: str, pairs: Pairs) -> dict[str, Any]:
        return {
            "type": "http",
            "asgi": {"version": self.asgi_version, "spec_version": "2.3"},
            "http_version": version,
            "method": method,
            "server": self.server,
            "client": self.client,
            "scheme": self.scheme,
            "root_path": "",
            "headers": pairs,
            "state": self.app_state.copy(),
        }


def _text(path: bytes) -> str:
    """A path as the ASGI lane knows it."""
    return unquote(path.decode("latin-1"))


def refusal_of(error: httptools.HttpParserError) -> MeshError:
    """The error that the parser, or one of our callbacks, raised about bytes that came."""
    if not isinstance(error, httptools.HttpParserCallbackError):
        return bad_request(f"this is not HTTP/1.1: {str(error)[:200] or type(error).__name__}")
    cause = error.__context__
    if isinstance(cause, MeshError):
        return cause
    _log.error("reading a request failed", exc_info=cause)
    return refuse(500, "internal", "the gateway failed to read the request")
