"""The `jepawm` command line: every command is a dataclass with `run() -> exit code`."""
