"""The version of capsnb: `pyproject.toml` and every module that states it read it here."""

__version__ = "0.2.0"
