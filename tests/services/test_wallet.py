"""The ledger: no money is made, lost or spent twice, whoever asks at the same moment, on either database."""

import asyncio
import sys
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from random import Random

import pytest
from sqlalchemy import delete, update
from sqlalchemy.exc import DBAPIError

from mesh import Conflict, Invalid, NotFound, Service
from services.database import Database
from services.schema import upgrade
from services.urls import parse_url
from services.wallet import service as wallet
from services.wallet.models import MAX, SCHEMA, accounts, entries
from services.wallet.store import Ledger

NOON = datetime(2024, 2, 29, 12, tzinfo=UTC)


@asynccontextmanager
async def ledgers(url, count=2, now=lambda: NOON):
    """As many instances as ``count``, each with connections of its own."""
    opened = [Database(parse_url(url)) for _ in range(count)]
    try:
        for database in opened:
            await database.__aenter__()
        await upgrade(opened[0], SCHEMA)
        yield [Ledger(database, now) for database in opened]
    finally:
        for database in opened:
            await database.aclose()


async def outcomes(calls):
    """What each of the concurrent calls gave or raised."""
    found = await asyncio.gather(*calls, return_exceptions=True)
    for error in found:
        if isinstance(error, BaseException) and not isinstance(error, Conflict | Invalid):
            raise error
    return found


def accepted(found):
    return [entry for entry in found if not isinstance(entry, Exception)]


def reasons(found):
    return {error.reason for error in found if isinstance(error, Exception)}


async def test_concurrent_debits_of_two_instances_never_overdraw(database_url):
    async with ledgers(database_url) as (one, two):
        await one.credit(1, 1000)
        found = await outcomes([ledger.debit(1, 100) for ledger in (one, two) for _ in range(15)])
        assert len(accepted(found)) == 10
        assert reasons(found) == {"insufficient_funds"}
        assert sorted(entry.balance for entry in accepted(found)) == list(range(0, 1000, 100))
        assert (await two.balance(1)).balance == 0
        assert (await one.audit()).wrong == []


async def test_a_key_sent_many_times_at_once_counts_once(database_url):
    async with ledgers(database_url) as (one, two):
        found = await outcomes([ledger.credit(1, 70, "bonus", "k1") for ledger in (one, two) for _ in range(10)])
        assert len({entry.id for entry in found}) == 1
        await outcomes([ledger.debit(1, 50, "", "k2") for ledger in (one, two) for _ in range(10)])
        assert (await one.balance(1)).balance == 20
        assert len((await one.history(1, 100)).entries) == 2


async def test_a_key_stands_for_one_request_of_one_user(database_url):
    async with ledgers(database_url, 1) as (ledger,):
        first = await ledger.credit(1, 70, "", "key")
        assert await ledger.credit(1, 70, "", "key") == first
        for ask, amount, note in ((ledger.credit, 71, ""), (ledger.debit, 70, ""), (ledger.credit, 70, "other")):
            with pytest.raises(Invalid) as caught:
                await ask(1, amount, note, "key")
            assert caught.value.reason == "idempotency_key_reused"
        assert (await ledger.credit(2, 70, "", "key")).id != first.id
        assert (await ledger.balance(1)).balance == 70


async def test_two_requests_with_one_key_at_once_are_one_and_a_refusal(database_url):
    async with ledgers(database_url) as (one, two):
        found = await outcomes([one.credit(1, 70, "", "key"), two.credit(1, 80, "", "key")])
        assert len(accepted(found)) == 1
        assert reasons(found) == {"idempotency_key_reused"}
        assert (await one.balance(1)).balance == accepted(found)[0].amount


async def test_a_refused_request_leaves_its_key_free(database_url):
    async with ledgers(database_url, 1) as (ledger,):
        with pytest.raises(Conflict):
            await ledger.debit(1, 10, "", "key")
        await ledger.credit(1, 30)
        assert (await ledger.debit(1, 10, "", "key")).balance == 20


