"""What each kind of head learns, and how it is measured: one class a kind, each with its loss."""

from jepawm.training.head_tasks.base import HeadBatch, HeadTask, build_task, task_class

__all__ = ["HeadBatch", "HeadTask", "build_task", "task_class"]
