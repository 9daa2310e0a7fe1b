"""The routes of `users`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated

from msgspec import Meta, Struct

from mesh import Context, Depends, MeshError, Response, Service
from services.schema import opened
from services.users.api import Change, NewUser, Profile, User, UserId, UserPage
from services.users.config import UsersSettings, load_settings
from services.users.models import SCHEMA
from services.users.store import Users

service = Service("users", version="1.0.0", description="accounts with unique names")


async def open_users() -> AsyncIterator[Users]:
    """The accounts, for as long as the instance lives."""
    async with opened(load_settings(), SCHEMA) as database:
        yield Users(database)


def read_settings() -> UsersSettings:
    """The settings, read at start."""
    return load_settings()


Store = Annotated[Users, Depends(open_users, scope="service")]
Settings = Annotated[UsersSettings, Depends(read_settings, scope="service")]


class Balance(Struct):
    """The part of the wallet's answer that is needed here."""

    balance: int


@service.post("/users", status=201, tags=("users",))
async def create_user(body: NewUser, store: Store) -> Response:
    """Open an account; 409 where the name is taken."""
    user = await store.add(body)
    return Response(user, 201, headers={"location": f"/users/{user.id}"})


@service.get("/users", tags=("users",))
async def list_users(
    store: Store,
    name: Annotated[str, Meta(max_length=40, pattern="^[^\\u0000]*$")] = "",
    limit: Annotated[int, Meta(ge=1, le=100)] = 20,
    after: Annotated[int, Meta(ge=0, le=2**53 - 1)] = 0,
) -> UserPage:
    """Users by number, also only those whose names begin with `name`."""
    return await store.find(name, limit, after)


@service.get("/users/{user_id}", tags=("users",))
async def get_user(user_id: UserId, store: Store) -> User:
    """One account; other services call this too."""
    return await store.get(user_id)


@service.patch("/users/{user_id}", tags=("users",))
async def change_user(user_id: UserId, body: Change, store: Store) -> User:
    """Change the name, the text about the user, or both."""
    return await store.change(user_id, body)


@service.delete("/users/{user_id}", status=204, tags=("users",))
async def delete_user(user_id: UserId, store: Store) -> None:
    """Close an account. Its number is never given again, and the wallet keeps its ledger."""
    await store.remove(user_id)


@service.get("/users/{user_id}/profile", tags=("users",))
async def profile(user_id: UserId, store: Store, settings: Settings, ctx: Context) -> Profile:
    """The account with its balance; without one, and a note, while the wallet is away."""
    user = await store.get(user_id)
    try:
        found = await ctx.call("wallet", "balance", user_id=user_id, returns=Balance, timeout=settings.wallet_timeout_s)
    except MeshError as error:
        ctx.log.warning("profile without a balance: %s (%s)", error.detail, error.reason)
        return Profile(user, None, f"the wallet does not answer ({error.reason})")
    return Profile(user, found.balance)
