"""Where code comes from: whether a file is a user's own, and how it is called in a message."""

from __future__ import annotations

import os
import sysconfig

_PACKAGE = os.path.dirname(os.path.abspath(__file__)) + os.sep
_INSTALLED = tuple({sysconfig.get_path(name) + os.sep for name in ("stdlib", "platstdlib", "purelib", "platlib")})


def is_installed(file: str) -> bool:
    """Whether a file belongs to Python or an installed package, or is none."""
    return file.startswith(_INSTALLED) or file.startswith("<")


def is_own(file: str) -> bool:
    """Whether a file is a user's own: neither installed nor the mesh's."""
    return not is_installed(file) and not file.startswith(_PACKAGE)


def short(file: str) -> str:
    """A path below the current folder without the folder."""
    return file.removeprefix(os.getcwd() + os.sep)
