"""Named streams: the same for the same numbers, unrelated for any other."""

import torch

from jepawm.seeding import plan_generator, stream_generator, stream_seed


def test_a_stream_is_fixed_by_seed_purpose_and_numbers() -> None:
    seeds = {
        stream_seed(seed, purpose, step) for seed in range(4) for purpose in ("dropout", "sigreg") for step in range(50)
    }
    assert len(seeds) == 4 * 2 * 50
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert stream_seed(3, "dropout", 7) == stream_seed(3, "dropout", 7)


def test_dropout_and_sigreg_draw_unrelated_numbers() -> None:
    one, other = (torch.randn(4096, generator=stream_generator(1, purpose, 5)) for purpose in ("dropout", "sigreg"))
    # The correlation of n independent normal pairs has deviation 1 / sqrt(n): six of them.
    assert abs(float(torch.corrcoef(torch.stack([one, other]))[0, 1])) < 6 / 4096**0.5


def test_a_plans_noise_depends_on_the_episode_and_the_number_of_the_plan() -> None:
    draws = [float(torch.randn(1, generator=plan_generator(0, *numbers))) for numbers in ((1, 0), (1, 1), (2, 0))]
    assert len(set(draws)) == 3
    assert draws[0] == float(torch.randn(1, generator=plan_generator(0, 1, 0)))
