"""Chat: completions in the OpenAI form, and rooms over WebSocket."""

from services.chat.service import service

__all__ = ["service"]
