"""How old a request is: what can be concluded from two clocks that nobody set alike."""

from hypothesis import given
from hypothesis import strategies as st

from mesh import Context, Service
from mesh.boot_clock import boot_ms
from mesh.service.pause_watch import AFTERMATH_S, PauseWatch
from mesh.service.request_age import MAX_SENDERS, SAME_MS, STEADY_MS, WINDOW_MS, RequestAges
from mesh.testing import PausedClock

A = b"mesh.inbox.gateway.A.r"
HOUR = 3_600_000


@given(st.integers(-HOUR, HOUR), st.lists(st.integers(0, 20), min_size=1, max_size=50), st.integers(0, HOUR))
def test_clocks_that_differ_change_nothing(skew, delays, start):
    ages = RequestAges()
    for number, delay in enumerate(delays):
        sent = start + number * 10
        assert ages.age(A, sent + skew + HOUR, sent + delay) <= max(delays) - min(delays)


@given(st.integers(-HOUR, HOUR), st.integers(100, 60_000))
def test_a_late_request_shows_its_age(skew, late):
    ages = RequestAges()
    ages.age(A, HOUR + skew, HOUR)
    assert ages.age(A, HOUR + skew + 1000, HOUR + 1000 + late) == late


def test_a_backlog_after_a_freeze_is_aged_one_by_one():
    """200 requests a second for 6 s, all delivered at once: each is as old as it is, the last is fresh."""
    ages = RequestAges()
    ages.age(A, 0, 0)
    got = [ages.age(A, sent, 6000) for sent in range(5, 6000, 5)]
    assert got == [6000 - sent for sent in range(5, 6000, 5)]


def test_a_constant_excess_becomes_the_baseline():
    """The sender's clock was set, or a longer path is used now: nobody is refused for that for ever."""
    ages = RequestAges()
    ages.age(A, 0, 0)
    jump = 5000
    for sent in range(1000, 1000 + STEADY_MS, 100):
        assert ages.age(A, sent, sent + jump + sent % 30) >= jump
    assert ages.age(A, 1100 + STEADY_MS, 1100 + STEADY_MS + jump) <= SAME_MS


def test_an_excess_that_varies_stays_an_excess():
    ages = RequestAges()
    ages.age(A, 0, 0)
    for sent in range(1000, 1000 + 3 * STEADY_MS, 100):
        late = 5000 + (sent // 100 % 2) * 4 * SAME_MS
        assert ages.age(A, sent, sent + late) == late


def test_a_baseline_is_forgotten_after_the_window():
    """Clocks drift: only the last ten minutes count."""
    ages = RequestAges()
    ages.age(A, 0, 0)
    drifted = 0
    for now in range(0, 3 * WINDOW_MS, 1000):
        drifted = now // 50_000  # 20 ppm
        assert ages.age(A, now, now + drifted) <= 25
    assert drifted > 30


def test_without_a_known_clock_the_possible_age_is_the_age_once():
    ages = RequestAges()
    assert ages.age(A, 7, 1000, possible_age=800) == 800
    assert ages.age(A, 107, 1100, possible_age=800) == 800  # as old as the first, whose age was a guess
    assert ages.age(A, 2007, 2200, possible_age=0) == 0


def test_senders_are_bounded():
    ages = RequestAges()
    for number in range(MAX_SENDERS + 100):
        ages.age(b"mesh.inbox.client.%d.r" % number, 0, number)
    assert len(ages) == MAX_SENDERS


async def test_a_stall_is_noticed_before_and_after_its_tick():
    with PausedClock() as clock:
        watch = PauseWatch()
        watch.start()
        await clock.advance(3)
        assert watch.recent(clock.now) == 0
        clock._now += 2  # the process did not run
        assert watch.recent(clock.now) >= 2  # sockets are read before timers run
        await clock.settle()
        assert watch.recent(clock.now) >= 2
        await clock.advance(AFTERMATH_S + 0.1)
        assert watch.recent(clock.now) == 0
        watch.aclose()


async def test_an_expired_request_is_never_run(mesh):
    service, ran = Service("sums"), []

    @service.endpoint()
    async def add(number: int) -> int:
        ran.append(number)
        return number

    instance = await mesh.start(service)
    async with mesh.client() as bus:
        address = bus.address(bus.subjects.to("sums", instance.id, "add"))

        async def ask(number, age_ms, deadline_ms):
            block = b"NATS/1.0\r\nMesh-Deadline: %d\r\nMesh-Sent: %d\r\n\r\n" % (deadline_ms, boot_ms() - age_ms)
            return await bus.request(address, b'{"number": %d}' % number, block, timeout=5)

        assert b"Mesh-Status: 200" in (await ask(1, 0, 2000)).block
        late = await ask(2, 3000, 2000)
        assert b"Mesh-Status: 504" in late.block
        assert b'"executed":"no"' in late.payload
        assert b"Mesh-Status: 200" in (await ask(3, 1000, 2000)).block
    assert ran == [1, 3]


async def test_what_is_left_shrinks_by_the_age(mesh):
    service, left = Service("clock"), []

    @service.endpoint()
    async def read(ctx: Context) -> None:
        left.append(ctx.remaining)

    instance = await mesh.start(service)
    async with mesh.client() as bus:
        address = bus.address(bus.subjects.to("clock", instance.id, "read"))
        for age in (0, 3000):
            block = b"NATS/1.0\r\nMesh-Deadline: 9000\r\nMesh-Sent: %d\r\n\r\n" % (boot_ms() - age)
            await bus.request(address, b"", block, timeout=5)
    assert 8 < left[0] <= 9
    assert 5 < left[1] <= 6.1  # clocks of whole milliseconds
