"""Heads: what they draw and read, how the codebook learns, and the files they are loaded from."""

import itertools

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from two_workers import on_two_workers

from jepawm.errors import CheckpointError, ConfigError
from jepawm.heads import (
    ImageHead,
    StateHead,
    TransposedConvDecoder,
    VQVAEDecoder,
    load_image_head,
    load_state_head,
    load_transposed_conv_decoder,
    load_vqvae_decoder,
)
from jepawm.heads.image import to_pixels
from jepawm.heads.vqvae import Codebook

SMALL = {"patch_size": 8, "dim": 32, "depth": 2, "num_heads": 2}


def count(module: nn.Module) -> int:
    return sum(value.numel() for value in module.parameters())


# --- pixels ---------------------------------------------------------------------------------------------------------


def test_to_pixels_undoes_each_normalisation():
    pixels = torch.randint(0, 256, (2, 3, 4, 5), dtype=torch.uint8)
    unit = pixels / 255
    assert torch.equal(to_pixels(2 * unit - 1, "symmetric"), pixels)
    mean = torch.tensor([0.485, 0.456, 0.406])[:, None, None]
    std = torch.tensor([0.229, 0.224, 0.225])[:, None, None]
    assert torch.equal(to_pixels((unit - mean) / std, "imagenet"), pixels)


def test_to_pixels_clips_and_rounds_to_the_nearest():
    values = torch.tensor([-9.0, 10.4, 10.6, 999.0]) / 127.5 - 1
    found = to_pixels(values.expand(3, 1, 4), "symmetric")
    assert found[0, 0].tolist() == [0, 10, 11, 255]


# --- image head -----------------------------------------------------------------------------------------------------


def test_image_head_draws_each_frame_by_itself():
    head = ImageHead(12, image_size=32, **SMALL)
    latents = torch.randn(2, 3, 9, 12)  # 3 x 3 latents are resized to 4 x 4 patches
    frames = head(latents)
    assert frames.shape == (2, 3, 3, 32, 32)
    torch.testing.assert_close(head(latents[1:, 2:]), frames[1:, 2:])
    assert head.decode(latents).dtype == torch.uint8


def test_image_head_takes_a_grid_that_is_no_square():
    head = ImageHead(12, image_size=32, grid=(2, 6), **SMALL)
    assert head(torch.randn(1, 1, 12, 12)).shape == (1, 1, 3, 32, 32)
    with pytest.raises(ConfigError, match=r"2 x 6 patches, found P = 9"):
        head(torch.randn(1, 1, 9, 12))


def test_image_head_refuses_what_does_not_fit():
    head = ImageHead(12, image_size=32, **SMALL)
    with pytest.raises(ConfigError, match=r"width D = 12, found 8"):
        head(torch.randn(1, 1, 9, 8))
    with pytest.raises(ConfigError, match=r"found P = 12; give it the `grid`"):
        head(torch.randn(1, 1, 12, 12))
    with pytest.raises(ConfigError, match=r"multiple of patch_size \(8\), found 30"):
        ImageHead(12, image_size=30, **SMALL)


def test_image_head_has_its_published_parameters():
    with torch.device("meta"):
        head = ImageHead(384)
    block = 4 * 1024 + 4 * 1024 * 1025 + 4096 * 1025 + 1024 * 4097
    assert count(head) == 385 * 1024 + 1024 + 24 * block + 2 * 1024 + 192 * 1025


def test_image_head_learns():
    torch.manual_seed(0)
    head = ImageHead(12, image_size=16, **SMALL)
    latents, frames = torch.randn(4, 1, 4, 12), torch.rand(4, 1, 3, 16, 16)
    optimizer = torch.optim.AdamW(head.parameters(), lr=1e-3)
    losses = []
    for _ in range(60):
        loss = F.mse_loss(head(latents), frames)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


def published_trunk(head: ImageHead | StateHead) -> dict[str, torch.Tensor]:
    names = {
        "trunk.embed.": "decoder_embed.",
        "trunk.blocks.": "decoder_blocks.",
        "norm.": "decoder_norm.",
        "proj.": "state_proj." if isinstance(head, StateHead) else "decoder_proj.",
    }
    tensors = {}
    for name, value in head.state_dict().items():
        for before, after in names.items():
            if name.startswith(before):
                tensors[f"module.{after}{name.removeprefix(before)}"] = value
    tensors["module.decoder_pos_embed"] = head.trunk.position_table[None]
    return tensors


