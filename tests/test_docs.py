"""What the documents say is true: code runs, settings and commands exist, links lead somewhere."""

import re
from pathlib import Path

import pytest

from mesh import Service
from mesh.cli.main import COMMANDS
from mesh.config import documentation

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]


def fences(page, language):
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(), re.M | re.S)


async def test_the_readmes_service_answers_as_it_says(mesh):
    [code] = fences(ROOT / "README.md", "python")
    assert len([line for line in code.splitlines() if line.strip()]) <= 10
    namespace = {}
    exec(compile(code, "greeter.py", "exec"), namespace)
    assert isinstance(namespace["service"], Service)
    await mesh.start(namespace["service"])
    targets = re.findall(r"curl 'http://127\.0\.0\.1:8080(/greet/[^']+)'", (ROOT / "README.md").read_text())
    good, bad = [await mesh.http.get(target) for target in targets]
    assert (good.status_code, good.json()) == (200, {"message": "Hello, Ada Hello, Ada"})
    assert (bad.status_code, bad.json()["errors"][0]["field"]) == (422, "query.times")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_in_the_documents_exist(page):
    for line in "\n".join(fences(page, "sh")).splitlines():
        words = line.split("#")[0].split()
        if words[:1] == ["mesh"]:
            assert words[1] in COMMANDS, line
        if words[:1] == ["make"]:
            assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(), re.M), line


def test_every_setting_is_documented():
    page = (ROOT / "docs" / "settings.md").read_text()
    for setting in documentation():
        for variable in setting.env:
            row = next((line for line in page.splitlines() if f"`{variable}`" in line), "")
            assert setting.doc in row, variable
            assert not setting.default or f"`{setting.default}`" in row, variable


def test_every_metric_is_documented():
    page = (ROOT / "docs" / "operations.md").read_text()
    sources = (ROOT / "gateway" / "metrics.py").read_text() + (ROOT / "gateway" / "ops.py").read_text()
    names = set(re.findall(r'"(mesh_[a-z_]+)"', sources))
    assert len(names) > 8
    for name in names:
        assert f"`{name}`" in page, name
