"""What `tests/conftest.py` does for the reports of failures."""

import gc
import logging

import pytest

from tests.conftest import pytest_runtest_makereport


def test_no_garbage_is_collected_while_a_report_is_made():
    making = pytest_runtest_makereport()
    next(making)
    assert not gc.isenabled()
    with pytest.raises(StopIteration) as made:
        making.send("report")
    assert made.value.value == "report"
    assert gc.isenabled()


def test_lines_for_each_request_are_left_out(caplog):
    caplog.set_level(logging.INFO)
    for name in ("httpx", "uvicorn.error"):
        caplog.set_level(logging.INFO, logger=name)
    logging.getLogger("uvicorn.error").info('%s - "WebSocket %s" %d', "127.0.0.1:9", "/late", 504)
    logging.getLogger("httpx").info('HTTP Request: %s %s "%s"', "GET", "http://127.0.0.1/", "200 OK")
    logging.getLogger("uvicorn.error").info("something else")
    assert [record.getMessage() for record in caplog.records] == ["something else"]
