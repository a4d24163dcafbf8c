"""Multi-layer perceptron."""

import itertools

from torch import nn


def mlp(in_dim: int, hidden_dim: int, out_dim: int, num_layers: int) -> nn.Sequential:
    """`num_layers` hidden layers of `hidden_dim` with ReLU, and a linear output layer.

    Args:
        in_dim: Input width.
        hidden_dim: Width of every hidden layer.
        out_dim: Output width.
        num_layers: Number of hidden layers, at least 1.
    """
    widths = [in_dim] + [hidden_dim] * num_layers
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(widths):
        layers += [nn.Linear(before, after), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers, nn.Linear(hidden_dim, out_dim))
