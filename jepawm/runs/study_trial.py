"""One trial of a study: a run, and what is measured of its model. The same on Ray and in one process."""

import os
import time
import traceback
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from jepawm.checkpoints.model_folder import load_world_model
from jepawm.config import RunConfig, TrackingConfig, from_dict
from jepawm.config.compact import frozen_encoder
from jepawm.config.head import HeadDataConfig, HeadJob, HeadTrainConfig
from jepawm.config.study import StudyMeasuresConfig
from jepawm.config.yaml_io import override
from jepawm.console import Console
from jepawm.data import EpisodeDataset
from jepawm.data.loading.feature_store import FeatureStore
from jepawm.data.loading.split import Split
from jepawm.device import device_of_claim, pick_device
from jepawm.errors import DataError, FolderGoneError, FolderInUseError, JepawmError, first_line
from jepawm.evaluation.result import EvaluationResult
from jepawm.runs.directory import FINISHED, begin_run
from jepawm.runs.episodes import find_dataset
from jepawm.runs.evaluation import EVAL_FILE, evaluate_model, read_result
from jepawm.runs.heads import train_head
from jepawm.runs.pipeline import run
from jepawm.runs.runtime import LocalRuntime
from jepawm.runs.trial import ERROR_FILE
from jepawm.shared_folders import told_if_gone
from jepawm.study.measures import (
    clip_probe,
    encoding_cost,
    feature_probes,
    latent_probes,
    probed_episodes,
    sees_clips,
)
from jepawm.study.memory import PeakMemory
from jepawm.study.records import Found, Part, TrialFolder
from jepawm.training.features import stored_features
from jepawm.world_model import WorldModel

PEAK_MEMORY = "peak memory"


def run_study_trial(folder: TrialFolder, *, gpus: float | None = None) -> Found:
    """Does what is left of a trial; what fails is a result as well, and is kept with its error.

    Args:
        folder: Of the trial, which was begun.
        gpus: What this process claims of Ray; None: no Ray, and the run's device is taken as it is.

    Returns:
        What was found.

    Raises:
        FolderGoneError: The folder of the trial, or one that it reads, went away. Nothing is wrong with the trial, so
            nothing is kept; it goes on when the folder is back.
        FolderInUseError: Another process works in the folder, as one does that lives on after its node was lost.
    """
    with told_if_gone(str(folder.path)):
        return _run_trial(folder, gpus)


def _run_trial(folder: TrialFolder, gpus: float | None) -> Found:
    job, found = folder.job, folder.found
    began, before = time.perf_counter(), found.seconds

    def kept(**changes: Any) -> Found:
        return folder.write(replace(found, seconds=before + time.perf_counter() - began, **changes))

    try:
        config = replace(from_dict(RunConfig, dict(job.config), str(folder.path)), run_dir=str(folder.path))
        if gpus is not None:
            config = replace(config, device=device_of_claim(config.device, gpus))
        if not found.evaluated:
            parts = dict(found.parts)
            if not (folder.path / FINISHED).exists():
                memory = PeakMemory(pick_device(config.device))
                # The folder holds the trial's own file before the run begins.
                begin_run(config, job.recipe, str(folder.path))
                run(config, job.recipe, LocalRuntime(), Console(quiet=True))
                # Where another process finished the run, its peak is not known.
                parts[PEAK_MEMORY] = memory.mib()
            found = kept(evaluated=True, parts=parts)
        trial = _TrainedTrial(config, folder)
        for part in job.parts:
            if part.key not in found.parts:
                found = kept(parts={**found.parts, part.key: trial.measure(part)})
    except (FolderGoneError, FolderInUseError):
        raise
    except JepawmError as error:
        found = kept(error=str(error))
    except Exception as error:  # noqa: BLE001 - kept as what the trial found, with its traceback beside it
        (folder.path / ERROR_FILE).write_text(traceback.format_exc(), encoding="utf-8")
        found = kept(error=f"{type(error).__name__}: {first_line(error)} (see {folder.path / ERROR_FILE})")
    return found


