"""How the answer to a call is shown: as it is, or, on a terminal, so that it is read and steers nothing."""

from __future__ import annotations

import base64
import sys
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import click
import msgspec

from mesh import headers
from mesh.cli.terminal import Terminal, clean
from mesh.cli.view import Missing

if TYPE_CHECKING:
    from mesh.bus import Reply


def show(reply: Reply, *, head: bool, include: bool, as_json: bool) -> int:
    """Print an answer; gives the exit code."""
    pairs = headers.decode(reply.block)
    status = headers.status_of(pairs)
    if status is None:
        raise Missing(f"the reply has the status {headers.find(pairs, headers.STATUS)!r}")
    body = b"" if head else reply.payload
    if as_json:
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
    _write(body)
    return 1 if status >= 400 else 0


def _decoded(body: bytes) -> Any:
    """The body for a JSON document: its value, else its text, else base64."""
    try:
        return msgspec.json.decode(body) if body else None
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        pass
    try:
        return body.decode()
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(body).decode()}


def _write(body: bytes) -> None:
    """The body as it is; on a terminal as text without anything that could steer it."""
    if not sys.stdout.isatty():
        sys.stdout.buffer.write(body)
        sys.stdout.flush()
        return
    if not body:
        return
    try:
        text = (msgspec.json.format(body, indent=2) if is_json(body) else body).decode()
    except UnicodeDecodeError:
        click.echo(f"{len(body)} bytes that are no text; redirect the output to keep them", err=True)
        return
    for line in text.split("\n"):
        sys.stdout.write("\t".join(clean(part) for part in line.split("\t")) + "\n")
    sys.stdout.flush()


def is_json(body: bytes) -> bool:
    """Whether that is one JSON document."""
    try:
        msgspec.json.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return False
    return True
