"""How likely a weighted draw without replacement is: probabilities of sets, and of single units.

Let unit `i` of weight `w_i = exp(logit_i)` ring after a time that is exponentially distributed with rate `w_i`. The
first `k` units to ring are distributed as `k` draws without replacement by weight, which is what Gumbel-top-k draws.
"""

import math
from collections.abc import Callable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

# Half width of the bracket in which logarithms of times are searched, and halvings until float64 is exhausted.
BRACKET, HALVINGS = 60.0, 70
# Logarithm of the lightest weight, as a share of all: lighter ones count as this, so that nothing overflows.
LIGHTEST = -300.0
# Nodes of the quadrature, in widths of the integrand around its mode; see `log_probability_of_set`.
NODES = torch.linspace(-20, 12, 129, dtype=torch.float64)


def log_probability_of_set(logits_BU: Float[Tensor, "B U"], drawn_BU: Bool[Tensor, "B U"]) -> Float[Tensor, " B"]:
    """Logarithm of the probability that exactly these units are drawn, in whatever order.

    The set `S` is drawn if all of it rings before any other unit. The others' first ring has rate `R`, their summed
    weight, so `P(S) = int_0^inf R exp(-R t) prod_{i in S} (1 - exp(-w_i t)) dt`. Over `z = log t` the integrand is
    log-concave and analytic, and the trapezoidal rule around its mode converges exponentially.

    Args:
        logits_BU: `[B,U]` logarithms of weights.
        drawn_BU: `[B,U]` true where drawn; neither all nor none of a clip's units.

    Returns:
        `[B]` float64, differentiable in the logits.

    Reference: Kool et al. 2020, Estimating Gradients for Discrete Random Variables by Sampling without Replacement,
    arXiv 2002.06043, appendix B.
    """
    logits_BU = _centred(logits_BU)
    log_rest_B = logits_BU.masked_fill(drawn_BU, -math.inf).logsumexp(1)
    with torch.no_grad():
        z_B = _falling_root(lambda z_B: _slope(logits_BU, drawn_BU, log_rest_B, z_B), logits_BU)
        width_B = _curvature(logits_BU, drawn_BU, log_rest_B, z_B).rsqrt()
        z_BQ = z_B[:, None] + width_B[:, None] * NODES.to(z_B.device)
    x_BQU = (z_BQ[:, :, None] + logits_BU[:, None]).exp()
    rung_BQ = torch.where(drawn_BU[:, None], (-torch.expm1(-x_BQU)).clamp(min=1e-300).log(), 0).sum(2)
    log_rate_BQ = log_rest_B[:, None] + z_BQ
    integrand_BQ = log_rate_BQ - log_rate_BQ.exp() + rung_BQ
    return integrand_BQ.logsumexp(1) + (width_B * (NODES[1] - NODES[0]).item()).log()


def inclusion_probabilities(logits_BU: Float[Tensor, "B U"], amount: int) -> Float[Tensor, "B U"]:
    """How likely each unit is among `amount` drawn ones, by the time at which as many are expected to have rung.

    At that time `tau`, unit `i` has rung with probability `1 - exp(-w_i tau)`, and these sum to `amount` exactly. They
    are its probability to be drawn in the limit of many units, and exactly where all weights are equal.

    Args:
        logits_BU: `[B,U]` logarithms of weights.
        amount: Units that are drawn, at least 1 and below `U`.

    Returns:
        `[B,U]` float64, differentiable in the logits, with `tau` depending on them.

    Reference: Rosen 1997, Asymptotic Theory for Order Sampling, J. Statistical Planning and Inference 62.
    """
    logits_BU = _centred(logits_BU)

    def rung(z_B: Tensor) -> Tensor:
        return -torch.expm1(-(logits_BU + z_B[:, None]).exp())

    with torch.no_grad():
        z_B = _falling_root(lambda z_B: amount - rung(z_B).sum(1), logits_BU)
        x_BU = (logits_BU + z_B[:, None]).exp()
        change_B = (x_BU * (-x_BU).exp()).sum(1)
    # One step of Newton's method: it hardly moves the root, and gives it the gradient of the implicit function.
    return rung(z_B - (rung(z_B).sum(1) - amount) / change_B)


def _centred(logits_BU: Tensor) -> Tensor:
    """float64 logits whose logarithm of summed weights is 0; draws do not depend on a common factor."""
    logits_BU = logits_BU.double()
    return (logits_BU - logits_BU.detach().logsumexp(1, keepdim=True)).clamp(min=LIGHTEST)


def _falling_root(function: Callable[[Tensor], Tensor], logits_BU: Tensor) -> Tensor:
    """`[B]` root of a function that falls, by bisection."""
    # At the lowest time nothing has rung, at the highest even the lightest unit has.
    low_B = torch.full_like(logits_BU[:, 0], -BRACKET)
    high_B = BRACKET - logits_BU.min(1).values
    for _ in range(HALVINGS):
        middle_B = (low_B + high_B) / 2
        above_B = function(middle_B) > 0
        low_B, high_B = torch.where(above_B, middle_B, low_B), torch.where(above_B, high_B, middle_B)
    return (low_B + high_B) / 2


def _ratio(x: Tensor) -> Tensor:
    """`x / (exp(x) - 1)`, which is 1 at 0."""
    return torch.where(x < 1e-12, 1.0, x / torch.expm1(x.clamp(min=1e-12, max=700)))


def _slope(logits_BU: Tensor, drawn_BU: Tensor, log_rest_B: Tensor, z_B: Tensor) -> Tensor:
    """Derivative of the log integrand over `z`."""
    h_BU = _ratio((logits_BU + z_B[:, None]).exp())
    return 1 - (log_rest_B + z_B).exp() + torch.where(drawn_BU, h_BU, 0).sum(1)


def _curvature(logits_BU: Tensor, drawn_BU: Tensor, log_rest_B: Tensor, z_B: Tensor) -> Tensor:
    """Minus the second derivative of the log integrand over `z`, above 0."""
    x_BU = (logits_BU + z_B[:, None]).exp()
    h_BU = _ratio(x_BU)
    return (log_rest_B + z_B).exp() + torch.where(drawn_BU, h_BU * (x_BU + h_BU - 1), 0).sum(1)
