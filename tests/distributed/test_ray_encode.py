"""A pool of actors fills a feature store with what one process fills it with."""

import shutil

import numpy as np
import pytest
import torch
from configs import trained_spec

from jepawm.checkpoints.model_folder import build_world_model, save_world_model
from jepawm.config import EncoderConfig, ModelConfig, PredictorConfig, RunConfig, ScalingConfig, to_dict
from jepawm.data import EpisodeDataset, EpisodeWriter
from jepawm.errors import DataError
from jepawm.runs.placement.demand import Demand
from jepawm.training.features import EncodeJob, encode_shards

pytestmark = pytest.mark.ray
CONV = EncoderConfig(name="conv_map", channels=(4, 6), kernel_sizes=(8, 4), strides=(8, 4))


@pytest.fixture
def jobs(wall_dataset, tmp_path) -> dict[str, EncodeJob]:
    """The same job on two copies of a dataset of two shards."""
    with EpisodeWriter(tmp_path / "one", wall_dataset.spec, shard_frames=200) as writer:
        for episode_id in wall_dataset.episode_ids[:8]:
            writer.write(wall_dataset.read_episode(int(episode_id)))
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    config = RunConfig(model=ModelConfig(CONV, PredictorConfig(hidden_dim=8)))
    spec = trained_spec(config, wall_dataset)
    torch.manual_seed(0)
    save_world_model(tmp_path / "model", build_world_model(spec), spec)
    model = str(tmp_path / "model")
    return {name: EncodeJob(str(tmp_path / name), to_dict(CONV), 64, "float32", model) for name in ("one", "two")}


def demand(num_actors: int) -> Demand:
    """Actors of the shared Ray, on CPUs."""
    from jepawm.distributed.cluster import look_at_cluster

    return Demand(ScalingConfig(num_encode_actors=num_actors), "cpu", look_at_cluster())


def test_actors_encode_what_one_process_encodes(jobs, ray_local):
    from jepawm.distributed.encode import encode_on_ray

    alone, encoder = jobs["one"].open()
    alone.begin()
    list(encode_shards(alone, encoder, alone.missing_shards, torch.device("cpu")))
    store, _ = jobs["two"].open()
    store.begin()
    # One shard is there already: the actors leave it alone.
    list(encode_shards(store, encoder, [1], torch.device("cpu")))
    kept = store.shard_path(1).stat().st_mtime_ns
    assert sum(encode_on_ray(jobs["two"], demand(2))) == store.num_frames - store.shard_frames(1)
    assert store.shard_path(1).stat().st_mtime_ns == kept
    store.finish()
    for number in range(store.dataset.num_shards):
        ours, theirs = (np.load(each.shard_path(number)) for each in (store, alone))
        # Threads may add the products of a convolution in another order, float32.
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.long
def test_an_actor_says_what_is_wrong_with_an_episode(jobs, ray_local):
    from jepawm.distributed.encode import encode_on_ray

    store, encoder = jobs["one"].open()
    store.begin()
    list(encode_shards(store, encoder, [1], torch.device("cpu")))
    path = EpisodeDataset(jobs["one"].dataset_path).shard_path(0)
    content = bytearray(path.read_bytes())
    # Inside the frames, whose column is stored uncompressed; the footer at the end stays readable.
    content[len(content) // 3 : len(content) // 3 + 400] = bytes(400)
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"shard-00000\.parquet"):
        list(encode_on_ray(jobs["one"], demand(1)))
