"""Where code comes from: if a file is a user's own, and its name in a message."""

from __future__ import annotations

import os

_PACKAGE = os.path.dirname(os.path.abspath(__file__)) + os.sep
_PYTHON = os.path.dirname(os.__file__) + os.sep
_INSTALLED = (f"{os.sep}site-packages{os.sep}", f"{os.sep}dist-packages{os.sep}")


def is_installed(file: str) -> bool:
    """True if a file belongs to Python or to an installed package, or if it is not a file, as ``<string>``."""
    return file.startswith((_PYTHON, "<")) or any(folder in file for folder in _INSTALLED)


def is_own(file: str) -> bool:
    """True if a file is a user's own: neither installed nor part of the mesh."""
    return not is_installed(file) and not file.startswith(_PACKAGE)


def short(file: str) -> str:
    """The path relative to the current folder, if it is below it."""
    return file.removeprefix(os.getcwd() + os.sep)
