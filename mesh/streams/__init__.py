"""Streams over the bus: bodies of any size, events and WebSockets, in frames with flow control."""

from mesh.streams import frames
from mesh.streams.flow_control import TAKES_STREAMS
from mesh.streams.frames import Frame
from mesh.streams.multiplexer import Streams
from mesh.streams.stream import Stream, StreamState

__all__ = ["TAKES_STREAMS", "Frame", "Stream", "StreamState", "Streams", "frames"]
