"""The page about the architecture is true: its layers are the enforced ones, and its steps happen in its order."""

import ast
import re
import sys
import tomllib
from pathlib import Path

import pytest

from mesh import Service
from mesh.testing import Mesh
from tests.docs.pages import ROOT

PAGE = ROOT / "docs" / "architecture.md"
STEP = re.compile(r"^\| (\d+) \| `([\w/]+\.py)` `([\w.]+)` \|", re.MULTILINE)
START = re.compile(r"`((?:mesh|gateway)/[\w/]+\.py)`(?: `([\w.]+)`)?")
PACKAGES = tuple(str(ROOT / name) + "/" for name in ("mesh", "gateway"))


def section(title):
    """The text between a heading and the next one."""
    found = re.search(rf"^#+ {re.escape(title)}$(.*?)(?=^#|\Z)", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    assert found, f"the page has no section {title!r}"
    return found[1]


def steps(title):
    found = STEP.findall(section(title))
    assert [int(number) for number, _, _ in found] == list(range(1, len(found) + 1))
    assert len(found) >= 5
    return [(file, function) for _, file, function in found]


class Trace:
    """The functions of this project that are called while it lasts, in the order of their first calls.

    ``start``: the step that begins it, if others of its kind may come before.
    """

    def __init__(self, start=None):
        self.start = start

    def __enter__(self):
        self.called = []
        seen = set()

        def profile(frame, event, argument):
            code = frame.f_code
            if event == "call" and code.co_filename.startswith(PACKAGES):
                key = (str(Path(code.co_filename).relative_to(ROOT)), code.co_qualname)
                if key not in seen and (seen or self.start in (None, key)):
                    seen.add(key)
                    self.called.append(key)

        sys.setprofile(profile)
        return self

    def __exit__(self, *_):
        sys.setprofile(None)

    def assert_has(self, steps):
        """``steps`` were called, each one first after the one before it."""
        missing = [step for step in steps if step not in self.called]
        assert not missing
        places = [self.called.index(step) for step in steps]
        assert places == sorted(places), [steps[n] for n in range(1, len(steps)) if places[n] < places[n - 1]]


def items():
    service = Service("items")

    @service.get("/items/{item_id}")
    async def item(item_id: int) -> dict[str, int]:
        return {"id": item_id}

    return service


@pytest.mark.parametrize(
    ("lane", "titles"),
    [
        ("direct", ("At the gateway, direct lane", "In the instance", "Back at the gateway, direct lane")),
        ("asgi", ("At the gateway, ASGI lane", "In the instance", "Back at the gateway, ASGI lane")),
    ],
    ids=["direct", "asgi"],
)
async def test_a_request_takes_these_steps(nats_url, prefix, lane, titles):
    async with Mesh(items(), nats_url=nats_url, prefix=prefix, gateway={"http_lane": lane}) as mesh:
        assert (await mesh.http.get("/items/1")).status_code == 200  # what happens once for a connection is over
        with Trace() as trace:
            assert (await mesh.http.get("/items/2")).json() == {"id": 2}
            await mesh.until(lambda: mesh.gateway.lifecycle.inflight == 0)
    trace.assert_has([step for title in titles for step in steps(title)])


async def test_an_announcement_takes_these_steps(nats_url, prefix):
    async with Mesh(nats_url=nats_url, prefix=prefix) as mesh:
        await mesh.until(lambda: mesh.gateway.watcher.registry.get("gateway", mesh.gateway.id) is not None)
        with Trace(start=steps("At the instance")[0]) as trace:
            await mesh.start(items())
    trace.assert_has(steps("At the instance"))


@pytest.mark.parametrize("title", ["In the route table of a gateway", "At everyone who calls the service"])
async def test_a_gateway_takes_an_announcement_in_by_these_steps(nats_url, prefix, title):
    async with Mesh(nats_url=nats_url, prefix=prefix) as mesh:
        # The gateway's own announcement has been heard: what comes now is the service's.
        await mesh.until(lambda: mesh.gateway.watcher.registry.get("gateway", mesh.gateway.id) is not None)
        with Trace(start=("mesh/announcer.py", "Announcer.announce")) as trace:
            await mesh.start(items())
            assert (await mesh.http.get("/items/2")).status_code == 200
    trace.assert_has(steps(title))


def test_the_layers_are_the_enforced_ones():
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    enforced = [re.findall(r"[\w.]+", layer) for layer in contracts[0]["layers"]]
    rows = [re.findall(r"`([\w.]+)`", row.split("|")[1]) for row in section("Layers").splitlines() if row[:3] == "| `"]
    assert rows == enforced


def test_what_the_page_names_is_there():
    missing = []
    for file, name in START.findall(PAGE.read_text()):
        path = ROOT / file
        if not path.is_file() or (name and not _defines(path, name)):
            missing.append((file, name))
    assert not missing


def _defines(path, name):
    """True if a module has a class, a function, a method or a constant of that name."""
    body = ast.parse(path.read_text()).body
    for part in name.split("."):
        for node in body:
            names = [getattr(node, "name", None)]
            if isinstance(node, ast.Assign | ast.AnnAssign):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                names = [target.id for target in targets if isinstance(target, ast.Name)]
            if part in names:
                body = getattr(node, "body", [])
                break
        else:
            return False
    return True


def test_every_package_is_on_the_map():
    packages = {f"mesh.{p.parent.name}" for p in (ROOT / "mesh").glob("*/__init__.py")} | {"gateway", "services"}
    assert not packages - set(re.findall(r"`([\w.]+)`", section("Layers")))
