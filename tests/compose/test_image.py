"""The Dockerfile: pinned, unprivileged, built from files that exist, and with everything that the code needs."""

import json
import re
import shutil
import subprocess
import sys
import zipfile

import pytest

from tests.compose import commands, files

OTHERS_VARIABLES = re.compile(r"PATH|PYTHON\w+|PIP_\w+")
"""What the shell, Python and pip read."""


def of(word, stage=None):
    return [rest for found, rest in (files.dockerfile() if stage is None else stage) if found == word]


def sources():
    """What the Dockerfile copies from the repository."""
    return [path for rest in of("COPY") if "--from=" not in rest for path in rest.split()[:-1]]


def tracked(*paths):
    answer = subprocess.run(["git", "ls-files", "-z", *paths], cwd=files.ROOT, capture_output=True, check=True)
    return [path for path in answer.stdout.decode().split("\0") if path and (files.ROOT / path).is_file()]


def test_the_bases_are_pinned():
    assert of("FROM")
    for rest in of("FROM"):
        assert files.pinned(rest.split()[0]), rest


def test_the_image_does_not_run_as_root():
    user = of("USER", files.last_stage())[-1]
    assert all(int(part) > 0 for part in user.split(":")), "a number: Kubernetes cannot check a name"


def test_the_image_starts_the_gateway_unless_told_otherwise():
    stage = files.last_stage()
    [entrypoint], [command] = of("ENTRYPOINT", stage), of("CMD", stage)
    commands.check([*json.loads(entrypoint), *json.loads(command)])
    assert json.loads(entrypoint) == ["mesh"]
    assert of("STOPSIGNAL", stage) == ["SIGTERM"]


def test_the_environment_has_only_known_variables():
    known = commands.known()
    found = dict(pair.split("=", 1) for rest in of("ENV") for pair in rest.split())
    assert found["PYTHONUNBUFFERED"] == "1"
    for name in found:
        assert OTHERS_VARIABLES.fullmatch(name) or name in known, name
    assert found["MESH_GATEWAY_HOST"] == "0.0.0.0"


@pytest.mark.parametrize("path", sources())
def test_what_is_copied_is_there_and_is_sent_to_the_builder(path):
    assert (files.ROOT / path).exists()
    assert tracked(path), f"git does not know {path}"
    assert all(files.sent(name) for name in tracked(path) if name.endswith((".py", ".txt", ".toml", ".typed")))


def test_what_does_not_belong_into_an_image_stays_outside():
    for path in (".git/config", "compose/.env", "services/users/.env", "users.db", "services/users.db", "tests/x.py"):
        assert not files.sent(path), path
    assert not files.sent("mesh/__pycache__/x.cpython-312.pyc")
    assert files.sent("mesh/cli/main.py")


def test_the_dependencies_come_before_the_source():
    steps = [f"{word} {rest}" for word, rest in files.dockerfile()]
    install = next(i for i, step in enumerate(steps) if "-r requirements.txt" in step)
    source = next(i for i, step in enumerate(steps) if step.startswith("COPY mesh"))
    assert install < source
    copied = [path for step in steps[:install] if step.startswith("COPY") for path in step.split()[1:-1]]
    assert copied == ["requirements.txt"], "each of the others would make every dependency install anew"


def test_everything_that_is_installed_has_a_hash_or_is_local():
    for rest in of("RUN"):
        for command in rest.split("&&"):
            if re.search(r"\bpip\b.* (install|wheel)\b", command):
                assert "--require-hashes" in command or "--no-index" in command, command


def test_nothing_is_installed_in_the_last_stage():
    assert not [rest for rest in of("RUN", files.last_stage()) if re.search(r"\b(pip|apt|apt-get|apk|curl)\b", rest)]


def test_only_the_builder_of_wheels_is_taken_from_the_other_requirements():
    [script] = re.findall(r"sed -n '([^']+)' requirements-dev.txt", " ".join(of("RUN")))
    answer = subprocess.run(
        ["sed", "-n", script, "requirements-dev.txt"], cwd=files.ROOT, capture_output=True, text=True, check=True
    )
    assert re.fullmatch(r"setuptools==[\d.]+( \\\n    --hash=sha256:[0-9a-f]{64})+\n", answer.stdout)


def test_the_wheel_has_everything(tmp_path):
    """Built from only what the builder gets; a module or a page that is missing would be missing in the image."""
    for path in tracked(*sources()):
        if files.sent(path):
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(files.ROOT / path, tmp_path / path)
    code = "from setuptools.build_meta import build_wheel; build_wheel('dist')"
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, capture_output=True)
    [wheel] = (tmp_path / "dist").glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        packed = set(archive.namelist())
    others = ("services/go/", "services/javascript/")  # not Python's
    wanted = {p for p in tracked("mesh", "gateway", "services") if not p.endswith((".example", ".md"))}
    wanted = {path for path in wanted if not path.startswith(others)}
    assert wanted - packed == set()
