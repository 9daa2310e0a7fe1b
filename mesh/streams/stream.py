"""One end of a stream: reading and writing frames with flow control, and the states that it goes through.

An upload of 70,000 bytes, from the caller's end, to an instance that gave a credit of 262,144::

    caller                                     instance
    write(body)   Mesh-Frame: 1 data    -->    read() gives frame 1, 65,536 bytes
                  Mesh-Frame: 2 data    -->    read() says that frame 1 is done, and gives frame 2, 4,464 bytes
    end()         Mesh-Frame: 3 end     -->    read() gives None: the body is complete

Had the instance gone on reading, it would have sent ``Mesh-Frame: credit 393216`` once 131,072 bytes were done: half
of its window. See `mesh.streams.flow_control` for the numbers and `mesh.streams.frames` for the bytes.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from enum import Enum
from typing import Final, Protocol

import msgspec

from mesh import codec
from mesh.errors import MeshError, StreamBroken, from_problem
from mesh.streams import frames
from mesh.streams.flow_control import Inflow, Outflow, ProtocolViolation
from mesh.streams.frames import Frame


class StreamState(Enum):
    """The directions in which frames may still go, as HTTP/2 has them (RFC 9113 section 5.1)."""

    OPEN = "open"
    """Frames come and go."""
    READ_ONLY = "read only"
    """Frames come; we have sent our last one, or send none at all. HTTP/2: half-closed (local)."""
    WRITE_ONLY = "write only"
    """Frames go; the other end has sent its last one, or sends none at all. HTTP/2: half-closed (remote)."""
    ENDED = "ended"
    """Both directions have ended as they should."""
    BROKEN = "broken"
    """One end gave up, or a process or the connection to NATS is gone."""


_READABLE: Final = (StreamState.OPEN, StreamState.READ_ONLY)
_WRITABLE: Final = (StreamState.OPEN, StreamState.WRITE_ONLY)
_OVER: Final = (StreamState.ENDED, StreamState.BROKEN)


class Multiplexer(Protocol):
    """What a stream needs of the `Streams` that it belongs to."""

    @property
    def largest_payload(self) -> int:
        """Bytes of the largest payload of a frame that the NATS server takes."""

    def send(self, stream: Stream, block: bytes, payload: bytes) -> None:
        """Send a frame to the stream's peer. If that is impossible, the stream breaks."""

    async def writable(self) -> None:
        """Return when NATS has taken most of what was sent."""

    def remove(self, stream: Stream) -> None:
        """Forget a stream that is over."""

    def fail_process(self, stream: Stream) -> None:
        """Break all streams with the process of the stream's peer: NATS says that it does not listen any more."""


