"""The high level's model: its macro-actions, what it unrolls, and what it refuses."""

import pytest
import torch

from jepawm.config.head import HeadConfig
from jepawm.config.predictor import PredictorConfig
from jepawm.errors import ConfigError
from jepawm.heads import HeadShape, build_head
from jepawm.latent import Latent
from jepawm.macro_model import MacroModel

STEPS, CHUNK, MACRO = 3, 4, 5


def latents(*lead: int, proprio_tokens: int = 1, seed: int = 0) -> Latent:
    generator = torch.Generator().manual_seed(seed)
    visual = 3 + 2 * torch.randn(*lead, 6, 8, generator=generator)
    if not proprio_tokens:
        return Latent(visual)
    return Latent(visual, torch.randn(*lead, proprio_tokens, 4, generator=generator))


def made(*, proprio_dim: int = 4, predictor: str = "mlp") -> MacroModel:
    torch.manual_seed(0)
    sizes = {"hidden_dim": 16} if predictor == "mlp" else {"depth": 1, "num_heads": 2, "mlp_dim": 16, "head_dim": 6}
    config = HeadConfig(
        name="macro",
        num_model_steps=STEPS,
        macro_dim=MACRO,
        hidden_dim=16,
        predictor=PredictorConfig(name=predictor, **sizes),
    )
    model = build_head(config, HeadShape((2, 3), 8, proprio_dim, image_size=16, chunk_dim=CHUNK))
    assert isinstance(model, MacroModel)
    return model.double().eval()


def chunks(*lead: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(*lead, STEPS, CHUNK, generator=torch.Generator().manual_seed(seed)).double()


def test_macro_actions_of_the_data_are_uncorrelated_and_of_deviation_1_inside_their_bounds() -> None:
    model = made()
    windows = chunks(400)
    model.fit_macros(windows)
    macros = model.macros(windows)
    torch.testing.assert_close(macros.mean(dim=0), torch.zeros(MACRO).double(), atol=1e-8, rtol=0)
    torch.testing.assert_close(macros.T @ macros / len(macros), torch.eye(MACRO).double(), atol=1e-8, rtol=0)
    spec = model.macro_spec()
    assert spec.low == pytest.approx(macros.amin(dim=0).tolist())
    assert spec.high == pytest.approx(macros.amax(dim=0).tolist())


@pytest.mark.parametrize("predictor", ["mlp", "adaln"])
@pytest.mark.parametrize("proprio_tokens", [0, 1, 6])
def test_an_unroll_is_the_steps_of_the_chunks_that_its_macro_actions_stand_for(
    predictor: str, proprio_tokens: int
) -> None:
    model = made(proprio_dim=4 if proprio_tokens else 0, predictor=predictor)
    model.fit_macros(chunks(100))
    model.fit_scale(latents(50, proprio_tokens=proprio_tokens).map(torch.Tensor.double))
    now = latents(2, proprio_tokens=proprio_tokens, seed=3).map(torch.Tensor.double)
    of_candidates = chunks(2, 5, 3, seed=4)
    found = model.unroll(now, model.macros(of_candidates))
    assert found.lead == (2, 5, 3)
    assert [part.shape[-2:] for part in found.parts().values()] == [part.shape[-2:] for part in now.parts().values()]
    for b, n in ((0, 0), (1, 4)):
        tokens = model.tokens(now[b : b + 1])
        for h in range(3):
            tokens = model.step(tokens, model.encode(of_candidates[b, n, h])[None])
            seen = found[b, n, h]
            if proprio_tokens == 1:
                torch.testing.assert_close(seen.visual, (tokens * model.token_std + model.token_mean)[0, :, :8])
                assert seen.proprio is not None
                mean = (tokens * model.token_std + model.token_mean)[0, :, 8:].mean(dim=0)
                torch.testing.assert_close(seen.proprio[0], mean)
            else:
                torch.testing.assert_close(model.tokens(seen), tokens[0])


def test_tokens_are_centred_and_scaled_and_come_back() -> None:
    model = made()
    seen = latents(300).map(torch.Tensor.double)
    model.fit_scale(seen)
    tokens = model.tokens(seen).flatten(0, 1)
    torch.testing.assert_close(tokens.mean(dim=0), torch.zeros(12).double(), atol=1e-5, rtol=0)
    torch.testing.assert_close(tokens.std(dim=0, correction=0), torch.ones(12).double(), atol=1e-5, rtol=0)


def test_latents_and_windows_that_do_not_fit_are_refused() -> None:
    model = made()
    with pytest.raises(ConfigError, match=r"6 patches of width 8 and .* of width 4, found \[6, 8\] and None"):
        model.tokens(Latent(latents(2).visual))
    with pytest.raises(ConfigError, match=r"head\.predictor\.context_window must be 1"):
        HeadConfig(name="macro", predictor=PredictorConfig(name="mlp", context_window=2))
