"""V-JEPA encoders: sizes, tokenization, positions, and the files they are loaded from."""

import dataclasses
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional as F

from jepawm.config import EncoderConfig
from jepawm.encoders.vjepa import VJEPAEncoder
from jepawm.encoders.vjepa_files import load_vjepa, vjepa_from_transformers
from jepawm.errors import CheckpointError, ConfigError
from jepawm.nn.embeddings import sincos_3d
from jepawm.nn.rotary import rotary_table, rotate

TINY = EncoderConfig(name="vjepa2", latent_dim=48, depth=2, num_heads=2)
TINY1 = EncoderConfig(name="vjepa1", latent_dim=48, depth=2, num_heads=2)


def tiny(config: EncoderConfig = TINY, *, image_size: int = 64, seed: int = 0, **changed) -> VJEPAEncoder:
    torch.manual_seed(seed)
    encoder = VJEPAEncoder(replace(config, **changed), image_size).eval()
    with torch.no_grad():
        # The published start hardly lets tokens see each other.
        for name, value in encoder.named_parameters():
            value.add_(0.1 * torch.randn_like(value)) if "blocks" in name else None
    return encoder


@pytest.fixture
def pixels() -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (2, 4, 3, 64, 64), dtype=torch.uint8, generator=generator)


# --- sizes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "size", "dim", "depth", "hidden", "millions"),
    [
        ("vjepa2", "tiny", 192, 12, 768, 6),
        ("vjepa2", "small", 384, 12, 1536, 22),
        ("vjepa2", "base", 768, 12, 3072, 86),
        ("vjepa2", "large", 1024, 24, 4096, 304),
        ("vjepa2", "huge", 1280, 32, 5120, 632),
        ("vjepa2", "giant", 1408, 40, 6144, 1012),
        ("vjepa1", "large", 1024, 24, 4096, 304),
    ],
)
def test_published_sizes_have_their_parameters(name, size, dim, depth, hidden, millions):
    with torch.device("meta"):
        encoder = VJEPAEncoder(EncoderConfig(name=name, size=size), 256)
    embedding = 3 * 2 * 16 * 16 * dim + dim
    block = 2 * 2 * dim + 3 * dim * (dim + 1) + dim * (dim + 1) + hidden * (dim + 1) + dim * (hidden + 1)
    count = sum(parameter.numel() for parameter in encoder.parameters())
    assert count == embedding + depth * block + 2 * dim
    assert round(count / 1e6) == millions
    assert (encoder.latent_dim, encoder.num_patches, encoder.grid) == (dim, 256, (16, 16))


def test_huge_heads_are_80_wide():
    with torch.device("meta"):
        encoder = VJEPAEncoder(EncoderConfig(name="vjepa2", size="huge"), 256)
    assert encoder.head_dim == 80


def test_no_size_is_the_smallest():
    with torch.device("meta"):
        assert VJEPAEncoder(EncoderConfig(name="vjepa2"), 256).latent_dim == 192
        assert VJEPAEncoder(EncoderConfig(name="vjepa1"), 224).latent_dim == 1024


# --- tokenization ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("config", [TINY, TINY1])
@torch.no_grad()
def test_frame_encodes_each_frame_by_itself(pixels, config):
    encoder = tiny(config, tokenization="frame")
    together = encoder(pixels)
    assert together.shape == (2, 4, 16, 48)
    assert together.dtype == torch.float32
    apart = torch.cat([encoder(pixels[:, t : t + 1]) for t in range(4)], dim=1)
    torch.testing.assert_close(together, apart)


@torch.no_grad()
def test_duplicated_is_frame_for_one_frame_and_more_for_several(pixels):
    frame, duplicated = tiny(tokenization="frame"), tiny(tokenization="duplicated")
    torch.testing.assert_close(frame(pixels[:, :1]), duplicated(pixels[:, :1]))
    assert duplicated(pixels).shape == (2, 4, 16, 48)
    assert (frame(pixels) - duplicated(pixels)).abs().max() > 1e-2
    changed = pixels.clone()
    changed[:, 3] = 0
    assert (duplicated(pixels)[:, 0] - duplicated(changed)[:, 0]).abs().max() > 1e-4


