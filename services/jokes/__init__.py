"""Jokes: read one, read them all, add your own."""

from services.jokes.service import service

__all__ = ["service"]
