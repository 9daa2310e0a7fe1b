"""Streams over the bus: bodies of any size, events, WebSockets, in chunks with credit, so that nobody buffers much."""

from mesh.streams import frames
from mesh.streams.flow_control import TAKES_STREAMS
from mesh.streams.frames import Frame
from mesh.streams.multiplexer import Streams
from mesh.streams.stream import Stream

__all__ = ["TAKES_STREAMS", "Frame", "Stream", "Streams", "frames"]
