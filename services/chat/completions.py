"""Who completes chats: a parrot that needs nothing, or a server of the OpenAI form."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from mesh import Event, Response, StreamingResponse, Unavailable
from mesh.subjects import new_id
from services.chat.api import (
    Answer,
    Choice,
    Chunk,
    ChunkChoice,
    Completion,
    CompletionRequest,
    Delta,
    Model,
    Usage,
)

if TYPE_CHECKING:
    import httpx

DONE = Event("[DONE]")
"""The end of a streamed answer."""
_WORDS = re.compile(r"\s*\S+")


class Parrot:
    """Says again what the last user said, word by word. For trying clients without a model, a key or a network."""

    model = Model("parrot", "mesh")

    def __init__(self, token_s: float) -> None:
        self._token_s = token_s

    async def stream(self, request: CompletionRequest) -> AsyncIterator[Event]:
        """The answer as the events of a stream, a word each."""
        id, created = f"chatcmpl-{new_id()}", int(time.time())
        words, finish, usage = self._answer(request)
        wants_usage = request.stream_options is not None and request.stream_options.include_usage

        def chunk(*choices: ChunkChoice, usage: Usage | None = None) -> Event:
            made = Chunk(id, created, self.model.id, list(choices))
            if wants_usage:
                made.usage = usage
            return Event(made)

        yield chunk(ChunkChoice(Delta(role="assistant", content="")))
        for word in words:
            yield chunk(ChunkChoice(Delta(content=word)))
            await asyncio.sleep(self._token_s)
        yield chunk(ChunkChoice(Delta(), finish))
        if wants_usage:
            yield chunk(usage=usage)
        yield DONE

    async def complete(self, request: CompletionRequest) -> Completion:
        """The answer as a whole."""
        words, finish, usage = self._answer(request)
        await asyncio.sleep(self._token_s * len(words))
        choice = Choice(Answer("".join(words)), finish)
        return Completion(f"chatcmpl-{new_id()}", int(time.time()), self.model.id, [choice], usage)

    @staticmethod
    def _answer(request: CompletionRequest) -> tuple[list[str], str, Usage]:
        said = next((m.text for m in reversed(request.messages) if m.role == "user"), "")
        words = _WORDS.findall(said)
        taken = words[: request.limit]
        asked = sum(len(_WORDS.findall(m.text)) for m in request.messages)
        usage = Usage(asked, len(taken), asked + len(taken))
        return taken, "stop" if len(taken) == len(words) else "length", usage


class Upstream:
    """Passes requests on, as they are, to a server of the OpenAI form, and its answers back, piece by piece."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self._client = client

    async def post(self, body: bytes, timeout_s: float) -> Response:
        """The answer of ``/chat/completions``, or 503 in its form where the server cannot be reached."""
        import httpx

        timeout = httpx.Timeout(timeout_s, read=None)
        request = self._client.build_request(
            "POST", "chat/completions", content=body, headers={"content-type": "application/json"}, timeout=timeout
        )
        try:
            async with asyncio.timeout(timeout_s):
                answer = await self._client.send(request, stream=True)
        except (httpx.TransportError, TimeoutError) as error:
            return refusal(503, _away(error), "upstream_unavailable")
        kind = answer.headers.get("content-type", "application/json")
        return StreamingResponse(self._pieces(answer), answer.status_code, {"cache-control": "no-store"}, kind)

    async def models(self) -> bytes:
        """The answer of ``/models``. Raises `Unavailable`."""
        import httpx

        try:
            return (await self._client.get("models")).raise_for_status().content
        except httpx.HTTPError as error:
            raise Unavailable(_away(error), reason="upstream_unavailable") from error

    @staticmethod
    async def _pieces(answer: httpx.Response) -> AsyncIterator[bytes]:
        try:
            async for piece in answer.aiter_bytes():
                yield piece
        finally:
            await answer.aclose()  # the reader has gone: the model need not go on


def refusal(status: int, message: str, code: str) -> Response:
    """An error as clients of the OpenAI form read it."""
    return Response(
        {
            "error": {
                "message": message,
                "type": "server_error" if status >= 500 else "invalid_request_error",
                "code": code,
            }
        },
        status,
    )


def _away(error: Exception) -> str:
    return f"the server at CHAT_UPSTREAM_URL did not answer: {str(error) or type(error).__name__}"
