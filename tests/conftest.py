"""Fixtures that all tests share: the ones that users import, and the size of failure tests."""

import gc
import logging
import signal

import pytest

from mesh.service.run import settle
from tests import figures as measured

pytest_plugins = ["mesh.testing.fixtures"]

# A shell that starts us in the background has us ignore Ctrl-C, and every process that we start and want to stop so.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def _is_no_request_line(record):
    """False for what uvicorn and httpx say of each request: it would fill the reports of failures."""
    return not str(record.msg).startswith(("HTTP Request:", '%s - "WebSocket '))


for chatty in ("httpx", "uvicorn.error"):
    logging.getLogger(chatty).addFilter(_is_no_request_line)


def pytest_addoption(parser):
    parser.addoption(
        "--chaos",
        choices=("short", "full"),
        default="short",
        help="size of the failure and load tests: short is part of every run, full is what docs/reliability.md reports",
    )
    parser.addoption("--soak", type=float, default=0, metavar="SECONDS", help="how long chaos/test_soak.py goes on")


def pytest_collection_finish():
    # Not to be looked through again: on a busy machine a full collection takes seconds, for which the event loop
    # stands still, and NATS gives up whoever says nothing for three.
    settle()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport():
    """No garbage is collected while a report is made.

    A report parses the source of the test. On CPython 3.11 `ast.parse` fails with "SystemError: AST constructor
    recursion depth mismatch" if a collection inside it runs a finalizer that parses too, as the formatting of a
    traceback does (gh-106905); pytest then ends with an internal error, or pytest-xdist with a crashed worker.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()


@pytest.fixture(scope="session")
def soak_s(request):
    """For how long faults follow each other; 0: each of them once."""
    return request.config.getoption("--soak")


@pytest.fixture(scope="session")
def full(request):
    """Whether failure and load tests run in full."""
    return request.config.getoption("--chaos") == "full"


@pytest.fixture
def figures():
    """``figures("case", requests=7, ...)`` reports what a test measured."""
    return measured.report


def pytest_terminal_summary(terminalreporter, config):
    measured.summarize(terminalreporter, config)
