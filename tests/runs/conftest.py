"""Fixtures of homes in an object store."""

from folder_store import bucket, on_machine

__all__ = ["bucket", "on_machine"]
