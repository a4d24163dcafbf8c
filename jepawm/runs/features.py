"""Encodes the frames of a run's episodes once, for training on stored features."""

from jepawm.config import RunConfig, to_dict
from jepawm.config.compact import CompactEncoderConfig
from jepawm.console import Console
from jepawm.data import EpisodeDataset
from jepawm.errors import ConfigError
from jepawm.runs.episodes import prepare_dataset
from jepawm.runs.placement import tell_placement
from jepawm.runs.preflight import check_collection
from jepawm.runs.runtime import Runtime, make_runtime
from jepawm.runs.usage import usage_shown
from jepawm.storage.holding import held
from jepawm.training.features import EncodeJob


def encode_run(config: RunConfig, console: Console, model_dir: str | None) -> str:
    """Prepares the episodes of a run, and encodes their frames; what cannot work is refused before Ray starts.

    Args:
        config: The resolved configuration: the episodes, and without a model the frozen encoder.
        console: Where progress is shown.
        model_dir: A model whose encoder is used as it was trained; None: the encoder of the configuration, pretrained.

    Returns:
        Folder of the features.
    """
    if model_dir is None:
        check_frozen(config)
    check_collection(config)
    with console.stage("start", "local process" if config.local else "Ray"):
        runtime = make_runtime(config, console.say)
    try:
        tell_placement(runtime.place(config, ("collect", "encode")), console)
        with usage_shown(runtime.usage, runtime.share("driver", config), config.tracking, console.say):
            dataset = EpisodeDataset(prepare_dataset(config, runtime, console))
            return encode_features(encode_job(config, dataset, model_dir), runtime, console)
    finally:
        runtime.close()


def check_frozen(config: RunConfig) -> None:
    """Refuses to store features of an encoder that trains: they would be stale after its first update.

    Raises:
        ConfigError: Says which setting to change.
    """
    encoder = config.model.encoder
    if isinstance(encoder, CompactEncoderConfig):
        if encoder.trains_base:
            raise ConfigError(
                "model.encoder.base is not trained yet: jepawm train trains and encodes it; or name it with "
                "--model.encoder.weights RUN"
            )
    elif encoder.trainable:
        raise ConfigError(
            f"model.encoder.name '{encoder.name}' trains, so its features change with every update; pass "
            "--model.encoder.no-trainable with pretrained weights, or --model RUN for the encoder of a trained model"
        )


def encode_job(config: RunConfig, dataset: EpisodeDataset, model_dir: str | None) -> EncodeJob:
    """The job that encodes a dataset as a run reads it."""
    return EncodeJob(
        dataset_path=str(dataset.path.absolute()),
        encoder=to_dict(config.model.encoder),
        image_size=config.env.image_size,
        dtype=config.data.features_dtype,
        model_dir=model_dir,
    )


def encode_features(job: EncodeJob, runtime: Runtime, console: Console) -> str:
    """Encodes what is not encoded yet; says first what it will cost on disk.

    Args:
        job: What is encoded.
        runtime: Where the work happens.
        console: Where progress is shown.

    Returns:
        Folder of the features.
    """
    store, _ = job.open()
    missing = store.missing_shards
    if not missing:
        store.check_whole()
        console.say(f"features   {store.path} (encoded earlier)")
        return str(store.path)
    frames, key = sum(store.shard_frames(number) for number in missing), store.key
    store.begin()
    what = (
        f"{frames} frames of {store.num_frames} x {key.num_patches} x {key.latent_dim} {key.dtype}, "
        f"{key.disk_bytes(frames) / 2**20:.1f} MiB on disk"
    )
    with (
        held(job.dataset_path, console.say, waits=True),
        console.stage("encode", what),
        console.bar("frames", frames) as advance,
    ):
        done = 0
        for count in runtime.encode(job):
            done += count
            advance(done, "")
        store.finish()
    console.say(f"   {store.path}")
    return str(store.path)