class _TrainedTrial:
    """A trial whose run is done.

    Args:
        config: Its run.
        folder: Its files.
    """

    def __init__(self, config: RunConfig, folder: TrialFolder) -> None:
        self._config, self._folder = config, folder
        self._model: WorldModel | None = None

    def measure(self, part: Part) -> dict[str, Any]:
        """What a part finds."""
        if part.name in ("probes", "feature probes"):
            return self._probes(part)
        if part.name == "cost":
            # Halves as a store keeps them, where it does.
            stored_bytes = np.dtype(self._config.data.features_dtype).itemsize
            return encoding_cost(self._loaded(), self._device, stored_bytes=stored_bytes)
        if part.name == "reconstruction":
            return self._reconstruction(part.settings)
        assert part.name.startswith("transfer "), part.name
        return self._transfer(part)

    @property
    def _model_dir(self) -> str:
        return os.path.join(str(self._folder.path), "model")

    @property
    def _device(self) -> torch.device:
        return pick_device(self._config.device)

    def _loaded(self) -> WorldModel:
        if self._model is None:
            self._model = load_world_model(self._model_dir, self._device)[0].eval()
        return self._model

    def _dataset(self) -> EpisodeDataset:
        dataset = find_dataset(self._config)
        if dataset is None:
            raise DataError(f"the episodes of {self._folder.path} are not here any more ({self._config.data.path})")
        return dataset

    def _probes(self, part: Part) -> dict[str, Any]:
        config, dataset, model = self._config, self._dataset(), self._loaded()
        wanted = from_dict(StudyMeasuresConfig, dict(part.settings["measures"]))
        frozen = frozen_encoder(config.model.encoder)
        reads_clips = wanted.temporal and sees_clips(frozen)
        if part.name == "feature probes" and model.encoder.storable is model.encoder and not reads_clips:
            # No part is frozen, and so no frames need to be read.
            return {}
        split = Split.of(dataset, config.data.held_out_fraction, config.seed)
        store = stored_features(model.encoder, config.model.encoder, dataset, config.data)

        def episodes(kept: FeatureStore | None) -> Any:
            return probed_episodes(dataset, split, config.data, wanted, seed=config.seed, store=kept)

        windows = episodes(store)
        if windows is None:
            return {}
        if part.name == "probes":
            return {"latents": latent_probes(model, windows, self._device, temporal=wanted.temporal)}
        found = {"features": feature_probes(model, windows, self._device, temporal=wanted.temporal)}
        if reads_clips:
            with_frames = windows if store is None else episodes(None)
            found["clips"] = clip_probe(frozen, config.env.image_size, with_frames, self._device)
        return {name: each for name, each in found.items() if each is not None}

    def _reconstruction(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        measures = from_dict(StudyMeasuresConfig, dict(settings["measures"]))
        steps = measures.reconstruction_steps
        job = HeadJob(
            model=self._model_dir,
            seed=self._config.seed,
            device=self._config.device,
            head=measures.decoder,
            data=HeadDataConfig(num_episodes=measures.reconstruction_episodes),
            optim=replace(HeadJob().optim, learning_rate=measures.reconstruction_learning_rate),
            train=HeadTrainConfig(
                num_train_steps=steps,
                batch_size=measures.reconstruction_batch_size,
                checkpoint_every=steps,
                log_every=steps,
            ),
            tracking=TrackingConfig(mlflow=False),
        )
        return dict(train_head(job, Console(quiet=True)).spec.metrics)

    def _transfer(self, part: Part) -> dict[str, Any]:
        place = self._folder.transfer(part)
        path = place / EVAL_FILE
        if path.is_file():
            return _played(read_result(str(path)))
        config = transfer_config(self._config, part.settings["settings"], part.name)
        place.mkdir(parents=True, exist_ok=True)
        return _played(
            evaluate_model(replace(config, run_dir=str(place)), LocalRuntime(), Console(quiet=True), self._model_dir)
        )


def _played(result: EvaluationResult) -> dict[str, Any]:
    """Whether each episode was solved, with plans and with random plans, by id."""
    assert result.played is not None, "a transfer is played in an environment"
    headline = result.played.protocols[result.played.headline]
    return {
        name: {str(episode.episode_id): episode.solved for episode in played.episodes}
        for name, played in (("solved", headline.planned), ("random", headline.random))
    }


def transfer_config(config: RunConfig, settings: Mapping[str, Any], where: str) -> RunConfig:
    """The evaluation of a trial's model elsewhere.

    Args:
        config: Of the trial.
        settings: What is different there.
        where: Named in errors.

    Raises:
        ConfigError: Settings that do not go together.
    """
    changed = override(config, dict(settings), where)
    evaluation = replace(changed.evaluation, allow_other_env=True, num_animations=0, num_diagnosed_failures=0)
    return replace(changed, evaluation=evaluation)
