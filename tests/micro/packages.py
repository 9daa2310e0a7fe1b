"""npm packages for tests, installed once and kept between runs."""

import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest


def installed(source, *files):
    """A folder with these files of ``source`` and the packages of its ``package.json``; else the test is skipped."""
    for program in ("node", "npm"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")
    digest = hashlib.sha256(b"".join((source / name).read_bytes() for name in files)).hexdigest()[:16]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "nats-http-mesh"
    folder = cache / f"micro-{digest}"  # a folder of that name is complete
    if not folder.exists():
        cache.mkdir(parents=True, exist_ok=True)
        fresh = Path(tempfile.mkdtemp(dir=cache))
        try:
            for name in files:
                shutil.copy(source / name, fresh)
            _install(fresh)
            if not folder.exists():  # another run may have been quicker
                fresh.rename(folder)
        finally:
            shutil.rmtree(fresh, ignore_errors=True)
    return folder


def _install(folder):
    command = ["npm", "install", "--no-package-lock", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=45)
    except subprocess.TimeoutExpired:
        pytest.skip("the JavaScript packages cannot be installed: npm took too long")
    if done.returncode:
        pytest.skip(f"the JavaScript packages cannot be installed: {done.stderr.strip().partition(chr(10))[0]}")
