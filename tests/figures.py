"""The figures that failure and load tests measure: printed at the end, and kept when they run in full."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

BUILD = Path(__file__).parents[1] / "build"
_all: list[dict[str, Any]] = []


def report(case: str, **values: Any) -> None:
    """Keep what a test measured."""
    _all.append({"case": case, **values})


def summarize(terminal: Any, config: pytest.Config) -> None:
    """Print all of it, and write it to ``build/chaos.json`` after a run in full."""
    if not _all:
        return
    if config.getoption("--chaos") == "full" or config.getoption("--soak"):
        BUILD.mkdir(exist_ok=True)
        (BUILD / "chaos.json").write_text(json.dumps(_all, indent=1) + "\n")
    elif config.getoption("verbose") < 0:
        return
    width = max(len(figure["case"]) for figure in _all)
    terminal.section("figures of the failure suite")
    for figure in _all:
        values = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in figure.items() if name != "case")
        terminal.write_line(f"{figure['case']:<{width}}  {values}")
