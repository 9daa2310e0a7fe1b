"""The version of this distribution, and its name on package indexes."""

VERSION = "0.1.0"
DISTRIBUTION = "nats-http-mesh"


def install(extra: str) -> str:
    """The command that installs what ``extra`` (of pyproject.toml's optional dependencies) adds."""
    return f"pip install '{DISTRIBUTION}[{extra}]'"