@torch.no_grad()
def test_image_head_is_read_from_the_published_layout(tmp_path):
    head = ImageHead(12, image_size=40, **SMALL)
    tensors = published_trunk(head) | {"module.view_tokens": head.view_token[None, None]}
    path = tmp_path / "decoder.pth.tar"
    torch.save({"model": tensors, "opt": {}, "epoch": 3}, path)
    read = load_image_head(str(path), normalization="symmetric", num_heads=2)
    latents = torch.randn(1, 2, 16, 12)
    assert torch.equal(read(latents), head(latents))
    del tensors["module.decoder_norm.bias"]
    torch.save({"model": tensors}, path)
    with pytest.raises(CheckpointError, match=r"decoder\.pth\.tar \(model\) does not fit.*missing norm\.bias"):
        load_image_head(str(path), normalization="symmetric", num_heads=2)
    torch.save({"model": tensors | {"module.view_tokens": torch.zeros(1, 2, 32)}}, path)
    with pytest.raises(CheckpointError, match="draws 2 views"):
        load_image_head(str(path), normalization="symmetric", num_heads=2)


# --- state head -----------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_state_head_is_read_from_the_published_layout(tmp_path):
    head = StateHead(12, 5, grid=(3, 3), dim=32, depth=2, num_heads=4)
    head.state_token.normal_()
    path = tmp_path / "head.pth.tar"
    torch.save({"model": published_trunk(head) | {"module.state_token": head.state_token[None, None]}}, path)
    read = load_state_head(str(path), num_heads=4)
    latents = torch.randn(2, 3, 9, 12)
    assert read(latents).shape == (2, 3, 5)
    assert torch.equal(read(latents), head(latents))
    with pytest.raises(CheckpointError, match="has no 'state_head'"):
        load_state_head(str(path), part="state_head")
    with pytest.raises(CheckpointError, match=r"no tensor 'decoder_proj\.weight'; is it the file of another head"):
        load_image_head(str(path), normalization="symmetric")
    with pytest.raises(CheckpointError, match="not found"):
        load_state_head(str(tmp_path / "nowhere.pth"))


def test_state_head_expects_its_grid():
    head = StateHead(12, 5, grid=(3, 3), dim=32, depth=1, num_heads=4)
    with pytest.raises(ConfigError, match="3 x 3 patches, found P = 16"):
        head(torch.randn(1, 1, 16, 12))


def test_state_head_published_defaults():
    with torch.device("meta"):
        head = StateHead(384, 7)
    block = 4 * 384 + 4 * 384 * 385 + 1536 * 385 + 384 * 1537
    assert count(head) == 384 * 385 + 384 + 6 * block + 7 * 385
    assert not StateHead(12, 5, grid=(3, 3), dim=32, depth=1, num_heads=4).state_token.any()


# --- VQ-VAE decoder -------------------------------------------------------------------------------------------------


def small_vqvae(**changed) -> VQVAEDecoder:
    return VQVAEDecoder(6, **({"channels": 8, "num_codes": 5, "num_residual": 2, "residual_channels": 4} | changed))


def test_vqvae_decoder_has_the_published_parameters_and_buffers():
    head = VQVAEDecoder()
    assert count(head) == 10_140_163
    assert {name: list(value.shape) for name, value in head.named_buffers()} == {
        "codebook.codes": [2048, 384],
        "codebook.counts": [2048],
        "codebook.sums": [2048, 384],
    }


def test_vqvae_decoder_draws_16_times_its_grid():
    head = small_vqvae()
    latents = torch.randn(2, 3, 4, 6)
    frames, commitment = head(latents)
    assert frames.shape == (2, 3, 3, 32, 32)
    assert commitment.item() == 0
    torch.testing.assert_close(head(latents[1:, 1:2])[0], frames[1:, 1:2])
    assert head.decode(latents).dtype == torch.uint8
    assert small_vqvae(grid=(1, 4))(latents)[0].shape == (2, 3, 3, 16, 64)
    with pytest.raises(ConfigError, match="width D = 6, found 7"):
        head(torch.randn(1, 1, 4, 7))


