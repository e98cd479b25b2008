"""Path integrals of gradients: along given paths, and along paths found on the way."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

import torch
from torch import Tensor

from usu_captum.paths._objective import Objective
from usu_captum.paths._quadrature import nodes_and_edges
from usu_core._precision import wide

Points = tuple[Tensor, ...]
"""One tensor per input of the model, each (B, ...)."""


class Path(Protocol):
    """A curve for each example, known beforehand: from its start at 0 to the input at 1."""

    def at(self, alphas: Tensor) -> Points:
        """Return the points at positions (K,), each (K, B, ...)."""
        ...


class Gradients(Protocol):
    """Where gradients come from: an :class:`Objective`, or what stands in for one."""

    def gradients(self, points: Points, example: Tensor, chunk: int) -> Points:
        """Return the gradient at each row."""
        ...


Step = Callable[[int, Points, Points], Points | None]
"""Number of the step, points and gradients there, to the next points; ``None`` at the end."""


def integrate(
    path: Path,
    objective: Objective,
    examples: Tensor,
    *,
    n_steps: int,
    method: str,
    batch_size: int,
    changes: Callable[[Tensor, Tensor], Points] | None = None,
) -> Points:
    """Integrate the gradient along a given path.

    Args:
        path: Positions to points.
        objective: What is explained.
        examples: (B,) int64, the example of the batch each of the path's curves belongs to.
        n_steps: Gradients per curve.
        method: One of ``QUADRATURES``.
        batch_size: Images per model call; memory depends on it and not on ``n_steps``.
        changes: Nodes (K,) and edges (K + 1,) to what to weigh the gradients at the nodes by, each
            (K, B, ...). By default, how the points change from edge to edge.

    Returns:
        For each input (B, ...): the integral of gradient times change, of the inputs' dtype.

    Raises:
        ValueError: If a gradient is not finite.
    """
    nodes, edges = nodes_and_edges(method, n_steps)
    together = max(1, batch_size // len(examples))
    total: list[Tensor] = []
    with _finite_gradients() as check:
        for first in range(0, n_steps, together):
            chosen = nodes[first : first + together]
            points = path.at(chosen)
            rows = examples.repeat(len(chosen))
            found = objective.gradients(tuple(p.flatten(0, 1) for p in points), rows, batch_size)
            ends = edges[first : first + len(chosen) + 1]
            # Products of gradients and short steps would vanish in half precision.
            weights = (
                changes(chosen, ends)
                if changes
                else tuple(wide(e).diff(dim=0) for e in path.at(ends))
            )
            found = tuple(g.view_as(w) for g, w in zip(found, weights, strict=True))
            check(found)
            parts = [(wide(g) * w).sum(0) for g, w in zip(found, weights, strict=True)]
            total = parts if not total else [t.add_(p) for t, p in zip(total, parts, strict=True)]
    return tuple(t.to(p.dtype) for t, p in zip(total, points, strict=True))


def follow(
    start: Points,
    step: Step,
    objective: Gradients,
    examples: Tensor,
    *,
    method: str,
    batch_size: int,
) -> Points:
    """Integrate the gradient along a path that is found from the gradients themselves.

    The gradient at each point is taken once and serves both to choose the next point and to
    weigh the way there.

    Args:
        start: Where the path starts.
        step: Chooses the next points, or ``None`` when all have arrived.
        objective: What is explained.
        examples: (B,) int64, the example of the batch each row of ``start`` belongs to.
        method: ``"riemann_trapezoid"`` (the mean of the gradients at a step's two ends) or
            ``"riemann_left"`` (the gradient where it starts).
        batch_size: Images per model call.

    Returns:
        As :func:`integrate`.

    Raises:
        ValueError: If the rule is another or a gradient is not finite.
    """
    if method not in ("riemann_trapezoid", "riemann_left"):
        raise ValueError(
            f"method must be 'riemann_trapezoid' or 'riemann_left' on a path that is found step "
            f"by step, got {method!r}."
        )
    points, number = start, 0
    total = [wide(torch.zeros_like(p)) for p in start]
    with _finite_gradients() as check:
        gradients = objective.gradients(points, examples, batch_size)
        check(tuple(g[None] for g in gradients))
        while (reached := step(number, points, gradients)) is not None:
            number += 1
            ahead = objective.gradients(reached, examples, batch_size)
            check(tuple(g[None] for g in ahead))
            for t, here, there, old, new in zip(
                total, gradients, ahead, points, reached, strict=True
            ):
                weight = here if method == "riemann_left" else (wide(here) + wide(there)) / 2
                t.add_(wide(weight) * (wide(new) - wide(old)))
            points, gradients = reached, ahead
    return tuple(t.to(p.dtype) for t, p in zip(total, start, strict=True))


@contextmanager
def _finite_gradients() -> Iterator[Callable[[Points], None]]:
    """Collect whether the gradients (K, B, ...) of each step are finite, and judge at the end.

    Asking at every step would make the device wait.
    """
    none, seen = 2**62, 0
    first = torch.tensor(none)

    def check(gradients: Points) -> None:
        nonlocal first, seen
        finite = torch.stack([g.isfinite().flatten(1).all(1) for g in gradients]).all(0)
        steps = torch.arange(seen, seen + len(finite), device=finite.device)
        # One number, not one per step: small tensors that stay fragment the memory.
        first = torch.minimum(first.to(finite.device), steps.masked_fill(finite, none).min())
        seen += len(finite)

    yield check
    if int(first) != none:
        raise ValueError(
            f"forward_func must have finite gradients along the path, got NaN or infinity at step "
            f"{int(first)}. Try another baseline, or a model in float32."
        )
