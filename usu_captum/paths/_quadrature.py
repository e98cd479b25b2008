"""Where along a path the gradient is taken, and what part of the path it stands for."""

import numpy as np
import torch
from torch import Tensor

from usu_core._checks import check_choice, check_count

QUADRATURES = (
    "gausslegendre",
    "riemann_trapezoid",
    "riemann_middle",
    "riemann_left",
    "riemann_right",
    "graded_middle",
)
"""Names are Captum's, but for the last, which Captum does not have."""


def nodes_and_edges(method: str, n_steps: int) -> tuple[Tensor, Tensor]:
    """Return a rule for integrals along a path with parameter 0 to 1.

    The gradient at node j stands for the stretch of the path between edges j and j + 1. Stretches
    add up to the whole path, so a linear model's attribution is exact under every rule and on
    every path. On the straight line stretches are proportional to their length, and the rule is
    the textbook one; the stretches of Gauss and Legendre's are its weights, between which its
    nodes lie by the separation theorem of Chebyshev, Markov and Stieltjes.

    ``"graded_middle"`` takes the middles of stretches that grow along the path, edge j at
    ``(j / n_steps) ** 2``. Networks say most of what they say of an image at a small part of its
    contrast, and there their gradients jump most: its stretches are shortest where that is.

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
        >>> nodes_and_edges("graded_middle", 2)[0]
        tensor([0.1250, 0.6250], dtype=torch.float64)
    """
    check_choice("method", method, QUADRATURES)
    check_count("n_steps", n_steps, 2 if method == "riemann_trapezoid" else 1)
    steps = torch.arange(n_steps + 1, dtype=torch.float64) / n_steps
    if method == "gausslegendre":
        at, weights = (torch.from_numpy(v) for v in np.polynomial.legendre.leggauss(n_steps))
        edges = torch.cat((steps[:1], (weights / weights.sum()).cumsum(0)))
        return (at + 1) / 2, edges
    if method == "riemann_trapezoid":
        nodes = torch.arange(n_steps, dtype=torch.float64) / (n_steps - 1)
        between = (nodes[1:] + nodes[:-1]) / 2
        return nodes, torch.cat((nodes[:1], between, nodes[-1:]))
    if method == "graded_middle":
        steps = steps**2
    at_ends = {"riemann_left": steps[:-1], "riemann_right": steps[1:]}
    return at_ends.get(method, (steps[1:] + steps[:-1]) / 2), steps
