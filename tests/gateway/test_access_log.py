"""The access log beside other logs."""

import asyncio
import io
import logging

import pytest

from gateway.access_log import AccessLog, AccessRecord


def record(path):
    return AccessRecord(
        time="", level="info", logger="mesh.access", method="GET", status=200, request_id="r-1", route=path
    )


class Stream(io.BytesIO):
    """What was written is still there."""

    @property
    def words(self):
        return [
            word for line in self.getvalue().decode().splitlines() for word in ("/one", "/two", "later") if word in line
        ]


@pytest.mark.parametrize("text", [True, False])
async def test_lines_come_in_the_order_of_their_times(text):
    stream = Stream()
    access = AccessLog(text=text, stream=stream)
    handler = logging.StreamHandler(io.TextIOWrapper(stream, write_through=True))
    handler.addFilter(access.comes_first)
    logger = logging.Logger("order")
    logger.addHandler(handler)
    access.write(record("/one"))
    access.write(record("/two"))
    logger.warning("later")
    assert stream.words == ["/one", "/two", "later"]


async def test_lines_for_people_are_not_held_back():
    stream = Stream()
    access = AccessLog(text=True, stream=stream)
    access.write(record("/one"))
    assert stream.words == []  # a request does not wait for the terminal
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert stream.words == ["/one"]


async def test_a_record_of_another_thread_leaves_the_loop_alone():
    stream = Stream()
    access = AccessLog(stream=stream)
    access.write(record("/one"))
    assert await asyncio.to_thread(access.comes_first, logging.makeLogRecord({}))
    assert stream.words == []
    access.flush()
    assert stream.words == ["/one"]
