"""AdamW over the published parameter groups, and a moving average of the weights."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from jepawm.config.optim import OptimConfig
from jepawm.training.schedules import learning_rate, weight_decay


def build_optimizer(module: nn.Module, config: OptimConfig) -> torch.optim.Optimizer:
    """AdamW over all parameters that train.

    Parameters are in groups by what differs among them: whether they are decayed, and whether they are the encoder's
    where that has a learning rate of its own. Each group says so (`decayed`, `rate_share`).

    Args:
        module: What trains; the encoder's parameters are those with `encoder` in the path of their module.
        config: Rates, decay, moments.

    Reference: Loshchilov and Hutter 2019, AdamW, arXiv 1711.05101; groups as in Assran et al. 2025, V-JEPA 2,
        arXiv 2506.09985.
    """
    groups: dict[tuple[bool, float], list[nn.Parameter]] = {}
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            share = 1.0
            if config.encoder_learning_rate is not None and "encoder" in name.split("."):
                share = config.encoder_learning_rate / config.learning_rate
            groups.setdefault((config.decayed == "all" or parameter.dim() > 1, share), []).append(parameter)
    return torch.optim.AdamW(
        [
            {
                "params": parameters,
                "weight_decay": config.weight_decay if decayed else 0.0,
                "decayed": decayed,
                "rate_share": share,
            }
            for (decayed, share), parameters in groups.items()
        ],
        lr=config.learning_rate,
        betas=config.betas,
        eps=config.eps,
        fused=True,
    )


def schedule_(optimizer: torch.optim.Optimizer, config: OptimConfig, train_step: int, num_train_steps: int) -> None:
    """Sets the learning rate and weight decay of one train step."""
    rate = learning_rate(config, train_step, num_train_steps)
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get("rate_share", 1.0)
        if group.get("decayed"):
            group["weight_decay"] = weight_decay(config, train_step, num_train_steps)


class WeightAverage:
    """An exponential moving average of a module's weights.

    Numbers that are not trained by gradients (statistics of batch normalisation, of actions) are copied.

    Args:
        module: Whose weights.
        decay: `average = decay * average + (1 - decay) * weights` after every train step.

    Reference: Polyak and Juditsky 1992; as the teacher of Tarvainen and Valpola 2017, arXiv 1703.01780.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.weights = {name: value.detach().clone() for name, value in module.state_dict().items()}
        self._trained = {name for name, parameter in module.named_parameters() if parameter.requires_grad}

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        """Takes in the weights after a train step."""
        for name, value in module.state_dict().items():
            if name in self._trained:
                self.weights[name].lerp_(value, 1 - self.decay)
            else:
                self.weights[name].copy_(value)

    @contextmanager
    def instead(self, module: nn.Module) -> Iterator[None]:
        """The module has the averaged weights while the context lasts."""
        own: dict[str, Tensor] = {name: value.clone() for name, value in module.state_dict().items()}
        module.load_state_dict(self.weights)
        try:
            yield
        finally:
            module.load_state_dict(own)
