"""The failure suite's figures: what the tests measured, printed and kept when it runs in full."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

FIGURES: list[dict[str, Any]] = []
BUILD = Path(__file__).parents[2] / "build"


@pytest.fixture
def figures() -> Callable[..., None]:
    """``figures("case", requests=7, ...)`` reports what a test measured."""

    def report(case: str, **values: Any) -> None:
        FIGURES.append({"case": case, **values})

    return report


@pytest.fixture
def grace_s(full: bool) -> float:
    """How much later than its deadline a request may be answered.

    100 ms in full; the short form runs beside other tests on a machine that has other things to do.
    """
    return 0.1 if full else 0.5


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    if not FIGURES:
        return
    if config.getoption("--chaos") == "full":
        BUILD.mkdir(exist_ok=True)
        (BUILD / "chaos.json").write_text(json.dumps(FIGURES, indent=1) + "\n")
    elif config.getoption("verbose") < 0:
        return
    width = max(len(figure["case"]) for figure in FIGURES)
    terminalreporter.section("figures of the failure suite")
    for figure in FIGURES:
        values = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in figure.items() if name != "case")
        terminalreporter.write_line(f"{figure['case']:<{width}}  {values}")