@torch.no_grad()
def test_clip_makes_one_latent_of_two_frames(pixels):
    clip, duplicated = tiny(tokenization="clip"), tiny(tokenization="duplicated")
    assert (clip.frames_per_latent, duplicated.frames_per_latent) == (2, 1)
    latents = clip(pixels)
    assert latents.shape == (2, 2, 16, 48)
    # Doubling by hand is what `duplicated` does.
    torch.testing.assert_close(clip(pixels.repeat_interleave(2, dim=1)), duplicated(pixels))
    # Latent 1 holds frames 2 and 3, whole.
    other = pixels.clone()
    other[:, 3] = 0
    assert (clip(other)[:, 1] - latents[:, 1]).abs().max() > (clip(other)[:, 0] - latents[:, 0]).abs().max() > 0


def test_clip_refuses_an_odd_number_of_frames(pixels):
    with pytest.raises(ConfigError, match=r"'clip' takes frames in pairs, found T = 3"):
        tiny(tokenization="clip")(pixels[:, :3])


def test_frames_must_come_out_even(pixels):
    with pytest.raises(ConfigError, match=r"70 x 70 px .* patches of 16 px.*resize_to to a multiple of 16"):
        tiny(image_size=70)
    with pytest.raises(ConfigError, match=r"expects frames .* \[3,32,32\], found \[3,64,64\]"):
        tiny(image_size=32)(pixels)
    with pytest.raises(ConfigError, match=r"'image' has no meaning for vjepa2.*vjepa2_1"):
        tiny(tokenization="image")
    with pytest.raises(ConfigError, match="even number of frames, found T = 3"):
        tiny().tokens(torch.zeros(1, 3, 3, 64, 64))
    with pytest.raises(ConfigError, match=r"latent_dim \(30\) over num_heads \(2\) must be even"):
        tiny(latent_dim=30)


def test_frames_are_resized_first(pixels):
    encoder = tiny(resize_to=32)
    assert encoder.grid == (2, 2)
    assert encoder(pixels).shape == (2, 4, 4, 48)


@pytest.mark.parametrize("config", [TINY, TINY1])
def test_gradients_reach_every_parameter(pixels, config):
    encoder = tiny(config).train()
    encoder(pixels[:1, :2]).square().mean().backward()
    without = [name for name, value in encoder.named_parameters() if value.grad is None]
    assert not without


# --- positions ------------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_keeping_all_tokens_is_keeping_none_back(pixels):
    encoder = tiny()
    clip = torch.randn(2, 3, 4, 64, 64)
    order = torch.stack([torch.randperm(32), torch.randperm(32)])
    whole = encoder.tokens(clip)
    torch.testing.assert_close(encoder.tokens(clip, order), whole.take_along_dim(order[:, :, None], dim=1))


@pytest.mark.parametrize(("pairing", "moves"), [("corrected", False), ("published", True)])
@torch.no_grad()
def test_only_the_corrected_pairing_is_relative(pairing, moves):
    """The same patches at some places, and moved on by a time, a row and two columns."""
    encoder = tiny(rotary_pairing=pairing)
    clip = torch.randn(1, 3, 4, 64, 64)
    moved = clip.roll((2, 16, 32), dims=(2, 3, 4))
    kept = torch.tensor([[0, 1, 5]])
    parts = [encoder.tokens(clip, kept), encoder.tokens(moved, kept + 16 + 4 + 2)]
    assert ((parts[0] - parts[1]).abs().max() > 1e-4) == moves


