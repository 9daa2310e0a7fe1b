"""Prints the response to a call: as it is, or on a terminal readable and without what could steer the terminal."""

from __future__ import annotations

import base64
import codecs
import sys
from collections.abc import AsyncIterator
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import click
import msgspec

from mesh import headers
from mesh.cli.bus_command import Missing
from mesh.cli.terminal import Terminal, clean
from mesh.codec import UNREADABLE

if TYPE_CHECKING:
    from mesh.client import Answer
    from mesh.streams import Stream


async def show(answer: Answer, *, head: bool, include: bool, as_json: bool) -> int:
    """Print an answer, a stream piece by piece. Returns the exit code. Raises the error of a stream that breaks."""
    try:
        return await _show(answer, head=head, include=include, as_json=as_json)
    finally:
        if answer.stream is not None:
            answer.stream.close()


async def _show(answer: Answer, *, head: bool, include: bool, as_json: bool) -> int:
    reply, stream = answer.reply, answer.stream if not head else None
    pairs = headers.decode(reply.block)
    status = headers.status_of(pairs)
    if status is None:
        raise Missing(f"the reply has the status {headers.find(pairs, headers.STATUS)!r}")
    body = reply.payload
    if status >= 400 and not body and headers.find(pairs, headers.STATUS) is None:
        # The error of a foreign service is two headers (NATS ADR-32); it is shown as clients of a gateway get it.
        from gateway.header_translation import response

        _, pairs, body = response(reply, "GET")
    if head:
        body = b""
    if as_json:
        if stream is not None:
            body = b"".join([piece async for piece in _pieces(stream)])
        shown = [[n.decode("latin-1"), v.decode("latin-1")] for n, v in pairs if headers.crosses(n)]
        Terminal().json({"status": status, "headers": shown, "body": _decoded(body)})
        return 1 if status >= 400 else 0
    phrase = HTTPStatus(status).phrase if status in HTTPStatus._value2member_map_ else ""
    if include or status >= 400:
        click.echo(f"{status} {phrase}".strip(), err=True)
    if include:
        for name, value in pairs:
            click.echo(f"{clean(name.decode('latin-1'))}: {clean(value.decode('latin-1'))}", err=True)
        click.echo(err=True)
    if stream is None:
        _write(body)
    else:
        await _write_pieces(stream)
    return 1 if status >= 400 else 0


async def _pieces(stream: Stream) -> AsyncIterator[bytes]:
    while (frame := await stream.read()) is not None:
        yield frame.payload


def _decoded(body: bytes) -> Any:
    """The body as part of a JSON document: its value if it is JSON, else its text, else base64."""
    try:
        return msgspec.json.decode(body) if body else None
    except UNREADABLE:
        pass
    try:
        return body.decode()
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(body).decode()}


def _write(body: bytes) -> None:
    """Print the body as it is; on a terminal as text without what could steer it."""
    if not sys.stdout.isatty():
        sys.stdout.buffer.write(body)
        sys.stdout.flush()
        return
    if not body:
        return
    try:
        text = (msgspec.json.format(body, indent=2) if is_json(body) else body).decode()
    except UnicodeDecodeError:
        click.echo(f"{len(body)} bytes that are not text; redirect the output to keep them", err=True)
        return
    sys.stdout.write(_tame(text) + "\n")
    sys.stdout.flush()


async def _write_pieces(stream: Stream) -> None:
    """The same for a stream: each piece is printed when it comes."""
    if not sys.stdout.isatty():
        async for piece in _pieces(stream):
            sys.stdout.buffer.write(piece)
            sys.stdout.flush()
        return
    decode = codecs.getincrementaldecoder("utf-8")().decode
    last = "\n"
    try:
        async for piece in _pieces(stream):
            if text := decode(piece):
                sys.stdout.write(_tame(text))
                sys.stdout.flush()
                last = text[-1]
        decode(b"", True)
        note = ""
    except UnicodeDecodeError:
        note = "the rest is not text; redirect the output to keep it"
    if last != "\n":
        click.echo()
    if note:
        click.echo(note, err=True)


def _tame(text: str) -> str:
    """The text without what could steer a terminal; line feeds and tabs stay."""
    return "\n".join("\t".join(clean(part) for part in line.split("\t")) for line in text.split("\n"))


def is_json(body: bytes) -> bool:
    """True if the body is one JSON document."""
    try:
        msgspec.json.decode(body)
    except UNREADABLE:
        return False
    return True
