"""Building blocks: attention over frames, rotary positions, adaptive blocks, poses and position tables."""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from jepawm.config import PredictorConfig
from jepawm.nn.attention import Attention, frame_causal_attention
from jepawm.nn.embeddings import sincos_2d
from jepawm.nn.mlp import mlp
from jepawm.nn.pose import move_pose
from jepawm.nn.rotary import RotaryTable, frame_rotary_table, rotary_table, rotate
from jepawm.nn.transformer import AdaptiveBlock, Block, init_transformer_
from jepawm.predictors.tokens import TokenPredictor
from jepawm.types import LatentSpec

CPU = torch.device("cpu")


def draw(*shape: int, seed: int = 0, grad: bool = False) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).requires_grad_(grad)


def stir(module: nn.Module) -> Any:
    """Weights that are not zero, one or tiny anywhere, so that a wrong one shows."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return module


@pytest.fixture
def float64() -> Iterator[None]:
    """Modules and inputs of a test in float64, where two orders of the same sums hardly differ."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def same_with_gradients(found: Tensor, expected: Tensor, leaves: list[Tensor]) -> None:
    assert found.dtype == expected.dtype == torch.float64
    torch.testing.assert_close(found, expected)
    pull = draw(*found.shape, seed=9)
    ours, theirs = (torch.autograd.grad(out, leaves, pull, retain_graph=True) for out in (found, expected))
    torch.testing.assert_close(ours, theirs)


