"""Learning rate and weight decay over the train steps.

Each schedule is a function of its configuration, the peak, the train step (from 0) and the number of train steps, and
returns the rate. The schedules that V-JEPA 2 and JEPA-WMs published move before the step, so they count from 1.
"""

import math

from jepawm.config.optim import (
    ConstantScheduleConfig,
    CosineScheduleConfig,
    LinearScheduleConfig,
    OptimConfig,
    VJEPACosineScheduleConfig,
    WSDScheduleConfig,
)
from jepawm.config.tagged import import_object


def learning_rate(config: OptimConfig, train_step: int, num_train_steps: int) -> float:
    """The learning rate of one train step.

    Args:
        config: Peak and schedule.
        train_step: From 0.
        num_train_steps: Steps in all.
    """
    schedule = import_object(config.schedule.implementation, "optim.schedule.name")
    return float(schedule(config.schedule, config.learning_rate, train_step, num_train_steps))


def weight_decay(config: OptimConfig, train_step: int, num_train_steps: int) -> float:
    """The weight decay of one train step: from the first to the final one along half a cosine, warm-up included.

    Args:
        config: First and final weight decay.
        train_step: From 0.
        num_train_steps: Steps in all.

    Reference: Assran et al. 2025, V-JEPA 2, arXiv 2506.09985; the step is counted from 1, as in its code.
    """
    if config.final_weight_decay is None:
        return config.weight_decay
    share = _half_cosine((train_step + 1) / (config.weight_decay_steps or num_train_steps))
    return config.final_weight_decay + (config.weight_decay - config.final_weight_decay) * share


def cosine(config: CosineScheduleConfig, peak: float, train_step: int, num_train_steps: int) -> float:
    """Linear warm-up to the peak, then a cosine down to `final_fraction` of it at the last step.

    Reference: Loshchilov and Hutter 2017, SGDR, arXiv 1608.03983, one cycle.
    """
    warmup = max(1, round(config.warmup_fraction * num_train_steps))
    if train_step < warmup:
        return peak * (train_step + 1) / warmup
    progress = (train_step - warmup) / max(1, num_train_steps - 1 - warmup)
    low = config.final_fraction
    return peak * (low + (1 - low) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress))))


def constant(config: ConstantScheduleConfig, peak: float, train_step: int, num_train_steps: int) -> float:
    """The peak at every step."""
    return peak


def linear(config: LinearScheduleConfig, peak: float, train_step: int, num_train_steps: int) -> float:
    """A line from the peak down to `final_fraction` of it after `fall_steps` steps.

    Reference: the cool-down of Assran et al. 2025, V-JEPA 2, arXiv 2506.09985.
    """
    progress = (train_step + 1) / (config.fall_steps or num_train_steps)
    if config.past_the_end == "hold":
        progress = min(1.0, progress)
    return peak * (1 + (config.final_fraction - 1) * progress)


def wsd(config: WSDScheduleConfig, peak: float, train_step: int, num_train_steps: int) -> float:
    """Linear warm-up to the peak, the peak, and a line down to `final_fraction` of it over the last `decay_steps`.

    Reference: Hu et al. 2024, MiniCPM, arXiv 2404.06395; as counted in V-JEPA 2, arXiv 2506.09985.
    """
    step = train_step + 1
    if step < config.warmup_steps:
        return _warmup(config, peak, step)
    decay_from = num_train_steps - config.decay_steps
    if step < decay_from or not config.decay_steps:
        return peak
    return peak * (1 + (config.final_fraction - 1) * min(1.0, (step - decay_from) / config.decay_steps))


def vjepa_cosine(config: VJEPACosineScheduleConfig, peak: float, train_step: int, num_train_steps: int) -> float:
    """Linear warm-up to the peak, then a cosine down to `final_fraction` of it at the schedule's end.

    Reference: Assran et al. 2025, V-JEPA 2, arXiv 2506.09985.
    """
    step, end = train_step + 1, int(config.stretch * num_train_steps)
    if step < config.warmup_steps:
        return _warmup(config, peak, step)
    progress = (step - config.warmup_steps) / max(1, end - config.warmup_steps)
    return peak * (config.final_fraction + (1 - config.final_fraction) * _half_cosine(progress))


def _warmup(config: WSDScheduleConfig | VJEPACosineScheduleConfig, peak: float, step: int) -> float:
    """A line from `start_fraction` of the peak, at step 0, to the peak."""
    return peak * (config.start_fraction + (1 - config.start_fraction) * step / config.warmup_steps)


def _half_cosine(progress: float) -> float:
    """From 1 at the beginning to 0 at the end."""
    return 0.5 * (1 + math.cos(math.pi * progress))