class Stream:
    """Reads and writes frames; `Streams` makes it. One task may read while another writes.

    A stream is over when both directions have ended, or at once when it breaks. Then readers and writers get the error,
    and what was read so far is void, however complete it looks. Call `close` in any case.
    """

    __slots__ = (
        "_done_callbacks",
        "_error",
        "_frames",
        "_inflow",
        "_loop",
        "_multiplexer",
        "_on_broken",
        "_on_message",
        "_outflow",
        "_reader_wakeup",
        "_unconsumed",
        "_writer_wakeup",
        "last_credit_at",
        "last_frame_at",
        "own_subject",
        "peer_subject",
        "state",
    )

    def __init__(
        self,
        multiplexer: Multiplexer,
        *,
        own_subject: bytes,
        peer_subject: bytes,
        credit: int,
        granted: int,
        window: int,
        state: StreamState = StreamState.OPEN,
    ) -> None:
        """
        own_subject: on which frames come.
        peer_subject: to which frames go; empty until `connect`.
        credit: bytes that the other end lets us send at first.
        granted: bytes that we let the other end send at first.
        window: bytes that may be on their way to us from then on.
        state: which directions there are.
        """
        self.own_subject = own_subject
        self.peer_subject = peer_subject
        self.state = state
        self._multiplexer = multiplexer
        self._loop = asyncio.get_running_loop()
        self.last_frame_at = self.last_credit_at = self._loop.time()
        """When we last heard of the other end, and when it last got a credit, on the event loop's clock."""
        self._inflow = Inflow(window, granted)
        self._outflow = Outflow(credit)
        self._frames: deque[Frame] = deque()
        self._unconsumed = -1  # payload bytes of the frame that the reader has not dealt with yet; -1: of none
        self._reader_wakeup: asyncio.Future[None] | None = None
        self._writer_wakeup: asyncio.Future[None] | None = None
        self._error: MeshError | None = None
        self._on_broken: Callable[[MeshError], None] | None = None
        self._on_message: Callable[[bytes, bytes], None] | None = None
        self._done_callbacks: list[Callable[[], None]] = []

    # -- for the owner

    def listen(
        self, *, broken: Callable[[MeshError], None], message: Callable[[bytes, bytes], None] | None = None
    ) -> None:
        """Register the stream's one listener, until `stop_listening` or `close`.

        broken: called at once with the error when the stream breaks, though not by `close`.
        message: called with header block and payload of a message on ``own_subject`` that is not a frame.

        Raises RuntimeError if the stream has a listener already.
        """
        if self._on_broken is not None:
            raise RuntimeError("the stream has a listener already")
        self._on_broken, self._on_message = broken, message

    def stop_listening(self) -> None:
        """Forget the listener, if there is one."""
        self._on_broken = self._on_message = None

    def add_done_callback(self, callback: Callable[[], None]) -> None:
        """Call ``callback`` when the stream is over; at once if it is. There may be any number of them."""
        if self.state in _OVER:
            callback()
        else:
            self._done_callbacks.append(callback)

    def connect(self, peer_subject: bytes, credit: int) -> None:
        """The other end has accepted: where frames for it go, and how many bytes it takes at first."""
        self.peer_subject = peer_subject
        self._grant(credit)

    def close(self) -> None:
        """Be done with the stream. If it is not over, the other end gets an abort. May be called twice."""
        self.stop_listening()
        self.abort(StreamBroken("the other end has closed the stream", executed="unknown"))

    # -- reading

    async def read(self) -> Frame | None:
        """Wait for the next frame. The call also says that the reader is done with the frame before.

        Returns None after the last frame. Raises the error that broke the stream, `StreamBroken` usually.
        """
        if self._unconsumed >= 0:
            size, self._unconsumed = self._unconsumed, -1
            if self._inflow.consume(size) and self.state in _READABLE:
                self.give_credit()
        while not self._frames:
            if self._error is not None:
                raise self._error
            if self.state not in _READABLE:
                return None
            self._reader_wakeup = self._loop.create_future()
            try:
                await self._reader_wakeup
            finally:
                self._reader_wakeup = None
        frame = self._frames.popleft()
        self._unconsumed = len(frame.payload)
        return frame if frame.kind != frames.END else None

    def give_credit(self) -> None:
        """Send the other end its credit. It shows that we live, and NATS says if the other end does not."""
        if self.peer_subject:
            self.last_credit_at = self._loop.time()
            self._multiplexer.send(self, frames.credit_block(self._inflow.granted), b"")

    @property
    def window(self) -> int:
        """Bytes that may be on their way to us."""
        return self._inflow.window

    @property
    def is_readable(self) -> bool:
        """True if frames are still to come."""
        return self.state in _READABLE

    # -- writing

    async def write(self, payload: bytes, kind: bytes = frames.DATA) -> None:
        """Send ``payload`` in as many frames as it needs, each as soon as the other end has given credit for it.

        Raises the error that broke the stream.
        """
        left = memoryview(payload)
        if not left and kind == frames.DATA:
            return
        while True:
            if self._error is not None:
                raise self._error
            size = self._outflow.sendable(min(len(left), self._multiplexer.largest_payload))
            if size < 0:
                await self._wait_for_credit()
                continue
            part, left = left[:size], left[size:]
            more = bool(left) and kind != frames.DATA
            block = frames.block(self._outflow.spend(size), kind + frames.MORE if more else kind)
            self._multiplexer.send(self, block, bytes(part))
            await self._multiplexer.writable()
            if not left:
                return

    def end(self, kind: bytes = frames.END, payload: bytes = b"") -> None:
        """Send the last frame: for the other end, what came before is complete. Does nothing if one was sent."""
        if self.state not in _WRITABLE:
            return
        over = self.state is StreamState.WRITE_ONLY
        self.state = StreamState.ENDED if over else StreamState.READ_ONLY
        self._multiplexer.send(self, frames.block(self._outflow.number_free_frame(), kind), payload)
        if over:
            self._finish(StreamState.ENDED)

    def abort(self, error: MeshError) -> None:
        """Give up: the other end gets ``error`` instead of the frames that are missing. Does nothing if it is over."""
        if self.state in _OVER:
            return
        if self.peer_subject:
            number = self._outflow.last_number + 1
            self._multiplexer.send(self, frames.block(number, frames.ABORT), codec.encode(error.problem()))
        self.fail(error)

    @property
    def is_out_of_credit(self) -> bool:
        """True if a writer waits for credit."""
        return self._writer_wakeup is not None

    # -- from the multiplexer

    def deliver(self, block: bytes, payload: bytes) -> None:
        """Take a message on ``own_subject``."""
        frame = frames.read(block, payload)
        if frame is None or (frame.kind == frames.GONE and not self.peer_subject):
            if self._on_message is not None:
                self._on_message(block, payload)
            return
        if self.state is StreamState.BROKEN:
            return
        self.last_frame_at = self._loop.time()
        kind = frame.kind
        if kind == frames.CREDIT:
            self._grant(frame.number)
        elif kind == frames.GONE:
            self._multiplexer.fail_process(self)
        elif kind == frames.ABORT:
            self.fail(_error_of(frame.payload))
        else:
            self._take(frame)

    def _take(self, frame: Frame) -> None:
        """A frame in the order of its direction: check it, and keep it for the reader."""
        last = frame.kind in frames.LAST
        try:
            self._inflow.accept(frame.number, -1 if last else len(frame.payload))
            if self.state not in _READABLE:
                raise ProtocolViolation("a frame came after the last one")
        except ProtocolViolation as error:
            self.abort(StreamBroken(str(error), executed="unknown"))
            return
        self._frames.append(frame)
        if last:
            self.end_reading()
        else:
            _wake(self._reader_wakeup)

    def end_reading(self) -> None:
        """Expect no more frames: the last one came, or the other end replied with a single message instead."""
        if self.state is StreamState.OPEN:
            self.state = StreamState.WRITE_ONLY
        elif self.state is StreamState.READ_ONLY:
            self._finish(StreamState.ENDED)
        _wake(self._reader_wakeup)

    def fail(self, error: MeshError) -> None:
        """Break the stream: the other end, NATS or this process is gone."""
        if self.state in _OVER:
            return
        self._error = error
        _wake(self._reader_wakeup)  # they run later, when the state says why
        _wake(self._writer_wakeup)
        self._finish(StreamState.BROKEN)
        if self._on_broken is not None:
            self._on_broken(error)

    # -- internals

    def _grant(self, credit: int) -> None:
        if self._outflow.grant(credit):
            _wake(self._writer_wakeup)

    async def _wait_for_credit(self) -> None:
        self._writer_wakeup = self._loop.create_future()
        try:
            await self._writer_wakeup
        finally:
            self._writer_wakeup = None

    def _finish(self, state: StreamState) -> None:
        self.state = state
        self._multiplexer.remove(self)
        callbacks, self._done_callbacks = self._done_callbacks, []
        for callback in callbacks:
            callback()


def _wake(waiter: asyncio.Future[None] | None) -> None:
    if waiter is not None and not waiter.done():
        waiter.set_result(None)


def _error_of(payload: bytes) -> MeshError:
    """The error that an abort carries; its text is the other end's."""
    try:
        document = msgspec.json.decode(payload, type=dict)
        status = document.get("status")
        error = from_problem(status if isinstance(status, int) else 502, document, "the other end gave the stream up")
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        error = StreamBroken("the other end gave the stream up", executed="unknown")
    return error