def test_patches_are_laid_out_row_by_row():
    head = small_vqvae(num_residual=0)  # so that a patch does not reach the far corner
    latents = torch.zeros(1, 1, 16, 6)
    changed = latents.clone()
    changed[0, 0, 3] = 5  # row 0, column 3: the corner at the top right
    difference = (head(changed)[0] - head(latents)[0])[0, 0].abs().sum(0)
    assert difference[:16, 48:].max() > 0
    assert difference[56:, :8].max() == 0


def test_codebook_takes_the_nearest_code():
    torch.manual_seed(0)
    codebook = Codebook(6, 7).eval()
    vectors = torch.randn(4, 5, 6)
    found = codebook(vectors)
    distances = (vectors[..., None, :] - codebook.codes).square().sum(-1)
    assert torch.equal(found.code, distances.argmin(-1))
    torch.testing.assert_close(found.vectors, codebook.codes[found.code])
    torch.testing.assert_close(found.commitment, distances.min(-1).values.mean() / 6)


def test_codebook_passes_the_gradient_straight_through():
    codebook = Codebook(6, 7).eval()
    vectors = torch.randn(4, 6, requires_grad=True)
    upstream = torch.randn(4, 6)
    found = codebook(vectors)
    (through,) = torch.autograd.grad(found.vectors, vectors, upstream, retain_graph=True)
    assert torch.equal(through, upstream)
    (pull,) = torch.autograd.grad(found.commitment, vectors)
    torch.testing.assert_close(pull, 2 * (vectors - codebook.codes[found.code]).detach() / 24)


def test_codes_follow_their_vectors_while_training():
    codebook = Codebook(2, 3)
    codes = torch.tensor([[0.0, 0.0], [4.0, 0.0], [0.0, 4.0]])
    for name in ("codes", "sums"):
        getattr(codebook, name).copy_(codes)
    codebook.counts.fill_(2.0)
    codebook.sums.mul_(2.0)
    vectors = torch.tensor([[5.0, 1.0], [5.0, -1.0], [3.0, 0.0], [0.0, 1.0]])
    assert torch.equal(codebook(vectors).vectors, codes[[1, 1, 1, 0]])  # the codes as they were before
    counts = 0.99 * 2 + 0.01 * torch.tensor([1.0, 3.0, 0.0])
    sums = 0.99 * 2 * codes + 0.01 * torch.tensor([[0.0, 1.0], [13.0, 0.0], [0.0, 0.0]])
    total = counts.sum()
    smoothed = (counts + 1e-5) / (total + 3e-5) * total
    torch.testing.assert_close(codebook.counts, counts)
    torch.testing.assert_close(codebook.codes, sums / smoothed[:, None])
    assert codebook.codes[1, 0] > 4
    moved = codebook.codes.clone()
    codebook.eval()(vectors)
    assert torch.equal(codebook.codes, moved)