async def test_transfers_in_both_directions_at_once_keep_the_sum(database_url):
    async with ledgers(database_url) as (one, two):
        for user in (1, 2, 3):
            await one.credit(user, 100)
        pairs = [(1, 2), (2, 1), (2, 3), (3, 1), (1, 3), (3, 2)] * 4
        found = await outcomes([(one if n % 2 else two).transfer(a, b, 30 + n % 5) for n, (a, b) in enumerate(pairs)])
        assert reasons(found) <= {"insufficient_funds"}
        audit = await one.audit()
        assert (audit.total, audit.wrong) == (300, [])


async def test_a_transfer_is_whole_or_not_at_all(database_url):
    async with ledgers(database_url, 1) as (ledger,):
        await ledger.credit(2, 10)
        await ledger.credit(1, MAX)
        with pytest.raises(Conflict) as caught:
            await ledger.transfer(2, 1, 5)  # the sender's row is locked last; the receiver has no room
        assert caught.value.reason == "balance_limit"
        with pytest.raises(Conflict):
            await ledger.transfer(2, 3, 11)
        with pytest.raises(Invalid):
            await ledger.transfer(2, 2, 5)
        assert (await ledger.balance(2)).balance == 10
        assert not await ledger.has_account(3)
        sent = await ledger.transfer(1, 2, 5, "thanks", "t")
        assert (sent.user_id, sent.amount, sent.peer, sent.balance) == (1, -5, 2, MAX - 5)
        assert await ledger.transfer(1, 2, 5, "thanks", "t") == sent
        assert (await ledger.balance(2)).balance == 15


async def test_the_daily_amount_is_claimed_once_a_day(database_url):
    clock = [NOON]
    async with ledgers(database_url, now=lambda: clock[0]) as (one, two):
        found = await outcomes([ledger.claim(1, 100) for ledger in (one, two) for _ in range(10)])
        assert len(accepted(found)) == 1
        assert reasons(found) == {"already_claimed"}
        refused = next(error for error in found if isinstance(error, Conflict))
        assert refused.extra["next"] == "2024-03-01T00:00:00+00:00"
        clock[0] = NOON + timedelta(hours=11, minutes=59)
        with pytest.raises(Conflict):
            await one.claim(1, 100)
        clock[0] = NOON + timedelta(hours=12)
        assert (await two.claim(1, 100)).balance == 200


@pytest.mark.parametrize("seed", range(3))
async def test_the_balance_is_the_sum_of_the_ledger_after_anything(database_url, seed):
    random = Random(seed)
    async with ledgers(database_url) as instances:

        async def something():
            ledger, user, amount = random.choice(instances), random.randint(1, 3), random.choice([1, 7, 100, MAX])
            key = random.choice(["", "", f"k{random.randint(1, 9)}"])
            step = random.randint(0, 3)
            if step == 0:
                return await ledger.credit(user, amount, "", key)
            if step == 1:
                return await ledger.debit(user, amount, "", key)
            if step == 2:
                return await ledger.transfer(user, random.randint(1, 4), amount, "", key)
            return await ledger.claim(user, amount)

        for _ in range(12):
            found = await outcomes([something() for _ in range(8)])
            assert accepted(found) or reasons(found)
            assert (await instances[0].audit()).wrong == []
        for user in (1, 2, 3):
            lines = (await instances[1].history(user, 100)).entries[::-1]
            running = 0
            for line in lines:
                running += line.amount
                assert line.balance == running  # also every line says what was there after it
                assert 0 <= running <= MAX


async def test_history_pages_backwards(database_url):
    async with ledgers(database_url, 1) as (ledger,):
        for amount in range(1, 6):
            await ledger.credit(1, amount)
            await ledger.credit(2, amount)
        pages, before = [], MAX
        while before:
            page = await ledger.history(1, 2, before)
            pages.append([entry.amount for entry in page.entries])
            before = page.next
        assert pages == [[5, 4], [3, 2], [1]]


