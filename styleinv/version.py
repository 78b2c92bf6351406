"""The version, in the one place from which pyproject.toml and the records take it."""

__version__ = "0.1.0"
