"""What the documents say is so: their code runs, their commands exist, their links lead somewhere."""

import importlib.util
import re
import subprocess
import sys

import pytest

import mesh as package
from gateway.access_log import AccessRecord
from gateway.health import OWN
from mesh import defaults
from mesh.cli.main import COMMANDS
from mesh.foreign.watch import ROUND_INTERVAL_S
from mesh.registry.tombstones import TOMBSTONE_S
from mesh.settings import documentation
from mesh.testing import Mesh
from tests.docs.pages import PAGES, ROOT, anchors, blocks, links, name_of
from tests.docs.reader import Reader, agree, check_command, commands

OPERATIONS = ROOT / "docs" / "operations.md"
WIDTH = 120


@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p)], ids=name_of)
async def test_a_page_can_be_followed(page, nats_url, prefix, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    meshes = []

    def fresh() -> Mesh:
        meshes.append(Mesh(nats_url=nats_url, prefix=f"{prefix}-{len(meshes)}"))
        return meshes[-1]

    async with Reader(name_of(page), fresh, monkeypatch) as reader:
        for block in blocks(page):
            if block.reason:
                continue
            try:
                await reader.read(block, tmp_path)
            except BaseException as error:
                error.add_note(f"in the {block.language} block at {name_of(page)}:{block.line}")
                raise
        await reader.finish()


def test_almost_everything_is_run():
    left_out = [f"{name_of(page)}:{b.line}: {b.reason}" for page in PAGES for b in blocks(page) if b.reason]
    assert len(left_out) <= 2, left_out


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page):
    for link in links(page):
        target, _, anchor = link.partition("#")
        if "://" in target:
            continue
        file = (page.parent / target).resolve() if target else page
        assert file.exists(), f"{name_of(page)}: {link}"
        if anchor:
            assert anchor in anchors(file), f"{name_of(page)}: {link}"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_lines_are_readable(page):
    long = [line for line in page.read_text().splitlines() if len(line) > WIDTH and not line.startswith("|")]
    assert not long


def test_every_page_can_be_reached_from_the_readme():
    seen, left = set(), [ROOT / "README.md"]
    while left:
        page = left.pop()
        if page in seen or page.suffix != ".md":
            continue
        seen.add(page)
        left += [(page.parent / link.partition("#")[0]).resolve() for link in links(page) if "://" not in link]
    assert not {name_of(page) for page in PAGES} - {name_of(page) for page in seen}


def test_the_pages_made_from_the_code_are_up_to_date():
    done = subprocess.run(
        [sys.executable, ROOT / "docs" / "generate.py", "--check"], capture_output=True, text=True, timeout=30
    )
    assert done.returncode == 0, done.stderr


# -- nothing is left out


def by_hand() -> str:
    """What people wrote: a name in a generated page alone is not explained yet."""
    return "\n".join(p.read_text() for p in PAGES if "Made by docs/generate.py" not in p.read_text())


@pytest.mark.parametrize("name", package.__all__)
def test_every_public_name_is_documented(name):
    assert re.search(rf"\b{name}\b", (ROOT / "docs" / "reference.md").read_text())
    assert re.search(rf"\b{name}\b", by_hand()), f"{name} is used nowhere in the guide"


def reference_generator():
    """docs/generate.py as a module."""
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_public_name_is_in_a_group_of_the_reference_or_an_error(monkeypatch):
    generator = reference_generator()
    for name in generator.error_names():
        assert issubclass(getattr(package, name), Exception)
    monkeypatch.setattr(package, "__all__", [*package.__all__, "version"])
    monkeypatch.setattr(package, "version", "1.0.0", raising=False)
    with pytest.raises(ValueError, match=r"mesh\.version is in no group"):
        generator.reference()


@pytest.mark.parametrize(
    "part",
    [
        *("#### WebSocket.accept", "#### WebSocket.receive", "#### WebSocket.receive_json", "#### WebSocket.send"),
        *("#### WebSocket.close", "#### WebSocket.closed", "#### Router.route", "#### Router.websocket"),
        *("#### Event.encode", "### StreamingResponse", "- `subprotocol`: ", "Attributes: `code`, `reason`."),
        "- `try_timeout`: ",
    ],
)
def test_the_reference_shows_methods_attributes_and_parameters(part):
    assert any(line.startswith(part) for line in (ROOT / "docs" / "reference.md").read_text().splitlines())


def test_every_setting_is_documented():
    page = (ROOT / "docs" / "settings.md").read_text()
    for setting in documentation():
        for variable in setting.env:
            row = next((line for line in page.splitlines() if f"`{variable}`" in line), "")
            assert setting.doc in row, variable


PROTOCOL = (ROOT / "docs" / "protocol.md").read_text()
NUMBERS = {
    r"`Mesh-Deadline` \| milliseconds left when sent; without it, ([\d.]+) s": defaults.DEADLINE_S,
    r"suspect \| ([\d.]+) x `heartbeat_ms`": defaults.SUSPECT_AFTER,
    r"lost \| ([\d.]+) x `heartbeat_ms`": defaults.LOST_AFTER,
    r"A tombstone remembers `seq` for ([\d.]+) minutes": TOMBSTONE_S / 60,
    r"A gateway asks `\$SRV.PING` when it connects, every ([\d.]+) s": ROUND_INTERVAL_S,
}


@pytest.mark.parametrize("pattern", NUMBERS)
def test_the_protocol_has_the_numbers_of_the_code(pattern):
    (number,) = re.findall(pattern, PROTOCOL)
    assert float(number) == NUMBERS[pattern]


def test_every_command_is_documented():
    page = OPERATIONS.read_text()
    for name in COMMANDS:
        assert f"mesh {name}" in page, name


async def test_every_metric_is_documented(mesh):
    await mesh.http.get("/nowhere")
    async with mesh.ops() as ops:
        text = (await ops.get("/metrics")).text
    names = re.findall(r"^# TYPE (\S+)", text, re.M)
    assert len(names) > 15
    for name in names:
        assert f"`{name}`" in OPERATIONS.read_text(), name
    for name in re.findall(r"`(mesh_[a-z_]+)`", OPERATIONS.read_text()):
        assert name in names, f"there is no {name}"


async def test_every_path_of_the_gateway_is_documented(mesh):
    page = OPERATIONS.read_text()
    async with mesh.ops() as ops:
        paths = (await ops.get("/")).json()["paths"]
    for path in (*OWN, *paths):
        assert f"`{path}`" in page, path


def test_every_field_of_the_access_log_is_documented():
    for field in AccessRecord.__struct_fields__:
        assert f"`{field}`" in OPERATIONS.read_text(), field


# -- the checks themselves find mistakes


@pytest.mark.parametrize(
    "line", ["mesh nothing", "mesh run", "mesh ls --nothing", "mesh-tail --colour", "make coffee", "frobnicate"]
)
def test_a_wrong_command_line_is_found(line):
    with pytest.raises(Exception):  # noqa: B017, PT011 - click's or our own
        [check_command(words) for words in commands(line)]


def test_a_line_of_several_commands_is_taken_apart():
    line = "NATS_URL=nats://a:4222 mesh-tail --json | jq 'select(.a | b)' && make up   # and so on"
    assert commands(line) == [["mesh-tail", "--json"], ["jq", "select(.a | b)"], ["make", "up"]]


def test_an_answer_that_differs_is_found():
    agree({"a": [1, "..."]}, {"a": [1, {"b": 2}], "c": 3})
    for shown in ({"a": [1]}, {"a": [2, "..."]}, {"b": 1}):
        with pytest.raises(AssertionError):
            agree(shown, {"a": [1, 2]})
