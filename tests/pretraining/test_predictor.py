"""The mask predictor: its start, its parameters, its mask tokens, and the files it is read from."""

import pytest
import torch

from jepawm.config.pretraining_model import MaskPredictorConfig
from jepawm.errors import CheckpointError, ConfigError
from jepawm.pretraining import MaskPredictor, load_mask_predictor
from jepawm.pretraining.masks import MaskSet, TokenGrid

SMALL = MaskPredictorConfig(embed_dim=24, depth=2, num_heads=2, num_mask_tokens=3)
GRID = TokenGrid(2, 4, 4)
MASKS = MaskSet(torch.arange(5).expand(2, -1), torch.arange(20, 30).expand(2, -1))


def test_mask_tokens_start_at_zero_and_only_the_used_one_has_a_gradient():
    predictor = MaskPredictor(48, SMALL)
    assert not any(token.any() for token in predictor.mask_tokens)
    predicted, of_context = predictor(torch.randn(2, 5, 48), MASKS, GRID, mask_token=2)
    assert (predicted.shape, of_context) == ((2, 10, 48), None)
    predicted.square().mean().backward()
    assert [token.grad is not None for token in predictor.mask_tokens] == [False, False, True]
    with pytest.raises(ConfigError, match=r"mask_token must lie in \[0, 3\), found 3; .*num_mask_tokens"):
        predictor(torch.randn(2, 5, 48), MASKS, GRID, mask_token=3)


def test_the_published_predictor_has_its_parameters():
    with torch.device("meta"):
        predictor = MaskPredictor(1024)
    block = 4 * 384 + 4 * 384 * 385 + 1536 * 385 + 384 * 1537
    expected = 384 * 1025 + 10 * 384 + 12 * block + 2 * 384 + 1024 * 385
    assert sum(value.numel() for value in predictor.parameters()) == expected


@torch.no_grad()
def test_predicting_the_context_too_changes_no_prediction_of_targets():
    """Without it, the last block computes the masked places alone."""
    torch.manual_seed(0)
    both = MaskPredictor(48, SMALL, predicts_context=True).double()
    alone = MaskPredictor(48, SMALL).double()
    alone.load_state_dict({key: value for key, value in both.state_dict().items() if "proj_context" not in key})
    context = torch.randn(2, 5, 48, dtype=torch.float64)
    predicted, of_context = both(context, MASKS, GRID)
    assert of_context.shape == context.shape
    torch.testing.assert_close(alone(context, MASKS, GRID)[0], predicted)


@pytest.mark.parametrize("positions", ["rotary", "table"])
@torch.no_grad()
def test_a_prediction_depends_on_the_place(positions):
    torch.manual_seed(0)
    predictor = MaskPredictor(48, SMALL, positions=positions)
    for value in predictor.parameters():
        value.add_(0.1 * torch.randn_like(value))
    predicted, _ = predictor(torch.randn(2, 5, 48), MASKS, GRID)
    assert (predicted[:, 0] - predicted[:, 1]).abs().max() > 1e-3


def test_widths_that_heads_do_not_share_are_refused():
    with pytest.raises(ConfigError, match=r"model\.predictor\.embed_dim must be num_heads \(5\) times an even width"):
        MaskPredictorConfig(embed_dim=24, num_heads=5)


def test_a_file_without_a_predictor_is_refused(tmp_path):
    path = tmp_path / "vitl.pt"
    torch.save({"encoder": {}}, path)
    with pytest.raises(CheckpointError, match="has no 'predictor'"):
        load_mask_predictor(MaskPredictor(48, SMALL), str(path))
    weights = MaskPredictor(48, SMALL).state_dict()
    tensors = {f"module.backbone.predictor_{key}": value for key, value in weights.items()}
    del tensors["module.backbone.predictor_mask_tokens.2"]
    torch.save({"predictor": tensors}, path)
    with pytest.raises(CheckpointError, match=r"number of mask tokens the file's\?\): missing mask_tokens\.2"):
        load_mask_predictor(MaskPredictor(48, SMALL), str(path))
