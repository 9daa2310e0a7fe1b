"""The project's own fixtures are those that its users import."""

pytest_plugins = ["mesh.testing.fixtures"]
