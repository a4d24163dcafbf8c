"""Two training workers on this machine: processes of one thread each that share a process group."""

import gc
import multiprocessing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp


def on_two_workers(job: Callable[..., Any], folder: Path, *arguments: Any) -> list[Any]:
    """What `job(rank, *arguments)` returns on each worker.

    Args:
        job: A function of a module, so that a new process finds it by name.
        folder: Empty; the workers meet and leave their results there.
        arguments: The same for both.
    """
    # Workers are forks of one process that has imported torch and does nothing else, so they start at once.
    multiprocessing.set_forkserver_preload(["torch", "jepawm.training.run"])
    mp.start_processes(_work, (folder, job, arguments), nprocs=2, start_method="forkserver")
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(2)]


def _work(rank: int, folder: Path, job: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    # Through a file: a port that is free now may be taken when the workers ask for it.
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    torch.save(job(rank, *arguments), folder / f"{rank}.pt")
    # DistributedDataParallel lies in a reference cycle and holds the group; whose threads, alive when the interpreter
    # ends, now and then abort the process.
    gc.collect()
    dist.destroy_process_group()
