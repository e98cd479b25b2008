"""Which pixels belong to which coarse cell."""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import ceil, isfinite, prod

import torch
from torch import Tensor

from usu_core._axes import Axis, axis_labels, axis_positions, take
from usu_core._checks import check_size
from usu_core._precision import widest


@dataclass(frozen=True, eq=False)
class CellGrid:
    """A partition of the pixel lattice into cells, one per coarse attribution value.

    Make one with :meth:`even`, :meth:`box` or :meth:`from_labels`. Even grids and content boxes
    are separable and are reduced with dense reshapes; label maps use segmented sums.

    Attributes:
        cells: Shape of the coarse grid, such as ``(h, w)``; rank 1, 2 or 3.
        pixels: Shape of the fine lattice, such as ``(H, W)``.

    Example:
        >>> grid = CellGrid.even((2, 2), (5, 4))
        >>> grid.sizes()
        tensor([[6, 6],
                [4, 4]])
        >>> grid.mean(torch.arange(20.0).reshape(5, 4))
        tensor([[ 4.5000,  6.5000],
                [14.5000, 16.5000]])
    """

    cells: tuple[int, ...]
    pixels: tuple[int, ...]
    _axes: tuple[Axis, ...] = ()
    _labels: Tensor | None = None

    @classmethod
    def even(cls, cells: Sequence[int], pixels: Sequence[int]) -> "CellGrid":
        """Divide a lattice evenly: pixel p of an axis belongs to cell floor(p · h / H).

        Args:
            cells: Coarse shape, ``(n,)``, ``(h, w)`` or ``(d, h, w)``.
            pixels: Fine shape of the same rank. Where it is not divisible, cells differ in size
                by at most one pixel per axis.

        Returns:
            The grid; every cell holds at least one pixel.

        Raises:
            ValueError: If the ranks differ, a size is not positive, or the coarse grid is larger
                than the lattice along an axis.
        """
        coarse, fine = check_size("cells", cells), check_size("pixels", pixels)
        _check_same_rank(coarse, fine)
        if any(c > p for c, p in zip(coarse, fine, strict=True)):
            raise ValueError(
                f"cells must not be larger than pixels along any axis, got {coarse} cells for "
                f"{fine} pixels: a cell would have no pixel. Pass the map the other way round, or "
                "average-pool it first."
            )
        # Whole numbers throughout, which torch.compile can trace where fractions are beyond it.
        axes = (
            Axis(tuple(-(-i * size // n) for i in range(n + 1)), size)
            for n, size in zip(coarse, fine, strict=True)
        )
        return cls(coarse, fine, tuple(axes))

    @classmethod
    def box(
        cls, cells: Sequence[int], pixels: Sequence[int], box: Sequence[float | Fraction]
    ) -> "CellGrid":
        """Divide a content box of the lattice evenly.

        For models that pad or crop inside: the box says where, in pixels of the image, the coarse
        grid lies. Pixels outside it belong to no cell and receive nothing. A box may reach beyond
        the image; cells (or parts of cells) that fall outside own no pixels there.

        Args:
            cells: Coarse shape.
            pixels: Fine shape of the same rank.
            box: All lower corners, then all upper corners: ``(top, left, bottom, right)`` in two
                dimensions. Fractions of a pixel are allowed.

        Raises:
            ValueError: If the ranks differ, the box is empty or not finite, or misses the image.
        """
        coarse, fine = check_size("cells", cells), check_size("pixels", pixels)
        _check_same_rank(coarse, fine)
        rank = len(fine)
        if len(box) != 2 * rank:
            raise ValueError(f"box must have {2 * rank} numbers, got {len(box)}.")
        if not all(isfinite(corner) for corner in box):
            raise ValueError(f"box must be finite, got {tuple(box)}.")
        axes = []
        for n, size, low, high in zip(coarse, fine, box[:rank], box[rank:], strict=True):
            # Exact arithmetic: a float division would move borders for some size ratios.
            start, stop = Fraction(low), Fraction(high)
            if stop <= start or stop <= 0 or start >= size:
                raise ValueError(
                    f"box must be non-empty and overlap the image along every axis, got "
                    f"[{low}, {high}) on an axis of {size} pixels."
                )
            edges = (ceil(start + i * (stop - start) / n) for i in range(n + 1))
            axes.append(Axis(tuple(min(max(e, 0), size) for e in edges), size))
        return cls(coarse, fine, tuple(axes))

    @classmethod
    def from_labels(cls, labels: Tensor, cells: Sequence[int] | None = None) -> "CellGrid":
        """Take an explicit label map: pixel x belongs to cell ``labels[x]``, and -1 to none.

        Args:
            labels: Integer tensor of the lattice's shape, rank 1 to 3, values from -1 to K - 1.
            cells: Shape of the coarse grid with K entries in row-major order; ``(K,)`` with
                K = ``labels.max() + 1`` if not given.

        Raises:
            TypeError: If ``labels`` is not an integer tensor.
            ValueError: If it is empty, holds a label below -1 or at least K, or has no label.
        """
        if not isinstance(labels, Tensor) or labels.is_floating_point() or labels.is_complex():
            kind = labels.dtype if isinstance(labels, Tensor) else type(labels).__name__
            raise TypeError(f"labels must be an integer tensor, got {kind}.")
        fine = check_size("labels.shape", labels.shape)
        low, high = int(labels.min()), int(labels.max())
        if low < -1 or high < 0:
            raise ValueError(f"labels must be cell numbers or -1, got values from {low} to {high}.")
        coarse = (high + 1,) if cells is None else check_size("cells", cells)
        if high >= prod(coarse):
            raise ValueError(f"labels must be below {prod(coarse)} for cells {coarse}, got {high}.")
        return cls(coarse, fine, (), labels.detach().to(torch.long, copy=True))

    @property
    def is_dense(self) -> bool:
        """Whether the grid is separable, so that reductions need no scatter."""
        return self._labels is None

    @property
    def is_even(self) -> bool:
        """Whether the cells divide the whole lattice evenly."""
        if not self.is_dense or any(c > p for c, p in zip(self.cells, self.pixels, strict=True)):
            return False
        return self._axes == CellGrid.even(self.cells, self.pixels)._axes

    @property
    def is_uniform(self) -> bool:
        """Whether the cells cover the whole lattice, each with the same number of pixels."""
        return self.is_dense and all(axis.uniform for axis in self._axes)

    def labels(self, device: torch.device | str | None = None) -> Tensor:
        """Return each pixel's cell number, row-major, -1 outside: int64 of shape ``pixels``."""
        if self._labels is not None:
            return self._labels.to(device)
        result = torch.zeros(self.pixels, dtype=torch.long, device=device)
        inside = torch.ones(self.pixels, dtype=torch.bool, device=device)
        for d, axis in enumerate(self._axes):
            shape = [-1 if i == d else 1 for i in range(len(self.pixels))]
            cell = torch.tensor(axis_labels(axis), device=device).view(shape)
            inside &= cell >= 0
            result = result * self.cells[d] + cell
        return result.where(inside, -1)

    def sizes(self, device: torch.device | str | None = None) -> Tensor:
        """Return the number of pixels in each cell, int64, shape ``cells``."""
        if self._labels is not None:
            flat = self._labels.flatten().to(device)
            counts = torch.bincount(flat + 1, minlength=prod(self.cells) + 1)[1:]
            return counts.view(self.cells)
        if self.is_uniform:  # Without a copy to the device.
            return torch.full(self.cells, prod(self.pixels) // prod(self.cells), device=device)
        result = torch.ones(self.cells, dtype=torch.long, device=device)
        for d, axis in enumerate(self._axes):
            shape = [-1 if i == d else 1 for i in range(len(self.cells))]
            result = result * torch.tensor(axis.counts, device=device).view(shape)
        return result

    def sum(self, values: Tensor) -> Tensor:
        """Add ``values`` (..., *pixels) up within each cell; returns (..., *cells)."""
        if self.is_dense:
            return self.split(values, 0.0).sum(self.within)
        # Sequential sums of many float32 values drift past the promised conservation.
        flat, index = self._flat(widest(values))
        total = flat.new_zeros(flat.shape[0], prod(self.cells) + 1).index_add_(1, index, flat)
        return total[:, :-1].reshape(*self._lead(values), *self.cells).to(values.dtype)

    def mean(self, values: Tensor) -> Tensor:
        """Average ``values`` (..., *pixels) within each cell; empty cells give 0."""
        if values.dtype in (torch.float16, torch.bfloat16):  # It could not hold the sums.
            return self.mean(values.float()).to(values.dtype)
        return self.sum(values) / self.sizes(values.device).clamp(min=1)

    def max(self, values: Tensor) -> Tensor:
        """Take the largest of ``values`` (..., *pixels) in each cell; empty cells give -inf."""
        if self.is_dense:
            return self.split(values, -torch.inf).amax(self.within)
        flat, index = self._flat(values)
        low = flat.new_full((flat.shape[0], prod(self.cells) + 1), -torch.inf)
        high = low.scatter_reduce(1, index.expand_as(flat), flat, "amax")
        return high[:, :-1].reshape(*self._lead(values), *self.cells)

    def expand(self, coarse: Tensor) -> Tensor:
        """Give every pixel its cell's value: (..., *cells) to (..., *pixels), 0 outside."""
        self._check_cells(coarse)
        if self.is_dense:
            result = coarse
            for d, axis in enumerate(self._axes):
                result = take(result, d - len(self._axes), axis, axis_labels)
            return result
        flat = coarse.reshape(-1, prod(self.cells))
        padded = torch.cat([flat, flat.new_zeros(flat.shape[0], 1)], 1)
        index = self.labels(coarse.device).flatten()
        return padded[:, index].reshape(*coarse.shape[: -len(self.cells)], *self.pixels)

    # The dense kernels below are shared with the operators of this package.

    @property
    def within(self) -> tuple[int, ...]:
        """Dimensions of :meth:`split`'s result that run over the pixels of a cell."""
        return tuple(range(-2 * len(self.cells) + 1, 0, 2))

    def split(self, values: Tensor, fill: float) -> Tensor:
        """Reshape (..., H, W) to (..., h, rows per cell, w, columns per cell); dense grids only.

        A view where all cells have one size; elsewhere cells are padded with ``fill``.
        """
        self._check_pixels(values)
        rank = len(self._axes)
        result = values
        for d in reversed(range(rank)):
            axis, dim = self._axes[d], values.dim() - rank + d
            n = len(axis.starts) - 1
            if axis.uniform:
                result = result.unflatten(dim, (n, -1))
                continue
            widest = axis.widest
            starts = torch.tensor(axis.starts, device=values.device)
            index = starts[:-1, None] + torch.arange(widest, device=values.device)
            real = (index < starts[1:, None]).view(n, widest, *[1] * (result.dim() - dim - 1))
            index = index.clamp(max=axis.pixels - 1).flatten()
            result = result.index_select(dim, index).unflatten(dim, (n, widest)).where(real, fill)
        return result

    def join(self, blocks: Tensor) -> Tensor:
        """Undo :meth:`split`; pixels outside every cell get 0."""
        result = blocks
        for d, axis in enumerate(self._axes):
            dim = -2 * (len(self._axes) - d)
            result = result.flatten(dim, dim + 1)
            if not axis.uniform:
                result = take(result, dim + 1, axis, axis_positions)
        return result

    def _flat(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """Return values as (lead, pixels) and each pixel's cell, with K standing for none."""
        self._check_pixels(values)
        index = self.labels(values.device).flatten()
        return values.reshape(-1, prod(self.pixels)), index.where(index >= 0, prod(self.cells))

    def _lead(self, values: Tensor) -> tuple[int, ...]:
        return tuple(values.shape[: values.dim() - len(self.pixels)])

    def _check_pixels(self, values: Tensor) -> None:
        if tuple(values.shape[-len(self.pixels) :]) != self.pixels:
            raise ValueError(f"values must end in shape {self.pixels}, got {tuple(values.shape)}.")

    def _check_cells(self, coarse: Tensor) -> None:
        if tuple(coarse.shape[-len(self.cells) :]) != self.cells:
            raise ValueError(f"cells must end in shape {self.cells}, got {tuple(coarse.shape)}.")

    def __repr__(self) -> str:
        kind = "labels" if not self.is_dense else "even" if self.is_even else "box"
        return f"CellGrid({kind}, cells={self.cells}, pixels={self.pixels})"


def _check_same_rank(cells: tuple[int, ...], pixels: tuple[int, ...]) -> None:
    if len(cells) != len(pixels):
        raise ValueError(f"cells and pixels must have the same rank, got {cells} and {pixels}.")
