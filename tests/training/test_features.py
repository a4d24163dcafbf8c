"""Training on stored features is training on frames, less the encoding; and what a model takes from the episodes."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import tiny_hub
import torch
from configs import split_of, trained_spec
from safetensors.torch import save_file

from jepawm.checkpoints.model_folder import build_world_model, save_world_model
from jepawm.config import (
    DataConfig,
    EncoderConfig,
    LossConfig,
    ModelConfig,
    PredictorConfig,
    ProprioConfig,
    RunConfig,
    TrainConfig,
    to_dict,
)
from jepawm.data import EpisodeDataset, EpisodeWriter
from jepawm.data.statistics import picture_statistics
from jepawm.errors import ConfigError, DataError
from jepawm.training.checkpoint import save_checkpoint
from jepawm.training.features import EncodeJob, encode_shards, missing_feature_bytes, stored_features
from jepawm.training.fitted import fit_proprio_map, fit_to_episodes
from jepawm.training.run import run_training

CPU = torch.device("cpu")
CONV = EncoderConfig(name="conv_map", channels=(4, 6), kernel_sizes=(8, 4), strides=(8, 4), normalization="data")
TRAIN = {
    "num_train_steps": 6,
    "batch_size": 8,
    "log_every": 1,
    "diagnostics_every": 3,
    "precision": "float32",
    "checkpoint_every": 3,
}


@pytest.fixture
def dataset(wall_dataset: EpisodeDataset, tmp_path) -> EpisodeDataset:
    """Some of Wall's episodes, in several shards and in a folder of the test's own, for features lie beside them."""
    with EpisodeWriter(tmp_path / "wall", wall_dataset.spec, shard_frames=200) as writer:
        for episode_id in wall_dataset.episode_ids[:10]:
            writer.write(wall_dataset.read_episode(int(episode_id)))
    return EpisodeDataset(tmp_path / "wall")


def config_with(encoder: EncoderConfig, **data: Any) -> RunConfig:
    return RunConfig(
        device="cpu",
        data=DataConfig(num_frames_in_window=3, features_dtype="float32", **data),
        model=ModelConfig(encoder, PredictorConfig(hidden_dim=16)),
        train=TrainConfig(**TRAIN),
    )


def encode(job: EncodeJob, shards: slice = slice(None)) -> int:
    store, encoder = job.open()
    store.begin()
    return sum(encode_shards(store, encoder, store.missing_shards[shards], CPU))


def base_model(dataset: EpisodeDataset, folder, seed: int = 0) -> str:
    """A model folder with a base that knows the mean picture."""
    config = config_with(CONV)
    torch.manual_seed(seed)
    model = build_world_model(trained_spec(config, dataset))
    fit_to_episodes(model, dataset, split_of(config, dataset).train, config.data, None)
    save_world_model(folder, model, trained_spec(config, dataset))
    return str(folder)


def records_of(config: RunConfig, dataset: EpisodeDataset) -> list[dict[str, Any]]:
    records: list[dict[str, Any]] = []
    run_training(config.training_plan(), str(dataset.path), on_metrics=records.append)
    return [
        {k: v for k, v in record.items() if k.startswith(("train/loss", "train/grad", "diag"))} for record in records
    ]


def test_a_frozen_encoder_gives_the_same_losses_from_stored_features(dataset):
    # Frozen at random: what it makes of a frame is as good as any features for a predictor.
    frozen = EncoderConfig(name="conv_map", channels=(4, 6), kernel_sizes=(8, 4), strides=(8, 4), trainable=False)
    config = config_with(frozen)
    torch.manual_seed(config.seed)
    model = build_world_model(trained_spec(config, dataset))
    stored = replace(config, data=replace(config.data, features="stored"))
    with pytest.raises(DataError, match=r"holds no whole store of features of this encoder"):
        records_of(stored, dataset)
    job = EncodeJob(str(dataset.path), to_dict(frozen), 64, "float32", save(model, dataset, config))
    needed = missing_feature_bytes(frozen, 64, "float32", dataset)
    assert needed == missing_feature_bytes(frozen, 64, "float32", int(dataset.num_frames_each.sum()))
    assert encode(job) == int(dataset.num_frames_each.sum())
    kept = list(dataset.path.glob("features/*/features-*.npy"))
    assert needed == sum(np.load(path).nbytes for path in kept)
    assert missing_feature_bytes(frozen, 64, "float32", dataset) == 0
    assert missing_feature_bytes(frozen, 64, "float16", dataset) == needed // 2
    from_frames, from_store = records_of(config, dataset), records_of(stored, dataset)
    assert len(from_frames) == TRAIN["num_train_steps"]
    for ours, theirs in zip(from_store, from_frames, strict=True):
        # A convolution over a batch of another size may add its products in another order, float32.
        assert ours == pytest.approx(theirs, rel=1e-4, nan_ok=True)


@pytest.mark.parametrize("kind", ["timm", "huggingface"])
def test_stored_features_of_a_librarys_model_train_as_its_frames_do(dataset, tmp_path, kind):
    if kind == "huggingface":
        tiny_hub.write(tmp_path / "siglip", "siglip")
        encoder = EncoderConfig(name=kind, model=str(tmp_path / "siglip"), trainable=False, layer=1)
    else:
        timm = pytest.importorskip("timm")
        torch.manual_seed(0)
        save_file(timm.create_model("test_vit", pretrained=False).state_dict(), tmp_path / "vit.safetensors")
        encoder = EncoderConfig(
            name=kind, model="test_vit", weights=str(tmp_path / "vit.safetensors"), trainable=False, resize_to=32
        )
    config = config_with(encoder)
    stored = replace(config, data=replace(config.data, features="stored"))
    needed = missing_feature_bytes(encoder, 64, "float32", dataset)
    job = EncodeJob(str(dataset.path), to_dict(encoder), 64, "float32")
    encode(job)
    kept = list(dataset.path.glob("features/*/features-*.npy"))
    assert needed == sum(np.load(path).nbytes for path in kept) > 0
    for ours, theirs in zip(records_of(stored, dataset), records_of(config, dataset), strict=True):
        # Attention over a batch of another size may add its products in another order, float32.
        assert ours == pytest.approx(theirs, rel=1e-4, nan_ok=True)
    # Another layer is another encoder.
    other = replace(stored, model=replace(stored.model, encoder=replace(encoder, layer=2)))
    with pytest.raises(DataError, match=r"holds no whole store of features of this encoder"):
        records_of(other, dataset)


def save(model, dataset: EpisodeDataset, config: RunConfig) -> str:
    folder = str(dataset.path.parent / "frozen")
    save_world_model(folder, model, trained_spec(config, dataset))
    return folder


def test_a_compact_model_trains_on_its_base_and_resumes_exactly(dataset, tmp_path):
    base = base_model(dataset, tmp_path / "base")
    compact = EncoderConfig(name="compact", latent_dim=4, hidden_dim=16, base=CONV, weights=base)
    config = config_with(compact, features="stored")
    job = EncodeJob(str(dataset.path), to_dict(compact), 64, "float32")
    # Half of the shards in one process, the rest in another.
    encode(job, slice(0, 1))
    encode(job)
    store, encoder = job.open()
    assert store.missing_shards == []
    states = {}

    def keep(state, spec, record):
        save_checkpoint(str(tmp_path / f"step-{state.train_step:08d}"), state, spec)
        states[state.train_step] = {k: v.clone() for k, v in state.objective.model.state_dict().items()}

    run_training(config.training_plan(), str(dataset.path), on_checkpoint=keep)
    whole = states.pop(6)
    before = store.path.stat().st_mtime_ns
    run_training(
        config.training_plan(), str(dataset.path), on_checkpoint=keep, restore_from=str(tmp_path / "step-00000003")
    )
    assert all(torch.equal(whole[name], value) for name, value in states[6].items())
    assert store.path.stat().st_mtime_ns == before
    # The base is as it was, phi is not, and the features' scale is that of the training episodes.
    for name, value in encoder.base.state_dict().items():
        assert torch.equal(whole[f"encoder.base.{name}"], value), name
    assert not torch.equal(whole["encoder.phi.0.weight"], states[3]["encoder.phi.0.weight"])
    assert float(whole["encoder.feature_std"].min()) > 0


def test_features_of_another_base_are_refused(dataset, tmp_path):
    first, second = (base_model(dataset, tmp_path / name, seed) for name, seed in (("one", 0), ("two", 1)))
    compact = EncoderConfig(name="compact", latent_dim=4, hidden_dim=16, base=CONV, weights=first)
    encode(EncodeJob(str(dataset.path), to_dict(compact), 64, "float32"))
    data = config_with(compact, features="stored").data
    model = build_world_model(trained_spec(config_with(compact, features="stored"), dataset))
    assert stored_features(model.encoder, compact, dataset, data) is not None
    other = replace(compact, weights=second)
    model = build_world_model(trained_spec(config_with(other, features="stored"), dataset))
    with pytest.raises(DataError, match=r"no whole store .*; it holds 1 of other weights or settings"):
        stored_features(model.encoder, other, dataset, data)
    # Of the same weights, read from the folder of the model itself, the features are the same.
    store, _ = EncodeJob(str(dataset.path), to_dict(CONV), 64, "float32", first).open()
    assert store.missing_shards == []


def test_a_compact_encoder_needs_features(dataset, tmp_path):
    compact = EncoderConfig(
        name="compact", latent_dim=4, hidden_dim=16, base=CONV, weights=base_model(dataset, tmp_path / "base")
    )
    config = config_with(compact, features="stored")
    model = build_world_model(trained_spec(config, dataset))
    with pytest.raises(ConfigError, match=r"trains on stored features of its base"):
        fit_to_episodes(model, dataset, split_of(config, dataset).train, config.data, None)


def test_the_mean_picture_is_that_of_the_training_episodes(dataset):
    config = config_with(CONV)
    train = split_of(config, dataset).train
    found = picture_statistics(dataset, train)
    pixels = np.concatenate([dataset.read_episode(int(i)).pixels for i in train]).astype(np.float64)
    np.testing.assert_allclose(found.mean_picture, pixels.mean(axis=0), atol=1e-4)
    assert found.deviation == pytest.approx(np.sqrt(np.square(pixels - pixels.mean(axis=0)).mean()), rel=1e-9)
    few = picture_statistics(dataset, train, max_episodes=2)
    assert few.num_frames <= 2 * 51 < found.num_frames
    model = build_world_model(trained_spec(config, dataset))
    fit_to_episodes(model, dataset, train, config.data, None)
    np.testing.assert_allclose(model.encoder.preprocess.mean_picture.numpy(), found.mean_picture.transpose(2, 0, 1))
    assert float(model.encoder.preprocess.deviation) == pytest.approx(found.deviation, rel=1e-6)


def test_proprio_moves_on_by_the_map_that_fits_the_episodes(dataset):
    config = config_with(EncoderConfig(latent_dim=8))
    config = replace(
        config,
        model=replace(config.model, proprio=ProprioConfig("token", update="fit_linear")),
        loss=LossConfig(proprio_prediction=0.0),
    )
    train = split_of(config, dataset).train
    model = build_world_model(trained_spec(config, dataset)).double().eval()
    fitted = fit_proprio_map(model, dataset, train)
    # The definition, on all rows at once.
    skip, rows, following = config.data.frameskip, [], []
    for i in train:
        proprio = (dataset.read_column("proprio", int(i)) - model.proprio_mean.numpy()) / model.proprio_std.numpy()
        proprio, actions = proprio[::skip], dataset.read_column("actions", int(i))
        chunks = (actions.reshape(-1, model.action_dim) - model.action_mean.numpy()) / model.action_std.numpy()
        rows.append(np.concatenate([proprio[:-1], chunks, np.ones((len(chunks), 1))], axis=1))
        following.append(proprio[1:])
    expected, *_ = np.linalg.lstsq(np.concatenate(rows), np.concatenate(following), rcond=None)
    np.testing.assert_allclose(fitted, expected, rtol=0, atol=1e-8)
    model.set_proprio_map(torch.from_numpy(fitted))
    raw = torch.from_numpy(dataset.read_column("proprio", int(train[0]))[::skip]).double()[None]
    pixels = torch.from_numpy(dataset.read_episode(int(train[0])).pixels[::skip]).movedim(-1, 1)[None]
    chunks = torch.from_numpy(dataset.read_column("actions", int(train[0]))).double().reshape(1, -1, model.action_dim)
    latents = model.encode(pixels, raw)
    one_step = model.predict(latents[:, :-1], chunks)
    wanted = np.concatenate(rows)[: chunks.shape[1]] @ expected
    np.testing.assert_allclose(one_step.proprio[0, :, 0].numpy(force=True), wanted, rtol=0, atol=1e-6)
    unrolled = model.unroll(latents[:, :1], chunks)
    torch.testing.assert_close(unrolled.proprio[:, 0], one_step.proprio[:, 0])
    # The predictor reads it: another proprio, another latent.
    other = model.unroll(model.encode(pixels, raw + 5)[:, :1], chunks)
    assert not torch.allclose(other.visual, unrolled.visual)


def test_stated_numbers_take_the_place_of_statistics(dataset):
    config = replace(RunConfig(), data=DataConfig(action_mean=(0.0, 0.0), action_std=(0.2, 0.4)))
    spec = trained_spec(config, dataset)
    np.testing.assert_array_equal(spec.statistics.action_std, np.float32([0.2, 0.4]))
    np.testing.assert_array_equal(
        spec.statistics.proprio_std, trained_spec(RunConfig(), dataset).statistics.proprio_std
    )
    wrong = replace(config, data=DataConfig(proprio_mean=(0.0,) * 5))
    with pytest.raises(DataError, match=r"data.proprio_mean states 5 numbers, the episodes in .* have 2 dimensions"):
        trained_spec(wrong, dataset)
    with pytest.raises(ConfigError, match=r"data.action_std must be above 0 in every dimension"):
        DataConfig(action_std=(0.2, 0.0))


def test_a_linear_map_goes_with_a_predictor_that_reads_proprio():
    with pytest.raises(ConfigError, match=r"'fit_linear' goes with a proprio token of model.predictor.name 'mlp'"):
        ModelConfig(predictor=PredictorConfig(), proprio=ProprioConfig("token"))
    with pytest.raises(ConfigError, match=r"'fit_linear' goes with"):
        ModelConfig(
            predictor=PredictorConfig(name="adaln", num_heads=4), proprio=ProprioConfig("token", update="fit_linear")
        )
