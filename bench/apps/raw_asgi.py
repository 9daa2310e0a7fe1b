"""The floor: no framework, no validation, no bus."""

import asyncio
import json
from typing import Any

from bench.apps.shared import BLOBS, EVENT, EVENT_S, ITEM


async def app(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] != "http":
        return
    if scope["path"] == "/events":
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
        while True:
            await send({"type": "http.response.body", "body": b"data: %b\n\n" % EVENT.encode(), "more_body": True})
            await asyncio.sleep(EVENT_S)
    body = b""
    while scope["method"] == "POST":
        message = await receive()
        body += message["body"]
        if not message["more_body"]:
            break
    if scope["method"] == "GET":
        last = scope["path"].rpartition("/")[2]
        made = (
            BLOBS[int(last)] if scope["path"].startswith("/blobs/") else json.dumps({"id": int(last), **ITEM}).encode()
        )
    else:
        made = str(len(body)).encode() if scope["path"] == "/blobs" else body
    head = [(b"content-length", b"%d" % len(made)), (b"content-type", b"application/json")]
    await send({"type": "http.response.start", "status": 200, "headers": head})
    await send({"type": "http.response.body", "body": made})
