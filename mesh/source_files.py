"""Where code comes from: whether a file is a user's own, and how it is called in a message."""

from __future__ import annotations

import os

_PACKAGE = os.path.dirname(os.path.abspath(__file__)) + os.sep
_PYTHON = os.path.dirname(os.__file__) + os.sep
_INSTALLED = (f"{os.sep}site-packages{os.sep}", f"{os.sep}dist-packages{os.sep}")


def is_installed(file: str) -> bool:
    """Whether a file belongs to Python or an installed package, or is none."""
    return file.startswith((_PYTHON, "<")) or any(folder in file for folder in _INSTALLED)


def is_own(file: str) -> bool:
    """Whether a file is a user's own: neither installed nor the mesh's."""
    return not is_installed(file) and not file.startswith(_PACKAGE)


def short(file: str) -> str:
    """A path below the current folder without the folder."""
    return file.removeprefix(os.getcwd() + os.sep)
