"""What `chat` takes and gives: the OpenAI chat-completions form, and the messages of a room."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

# -- completions; clients of that form send more than is read here, so unknown fields are let through


class Part(Struct):
    """A piece of a message's content; only text is read."""

    type: str
    text: str = ""


class Prompt(Struct):
    """One message of the conversation so far."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[Part] | None = None

    @property
    def text(self) -> str:
        """Its content without pictures and the like."""
        if isinstance(self.content, str):
            return self.content
        return "".join(part.text for part in self.content or () if part.type == "text")


class StreamOptions(Struct):
    include_usage: bool = False


class CompletionRequest(Struct):
    messages: Annotated[list[Prompt], Meta(min_length=1)]
    model: str = ""
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    max_tokens: Annotated[int, Meta(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Meta(ge=1)] | None = None

    @property
    def limit(self) -> int | None:
        """Tokens that the answer may have."""
        return self.max_completion_tokens or self.max_tokens


class Usage(Struct):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class Delta(Struct, omit_defaults=True):
    role: str | UnsetType = UNSET
    content: str | UnsetType = UNSET


class ChunkChoice(Struct):
    delta: Delta
    finish_reason: str | None = None
    index: int = 0


class Chunk(Struct):
    """One event of a streamed answer."""

    id: str
    created: int
    model: str
    choices: list[ChunkChoice]
    usage: Usage | UnsetType | None = UNSET
    object: str = "chat.completion.chunk"


class Answer(Struct):
    content: str
    role: str = "assistant"


class Choice(Struct):
    message: Answer
    finish_reason: str
    index: int = 0


class Completion(Struct):
    """An answer as a whole."""

    id: str
    created: int
    model: str
    choices: list[Choice]
    usage: Usage
    object: str = "chat.completion"


class Model(Struct):
    id: str
    owned_by: str
    created: int = 0
    object: str = "model"


class Models(Struct):
    data: list[Model]
    object: str = "list"


# -- rooms

RoomName = Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9-]{0,63}$(?!\n)")]
Name = Annotated[str, Meta(min_length=1, max_length=40, pattern="^[^\\u0000-\\u001f\\u007f]*$(?!\\n)")]
Text = Annotated[str, Meta(min_length=1, max_length=2000, pattern="^[^\\u0000]*$")]
"""Any text; PostgreSQL cannot store NUL."""


class Say(Struct, forbid_unknown_fields=True):
    """What a member sends."""

    text: Text


class Post(Struct, forbid_unknown_fields=True, rename={"author": "from"}):
    """What somebody says who is not there."""

    author: Name
    text: Text


class Message(Struct, tag="message", rename={"author": "from"}):
    """What was said in a room. ``id`` grows."""

    id: int
    room: str
    author: str
    text: str
    at: datetime


class Joined(Struct, tag="joined", rename={"author": "from"}):
    room: str
    author: str


class Left(Struct, tag="left", rename={"author": "from"}):
    room: str
    author: str


class Refused(Struct, tag="error"):
    """Told to the one member whose message was no good; the connection goes on."""

    detail: str


RoomEvent = Message | Joined | Left
"""What the members of a room hear."""
