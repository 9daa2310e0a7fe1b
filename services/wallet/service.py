"""The routes of `wallet`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated

from msgspec import Meta, Struct

from mesh import Context, Depends, Header, Service
from services.schema import opened
from services.wallet.api import Audit, Balance, Entry, History, Key, Order, Transfer, UserId
from services.wallet.config import WalletSettings, load_settings
from services.wallet.models import MAX, SCHEMA
from services.wallet.store import Ledger

service = Service("wallet", version="1.0.0", description="a ledger of whole amounts")


async def open_ledger() -> AsyncIterator[Ledger]:
    """The ledger, for as long as the instance lives."""
    async with opened(load_settings(), SCHEMA) as database:
        yield Ledger(database)


def read_settings() -> WalletSettings:
    """The settings, read at start."""
    return load_settings()


Store = Annotated[Ledger, Depends(open_ledger, scope="service")]
Settings = Annotated[WalletSettings, Depends(read_settings, scope="service")]
IdempotencyKey = Annotated[Key, Header("Idempotency-Key")]


class Known(Struct):
    """The part of the users' answer that is needed here."""

    id: int


async def check_user(ctx: Context, ledger: Ledger, user_id: int) -> None:
    """Ask `users`, before somebody's first entry, whether there is such a user.

    Raises `NotFound`; `Unavailable` while `users` is away: without an answer no money moves.
    """
    if not await ledger.has_account(user_id):
        await ctx.call("users", "get_user", user_id=user_id, returns=Known)


@service.post("/wallet/transfer", status=201, tags=("wallet",))
async def transfer(body: Transfer, ledger: Store, ctx: Context, idempotency_key: IdempotencyKey = "") -> Entry:
    """Move an amount between two users: all of it or nothing."""
    await check_user(ctx, ledger, body.from_user)
    await check_user(ctx, ledger, body.to_user)
    return await ledger.transfer(body.from_user, body.to_user, body.amount, body.note, idempotency_key)


@service.post("/wallet/{user_id}/credit", status=201, tags=("wallet",))
async def credit(
    user_id: UserId, body: Order, ledger: Store, ctx: Context, idempotency_key: IdempotencyKey = ""
) -> Entry:
    """Put an amount in."""
    await check_user(ctx, ledger, user_id)
    return await ledger.credit(user_id, body.amount, body.note, idempotency_key)


@service.post("/wallet/{user_id}/debit", status=201, tags=("wallet",))
async def debit(
    user_id: UserId, body: Order, ledger: Store, ctx: Context, idempotency_key: IdempotencyKey = ""
) -> Entry:
    """Take an amount out, if there is that much."""
    await check_user(ctx, ledger, user_id)
    return await ledger.debit(user_id, body.amount, body.note, idempotency_key)


@service.post("/wallet/{user_id}/daily", status=201, tags=("wallet",))
async def daily(user_id: UserId, ledger: Store, settings: Settings, ctx: Context) -> Entry:
    """Claim the daily amount: once in a UTC day."""
    await check_user(ctx, ledger, user_id)
    return await ledger.claim(user_id, settings.daily_amount)


@service.get("/wallet/{user_id}", tags=("wallet",))
async def balance(user_id: UserId, ledger: Store) -> Balance:
    """What a user has: 0 for one without entries, whether `users` knows him or not."""
    return await ledger.balance(user_id)


@service.get("/wallet/{user_id}/history", tags=("wallet",))
async def history(
    user_id: UserId,
    ledger: Store,
    limit: Annotated[int, Meta(ge=1, le=100)] = 20,
    before: Annotated[int, Meta(ge=1, le=MAX)] = MAX,
) -> History:
    """A user's entries, the newest first."""
    return await ledger.history(user_id, limit, before)


@service.endpoint()
async def audit(ledger: Store) -> Audit:
    """Compare every balance with the sum of its entries: `mesh call wallet audit`."""
    return await ledger.audit()