@pytest.mark.parametrize(("pairing", "turns"), [("corrected", True), ("published", False)])
def test_only_the_corrected_pairing_is_a_rotation(pairing, turns):
    torch.manual_seed(0)
    places = torch.randint(0, 16, (50, 3))
    vectors = torch.randn(1, 1, 50, 64)
    turned = rotate(vectors, rotary_table(64, places, pairing=pairing))
    assert torch.allclose(turned.norm(dim=-1), vectors.norm(dim=-1), atol=1e-4) == turns
    # The product of a query and a key, as both move on.
    q, k = torch.randn(2, 1, 1, 1, 64)
    products = []
    for moved in (torch.zeros(1, 3), torch.tensor([[1.0, 4.0, 2.0]])):
        at_q = rotate(q, rotary_table(64, torch.tensor([[2.0, 3.0, 5.0]]) + moved, pairing=pairing))
        at_k = rotate(k, rotary_table(64, torch.tensor([[1.0, 7.0, 0.0]]) + moved, pairing=pairing))
        products.append((at_q * at_k).sum())
    assert torch.isclose(*products, atol=1e-4) == turns


def test_sincos_table_shares_channels_between_time_row_and_column():
    table = sincos_3d(16, (2, 3, 4))
    assert table.shape == (2, 3, 4, 16)
    # ceil(16 / 6) * 2 = 6 channels an axis: 3 sines and 3 cosines; the last axis is cut to 4.
    frequencies = 10000.0 ** (-torch.arange(3) / 3)
    t, row, column = 1, 2, 3
    expected = [torch.cat([(at * frequencies).sin(), (at * frequencies).cos()]) for at in (t, row, column)]
    torch.testing.assert_close(table[t, row, column], torch.cat(expected)[:16])


@torch.no_grad()
def test_vjepa1_takes_or_interpolates_its_table():
    native = tiny(TINY1, image_size=224)
    torch.testing.assert_close(native._positions(1, 14, 14), native.position_table[:1].flatten(0, 2))
    torch.testing.assert_close(native._positions(8, 14, 14), native.position_table.flatten(0, 2))
    # One pair of frames of 256 px: the middle of time, and 16 x 16 places in the 14 x 14 of the table.
    volume = native.position_table.permute(3, 0, 1, 2)[None]
    expected = F.interpolate(volume, scale_factor=(1 / 8, 16 / 14, 16 / 14), mode="trilinear")
    torch.testing.assert_close(native._positions(1, 16, 16), expected[0].flatten(1).T)
    middle = native.position_table[3:5].mean(0).permute(2, 0, 1)[None]
    expected = F.interpolate(middle, size=(16, 16), mode="bilinear")[0].flatten(1).T
    torch.testing.assert_close(native._positions(1, 16, 16), expected)


@torch.no_grad()
def test_vjepa1_knows_where_a_patch_is():
    encoder = tiny(TINY1)
    tokens = encoder.tokens(torch.ones(1, 3, 2, 64, 64))
    assert (tokens[0, 0] - tokens[0, 5]).abs().max() > 1e-2
    assert "position_table" not in encoder.state_dict()


# --- files ----------------------------------------------------------------------------------------------------------


def published(encoder: VJEPAEncoder) -> dict[str, torch.Tensor]:
    tensors = {}
    for name, value in encoder.state_dict().items():
        tensors["module.backbone." + name.replace("patch_embed.", "patch_embed.proj.")] = value.clone()
    return tensors


def as_transformers(encoder: VJEPAEncoder) -> dict[str, torch.Tensor]:
    tensors = {}
    for name, value in encoder.state_dict().items():
        name = name.replace("patch_embed.", "encoder.embeddings.patch_embeddings.proj.")
        name = "encoder.layernorm." + name[5:] if name.startswith("norm.") else name
        name = name.replace("blocks.", "encoder.layer.").replace(".attn.", ".attention.")
        if ".qkv." in name:
            for part, rows in zip(("query", "key", "value"), value.chunk(3), strict=True):
                tensors[name.replace(".qkv.", f".{part}.")] = rows.clone()
        else:
            tensors[name] = value.clone()
    return tensors


def assert_same(one: VJEPAEncoder, other: VJEPAEncoder) -> None:
    for name, value in one.state_dict().items():
        assert torch.equal(value, other.state_dict()[name]), name


