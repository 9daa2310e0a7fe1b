"""Measurements; nothing here is installed or run by the tests."""
