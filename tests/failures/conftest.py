"""Fixtures of the failure tests."""

import pytest


@pytest.fixture
def figure(request):
    """``figure("what", value)`` prints a measured figure; ``pytest -rP`` shows it."""

    def show(what, value):
        print(f"figure: {request.node.name}: {what}: {value}")

    return show
