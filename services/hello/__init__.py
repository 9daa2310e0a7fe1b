"""The smallest service: it greets, and says which of its instances did."""

from services.hello.service import service

__all__ = ["service"]
