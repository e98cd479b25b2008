"""Where along a path the gradient is taken, and what part of the path it stands for."""

import numpy as np
import torch
from torch import Tensor

QUADRATURES = (
    "gausslegendre",
    "riemann_trapezoid",
    "riemann_middle",
    "riemann_left",
    "riemann_right",
)
"""Names are Captum's."""


def nodes_and_edges(method: str, n_steps: int) -> tuple[Tensor, Tensor]:
    """Return a rule for integrals along a path with parameter 0 to 1.

    The gradient at node j stands for the stretch of the path between edges j and j + 1. Stretches
    add up to the whole path, so a linear model's attribution is exact under every rule and on
    every path. On the straight line stretches are proportional to their length, and the rule is
    the textbook one; the stretches of Gauss and Legendre's are its weights, between which its
    nodes lie by the separation theorem of Chebyshev, Markov and Stieltjes.

    Args:
        method: One of ``QUADRATURES``.
        n_steps: Number of nodes: gradients per example.

    Returns:
        ``n_steps`` nodes and ``n_steps + 1`` edges, float64.

    Raises:
        ValueError: If the rule is unknown or there are too few steps for it.

    Example:
        >>> nodes_and_edges("riemann_trapezoid", 3)[1]
        tensor([0.0000, 0.2500, 0.7500, 1.0000], dtype=torch.float64)
    """
    if method not in QUADRATURES:
        raise ValueError(f"method must be one of {', '.join(QUADRATURES)}, got {method!r}.")
    check_steps(n_steps, least=2 if method == "riemann_trapezoid" else 1)
    steps = torch.arange(n_steps + 1, dtype=torch.float64) / n_steps
    if method == "gausslegendre":
        at, weights = (torch.from_numpy(v) for v in np.polynomial.legendre.leggauss(n_steps))
        edges = torch.cat((steps[:1], (weights / weights.sum()).cumsum(0)))
        return (at + 1) / 2, edges
    if method == "riemann_trapezoid":
        nodes = torch.arange(n_steps, dtype=torch.float64) / (n_steps - 1)
        between = (nodes[1:] + nodes[:-1]) / 2
        return nodes, torch.cat((nodes[:1], between, nodes[-1:]))
    at_ends = {"riemann_left": steps[:-1], "riemann_right": steps[1:]}
    return at_ends.get(method, (steps[1:] + steps[:-1]) / 2), steps


def check_steps(n_steps: object, least: int = 1) -> None:
    """Raise unless ``n_steps`` is an integer of at least ``least``."""
    if isinstance(n_steps, bool) or not isinstance(n_steps, int):
        raise TypeError(f"n_steps must be an integer, got {type(n_steps).__name__}.")
    if n_steps < least:
        raise ValueError(f"n_steps must be at least {least}, got {n_steps}.")
