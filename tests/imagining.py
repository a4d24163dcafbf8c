"""A tiny model that reads proprio and may look back, for tests of what a model imagines."""

import torch

from jepawm.config import ModelConfig, PredictorConfig, ProprioConfig
from jepawm.data import EpisodeDataset
from jepawm.world_model import WorldModel

FRAMESKIP = 5


def model_of(dataset: EpisodeDataset, context_window: int = 2) -> WorldModel:
    """An untrained model of the small Wall dataset, whose predictions depend on pixels, proprio and actions."""
    torch.manual_seed(0)
    predictor = PredictorConfig(name="adaln", depth=1, num_heads=2, mlp_dim=16, context_window=context_window)
    config = ModelConfig(predictor=predictor, proprio=ProprioConfig("token"))
    model = WorldModel(config, image_size=64, frameskip=FRAMESKIP, statistics=dataset.statistics)
    # Modulations start at 0, so that a fresh predictor would ignore its actions.
    for parameter in model.predictor.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return model.eval()
