"""Limits and queues: which requests run, which wait, which are refused."""

from collections import Counter
from heapq import heappop, heappush
from types import SimpleNamespace

from hypothesis import given
from hypothesis import strategies as st

from mesh.service.load_shedding import MAX_RETRY_AFTER_S, LoadShedder, ReceivedRequest


class Bench:
    """A load shedder whose work ends when the test says so, on a clock that the test moves."""

    def __init__(self, places, queue):
        self.now = 0.0
        self.running, self.refused = [], []
        self.most = 0
        self.load = LoadShedder(places, queue, start=self._start, refuse=self._refuse, remaining=self.remaining)

    def _start(self, work):
        self.running.append(work)
        self.most = max(self.most, len(self.running))

    def _refuse(self, work, detail, retry_after):
        assert 1 <= retry_after <= MAX_RETRY_AFTER_S
        self.refused.append((work.reply, detail))

    def remaining(self, work):
        return work.arrived + work.received_ms / 1000 - self.now

    def offer(self, number, deadline_s=1000.0, **limits):
        self.load.offer(received(endpoint(**limits), b"%d" % number, self.now, int(deadline_s * 1000)))

    def end(self, index=0, seconds=0.0):
        work = self.running.pop(index)
        self.load.ended(work, seconds)
        return work


def endpoint(name="any", concurrency=0, queue=0):
    return SimpleNamespace(name=name, concurrency=concurrency, queue=queue)


def received(endpoint, reply, arrived, received_ms):
    return ReceivedRequest(
        endpoint=endpoint,
        subject=b"",
        reply=reply,
        block=b"",
        payload=b"",
        sender=b"",
        arrived=arrived,
        received_ms=received_ms,
        possible_age_ms=0,
    )


def replies(works):
    return [work.reply for work in works]


def test_as_many_run_as_may_and_the_first_to_come_is_the_first_to_follow():
    bench = Bench(2, 2)
    for number in range(6):
        bench.offer(number)
    assert replies(bench.running) == [b"0", b"1"]
    assert [reply for reply, _ in bench.refused] == [b"4", b"5"]
    assert "2 calls run and 2 wait" in bench.refused[0][1]
    bench.end()
    assert replies(bench.running) == [b"1", b"2"]


def test_who_would_wait_too_long_is_refused_at_once():
    bench = Bench(1, 100)
    bench.offer(0)
    bench.end(seconds=1.0)
    bench.offer(1)
    bench.offer(2, deadline_s=2.5)  # waits one second, takes another
    bench.offer(3, deadline_s=2.5)  # would wait two
    assert [reply for reply, _ in bench.refused] == [b"3"]
    bench.offer(4, deadline_s=3.5)
    assert len(bench.refused) == 1


def test_whose_turn_comes_too_late_gives_its_place_to_the_next():
    bench = Bench(1, 100)
    bench.offer(0)
    bench.end(seconds=0.1)
    bench.offer(1)
    bench.offer(2, deadline_s=1.0)
    bench.offer(3, deadline_s=30.0)
    bench.now = 5.0  # the first took much longer than usual
    bench.end(seconds=0.1)
    assert [reply for reply, _ in bench.refused] == [b"2"]
    assert replies(bench.running) == [b"3"]


def test_a_place_that_is_free_is_given_however_little_time_is_left():
    bench = Bench(1, 0)
    bench.offer(0)
    bench.end(seconds=10.0)
    bench.offer(1, deadline_s=0.001)
    assert replies(bench.running) == [b"1"]


def test_a_caller_that_goes_leaves_the_queue():
    bench = Bench(1, 5)
    for number in range(3):
        bench.offer(number, name="own", concurrency=3, queue=0)
    assert bench.load.withdraw(b"1").reply == b"1"
    assert bench.load.withdraw(b"1") is None
    assert bench.load.withdraw(b"0") is None  # it runs
    bench.offer(3, name="own", concurrency=3, queue=0)  # under the limit of the endpoint, which has room
    bench.end()
    assert replies(bench.running) == [b"2"]
    assert not bench.refused


def test_a_long_queue_that_the_next_limit_refuses_is_no_recursion():
    bench = Bench(1, 0)
    bench.offer(0, name="own", concurrency=1, queue=5000)
    for number in range(1, 5001):
        bench.offer(number, name="own", concurrency=1, queue=5000)
    bench.running.clear()
    bench.load.offer(received(endpoint(), b"x", 0.0, 10**9))  # refused: the limit of the instance is reached
    limit = bench.load._endpoints["own"]
    bench.load._leave(limit)
    assert len(bench.refused) == 5001
    assert limit.in_flight == 0


LIMITS = st.sampled_from([{}, {"name": "a", "concurrency": 1, "queue": 2}, {"name": "b", "concurrency": 2, "queue": 0}])
STEP = st.one_of(
    st.tuples(st.just("offer"), LIMITS, st.floats(0.0, 5.0)),
    st.tuples(st.just("end"), st.integers(0, 9), st.floats(0.0, 3.0)),
    st.tuples(st.just("withdraw"), st.integers(0, 30), st.just(0.0)),
    st.tuples(st.just("pass"), st.just(0), st.floats(0.0, 2.0)),
)


@given(st.integers(1, 3), st.integers(0, 3), st.lists(STEP, max_size=60))
def test_every_request_ends_in_one_way_and_no_limit_is_passed(places, queue, steps):
    bench, fate, number = Bench(places, queue), Counter(), 0
    for verb, what, amount in steps:
        if verb == "offer":
            bench.offer(number, amount, **what)
            number += 1
        elif verb == "end" and bench.running:
            fate[bench.end(what % len(bench.running), amount).reply] += 1
        elif verb == "withdraw" and (gone := bench.load.withdraw(b"%d" % what)) is not None:
            fate[gone.reply] += 1
        elif verb == "pass":
            bench.now += amount
        running = Counter(work.endpoint.name for work in bench.running)
        assert bench.load.in_flight == len(bench.running) <= places
        assert running["a"] <= 1
        assert running["b"] <= 2
        assert len(bench.load._instance.waiting) <= queue
    fate.update(reply for reply, _ in bench.refused)
    fate.update(work.reply for work in bench.load.clear())
    while bench.running:
        fate[bench.end().reply] += 1
    assert fate == Counter(b"%d" % n for n in range(number))
    assert all(limit.in_flight == 0 for limit in (bench.load._instance, *bench.load._endpoints.values()))


class Simulated(Bench):
    """Its work takes ``seconds`` each."""

    def __init__(self, places, queue, seconds):
        super().__init__(places, queue)
        self.seconds, self.good, self._ends = seconds, 0, []

    def _start(self, work):
        super()._start(work)
        heappush(self._ends, (self.now + self.seconds, work.reply, work))

    def until(self, moment):
        while self._ends and self._ends[0][0] <= moment:
            self.now, _, work = heappop(self._ends)
            self.running.remove(work)
            self.load.ended(work, self.seconds)
            self.good += self.remaining(work) >= 0
        self.now = moment


def test_twice_the_load_loses_little_of_what_can_be_done():
    """10 places of 50 ms make 200 requests a second; 400 come, and their callers give up after a second."""
    bench, seconds = Simulated(10, 1000, 0.05), 20
    for number in range(seconds * 400):
        bench.until(number / 400)
        bench.offer(number, deadline_s=1.0)
    assert bench.good >= 0.95 * seconds * 200
    assert len(bench.refused) >= 0.9 * seconds * 200  # the others are told at once rather than left to wait
