"""What an instance logs of the routes that it and others claim, whoever tells of them how often."""

import logging

import pytest

from mesh.messages import MAX_ANNOUNCEMENT, Conflicts, RouteConflict, encode
from mesh.service import conflict_log
from mesh.service.conflict_log import AGAIN_S, LINES, MOST, ConflictLog


@pytest.fixture
def clock(monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(conflict_log, "monotonic", lambda: now[0])
    return now


def contested(path="/x", winner="other", losers=("shop",)):
    return RouteConflict("GET", path, winner, losers, "earlier")


def take(log, begun=(), over=()):
    log.take(encode(Conflicts(begun=tuple(begun), over=tuple(over))))


def said(caplog):
    texts = [record.getMessage() for record in caplog.records]
    caplog.clear()
    return texts


def test_each_conflict_once_however_many_gateways_tell(caplog, clock):
    caplog.set_level(logging.INFO)
    log = ConflictLog("shop")
    for _ in range(3):
        take(log, begun=[contested(), contested("/y", "shop", ("other",))])
    lost, kept = said(caplog)
    assert lost.startswith("GET /x is served by other (the earlier claim), so this service gets none of its requests")
    assert '[gateway.owners] "/x" = "shop"' in lost
    assert kept == "GET /y is claimed by other too; this service keeps it (the earlier claim)"
    for _ in range(3):
        take(log, over=[contested()])
    assert said(caplog) == ["GET /x: the conflict is over"]
    take(log, begun=[contested()])
    assert len(said(caplog)) == 1


def test_a_conflict_whose_end_nobody_told_is_logged_when_it_begins_again_later(caplog, clock):
    log = ConflictLog("shop")
    take(log, begun=[contested()])
    clock[0] += AGAIN_S + 1
    take(log, begun=[contested()])
    assert len(said(caplog)) == 2


def test_what_is_none_of_its_business_or_cannot_be_read_is_left_out(caplog, clock):
    log = ConflictLog("shop")
    take(log, begun=[contested(losers=("third",))])
    for payload in (b"", b"{", b"[" * 100_000, b'{"type":"mesh.v1.conflicts","begun":[{"method":"GET"}]}', b"\xff"):
        log.take(payload)
    for forged in (contested("/" + "x" * 2048), contested(winner="a b"), contested("/y", "other", ("shop",) * 1001)):
        take(log, begun=[forged])
    log.take(encode(Conflicts(begun=(contested(),))) + b" " * MAX_ANNOUNCEMENT)
    assert said(caplog) == []


def test_a_flood_takes_neither_memory_nor_the_log(caplog, clock):
    log = ConflictLog("shop")
    for number in range(2000):
        take(log, begun=[contested(f"/{number}")])
    assert len(log._told) <= MOST
    *lines, left_out = said(caplog)
    assert len(lines) == LINES
    assert left_out.startswith(f"more than {LINES} lines about route conflicts")
    for _ in range(100):  # beginnings and ends in turn
        some = [contested(f"/{number}") for number in range(20)]
        take(log, begun=some, over=some)
    assert said(caplog) == []
    clock[0] += AGAIN_S + 1
    take(log, begun=[contested("/later")])
    assert len(said(caplog)) == 1


def test_a_conflict_that_was_not_logged_for_all_the_lies_is_logged_when_it_is_told_again(caplog, clock):
    log = ConflictLog("shop")
    take(log, begun=[contested(f"/lie/{number}") for number in range(LINES)])
    take(log, begun=[contested("/true")])
    assert "left out" in said(caplog)[-1]
    clock[0] += AGAIN_S - 1
    take(log, begun=[contested("/true")])
    assert said(caplog) == []
    clock[0] += 2
    take(log, begun=[contested("/true")])
    assert said(caplog)[0].startswith("GET /true is served by other")


def test_memory_is_bounded_over_a_long_time(clock):
    log = ConflictLog("shop")
    for number in range(2 * MOST):
        clock[0] += AGAIN_S / LINES + 1
        take(log, begun=[contested(f"/{number}")])
    assert len(log._told) == MOST