def test_the_part_that_is_asked_for_is_loaded(tmp_path):
    online, average = tiny(seed=1), tiny(seed=2)
    tables = {"module.backbone.pos_embed": torch.zeros(1, 8, 48)}
    path = tmp_path / "vitl.pt"
    torch.save({"encoder": published(online), "target_encoder": published(average) | tables, "epoch": 1}, path)
    config = replace(TINY, weights=str(path))
    assert_same(VJEPAEncoder(config, 64), average)
    assert_same(VJEPAEncoder(dataclasses.replace(config, weights_part="encoder"), 64), online)


def test_a_file_without_the_part_says_what_it_has(tmp_path):
    path = tmp_path / "vjepa2-ac-vitg.pt"
    torch.save({"encoder": published(tiny()), "epoch": 1}, path)
    with pytest.raises(CheckpointError, match=r"has no 'target_encoder' .*encoder.*name another part"):
        VJEPAEncoder(replace(TINY, weights=str(path)), 64)


def test_loading_is_strict(tmp_path):
    path = tmp_path / "vitl.pt"
    torch.save({"target_encoder": published(tiny())}, path)
    with pytest.raises(CheckpointError, match=r"model\.encoder\.size the file's\?\): missing blocks\.2"):
        VJEPAEncoder(replace(TINY, weights=str(path), depth=3), 64)
    with pytest.raises(CheckpointError, match=r"unexpected blocks\.1"):
        VJEPAEncoder(replace(TINY, weights=str(path), depth=1), 64)


def test_a_missing_file_says_where_to_get_it(tmp_path):
    for config, address in ((TINY, "V-JEPA 2 release"), (TINY1, "V-JEPA release")):
        with pytest.raises(CheckpointError, match=rf"not found: .*nowhere\.pt; take .*{address}"):
            VJEPAEncoder(replace(config, weights=str(tmp_path / "nowhere.pt")), 64)
    with pytest.raises(ConfigError, match="timm has no weights of vjepa2"):
        VJEPAEncoder(replace(TINY, weights="timm"), 64)


def test_vjepa1_compares_the_table_of_the_file(tmp_path):
    encoder = tiny(TINY1, image_size=224)
    path = tmp_path / "vitl16.pth.tar"
    table = encoder.position_table.flatten(0, 2)[None]
    torch.save({"target_encoder": published(encoder) | {"module.backbone.pos_embed": table}}, path)
    assert_same(VJEPAEncoder(replace(TINY1, weights=str(path)), 64), encoder)
    torch.save({"target_encoder": published(encoder) | {"module.backbone.pos_embed": table.roll(16, 2)}}, path)
    with pytest.raises(CheckpointError, match=r"pos_embed .* is not the sine and cosine table"):
        VJEPAEncoder(replace(TINY1, weights=str(path)), 64)


@torch.no_grad()
def test_the_layout_of_transformers_is_read_and_written_back(tmp_path, pixels):
    encoder = tiny(seed=3)
    layout = as_transformers(encoder)
    assert "encoder.layer.1.attention.key.bias" in layout
    assert "encoder.layer.0.attention.proj.weight" in layout
    path = tmp_path / "model.safetensors"
    save_file(layout | {"predictor.layernorm.weight": torch.ones(4)}, path)
    read = VJEPAEncoder(replace(TINY, weights=str(path)), 64)
    assert_same(read, encoder)
    torch.testing.assert_close(read(pixels), encoder(pixels))
    again = as_transformers(read)
    assert again.keys() == layout.keys()
    assert all(torch.equal(again[name], layout[name]) for name in layout)


def test_a_torn_layout_of_transformers_is_refused(tmp_path):
    layout = as_transformers(tiny())
    del layout["encoder.layer.1.attention.key.bias"]
    with pytest.raises(CheckpointError, match=r"blocks\.1\.attn\.qkv\.bias: the file has no key for it"):
        vjepa_from_transformers(layout)
    path = tmp_path / "model.safetensors"
    save_file(as_transformers(tiny()) | {"encoder.extra": torch.ones(1)}, path)
    with pytest.raises(CheckpointError, match="unexpected extra"):
        load_vjepa(tiny(), str(path))
