"""Scale a matrix so that its rows and columns have given sums, in the log domain."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

CHECK_EVERY = 5
"""Iterations between two looks at the column sums; each look waits for the device once."""


class Balanced(NamedTuple):
    """The result of :func:`balance`.

    Attributes:
        log_plan: (B, m, n), the logarithm of the scaled matrix, differentiable.
        column_error: (B,), the largest relative error of a column sum. Rows are exact.
        n_iterations: (B,) int64, how many iterations each example took.
    """

    log_plan: Tensor
    column_error: Tensor
    n_iterations: Tensor


def balance(
    logits: Tensor,
    log_rows: Tensor,
    log_columns: Tensor,
    *,
    n_iterations: int | None,
    max_iterations: int,
    tolerance: float,
) -> Balanced:
    """Balance ``exp(logits)`` by alternating normalisation of columns and rows (Sinkhorn).

    Each iteration normalises the columns, then the rows, so rows end exact. Gradients are those
    of the unrolled iterations, but the backward pass computes each step anew from the row
    potentials, so memory does not grow with the number of iterations times the matrix.

    Args:
        logits: (B, m, n), finite.
        log_rows: (m, 1), logarithms of the rows' sums.
        log_columns: (1, n), logarithms of the columns' sums; both add up to the same mass.
        n_iterations: How many iterations; ``None`` stops each example when its column error is
            below ``tolerance``, looked at every five iterations.
        max_iterations: Bound for ``n_iterations=None``.
        tolerance: Largest relative column error to accept.

    Returns:
        The logarithm of the balanced matrix, and how well it converged. Examples do not
        influence one another.

    Cost:
        Two exponentials of the matrix per iteration, three in the backward pass; four matrices of
        memory. Differentiable once.

    Example:
        >>> logits = torch.tensor([[[2.0, 0.0], [0.0, 1.0]]])
        >>> even = torch.zeros(2, 1)
        >>> result = balance(
        ...     logits, even, even.T, n_iterations=None, max_iterations=100, tolerance=1e-3
        ... )
        >>> result.log_plan.exp().sum((0, 1)).round(decimals=2)
        tensor([1., 1.])
    """
    fixed = n_iterations is not None
    rows, columns, counts = _Potentials.apply(
        logits,
        log_rows,
        log_columns,
        n_iterations if fixed else max_iterations,
        None if fixed else tolerance,
    )
    with torch.no_grad():
        error = _column_error(logits, rows, columns, log_columns)
    return Balanced(logits + rows + columns, error, counts)


class _Potentials(torch.autograd.Function):
    """Potentials of rows (B, m, 1) and columns (B, 1, n) that balance logits (B, m, n)."""

    @staticmethod
    def forward(
        ctx: Any,
        logits: Tensor,
        log_rows: Tensor,
        log_columns: Tensor,
        limit: int,
        tolerance: float | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        size, ranks, items = logits.shape
        rows, columns = logits.new_zeros(size, ranks, 1), logits.new_zeros(size, 1, items)
        done = torch.zeros(size, 1, 1, dtype=torch.bool, device=logits.device)
        counts = torch.zeros(size, dtype=torch.long, device=logits.device)
        history = [rows]
        for step in range(1, limit + 1):
            fitted = log_columns - torch.logsumexp(logits + rows, -2, keepdim=True)
            columns = torch.where(done, columns, fitted)
            # Columns that stay leave the rows as they are.
            rows = log_rows - torch.logsumexp(logits + columns, -1, keepdim=True)
            history.append(rows)
            counts += (~done).flatten()
            if tolerance is not None and step % CHECK_EVERY == 0:
                error = _column_error(logits, rows, columns, log_columns)
                done = done | (error < tolerance).view(-1, 1, 1)
                if bool(done.all()):
                    break
        ctx.save_for_backward(logits, log_columns, counts, *history)
        ctx.mark_non_differentiable(counts)
        return rows, columns, counts

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(
        ctx: Any, grad_rows: Tensor, grad_columns: Tensor, _: Tensor
    ) -> tuple[Tensor | None, ...]:
        logits, log_columns, counts, *history = ctx.saved_tensors
        grad = torch.zeros_like(logits)
        for step in range(len(history) - 1, 0, -1):
            # A step that an example no longer took hands its gradients on unchanged.
            taken = (counts >= step).view(-1, 1, 1)
            by_columns = (logits + history[step - 1]).softmax(-2)
            columns = log_columns - torch.logsumexp(logits + history[step - 1], -2, keepdim=True)
            by_rows = (logits + columns).softmax(-1)
            flow = by_rows.mul_(grad_rows * taken)
            grad -= flow
            grad_columns = grad_columns - flow.sum(-2, keepdim=True)
            flow = by_columns.mul_(grad_columns * taken)
            grad -= flow
            grad_rows = torch.where(taken, -flow.sum(-1, keepdim=True), grad_rows)
            grad_columns = grad_columns.masked_fill(taken, 0.0)
        return grad, None, None, None, None


def _column_error(logits: Tensor, rows: Tensor, columns: Tensor, log_columns: Tensor) -> Tensor:
    """Return each example's largest relative error of a column sum, (B,)."""
    excess = torch.logsumexp(logits + rows, -2, keepdim=True) + columns - log_columns
    return excess.expm1().abs().amax((-2, -1))
