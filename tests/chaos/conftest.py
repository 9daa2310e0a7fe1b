"""Fixtures of the failure suite."""

import pytest


@pytest.fixture
def grace_s(full: bool) -> float:
    """How much later than its deadline a request may be answered.

    100 ms in full; the short form runs beside other tests on a machine that has other things to do.
    """
    return 0.1 if full else 0.5
