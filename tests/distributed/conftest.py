"""Fixtures of homes in an object store."""

from folder_store import bucket, on_machine
from s3_home import s3_home, s3_server

__all__ = ["bucket", "on_machine", "s3_home", "s3_server"]
