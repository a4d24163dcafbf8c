"""Draws without replacement by enumeration: every set, and every order of it."""

import itertools

import torch
from torch import Tensor


def probability_by_orders(logits: Tensor, drawn: tuple[int, ...]) -> Tensor:
    """Sum over all orders of drawing one unit after the other, each in proportion to the weights that are left."""
    weights = logits.exp()
    total = torch.zeros((), dtype=torch.float64)
    for order in itertools.permutations(drawn):
        left, term = list(range(len(logits))), torch.ones((), dtype=torch.float64)
        for unit in order:
            term = term * weights[unit] / weights[left].sum()
            left.remove(unit)
        total = total + term
    return total


def every_set(units: int, amount: int) -> tuple[list[tuple[int, ...]], Tensor]:
    sets = list(itertools.combinations(range(units), amount))
    drawn = torch.zeros(len(sets), units, dtype=torch.bool)
    for row, one in zip(drawn, sets, strict=True):
        row[list(one)] = True
    return sets, drawn
