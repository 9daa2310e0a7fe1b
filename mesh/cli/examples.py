"""The example services of `mesh up` that need more than Python: started if they have been built."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from mesh.embedded import free_port


class Example(NamedTuple):
    """One more service: how it is started, or what is missing for that."""

    name: str
    what: str
    command: Sequence[str]
    missing: str = ""


def examples(root: Path) -> list[Example]:
    """The examples below ``root``, the folder that contains ``services``."""
    mesh = (sys.executable, "-m", "mesh")
    javascript, facts = root / "services" / "javascript", root / "build" / "facts"
    node = shutil.which("node")
    installed = (javascript / "node_modules").is_dir()
    no_node = "" if node and installed else "make examples" if node else "Node"
    port = free_port(0) if facts.exists() else 0
    to = ("--to", f"http://127.0.0.1:{port}", "--health", "/health", "--prefix", "/facts")
    no_facts = "" if facts.exists() else "make examples" if shutil.which("go") else "Go"
    return [
        Example("notes", "a FastAPI application", (*mesh, "serve", "services.notes.app:app", "--name", "notes")),
        Example("quotes", "JavaScript", (node or "", str(javascript / "quotes.mjs")), no_node),
        Example("riddles", "JavaScript, NATS micro", (node or "", str(javascript / "riddles.mjs")), no_node),
        Example(
            "facts",
            "Go, behind a bridge",
            (*mesh, "bridge", "--name", "facts", *to, "--", str(facts), "-address", f"127.0.0.1:{port}"),
            no_facts,
        ),
    ]