async def test_the_database_itself_refuses(database_url):
    async with ledgers(database_url, 1) as (ledger,):
        await ledger.credit(1, 5)
        database = ledger._database
        for statement in (
            update(accounts).values(balance=-1),
            update(accounts).values(balance=MAX + 1),
            update(entries).values(amount=6),
            delete(entries),
        ):
            with pytest.raises(DBAPIError):
                async with database.writing() as connection:
                    await connection.execute(statement)
        assert (await ledger.audit()).wrong == []


WORKER = """
import asyncio, sys
from mesh import Conflict
from services.database import Database
from services.urls import parse_url
from services.wallet.store import Ledger

async def main():
    async with Database(parse_url(sys.argv[1])) as database:
        ledger = Ledger(database)
        print("ready", flush=True)
        sys.stdin.readline()

        async def spend(n):
            try:
                await ledger.debit(1, 7)
            except Conflict:
                return 0
            await ledger.credit(2, 1, "", f"seen {n}")
            return 1

        print(sum(await asyncio.gather(*(spend(n) for n in range(40)))))

asyncio.run(main())
"""


async def test_processes_that_spend_at_once_never_overdraw(database_url):
    async with ledgers(database_url, 1) as (ledger,):
        await ledger.credit(1, 300)
        workers = [
            await asyncio.create_subprocess_exec(
                sys.executable,
                "-c",
                WORKER,
                database_url,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
            )
            for _ in range(3)
        ]
        for worker in workers:
            assert await worker.stdout.readline() == b"ready\n"
        spent = [int(out) for out, _ in await asyncio.gather(*(worker.communicate(b"go\n") for worker in workers))]
        assert [worker.returncode for worker in workers] == [0, 0, 0]
        assert sum(spent) == 300 // 7
        assert (await ledger.balance(1)).balance == 300 % 7
        audit = await ledger.audit()
        assert audit.wrong == []
        assert audit.total == 300 - 7 * sum(spent) + (await ledger.balance(2)).balance


CREDITOR = """
import asyncio, itertools, sys
from services.database import Database
from services.urls import parse_url
from services.wallet.store import Ledger

async def main():
    async with Database(parse_url(sys.argv[1])) as database:
        for number in itertools.count():
            await Ledger(database).credit(1, 1, "", f"n{number}")
            print(number, flush=True)

asyncio.run(main())
"""


async def test_a_killed_process_leaves_whole_transactions_and_keys_that_hold(database_url):
    async with ledgers(database_url, 1) as (ledger,):
        worker = await asyncio.create_subprocess_exec(
            sys.executable, "-c", CREDITOR, database_url, stdout=asyncio.subprocess.PIPE
        )
        acknowledged = -1
        while acknowledged < 20:
            acknowledged = int(await worker.stdout.readline())
        worker.kill()
        rest, _ = await worker.communicate()
        whole = rest[: rest.rfind(b"\n") + 1].split()
        acknowledged = int(whole[-1]) if whole else acknowledged
        assert (await ledger.audit()).wrong == []
        assert (await ledger.balance(1)).balance in (acknowledged + 1, acknowledged + 2)
        for number in range(acknowledged + 2):  # the one that nobody heard about may have been executed, or not
            await ledger.credit(1, 1, "", f"n{number}")
        assert (await ledger.balance(1)).balance == acknowledged + 2


# -- over the mesh


def some_users(*known):
    service = Service("users", version="1.0.0")
    service.asked = []

    @service.get("/users/{user_id}")
    async def get_user(user_id: int) -> dict[str, int]:
        service.asked.append(user_id)
        if user_id not in known:
            raise NotFound(f"there is no user {user_id}", reason="no_such_user")
        return {"id": user_id}

    return service


