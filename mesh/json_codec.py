"""JSON of messages: one encoder for all, and how to decode what others send.

Values of users' own types are `mesh.codec`'s.
"""

from __future__ import annotations

from typing import Final, TypeVar

import msgspec

T = TypeVar("T")

NOT_DECODABLE: Final = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
"""What msgspec raises for bytes that are not the expected JSON: another shape, no JSON, no UTF-8, nested too deep."""

encode: Final = msgspec.json.Encoder().encode
"""JSON of a value as bytes. Raises TypeError for a type that msgspec does not know."""
encode_any: Final = msgspec.json.Encoder(enc_hook=str).encode
"""JSON of a value as bytes; values of unknown types as their text."""


def decode_or_none(data: bytes, decoder: msgspec.json.Decoder[T]) -> T | None:
    """The decoded value, or None if ``data`` is not what the decoder expects. Never raises."""
    try:
        return decoder.decode(data)
    except NOT_DECODABLE:
        return None
