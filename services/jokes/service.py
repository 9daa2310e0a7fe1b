"""Tells jokes, and takes new ones. They live as long as the instance does."""

import random
from itertools import count
from typing import Annotated

from msgspec import Meta, Struct

from mesh import NotFound, Service

service = Service("jokes", version="1.0.0", description="tells jokes, takes new ones")


class NewJoke(Struct):
    text: Annotated[str, Meta(min_length=1, max_length=500)]


class Joke(Struct):
    id: int
    text: str


_numbers = count(1)
_jokes = {
    joke.id: joke
    for joke in (
        Joke(next(_numbers), "A request walks into a bar. Nobody is listening, and it knows so at once."),
        Joke(next(_numbers), "I would tell you a UDP joke, but the mesh would ask for the reply."),
        Joke(next(_numbers), "Why did the gateway forget its routes? It never had to learn them by heart."),
    )
}


@service.get("/jokes")
async def list_jokes(limit: Annotated[int, Meta(ge=1, le=100)] = 20) -> list[Joke]:
    """The newest jokes first."""
    return list(reversed(_jokes.values()))[:limit]


@service.get("/jokes/random")
async def random_joke() -> Joke:
    """Any joke."""
    return random.choice(list(_jokes.values()))


@service.get("/jokes/{joke_id}")
async def get_joke(joke_id: int) -> Joke:
    """One joke by its number."""
    joke = _jokes.get(joke_id)
    if joke is None:
        raise NotFound(f"there is no joke {joke_id}")
    return joke


@service.post("/jokes", status=201)
async def add_joke(body: NewJoke) -> Joke:
    """Add a joke."""
    joke = Joke(next(_numbers), body.text)
    _jokes[joke.id] = joke
    return joke