def _codes_of_a_half(rank: int, vectors: torch.Tensor, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    codebook = Codebook(6, 5)
    codebook.load_state_dict(state)
    codebook(vectors.chunk(2)[rank])
    return codebook.state_dict()


def test_two_workers_move_the_codes_as_one_does(tmp_path):
    torch.manual_seed(0)
    codebook, vectors = Codebook(6, 5), torch.randn(40, 6)
    state = {name: value.clone() for name, value in codebook.state_dict().items()}
    of_workers = on_two_workers(_codes_of_a_half, tmp_path, vectors, state)
    codebook(vectors)
    for rank, moved in enumerate(of_workers):
        for name, value in moved.items():
            torch.testing.assert_close(value, codebook.state_dict()[name], msg=f"{name} of worker {rank}")


def test_quantising_decoder_trains_its_input():
    head = small_vqvae(quantize=True)
    latents = torch.randn(2, 1, 4, 6, requires_grad=True)
    frames, commitment = head(latents)
    (frames.square().mean() + 0.25 * commitment).backward()
    assert commitment > 0
    assert latents.grad is not None
    assert latents.grad.any()
    assert head.codebook.counts.sum() == pytest.approx(0.01 * 8)


class PublishedStage(nn.Module):
    """The published layout of a stage, from the reference: a sequence in which activations have places too."""

    def __init__(self, before: int, after: int, channels: int, residual: int, inside: int) -> None:
        super().__init__()
        layers = [nn.Conv2d(before, channels, 3, padding=1)]
        layers += [PublishedResidual(channels, inside) for _ in range(residual)]
        layers += [nn.ReLU(), nn.ConvTranspose2d(channels, channels // 2, 4, 2, 1), nn.ReLU()]
        self.blocks = nn.Sequential(*layers, nn.ConvTranspose2d(channels // 2, after, 4, 2, 1))


class PublishedResidual(nn.Module):
    def __init__(self, channels: int, inside: int) -> None:
        super().__init__()
        layers = [nn.ReLU(), nn.Conv2d(channels, inside, 3, padding=1), nn.ReLU(), nn.Conv2d(inside, channels, 1)]
        self.conv = nn.Sequential(*layers)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.conv(x)


@torch.no_grad()
def test_vqvae_decoder_is_read_from_the_published_layout(tmp_path):
    stages = nn.ModuleDict({"upsample_b": PublishedStage(6, 6, 8, 2, 4), "dec": PublishedStage(6, 3, 8, 2, 4)})
    codes = {"embed": torch.randn(6, 5), "cluster_size": torch.rand(5), "embed_avg": torch.randn(6, 5)}
    tensors = stages.state_dict() | {f"quantize_b.{name}": value for name, value in codes.items()}
    path = tmp_path / "decoder.pth"
    torch.save({"decoder": {f"module.{name}": value for name, value in tensors.items()}}, path)
    head = small_vqvae()
    load_vqvae_decoder(head, str(path))
    latents = torch.randn(1, 2, 4, 6)
    images = latents.flatten(0, 1).unflatten(1, (2, 2)).permute(0, 3, 1, 2)
    expected = stages["dec"].blocks(stages["upsample_b"].blocks(images))
    torch.testing.assert_close(head(latents)[0], expected[None])
    assert torch.equal(head.codebook.codes, codes["embed"].T)
    assert torch.equal(head.codebook.sums, codes["embed_avg"].T)
    assert torch.equal(head.codebook.counts, codes["cluster_size"])
    with pytest.raises(CheckpointError, match=r"channels and blocks the file's.*missing upsample\.residual\.2\.conv1"):
        load_vqvae_decoder(small_vqvae(num_residual=3), str(path))


# --- transposed convolutions ----------------------------------------------------------------------------------------


def test_transposed_conv_decoder_has_the_published_parameters():
    with torch.device("meta"):
        assert count(TransposedConvDecoder(384)) == 31_309_443


def test_transposed_conv_decoder_draws_from_one_token():
    head = TransposedConvDecoder(6, depth=2, image_size=48)
    latents = torch.randn(2, 3, 1, 6)
    frames = head(latents)
    assert frames.shape == (2, 3, 3, 48, 48)
    torch.testing.assert_close(head(latents[1:, 1:2]), frames[1:, 1:2])
    assert head.decode(latents).dtype == torch.uint8
    with pytest.raises(ConfigError, match="1 x 1 patches, found P = 4"):
        head(torch.randn(1, 1, 4, 6))


@torch.no_grad()
def test_transposed_conv_decoder_is_read_from_the_published_layout(tmp_path):
    widths = [64, 16, 8, 4, 2, 3]
    layers = [nn.Linear(6, 64), nn.Unflatten(1, (64, 1)), nn.Unflatten(2, (1, 1))]
    for before, after in itertools.pairwise(widths):
        layers += [nn.ConvTranspose2d(before, after, 5, 3, padding=1), nn.ReLU()]
    layers[-1] = nn.Upsample(size=(48, 48), mode="bilinear", align_corners=False)
    network = nn.Sequential(*layers)
    path = tmp_path / "decoder.pth"
    torch.save({"decoder": {f"module.network.{name}": value for name, value in network.state_dict().items()}}, path)
    head = TransposedConvDecoder(6, depth=2, image_size=48)
    load_transposed_conv_decoder(head, str(path))
    latents = torch.randn(2, 3, 1, 6)
    torch.testing.assert_close(head(latents), network(latents.flatten(0, 2)).unflatten(0, (2, 3)))
    with pytest.raises(CheckpointError, match="does not fit the model"):
        load_transposed_conv_decoder(TransposedConvDecoder(6, depth=4, image_size=48), str(path))
