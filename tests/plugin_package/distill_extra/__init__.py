"""A package that adds one of everything to distill, for tests/test_plugins.py."""
