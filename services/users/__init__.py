"""Accounts with unique names; a profile shows the wallet's balance too."""

from services.users.service import service

__all__ = ["service"]
