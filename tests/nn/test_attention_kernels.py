"""Which attention kernel is taken, and that all of them compute the same."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from jepawm.nn import attention
from jepawm.nn.attention import attend, frame_causal_attention

# Share of the output's norm: what rounding queries, keys and values to bfloat16 costs alone is about a half of it.
BFLOAT16 = 0.01


def qkv(dtype: torch.dtype, *, batch: int = 5, grad: bool = False) -> list[Tensor]:
    noise = torch.Generator().manual_seed(0)
    shapes = ((batch, 3, 6, 25), (batch, 3, 11, 25), (batch, 3, 11, 25))
    return [torch.randn(shape, generator=noise).to(dtype).requires_grad_(grad) for shape in shapes]


@pytest.fixture
def unfused_calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Batch sizes that the unfused kernel is called with."""
    calls: list[int] = []
    kernel = attention._unfused

    def counted(q: Tensor, k: Tensor, v: Tensor, causal: bool) -> Tensor:
        calls.append(len(q))
        return kernel(q, k, v, causal)

    monkeypatch.setattr(attention, "_unfused", counted)
    return calls


@pytest.mark.parametrize("pieces", [1, 3, 5])
def test_bfloat16_on_a_cpu_computes_the_same_in_pieces(
    pieces: int, unfused_calls: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention, "_SCORES_AT_ONCE", {1: 5, 3: 2, 5: 1}[pieces] * 3 * 6 * 11)
    leaves, exact = qkv(torch.bfloat16, grad=True), qkv(torch.float32, grad=True)
    found, expected = attend(*leaves), F.scaled_dot_product_attention(*exact)
    assert unfused_calls == {1: [5], 3: [2, 2, 1], 5: [1] * 5}[pieces]
    assert found.dtype == torch.bfloat16
    assert (found.float() - expected).norm() < BFLOAT16 * expected.norm()
    pull = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1))
    for ours, theirs in zip(
        torch.autograd.grad(found, leaves, pull.bfloat16()), torch.autograd.grad(expected, exact, pull), strict=True
    ):
        assert (ours.float() - theirs).norm() < 2 * BFLOAT16 * theirs.norm()


def test_one_token_a_frame_is_causal_in_bfloat16_too(unfused_calls: list[int]) -> None:
    noise = torch.Generator().manual_seed(2)
    q, k, v = (torch.randn(5, 3, 6, 25, generator=noise) for _ in range(3))
    found = frame_causal_attention(q.bfloat16(), k.bfloat16(), v.bfloat16(), tokens_per_frame=1)
    expected = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    assert unfused_calls == [5]
    assert (found.float() - expected).norm() < BFLOAT16 * expected.norm()


def test_the_fused_kernel_is_taken_where_it_is_better(
    unfused_calls: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.testing.assert_close(
        attend(*qkv(torch.float32)), F.scaled_dot_product_attention(*qkv(torch.float32)), rtol=0, atol=0
    )
    attend(*qkv(torch.bfloat16), dropout=0.5)
    monkeypatch.setattr(attention, "_SCORES_KEPT", 5 * 3 * 6 * 11 - 1)
    attend(*qkv(torch.bfloat16, grad=True))
    monkeypatch.setattr(attention, "_SCORES_AT_ONCE", (3 * 6 * 11 - 1) // 2)
    attend(*qkv(torch.bfloat16))
    assert unfused_calls == []


def test_what_is_not_kept_for_a_backward_pass_may_be_larger(
    unfused_calls: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention, "_SCORES_KEPT", 1)
    with torch.no_grad():
        attend(*qkv(torch.bfloat16, grad=True))
    assert unfused_calls == [5]
