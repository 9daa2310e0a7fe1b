"""NATS's keys (NKeys): the seed of an Ed25519 key as text, and the signature that a server asks for at login.

A key as text is base32 without padding. For a seed (``SU...``, 58 characters) that encodes::

    2 bytes    prefix: "seed" and whose it is, 5 and 8 bits
    32 bytes   the seed
    2 bytes    CRC-16 of the bytes before, little-endian

The package `nkeys` does the same; it would be one more dependency, for this module only.
"""

from __future__ import annotations

import base64
import binascii

_SEED, _USER = 18 << 3, 20 << 3
_OWNERS = {0: "an account", 13 << 3: "a server", 14 << 3: "an operator", 2 << 3: "a cluster", 23 << 3: "a curve"}


class BadSeed(ValueError):
    """The text is not the seed of a user. The message never contains the text."""


class UserKey:
    """The key of a user. ``public``: its public half as text, which begins with ``U``."""

    def __init__(self, seed: str) -> None:
        """Read a seed, which begins with ``SU``. Raises `BadSeed`."""
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey  # where keys are used only

        self._key = Ed25519PrivateKey.from_private_bytes(_decode(seed))
        raw = bytes([_USER]) + self._key.public_key().public_bytes_raw()
        self.public = _text(raw + binascii.crc_hqx(raw, 0).to_bytes(2, "little"))

    def sign(self, data: bytes) -> bytes:
        """The signature, 64 bytes."""
        return self._key.sign(data)


def _decode(seed: str) -> bytes:
    text = seed.strip()
    try:
        raw = base64.b32decode(text + "=" * (-len(text) % 8))
    except ValueError:
        raise BadSeed("it is no seed of an nkey") from None
    if len(raw) != 36 or raw[0] & 0xF8 != _SEED or binascii.crc_hqx(raw[:-2], 0) != int.from_bytes(raw[-2:], "little"):
        raise BadSeed("it is no seed of an nkey")
    owner = (raw[0] & 7) << 5 | raw[1] >> 3
    if owner != _USER:
        raise BadSeed(f"it is the seed of {_OWNERS.get(owner, 'something else')}, not of a user (SU...)")
    return raw[2:-2]


def _text(raw: bytes) -> str:
    return base64.b32encode(raw).decode().rstrip("=")