async def test_routes(mesh, client, environment):
    users = some_users(1, 2)
    await mesh.start(users)
    await mesh.start(wallet)
    await mesh.start(wallet)
    key = {"Idempotency-Key": "first"}
    for _ in range(4):  # whichever instance has it
        answer = await mesh.http.post("/wallet/1/credit", json={"amount": 500, "note": "hello"}, headers=key)
        assert answer.status_code == 201
        assert answer.json()["balance"] == 500
    assert users.asked == [1]
    reused = await mesh.http.post("/wallet/1/credit", json={"amount": 501}, headers=key)
    assert (reused.status_code, reused.json()["reason"]) == (422, "idempotency_key_reused")
    poor = await mesh.http.post("/wallet/1/debit", json={"amount": 501})
    assert (poor.status_code, poor.json()["reason"]) == (409, "insufficient_funds")
    assert (await mesh.http.post("/wallet/1/debit", json={"amount": 100})).json()["amount"] == -100
    moved = await mesh.http.post("/wallet/transfer", json={"from_user": 1, "to_user": 2, "amount": 150})
    assert (moved.status_code, moved.json()["peer"]) == (201, 2)
    assert (await mesh.http.post("/wallet/2/daily")).json()["balance"] == 250
    again = await mesh.http.post("/wallet/2/daily")
    assert (again.status_code, again.json()["reason"]) == (409, "already_claimed")
    assert (await mesh.http.get("/wallet/2")).json() == {"user_id": 2, "balance": 250}
    history = (await mesh.http.get("/wallet/2/history")).json()
    assert [entry["kind"] for entry in history["entries"]] == ["daily", "transfer"]
    assert history["next"] is None
    assert (await client.call("wallet", "audit")) == {"accounts": 2, "total": 500, "wrong": []}
    order = {"user_id": 1, "body": {"amount": 1}, "idempotency_key": "over-the-bus"}
    paid = await client.call("wallet", "debit", **order)
    assert paid == await client.call("wallet", "debit", **order)


async def test_no_money_for_nobody_and_none_without_an_answer(mesh, environment):
    users = await mesh.start(some_users(1))
    await mesh.start(wallet)
    unknown = await mesh.http.post("/wallet/9/credit", json={"amount": 5})
    assert (unknown.status_code, unknown.json()["reason"]) == (404, "no_such_user")
    await mesh.http.post("/wallet/1/credit", json={"amount": 5})
    gone = await mesh.http.post("/wallet/transfer", json={"from_user": 1, "to_user": 9, "amount": 5})
    assert gone.status_code == 404
    await users.drain()
    away = await mesh.http.post("/wallet/2/credit", json={"amount": 5})
    assert away.status_code == 503
    assert (await mesh.http.get("/wallet/2")).json()["balance"] == 0
    known = await mesh.http.post("/wallet/1/credit", json={"amount": 5})  # had an entry: nobody needs to be asked
    assert known.json()["balance"] == 10


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/wallet/1/credit", {"amount": 0}),
        ("/wallet/1/credit", {"amount": -5}),
        ("/wallet/1/credit", {"amount": 1.5}),
        ("/wallet/1/credit", {"amount": "5"}),
        ("/wallet/1/credit", {"amount": 2**53}),
        ("/wallet/1/credit", {"amount": 10**30}),
        ("/wallet/1/credit", {"amount": True}),
        ("/wallet/1/credit", {"amount": 5, "currency": "EUR"}),
        ("/wallet/1/credit", {"amount": 5, "note": "\0"}),
        ("/wallet/0/credit", {"amount": 5}),
        (f"/wallet/{2**70}/credit", {"amount": 5}),
        ("/wallet/transfer", {"from_user": 1, "to_user": 1, "amount": 5}),
    ],
)
async def test_what_is_no_order(mesh, monkeypatch, path, body):
    monkeypatch.setenv("DATABASE_URL", "sqlite://")
    await mesh.start(some_users(1))
    await mesh.start(wallet)
    assert (await mesh.http.post(path, json=body)).status_code == 422
    assert (await mesh.http.get("/wallet/1")).json()["balance"] == 0


async def test_an_unusable_key(mesh, monkeypatch):
    monkeypatch.setenv("DATABASE_URL", "sqlite://")
    await mesh.start(some_users(1))
    await mesh.start(wallet)
    for key in ("k" * 201, "two words"):
        answer = await mesh.http.post("/wallet/1/credit", json={"amount": 5}, headers={"Idempotency-Key": key})
        assert answer.status_code == 422
