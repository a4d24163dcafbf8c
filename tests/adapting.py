"""Shorthand for tests of environments that know nothing of jepawm."""

import numpy as np

from jepawm.config import EnvConfig
from jepawm.data.codecs import decode_frames
from jepawm.data.encoding import EncodedEpisode
from jepawm.rollout.adapter import AdaptedEnv
from jepawm.rollout.make import make_env


def config(name: str, *options: str, image_size: int = 32) -> EnvConfig:
    """Of one of `foreign_envs`."""
    return EnvConfig(id=f"foreign_envs:{name}", image_size=image_size, options=options)


def adapted(name: str, *options: str, image_size: int = 32) -> AdaptedEnv:
    """One of `foreign_envs`, made."""
    env = make_env(config(name, *options, image_size=image_size))
    assert isinstance(env, AdaptedEnv)
    return env


def pixels_of(episode: EncodedEpisode) -> np.ndarray:
    """`[T,Y,X,C]`."""
    return decode_frames(episode.frames, episode.codec, episode.pixels_shape)
