"""Accounts: their routes, their names, and what a profile says while the wallet is away."""

import asyncio
from contextlib import asynccontextmanager

import pytest

from mesh import Conflict, NotFound, Service
from services.database import Database
from services.schema import upgrade
from services.urls import parse_url
from services.users import service as users
from services.users.api import Change, NewUser
from services.users.models import SCHEMA
from services.users.store import Users


@asynccontextmanager
async def stores(url, count=2):
    """As many instances as ``count``, each with connections of its own."""
    opened = [Database(parse_url(url)) for _ in range(count)]
    try:
        for database in opened:
            await database.__aenter__()
        await upgrade(opened[0], SCHEMA)
        yield [Users(database) for database in opened]
    finally:
        for database in opened:
            await database.aclose()


async def test_of_many_who_ask_for_a_name_one_gets_it(database_url):
    async with stores(database_url) as (one, two):
        names = ["Ada", "ADA", "ada", "aDa"] * 4
        asked = [(one if n % 2 else two).add(NewUser(name)) for n, name in enumerate(names)]
        found = await asyncio.gather(*asked, return_exceptions=True)
        refused = [error for error in found if isinstance(error, Conflict)]
        assert len(refused) == len(names) - 1
        assert {error.reason for error in refused} == {"name_taken"}
        assert len((await one.find("", 100, 0)).users) == 1


async def test_of_many_who_change_to_a_name_one_gets_it(database_url):
    async with stores(database_url) as (one, two):
        ids = [(await one.add(NewUser(f"user{n}"))).id for n in range(6)]
        asked = [(one if user % 2 else two).change(user, Change(name="Grace")) for user in ids]
        found = await asyncio.gather(*asked, return_exceptions=True)
        assert sum(isinstance(error, Conflict) for error in found) == 5
        assert len((await one.find("GRACE", 100, 0)).users) == 1


@pytest.mark.parametrize(("one", "other"), [("Straße", "STRASSE"), ("ﬁn", "FIN"), ("Ångström", "ångström")])
async def test_names_that_people_take_for_the_same(database_url, one, other):
    async with stores(database_url, 1) as (store,):
        await store.add(NewUser(one))
        with pytest.raises(Conflict):
            await store.add(NewUser(other))


async def test_a_number_is_never_given_twice(database_url):
    async with stores(database_url, 1) as (store,):
        first = await store.add(NewUser("first"))
        await store.remove(first.id)
        assert (await store.add(NewUser("first"))).id > first.id
        with pytest.raises(NotFound):
            await store.get(first.id)


async def test_pages_by_the_beginning_of_a_name(database_url):
    async with stores(database_url, 1) as (store,):
        for name in ("a_1", "Ab2", "A_3", "b_4", "a_5"):
            await store.add(NewUser(name))
        page = await store.find("A_", 2, 0)  # "_" and "%" are themselves
        assert [user.name for user in page.users] == ["a_1", "A_3"]
        page = await store.find("A_", 2, page.next)
        assert ([user.name for user in page.users], page.next) == (["a_5"], None)
        assert (await store.find("%", 2, 0)).users == []


async def test_routes(mesh, client, environment):
    await mesh.start(users)
    await mesh.start(users)
    made = await mesh.http.post("/users", json={"name": "Ada", "about": "counts"})
    assert made.status_code == 201
    where = made.headers["location"]
    assert where == f"/users/{made.json()['id']}"
    got = await mesh.http.get(where)
    assert got.json() == made.json()
    assert got.json()["created_at"].endswith("Z")
    taken = await mesh.http.post("/users", json={"name": "ADA"})
    assert (taken.status_code, taken.json()["reason"]) == (409, "name_taken")
    await mesh.http.post("/users", json={"name": "Grace"})
    assert (await mesh.http.patch(where, json={"name": "grace"})).status_code == 409
    changed = await mesh.http.patch(where, json={"name": "ada"})
    assert (changed.json()["name"], changed.json()["about"]) == ("ada", "counts")
    assert (await mesh.http.patch(where, json={})).json() == changed.json()
    listed = (await mesh.http.get("/users?limit=1")).json()
    assert [user["name"] for user in listed["users"]] == ["ada"]
    rest = (await mesh.http.get(f"/users?limit=1&after={listed['next']}")).json()
    assert ([user["name"] for user in rest["users"]], rest["next"]) == (["Grace"], None)
    assert [user["name"] for user in (await mesh.http.get("/users?name=GR")).json()["users"]] == ["Grace"]
    assert (await client.call("users", "get_user", user_id=made.json()["id"]))["name"] == "ada"
    assert (await mesh.http.delete(where)).status_code == 204
    for gone in (mesh.http.get(where), mesh.http.delete(where), mesh.http.patch(where, json={"about": "x"})):
        answer = await gone
        assert (answer.status_code, answer.json()["reason"]) == (404, "no_such_user")


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"name": ""},
        {"name": "two words"},
        {"name": "line\n"},
        {"name": ".hidden"},
        {"name": "n" * 41},
        {"name": "nul\0"},
        {"name": "ok", "about": "nul\0"},
        {"name": "ok", "role": "admin"},
    ],
)
async def test_what_is_no_account(mesh, monkeypatch, body):
    monkeypatch.setenv("DATABASE_URL", "sqlite://")
    await mesh.start(users)
    answer = await mesh.http.post("/users", json=body)
    assert answer.status_code == 422
    assert answer.json()["errors"]


async def test_numbers_and_names_that_no_database_has(mesh, environment):
    await mesh.start(users)
    for path in ("/users/0", f"/users/{2**63}", "/users/x", "/users?name=%00", "/users?limit=101", "/users?after=-1"):
        assert (await mesh.http.get(path)).status_code in (400, 422), path
    assert (await mesh.http.get(f"/users/{2**53 - 1}")).status_code == 404


def some_wallet(balance):
    service = Service("wallet", version="1.0.0")

    @service.endpoint(name="balance")
    async def tell(user_id: int) -> dict[str, int]:
        if balance is None:
            await asyncio.sleep(5)
        return {"user_id": user_id, "balance": balance}

    return service


async def test_a_profile_has_the_balance_or_says_why_not(mesh, monkeypatch):
    monkeypatch.setenv("DATABASE_URL", "sqlite://")
    await mesh.start(users)
    where = (await mesh.http.post("/users", json={"name": "Ada"})).headers["location"]
    without = (await mesh.http.get(f"{where}/profile")).json()
    assert without["user"]["name"] == "Ada"
    assert without["balance"] is None
    assert without["note"].startswith("the wallet does not answer (no_")
    wallet = await mesh.start(some_wallet(250))
    profile = (await mesh.http.get(f"{where}/profile")).json()
    assert (profile["balance"], profile["note"]) == (250, "")
    await wallet.drain()
    assert (await mesh.http.get(f"{where}/profile")).json()["balance"] is None
    assert (await mesh.http.get("/users/99/profile")).status_code == 404


async def test_a_profile_does_not_wait_for_a_slow_wallet(mesh, monkeypatch):
    monkeypatch.setenv("DATABASE_URL", "sqlite://")
    monkeypatch.setenv("USERS_WALLET_TIMEOUT_S", "0.1")
    await mesh.start(users)
    await mesh.start(some_wallet(None), drain_s=0.1)
    where = (await mesh.http.post("/users", json={"name": "Ada"})).headers["location"]
    profile = (await mesh.http.get(f"{where}/profile")).json()
    assert profile["balance"] is None
    assert "deadline_exceeded" in profile["note"]
