"""What `users` takes and gives."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from msgspec import UNSET, Meta, Struct, UnsetType

UserId = Annotated[int, Meta(ge=1, le=2**53 - 1)]
Name = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=40,
        pattern=r"^\w[\w.-]*$(?!\n)",
        description="letters, digits, '_', '.' and '-'; unique whatever the case",
    ),
]
About = Annotated[str, Meta(max_length=500, pattern="^[^\\u0000]*$")]
"""Any text; PostgreSQL cannot store NUL."""


class NewUser(Struct, forbid_unknown_fields=True):
    name: Name
    about: About = ""


class Change(Struct, forbid_unknown_fields=True):
    """What is not given stays as it is."""

    name: Name | UnsetType = UNSET
    about: About | UnsetType = UNSET


class User(Struct):
    id: int
    name: str
    about: str
    created_at: datetime


class UserPage(Struct):
    users: list[User]
    next: int | None
    """The ``after`` of the next page; null on the last one."""


class Profile(Struct):
    user: User
    balance: int | None
    note: str = ""
    """Why there is no balance."""
