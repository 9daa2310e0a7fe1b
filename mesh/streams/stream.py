"""One end of a stream: what a reader waits for, what a writer waits for, and how both hear of a broken one."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec

from mesh.errors import MeshError, StreamBroken, from_problem
from mesh.streams import frames
from mesh.streams.flow_control import Broken, Inflow, Outflow
from mesh.streams.frames import Frame

if TYPE_CHECKING:
    from mesh.streams.multiplexer import Streams

_encode = msgspec.json.Encoder().encode


class Stream:
    """Reads and writes frames; made by `Streams`. One task may read while another writes.

    ``own`` is the subject on which the other end's frames come, ``peer`` the one to which ours go. A stream is over
    when both directions have ended, or at once when it breaks: then whoever waits gets the error, and what was read so
    far is void, however complete it looks. `close` it whatever happens.

    ``credit``: what the other end gave us to begin with, ``granted`` what we gave it. ``reads`` and ``writes``: which
    directions there are. ``on_broken(error)`` is called at once when it breaks, ``on_over()`` when it is over,
    ``on_message(block, payload)`` for what comes on `own` and is no frame.
    """

    __slots__ = (
        "_broken",
        "_frames",
        "_hub",
        "_in",
        "_in_ended",
        "_loop",
        "_out",
        "_out_ended",
        "_reading",
        "_undigested",
        "_writing",
        "credited",
        "heard",
        "on_broken",
        "on_message",
        "on_over",
        "own",
        "peer",
    )

    def __init__(
        self,
        hub: Streams,
        own: bytes,
        peer: bytes,
        *,
        credit: int,
        granted: int,
        window: int,
        reads: bool = True,
        writes: bool = True,
    ) -> None:
        self.own = own
        self.peer = peer
        self.on_broken: Callable[[MeshError], None] | None = None
        self.on_message: Callable[[bytes, bytes], None] | None = None
        self.on_over: Callable[[], None] | None = None
        self._hub = hub
        self._loop = asyncio.get_running_loop()
        self.heard = self.credited = self._loop.time()
        self._in = Inflow(window, granted)
        self._out = Outflow(credit)
        self._frames: deque[Frame] = deque()
        self._undigested = -1  # size of the frame that the reader has and is not done with
        self._reading: asyncio.Future[None] | None = None
        self._writing: asyncio.Future[None] | None = None
        self._in_ended = not reads
        self._out_ended = not writes
        self._broken: MeshError | None = None

    # -- reading

    async def read(self) -> Frame | None:
        """The next frame, None after the last one. Asking for it says that the one before has been dealt with.

        Raises the error that broke the stream, `StreamBroken` mostly.
        """
        if self._undigested >= 0:
            size, self._undigested = self._undigested, -1
            if self._in.consume(size) and not self._in_ended:
                self.give_credit()
        while not self._frames:
            if self._broken is not None:
                raise self._broken
            if self._in_ended:
                return None
            self._reading = self._loop.create_future()
            try:
                await self._reading
            finally:
                self._reading = None
        frame = self._frames.popleft()
        self._undigested = len(frame.payload)
        return frame if frame.kind != frames.END else None

    def give_credit(self) -> None:
        """Tell the other end how much it may have sent; it shows too that we are here, and asks whether it is."""
        if self.peer:
            self.credited = self._loop.time()
            self._hub.send(self, frames.credit_block(self._in.granted), b"")

    @property
    def window(self) -> int:
        """Bytes that may be on their way to us."""
        return self._in.window

    @property
    def expects(self) -> bool:
        """Whether frames are still to come."""
        return not self._in_ended and self._broken is None

    @property
    def waits(self) -> bool:
        """Whether a writer waits for credit."""
        return self._writing is not None

    # -- writing

    async def write(self, payload: bytes, kind: bytes = frames.DATA) -> None:
        """Send ``payload`` in as many frames as it needs, each when the other end has room for it.

        Raises the error that broke the stream.
        """
        left = memoryview(payload)
        if not left and kind == frames.DATA:
            return
        while True:
            if self._broken is not None:
                raise self._broken
            size = self._out.room(min(len(left), self._hub.largest))
            if size < 0:
                await self._room()
                continue
            part, left = left[:size], left[size:]
            more = bool(left) and kind != frames.DATA
            block = frames.block(self._out.take(size), kind + frames.MORE if more else kind)
            self._hub.send(self, block, bytes(part))
            await self._hub.writable()
            if not left:
                return

    def end(self, kind: bytes = frames.END, payload: bytes = b"") -> None:
        """Say that everything has been written: the other end may call it complete."""
        if self._out_ended or self._broken is not None:
            return
        self._out_ended = True
        self._hub.send(self, frames.block(self._out.take(-1), kind), payload)
        self._maybe_over()

    def abort(self, error: MeshError) -> None:
        """Give up: the other end gets ``error`` instead of an end."""
        if self._broken is None and not (self._in_ended and self._out_ended):
            if self.peer:
                self._hub.send(self, frames.block(self._out.number + 1, frames.ABORT), _encode(error.problem()))
            self.fail(error)

    def close(self) -> None:
        """Be done with it; an end that is still missing becomes an abort. May be called twice."""
        self.on_broken = None
        self.abort(StreamBroken("the other end has closed the stream", executed="unknown"))
        self._hub.forget(self)

    # -- from the other end

    def deliver(self, block: bytes, payload: bytes) -> None:
        """A message on `own`."""
        frame = frames.read(block, payload)
        if frame is None or (frame.kind == frames.GONE and not self.peer):
            if self.on_message is not None:
                self.on_message(block, payload)
            return
        if self._broken is not None:
            return
        self.heard = self._loop.time()
        kind = frame.kind
        if kind == frames.CREDIT:
            if self._out.grant(frame.number) and self._writing is not None and not self._writing.done():
                self._writing.set_result(None)
        elif kind == frames.GONE:
            self._hub.gone(self)
        elif kind == frames.ABORT:
            self.fail(_error(frame.payload))
        else:
            last = kind in frames.LAST
            try:
                self._in.accept(frame.number, -1 if last else len(frame.payload))
                if self._in_ended:
                    raise Broken("a frame came after the last one")
            except Broken as error:
                self.abort(StreamBroken(str(error), executed="unknown"))
                return
            self._frames.append(frame)
            self._wake_reader()
            if last:
                self._in_ended = True
                self._maybe_over()

    def grant(self, credit: int) -> None:
        """The credit to begin with, from the message that accepted the stream."""
        if self._out.grant(credit) and self._writing is not None and not self._writing.done():
            self._writing.set_result(None)

    def end_reading(self) -> None:
        """Nothing is to come from the other end after all: its answer was a single message."""
        self._in_ended = True
        self._wake_reader()
        self._maybe_over()

    def end_writing(self) -> None:
        """Nothing is to go to the other end after all, and it knows."""
        self._out_ended = True
        self._maybe_over()

    def fail(self, error: MeshError) -> None:
        """Break the stream: the other end, NATS or this process is gone."""
        if self._broken is not None or (self._in_ended and self._out_ended):
            return
        self._broken = error
        self._wake_reader()
        if self._writing is not None and not self._writing.done():
            self._writing.set_result(None)
        self._hub.forget(self)
        if self.on_broken is not None:
            self.on_broken(error)

    # -- the rest

    async def _room(self) -> None:
        self._writing = self._loop.create_future()
        try:
            await self._writing
        finally:
            self._writing = None

    def _wake_reader(self) -> None:
        if self._reading is not None and not self._reading.done():
            self._reading.set_result(None)

    def _maybe_over(self) -> None:
        if self._in_ended and self._out_ended:
            self._hub.forget(self)


def _error(payload: bytes) -> MeshError:
    """The error of an abort; its text is the other end's."""
    try:
        document = msgspec.json.decode(payload, type=dict)
        status = document.get("status")
        error = from_problem(status if isinstance(status, int) else 502, document, "the other end gave the stream up")
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        error = StreamBroken("the other end gave the stream up", executed="unknown")
    return error
