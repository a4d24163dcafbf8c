"""The kinds `timm` and `huggingface` on the command line, over a recipe with another encoder."""

import pytest

from jepawm.config import EncoderConfig
from jepawm.config.command_line import parse
from jepawm.config.encoder import with_weights
from jepawm.errors import ConfigError


@pytest.mark.parametrize(("kind", "model"), [("timm", "test_vit.r160_in1k"), ("huggingface", "google/siglip2@0123abc")])
def test_pixels_stay_the_models_own_over_a_recipe_that_says_nothing_of_them(kind: str, model: str) -> None:
    words = ["--recipe", "demo", "--model.encoder.name", kind, "--model.encoder.model", model]
    config, _ = parse([*words, "--model.encoder.no-trainable"])
    assert config.model.encoder == EncoderConfig(name=kind, model=model, weights=kind, trainable=False)
    assert (config.model.encoder.pixel_normalization, config.model.encoder.resampling) == (None, None)
    given, _ = parse([*words, "--model.encoder.normalization", "imagenet", "--model.encoder.layer", "6"])
    assert (given.model.encoder.pixel_normalization, given.model.encoder.layer) == ("imagenet", 6)


def test_a_video_model_takes_no_images() -> None:
    with pytest.raises(ConfigError, match=r"tokenization 'image' has no meaning for huggingface.* use 'frame'"):
        EncoderConfig(name="huggingface", model="a/b", tokenization="image")


def test_a_folder_that_moved_brings_its_configuration(tmp_path) -> None:
    config = EncoderConfig(name="huggingface", model="/old/place")
    (tmp_path / "config.json").write_text("{}")
    moved = with_weights(config, str(tmp_path))
    assert (moved.model, moved.weights) == (str(tmp_path), "huggingface")
    (tmp_path / "config.json").unlink()
    assert with_weights(config, str(tmp_path)) == EncoderConfig(
        name="huggingface", model="/old/place", weights=str(tmp_path)
    )
    assert with_weights(config, None).weights_source is None
