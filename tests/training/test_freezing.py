"""Parts of a trained model may stay as they are while the rest is trained on."""

import pytest
import torch
from configs import unit_spec
from test_update import config, one_update, state_of, weights_of
from torch import nn

from jepawm.errors import ConfigError
from jepawm.training.checkpoint import save_checkpoint
from jepawm.training.freezing import freeze_, frozen_names, rest_frozen_
from jepawm.types import ActionSpec


def test_parameters_that_a_pattern_matches_keep_the_values_of_the_trained_model(tmp_path) -> None:  # type: ignore[no-untyped-def]
    run, place = config(), str(tmp_path / "model")
    save_checkpoint(place, state_of(run), unit_spec(run, ActionSpec(2, (-1.0, -1.0), (1.0, 1.0))))
    begun = config(init_from=place, freeze=("encoder.*", "predictor.*bias"))
    state = state_of(begun)
    before = weights_of(state)
    for _ in range(2):
        one_update(begun, state)
    after = weights_of(state)
    frozen = {
        f"model.{name}" for name in frozen_names([*dict(state.objective.model.named_parameters())], begun.train.freeze)
    }
    assert any(name.startswith("model.encoder.") for name in frozen)
    assert any(name.startswith("model.predictor.") and name.endswith("bias") for name in frozen)
    for name in dict(state.objective.named_parameters()):
        assert torch.equal(before[name], after[name]) == (name in frozen), name
    # The optimizer holds no moments of them.
    held = sum(len(group["params"]) for group in state.optimizer.param_groups)
    assert held == len(dict(state.objective.named_parameters())) - len(frozen)


def test_patterns_that_freeze_nothing_or_everything_are_refused() -> None:
    names = ["encoder.head.weight", "encoder.head.bias", "predictor.weight"]
    assert frozen_names(names, ()) == []
    assert frozen_names(names, ("encoder.*",)) == names[:2]
    assert frozen_names(names, ("*.bias", "predictor.weigh?")) == names[1:]
    message = r"train\.freeze: no parameter matches 'encodr\.\*'; names begin with encoder, predictor \(there are 3: "
    with pytest.raises(ConfigError, match=message):
        frozen_names(names, ("encoder.*", "encodr.*"))
    with pytest.raises(ConfigError, match=r"freezes all 3 parameters, so nothing would train"):
        frozen_names(names, ("*",))


def test_running_statistics_and_dropout_of_frozen_parts_rest() -> None:
    frozen = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Dropout(0.5))
    model = nn.ModuleDict({"a": frozen, "b": nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))})
    freeze_(model, ("a.*",))
    model.train()
    rest_frozen_(model)
    numbers = torch.randn(8, 3, generator=torch.Generator().manual_seed(0))
    assert torch.equal(model["a"](numbers), model["a"](numbers))
    assert int(frozen[1].num_batches_tracked) == 0
    model["b"](numbers)
    assert int(model["b"][1].num_batches_tracked) == 1