class Largest(TorchDispatchMode):
    """Remembers the elements of the largest storage that an operation returned."""

    def __init__(self) -> None:
        super().__init__()
        self.numel = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor):
                self.numel = max(self.numel, leaf.untyped_storage().nbytes() // leaf.element_size())
        return out


# -- attention -------------------------------------------------------------------------------------------------------


def frame_mask(L: int, S: int | None) -> Tensor:
    frame = torch.zeros(L) if S is None else torch.arange(L) // S
    return frame[:, None] >= frame


@pytest.mark.parametrize("T", [1, 2, 3, 5])
@pytest.mark.parametrize("S", [1, 4])
@pytest.mark.parametrize("frames_asked", [None, 1, 2])
@pytest.mark.parametrize("width", [8, 25])
@pytest.mark.usefixtures("float64")
def test_frame_causal_attention_is_masked_attention(T: int, S: int, frames_asked: int | None, width: int) -> None:
    L = T * S
    M = S * min(frames_asked or T, T)
    q, k, v = (draw(2, 3, L, width, seed=seed, grad=True) for seed in range(3))
    expected = F.scaled_dot_product_attention(q, k, v, attn_mask=frame_mask(L, S))[:, :, L - M :]
    same_with_gradients(frame_causal_attention(q[:, :, L - M :], k, v, tokens_per_frame=S), expected, [q, k, v])


def plain_attention(attention: Attention, x: Tensor, S: int | None, turns: RotaryTable | None) -> Tensor:
    q, k, v = (
        part.unflatten(-1, (attention.num_heads, -1)).transpose(1, 2) for part in attention.qkv(x).chunk(3, dim=-1)
    )
    if turns is not None:
        q, k = rotate(q, turns), rotate(k, turns)
    scores = q @ k.transpose(-1, -2) / attention.head_dim**0.5
    weights = scores.masked_fill(~frame_mask(x.shape[1], S), -math.inf).softmax(dim=-1)
    return attention.proj((weights @ v).transpose(1, 2).flatten(2))


@pytest.mark.parametrize("S", [None, 1, 4])
@pytest.mark.parametrize("frames_asked", [None, 1, 2])
@pytest.mark.parametrize(("head_dim", "turned", "bias"), [(None, False, True), (25, True, False), (24, True, True)])
@pytest.mark.usefixtures("float64")
def test_attention_is_the_plain_equation(
    S: int | None, frames_asked: int | None, head_dim: int | None, turned: bool, bias: bool
) -> None:
    attention = stir(Attention(10, 2, head_dim=head_dim, qkv_bias=bias))
    assert (attention.qkv.bias is not None) == bias
    x = draw(2, 12, 10, grad=True)
    queries = None if frames_asked is None else frames_asked * (S or 4)
    turns = frame_rotary_table(attention.head_dim, 3, (2, 2), 0, "published", CPU) if turned else None
    found = attention(x, rotary=turns, tokens_per_frame=S, num_queries=queries)
    expected = plain_attention(attention, x, S, turns)[:, 12 - (queries or 12) :]
    same_with_gradients(found, expected, [x, *attention.parameters()])


@pytest.mark.parametrize("S", [1, 4])
def test_a_frame_depends_on_itself_and_on_earlier_frames_only(S: int) -> None:
    block = stir(Block(8, 2, 16))
    x = draw(1, 4 * S, 8, grad=True)
    frames = block(x, tokens_per_frame=S).unflatten(1, (4, S))
    for t in range(4):
        (pulled,) = torch.autograd.grad(frames[:, t].sum(), x, retain_graph=True)
        touched = pulled.unflatten(1, (4, S)).abs().sum(dim=(0, 2, 3)) > 0
        assert touched.tolist() == [u <= t for u in range(4)]
    (pulled,) = torch.autograd.grad(block(x).unflatten(1, (4, S))[:, 0].sum(), x)
    assert (pulled != 0).any(dim=-1).all()


@pytest.mark.parametrize("S", [1, 2])
def test_no_tensor_over_pairs_of_tokens_is_made(S: int) -> None:
    T, L = 512, 512 * S
    block, x = Block(4, 2, 8), draw(1, L, 4, grad=True)
    with Largest() as ours:
        block(x, tokens_per_frame=S).sum().backward()
    assert ours.numel < L * L / 32
    dense = Block(4, 2, 8)
    dense.attn.extend = lambda x, *_, **__: (plain_attention(dense.attn, x, S, None), (x, x))  # type: ignore[method-assign]
    with Largest() as theirs:
        dense(x, tokens_per_frame=T)
    assert theirs.numel >= L * L


def test_the_token_predictor_holds_nothing_over_pairs_of_512_frames() -> None:
    config = PredictorConfig(name="vjepa2_ac", context_window=512, depth=1, num_heads=1, mlp_dim=8)
    with Largest() as seen, torch.no_grad():
        predictor = TokenPredictor(config, LatentSpec(grid=(1, 1), dim=6, chunk_dim=2))
        out, _ = predictor(draw(1, 512, 1, 6), draw(1, 512, 2))
    assert out.shape == (1, 512, 1, 6)
    assert seen.numel < 1024 * 1024 / 32


# -- blocks ----------------------------------------------------------------------------------------------------------


def plain_adaptive_block(block: AdaptiveBlock, x: Tensor, condition: Tensor, turns: RotaryTable | None) -> Tensor:
    S = x.shape[2]
    per_token = block.modulation(condition).repeat_interleave(S, dim=1)
    shift1, scale1, gate1, shift2, scale2, gate2 = per_token.chunk(6, dim=-1)
    x = x.flatten(1, 2)
    x = x + gate1 * plain_attention(block.attn, block.norm1(x) * (1 + scale1) + shift1, S, turns)
    return (x + gate2 * block.mlp(block.norm2(x) * (1 + scale2) + shift2)).unflatten(1, (-1, S))


@pytest.mark.parametrize(("T", "S"), [(1, 4), (3, 1), (3, 4)])
@pytest.mark.parametrize("condition_dim", [None, 5])
@pytest.mark.usefixtures("float64")
def test_the_adaptive_block_is_its_equations(T: int, S: int, condition_dim: int | None) -> None:
    block = stir(AdaptiveBlock(16, 2, 20, condition_dim=condition_dim))
    x, condition = draw(2, T, S, 16, grad=True), draw(2, T, condition_dim or 16, seed=1, grad=True)
    turns = rotary_table(8, torch.randint(0, 5, (T * S, 3), generator=torch.Generator().manual_seed(2)))
    leaves = [x, condition, *block.parameters()]
    full = block(x, condition, rotary=turns)
    same_with_gradients(full, plain_adaptive_block(block, x, condition, turns), leaves)
    same_with_gradients(block(x, condition, rotary=turns, last_only=True), full[:, -1:], leaves)


def test_modulation_stays_one_row_a_frame() -> None:
    B, T, S, D = 2, 3, 50, 8
    block = stir(AdaptiveBlock(D, 2, 2 * D))
    x, condition = draw(B, T, S, D, grad=True), draw(B, T, D, seed=1, grad=True)
    with Largest() as ours:
        block(x, condition).sum().backward()
    with Largest() as theirs:
        plain_adaptive_block(block, x, condition, None)
    assert ours.numel < B * T * S * 6 * D <= theirs.numel


def test_a_block_without_modulation_starts_as_the_identity() -> None:
    x, condition = draw(2, 3, 4, 16), draw(2, 3, 16, seed=1)
    for std, same in ((0.0, True), (0.2, False)):
        blocks = nn.ModuleList([AdaptiveBlock(16, 2, 32)])
        init_transformer_(blocks, blocks, modulation_std=std)
        assert torch.equal(blocks[0](x, condition), x) == same


@pytest.mark.parametrize(("modulation_std", "expected"), [(None, 0.02), (0.2, 0.2), (0.0, 0.0)])
def test_first_weights_shrink_with_depth(modulation_std: float | None, expected: float) -> None:
    torch.manual_seed(0)
    blocks = nn.ModuleList([AdaptiveBlock(64, 2, 256), AdaptiveBlock(64, 2, 256), Block(64, 2, 256)])
    module = nn.ModuleDict({"embed": nn.Linear(64, 256), "blocks": blocks})
    init_transformer_(module, blocks, modulation_std=modulation_std)
    stds = {module["embed"].weight: 0.02}
    for depth, block in enumerate(blocks, start=1):
        stds |= {block.attn.qkv.weight: 0.02, block.mlp.fc1.weight: 0.02}
        stds |= {block.attn.proj.weight: 0.02 / (2 * depth) ** 0.5, block.mlp.fc2.weight: 0.02 / (2 * depth) ** 0.5}
        if isinstance(block, AdaptiveBlock):
            stds[block.modulation.weight] = expected
        assert (block.norm1.weight == 1).all()
        assert (block.norm2.weight == 1).all()
    for weight, std in stds.items():
        assert weight.std().item() == pytest.approx(std, rel=0.05)
        assert weight.mean().item() == pytest.approx(0, abs=0.05 * std)
    assert all((parameter == 0).all() for name, parameter in module.named_parameters() if name.endswith("bias"))
    with pytest.raises(TypeError, match="expected transformer blocks, found Linear"):
        init_transformer_(module, nn.ModuleList([nn.Linear(2, 2)]))


# -- rotary positions ------------------------------------------------------------------------------------------------


def turned_by_hand(x: list[float], position: tuple[int, int, int], axis_dim: int) -> list[float]:
    out = list(x)
    for axis, p in enumerate(position):
        for i in range(axis_dim):
            angle = p * 10000.0 ** (-(i % (axis_dim // 2)) / (axis_dim / 2))
            here = axis * axis_dim + i
            partner = -x[here + 1] if i % 2 == 0 else x[here - 1]
            out[here] = x[here] * math.cos(angle) + partner * math.sin(angle)
    return out


@pytest.mark.parametrize(("head_dim", "axis_dim", "still"), [(25, 8, 1), (24, 8, 0), (64, 20, 4)])
def test_published_rotation_written_out_by_hand(head_dim: int, axis_dim: int, still: int) -> None:
    x, position = draw(1, 1, 1, head_dim), (3, 2, 5)
    table = rotary_table(head_dim, torch.tensor([position]))
    found = rotate(x, table).flatten()
    expected = torch.tensor(turned_by_hand(x.flatten().tolist(), position, axis_dim))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    assert 3 * axis_dim + still == head_dim
    assert torch.equal(found[3 * axis_dim :], x.flatten()[3 * axis_dim :])
    assert rotate(x.bfloat16(), table).dtype == torch.bfloat16


@pytest.mark.parametrize("head_dim", [24, 25, 64])
def test_corrected_rotation_keeps_norms_and_is_relative(head_dim: int) -> None:
    q, k = draw(1, 1, 1, head_dim), draw(1, 1, 1, head_dim, seed=1)

    def score(pairing: Any, shift: int) -> float:
        here, there = (torch.tensor([[4, 1, 3]]) + shift, torch.tensor([[1, 2, 5]]) + shift)
        turned = [rotate(x, rotary_table(head_dim, p, pairing=pairing)) for x, p in ((q, here), (k, there))]
        norms = [abs(after.norm() - before.norm()).item() for after, before in zip(turned, (q, k), strict=True)]
        assert (max(norms) < 1e-5) == (pairing == "corrected")
        return (turned[0] * turned[1]).sum().item()

    assert score("corrected", 7) == pytest.approx(score("corrected", 0), abs=1e-4)
    assert abs(score("published", 7) - score("published", 0)) > 1e-2


def test_condition_tokens_are_turned_in_time_alone() -> None:
    table = frame_rotary_table(25, 3, (2, 3), 2, "published", CPU)
    cos, sin = table.cos.unflatten(0, (3, 8)), table.sin.unflatten(0, (3, 8))
    assert (cos[:, :2, 8:] == 1).all()
    assert (sin[:, :2, 8:] == 0).all()
    assert (sin[1:, :2, :8] != 0).all()
    for t in range(3):
        positions = [(t, 0, 0)] * 2 + [(t, row, column) for row in range(2) for column in range(3)]
        expected = rotary_table(25, torch.tensor(positions))
        torch.testing.assert_close((cos[t], sin[t]), (expected.cos, expected.sin), rtol=0, atol=0)


def test_a_table_made_under_inference_mode_trains_later() -> None:
    frame_rotary_table.cache_clear()
    with torch.inference_mode():
        first = frame_rotary_table(6, 2, (1, 1), 0, "published", CPU)
    x = draw(1, 1, 2, 6, grad=True)
    rotate(x, first).square().sum().backward()
    assert x.grad is not None
    assert frame_rotary_table(6, 2, (1, 1), 0, "published", CPU) is first


# -- poses -----------------------------------------------------------------------------------------------------------


def rotations(poses: Tensor) -> Any:
    spatial = pytest.importorskip("scipy.spatial.transform")
    return spatial.Rotation.from_euler("xyz", poses[:, 3:6].double().numpy())


def poses_and_actions(seed: int = 0, count: int = 200) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    poses, actions = (2 * torch.rand(2, count, 7, generator=generator) - 1).unbind()
    return poses * 1.4, actions


def ending_near_lock(distance: float, count: int = 200) -> tuple[Tensor, Tensor]:
    """Poses that actions turn to a y angle so far from +-pi/2."""
    spatial = pytest.importorskip("scipy.spatial.transform")
    poses, actions = poses_and_actions(1, count)
    ends = poses.clone().double()
    ends[:, 4] = torch.where(poses[:, 4] > 0, 1.0, -1.0) * (math.pi / 2 - distance)
    before = rotations(actions).inv() * spatial.Rotation.from_euler("xyz", ends[:, 3:6].numpy())
    poses[:, 3:6] = torch.from_numpy(before.as_euler("xyz")).float()
    return poses, actions


def angle_between(found: Any, expected: Any) -> float:
    return float((found * expected.inv()).magnitude().max())


def test_poses_move_as_scipy_rotates() -> None:
    poses, actions = poses_and_actions()
    found = move_pose(poses, actions)
    expected = rotations(actions) * rotations(poses)
    np.testing.assert_allclose(found[:, 3:6], expected.as_euler("xyz"), atol=1e-4)
    assert angle_between(rotations(found), expected) < 2e-5
    torch.testing.assert_close(found[:, :3], poses[:, :3] + actions[:, :3])
    torch.testing.assert_close(found[:, 6], (poses[:, 6] + actions[:, 6]).clamp(0, 1))
    assert {0.0, 1.0} <= set(found[:, 6].tolist())


@pytest.mark.parametrize("distance", [0, 1e-7, 2e-6, 1e-4, 0.1])
def test_the_rotation_is_right_near_gimbal_lock(distance: float) -> None:
    poses, actions = ending_near_lock(distance)
    assert angle_between(rotations(move_pose(poses, actions)), rotations(actions) * rotations(poses)) < 2e-5


@pytest.mark.parametrize("pitch", [0.3, math.pi / 4])
def test_gradients_are_finite_also_where_the_pose_locks(pitch: float) -> None:
    pose = torch.zeros(7)
    pose[4] = pitch
    pose.requires_grad_()
    (pulled,) = torch.autograd.grad(move_pose(pose, pose).sum(), pose)
    assert pulled.isfinite().all()
    assert pulled[:3].tolist() == [2, 2, 2]


# -- tables and perceptrons ------------------------------------------------------------------------------------------


def test_the_position_table_tells_column_then_row() -> None:
    table = sincos_2d(16, 2, 3)
    assert table.shape == (6, 16)
    for row in range(2):
        for column in range(3):
            frequencies = [1 / 10000 ** (k / 4) for k in range(4)]
            expected = [wave(p * f) for p in (column, row) for wave in (math.sin, math.cos) for f in frequencies]
            torch.testing.assert_close(table[3 * row + column], torch.tensor(expected), rtol=1e-5, atol=1e-6)


def test_a_perceptron_has_its_hidden_layers_and_a_linear_end() -> None:
    net = stir(mlp(3, 5, 2, 2))
    layers = [layer for layer in net if isinstance(layer, nn.Linear)]
    assert [(layer.in_features, layer.out_features) for layer in layers] == [(3, 5), (5, 5), (5, 2)]
    x = draw(7, 3)
    expected = layers[2](layers[1](layers[0](x).clamp(min=0)).clamp(min=0))
    torch.testing.assert_close(net(x), expected)
