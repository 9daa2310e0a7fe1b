"""What `wallet` takes and gives. Amounts are whole numbers of the smallest unit."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from msgspec import Meta, Struct

from services.wallet.models import MAX

UserId = Annotated[int, Meta(ge=1, le=2**53 - 1)]
Amount = Annotated[int, Meta(ge=1, le=MAX)]
Note = Annotated[str, Meta(max_length=200, pattern="^[^\\u0000]*$")]
"""Any text; PostgreSQL cannot store NUL."""
Key = Annotated[str, Meta(pattern=r"^[!-~]{0,200}$(?!\n)")]


class Order(Struct, forbid_unknown_fields=True):
    """A credit or a debit."""

    amount: Amount
    note: Note = ""


class Transfer(Struct, forbid_unknown_fields=True):
    from_user: UserId
    to_user: UserId
    amount: Amount
    note: Note = ""


class Balance(Struct):
    user_id: int
    balance: int


class Entry(Struct):
    """One line of the ledger; ``balance`` is what the user had after it."""

    id: int
    user_id: int
    amount: int
    balance: int
    kind: str
    note: str
    peer: int | None
    """The other side of a transfer."""
    at: datetime


class History(Struct):
    entries: list[Entry]
    next: int | None
    """The ``before`` of the next page; null on the last one."""


class Audit(Struct):
    accounts: int
    total: int
    wrong: list[int]
    """Users whose balance is not the sum of their entries: always none."""
