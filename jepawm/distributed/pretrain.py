"""A pretraining on Ray Train; see `jepawm.distributed.train`."""

from collections.abc import Callable, Generator
from dataclasses import dataclass, replace
from typing import Any

from jepawm.config.places import portable_path
from jepawm.config.pretrain import PretrainConfig
from jepawm.config.yaml_io import from_dict
from jepawm.data.clips.sampler import ClipRequest
from jepawm.distributed.clip_stream import local_sources, streamed_clips
from jepawm.distributed.stored_home import portable_config
from jepawm.distributed.train import RayTraining, ray_fit, work_on
from jepawm.distributed.waiting import Say
from jepawm.runs.placement.demand import Claim
from jepawm.runs.pretrain import with_local_clips
from jepawm.runs.training_here import Kept
from jepawm.runs.usage import UsageMeter
from jepawm.training.place import TrainingPlace
from jepawm.training.pretrain import run_pretraining
from jepawm.types import ClipBatch


@dataclass(frozen=True)
class _CommonBatch:
    """What the number of workers must divide in every stage; see `jepawm.distributed.worker_count.BatchSizes`."""

    batch_size: int
    micro_batches: int


def pretrain_on_worker(job: dict[str, Any]) -> None:
    """One Ray Train worker that pretrains; see `jepawm.distributed.train.work_on`."""
    work_on(job, _pretrain)


def _pretrain(job: dict[str, Any], place: TrainingPlace) -> None:
    """A shell around `run_pretraining`."""
    config = replace(from_dict(PretrainConfig, job["config"]), device=job["device"])
    share: dict[str, int] = {"rank": place.rank, "world_size": place.world_size}

    def stream(request: ClipRequest, train_step: int) -> Generator[ClipBatch, None, None]:
        # Each task of Ray Data finds the sources on its own node.
        return streamed_clips(config.clips, request, train_step=train_step, **share)

    here = replace(config, clips=local_sources(config.clips))
    run_pretraining(here, place, stream=stream if config.clips.loader == "stream" else None)


def ray_pretrain(
    config: PretrainConfig,
    run_dir: str,
    claim: Claim | None = None,
    say: Say | None = None,
    *,
    usage: UsageMeter | None = None,
    spent: Callable[[], bool] = lambda: False,
) -> str:
    """Pretrains with Ray Train, continuing what `run_dir` holds.

    Args:
        config: The resolved configuration.
        run_dir: A folder on a file system that the driver and the workers share.
        claim: See `jepawm.distributed.train.ray_fit`, as for the arguments below.
        say: Told where workers wait for room.
        usage: Counts what the workers hold.
        spent: Whether training had better end.

    Returns:
        The folder of the last checkpoint.

    Raises:
        JepawmError: See `ray_fit`.
    """
    portable = with_local_clips(config, portable_path)
    training = RayTraining(
        pretrain_on_worker,
        {"config": portable_config(portable), "dataset_path": None},
        config.scaling,
        config.device,
        Kept(config.num_train_steps, config.train.num_checkpoints_kept),
        _CommonBatch(config.common_batch, config.train.micro_batches),
    )
    return ray_fit(training, run_dir, claim, say, usage=usage, spent=spent)
