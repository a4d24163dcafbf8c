"""The control encoder: means and deviations of cells, and what it refuses."""

import numpy as np
import pytest
import torch

from jepawm.config import EncoderConfig
from jepawm.encoders import build_encoder
from jepawm.encoders.frozen import encoder_sha256
from jepawm.errors import ConfigError


def test_a_token_is_mean_and_deviation_of_its_cell_and_of_no_other() -> None:
    frames = torch.randint(0, 256, (1, 1, 3, 12, 12), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    tokens = build_encoder(EncoderConfig(name="pixel_statistics", cells=3), 12)(frames)
    pixels = frames[0, 0].numpy().astype(np.float64) / 127.5 - 1
    expected = [
        np.concatenate([cell.mean(axis=(1, 2)), cell.std(axis=(1, 2))])
        for row in range(3)
        for column in range(3)
        for cell in [pixels[:, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4]]
    ]
    # float32 over 16 numbers of at most 1.
    np.testing.assert_allclose(tokens[0, 0].numpy(), np.stack(expected), atol=1e-5)


def test_a_grid_that_does_not_divide_the_frames_and_what_would_train_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"model\.encoder\.cells 5 do not divide frames of 32 px"):
        build_encoder(EncoderConfig(name="pixel_statistics", cells=5), 32)
    with pytest.raises(ConfigError, match="has no weights"):
        EncoderConfig(name="pixel_statistics", trainable=True)


def test_a_compact_latent_stands_on_it_without_any_weights_of_a_base() -> None:
    base = EncoderConfig(name="pixel_statistics", cells=4)
    config = EncoderConfig(name="compact", latent_dim=5, hidden_dim=8, base=base)
    assert not config.trains_base  # type: ignore[attr-defined]
    encoder = build_encoder(config, 16)
    assert encoder(torch.zeros(1, 2, 3, 16, 16, dtype=torch.uint8)).shape == (1, 2, 1, 5)
    # A store of its features is told apart by its settings, for there is nothing else.
    assert encoder_sha256(encoder.storable) == encoder_sha256(build_encoder(base, 16))
    with pytest.raises(ConfigError, match="has no weights to be read"):
        EncoderConfig(name="compact", base=base, weights="RUN")
