"""`mesh bench`: what it sends, what it counts, and that it does not leave out who had to wait."""

import asyncio
import contextlib
import json
import math
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.cli.http_load import BenchTarget, Histogram, LoadGenerator
from tests.conditions import eventually


class Server:
    """Answers what it is told to, unless it stands still."""

    def __init__(self, answer=b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"):
        self.answer = answer
        self.requests = []
        self.going = asyncio.Event()
        self.going.set()
        self._serving = set()

    async def __aenter__(self):
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_):
        self._server.close()
        for task in self._serving:
            task.cancel()
        await asyncio.gather(*self._serving, return_exceptions=True)

    async def _serve(self, reader, writer):
        self._serving.add(asyncio.current_task())
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = next(
                    (int(line[15:]) for line in head.split(b"\r\n") if line.startswith(b"content-length:")), 0
                )
                self.requests.append((head, await reader.readexactly(length)))
                await self.going.wait()
                if not self.answer:
                    break
                writer.write(self.answer)
        writer.close()


async def bench(*arguments):
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "mesh", "bench", *arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await child.communicate()
    return child.returncode, out.decode(), err.decode()


async def test_what_it_sends_and_counts():
    async with Server() as server:
        code, out, err = await bench(
            *(f"{server.url}/a?b=c", "-d", "0.5", "-c", "3", "--json", "-H", "X-A: b", "--data", '{"n": 1}')
        )
    found = json.loads(out)
    assert code == 0, err
    assert found["requests"] == found["statuses"]["200"] == len(server.requests)
    assert found["p50_ms"] <= found["p99_ms"] <= found["max_ms"]
    head, body = server.requests[0]
    assert head.startswith(b"POST /a?b=c HTTP/1.1\r\n")
    assert b"\r\nx-a: b\r\n" in head
    assert body == b'{"n": 1}'


async def test_a_rate_is_kept():
    async with Server() as server:
        result = await LoadGenerator(BenchTarget.of(server.url), connections=4, rate=500).run(1.0)
    assert 400 <= result.histogram.count <= 510
    assert result.failed == 0


async def test_who_was_due_while_the_server_stood_still_counts_with_his_whole_wait():
    async with Server() as server:

        async def stand_still():
            await eventually(lambda: len(server.requests) >= 60)
            server.going.clear()
            await asyncio.sleep(0.4)  # the stall that is measured
            server.going.set()

        shares = {}
        for rate in (200, 0):
            server.requests.clear()
            load = LoadGenerator(BenchTarget.of(server.url), connections=1, rate=rate)
            stalling = asyncio.create_task(stand_still())
            result = await load.run(1.2)
            await stalling
            assert result.histogram.longest > 0.3
            shares[rate] = sum(1 for share in range(1, 100) if result.histogram.percentile(share / 100) > 0.1)
    assert shares[200] >= 10  # a third of the time, so nearly a third of what was due
    assert shares[0] <= 3  # the closed loop sent one request into the stall


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (b"HTTP/1.1 500 No\r\ncontent-length: 0\r\n\r\n", " x 500"),
        (b"", " x connection lost"),
        (b"SSH-2.0\r\n\r\n", " x not HTTP"),
    ],
)
async def test_failures_are_counted_and_are_the_exit_code(answer, said):
    async with Server(answer) as server:
        code, out, _ = await bench(server.url, "-d", "0.3", "-c", "2", "--rate", "50")
    assert code == 1
    assert said in out


async def test_an_answer_that_never_comes_is_a_timeout():
    async with Server() as server:
        server.going.clear()
        result = await LoadGenerator(BenchTarget.of(server.url), connections=2, rate=20, timeout_s=0.2).run(0.5)
        server.going.set()
    assert result.errors["timeout"] >= 2
    assert result.failed >= 2


async def test_connections_that_the_server_closes_are_made_anew():
    closing = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
    async with Server(closing) as server:
        result = await LoadGenerator(BenchTarget.of(server.url), connections=2).run(0.4)
    assert result.histogram.count > 4
    assert result.failed == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["ftp://x/"], "is not a URL"),
        (["http://127.0.0.1:1/"], "no connection to 127.0.0.1:1"),
        (["http://x/", "-H", "nothing"], "write it as 'NAME: VALUE'"),
        (["http://x/", "-H", "a: b\r\nc: d"], "without line breaks"),
        (["http://x/", "--data", "@/no/such/file"], "No such file"),
    ],
)
async def test_what_is_wrong_is_said(arguments, said):
    code, _, err = await bench(*arguments)
    assert code == (1 if "no connection" in said else 2)
    assert said in err


@given(st.lists(st.floats(1e-5, 100), min_size=1, max_size=200), st.floats(0.01, 1))
def test_percentiles_are_right_to_a_percent(times, share):
    histogram = Histogram()
    for seconds in times:
        histogram.record(seconds)
    wanted = sorted(times)[math.ceil(share * len(times) * (1 - 1e-9)) - 1]
    assert histogram.percentile(share) == pytest.approx(wanted, rel=0.011)
    assert histogram.percentile(1.0) <= max(times)
