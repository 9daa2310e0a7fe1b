"""The routes of `jokes`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated

from msgspec import Meta, Struct

from mesh import Depends, Service
from services.jokes.config import load_settings
from services.jokes.models import SCHEMA
from services.jokes.store import Category, Joke, Jokes
from services.schema import opened

service = Service("jokes", version="1.1.0", description="tells jokes, takes new ones")

CategoryName = Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9-]{0,31}$(?!\n)")]


class NewJoke(Struct, forbid_unknown_fields=True):
    text: Annotated[str, Meta(min_length=1, max_length=500, pattern="^[^\\u0000]*$")]
    category: CategoryName = "general"


async def open_jokes() -> AsyncIterator[Jokes]:
    """The jokes, for as long as the instance lives."""
    async with opened(load_settings(), SCHEMA) as database:
        yield Jokes(database)


Store = Annotated[Jokes, Depends(open_jokes, scope="service")]


@service.get("/jokes", tags=("jokes",))
async def list_jokes(
    store: Store,
    category: CategoryName = "",
    limit: Annotated[int, Meta(ge=1, le=100)] = 20,
) -> list[Joke]:
    """The newest jokes first."""
    return await store.newest(category, limit)


@service.get("/jokes/random", tags=("jokes",))
async def random_joke(store: Store, category: CategoryName = "") -> Joke:
    """Any joke."""
    return await store.any(category)


@service.get("/jokes/categories", tags=("jokes",))
async def list_categories(store: Store) -> list[Category]:
    """What there are jokes about."""
    return await store.categories()


@service.get("/jokes/{joke_id}", tags=("jokes",))
async def get_joke(joke_id: Annotated[int, Meta(ge=1, le=2**53 - 1)], store: Store) -> Joke:
    """One joke by its number."""
    return await store.get(joke_id)


@service.post("/jokes", status=201, tags=("jokes",))
async def add_joke(body: NewJoke, store: Store) -> Joke:
    """Add a joke."""
    return await store.add(body.text, body.category)
