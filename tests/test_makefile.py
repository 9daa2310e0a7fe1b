"""What `make` does for whoever has just cloned the repository."""

import shutil
import subprocess

import pytest

from tests.docs.pages import ROOT

OLD = """#!/bin/sh
case "$2" in pass) exit 0;; *version_info*) exit 1;; esac
echo "nothing else may be asked of an old Python: $*" >&2
exit 3
"""


def make(*arguments, cwd=ROOT):
    return subprocess.run(["make", *arguments], cwd=cwd, capture_output=True, text=True, timeout=30)


def test_only_what_belongs_to_the_project_is_checked():
    lines = [line.split() for line in make("--dry-run", "check").stdout.splitlines() if "ruff" in line]
    assert len(lines) == 2
    for words in lines:
        folders = [word for word in words[2:] if not word.startswith("-") and word != "check"]
        assert set(folders) == {"bench", "docs", "gateway", "mesh", "services", "tests"}
        assert all((ROOT / folder).is_dir() for folder in folders)


@pytest.mark.parametrize("uv", ["", "/bin/false"])
def test_a_python_that_is_too_old_is_refused_in_a_sentence(tmp_path, uv):
    for name in ("Makefile", "requirements.txt", "requirements-dev.txt", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    old = tmp_path / "python3.10"
    old.write_text(OLD)
    old.chmod(0o755)
    done = make(f"PYTHON={old}", f"UV={uv}", "setup", cwd=tmp_path)
    assert done.returncode != 0
    assert "Python 3.11 or later" in done.stderr
    assert "nothing else" not in done.stderr
    assert not (tmp_path / ".venv").exists()
