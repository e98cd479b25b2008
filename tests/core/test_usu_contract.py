"""Gradients, compilation, memory and devices."""

import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from usu_core import CellGrid, iwmr, usu

GRIDS = {
    "even": CellGrid.even((2, 2), (4, 6)),
    "uneven": CellGrid.even((2, 2), (5, 5)),
    "box": CellGrid.box((2, 2), (5, 6), (0, 1.5, 6, 5.0)),
    "labels": CellGrid.from_labels(torch.tensor([[0, 0, 1, -1], [2, 2, 3, 3]]), (2, 2)),
}
OPERATORS: dict[str, Callable[..., Tensor]] = {
    "usu": usu,
    "usu-invert": lambda *a, **k: usu(*a, negative="invert", **k),
    "usu-power": lambda *a, **k: usu(*a, potential="power", **k),
    "iwmr": iwmr,
    "iwmr-mean": lambda *a, **k: iwmr(*a, importance="mean", **k),
    "iwmr-mass": lambda *a, **k: iwmr(*a, prior="mass", **k),
}


@pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS)
@pytest.mark.parametrize("operator", OPERATORS.values(), ids=OPERATORS)
@pytest.mark.parametrize("sign", ["mixed", "positive"])
def test_gradients_equal_finite_differences(
    rand: Any, grid: CellGrid, operator: Callable[..., Tensor], sign: str
) -> None:
    cells = rand(2, *grid.cells, dtype=torch.float64) + 0.1
    if sign == "mixed":
        cells[:, 0, 0] *= -1
    scores = rand(2, *grid.pixels, dtype=torch.float64) * 0.8 + 0.1

    def run(a: Tensor, phi: Tensor) -> Tensor:
        return operator(a, phi, temperature=0.7, grid=grid)

    assert torch.autograd.gradcheck(
        run, (cells.requires_grad_(), scores.requires_grad_()), fast_mode=True
    )


@pytest.mark.parametrize("operator", OPERATORS.values(), ids=OPERATORS)
def test_gradients_are_finite_with_zero_cells_and_tied_scores(
    operator: Callable[..., Tensor],
) -> None:
    cells = torch.tensor([[0.0, 2.0, 0.0], [0.0, 0.0, 0.0]], requires_grad=True)
    scores = torch.tensor([[0.0, 0.0, 1.0, 0.5, 0.5, 0.5]]).repeat(2, 1).requires_grad_()
    operator(cells, scores, temperature=1e-3).square().sum().backward()
    assert cells.grad is not None
    assert scores.grad is not None
    assert bool(cells.grad.isfinite().all())
    assert bool(scores.grad.isfinite().all())


@pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS)
def test_the_branch_with_gradients_gives_the_same_values(rand: Any, grid: CellGrid) -> None:
    cells, scores = rand(2, *grid.cells), rand(2, *grid.pixels)
    with_gradients = usu(cells.requires_grad_(), scores, grid=grid)
    assert with_gradients.requires_grad
    assert torch.equal(usu(cells.detach(), scores, grid=grid), with_gradients)


def test_inputs_are_not_written_to(rand: Any) -> None:
    cells, scores = rand(1, 1, 1), rand(1, 4, 4)
    before = cells.clone(), scores.clone()
    usu(cells, scores)
    iwmr(cells, scores, prior="mass")
    assert torch.equal(cells, before[0])
    assert torch.equal(scores, before[1])


@pytest.mark.parametrize(
    ("name", "convention"),
    [("usu", "density"), ("iwmr-mass", "total")],
)
@pytest.mark.filterwarnings("ignore:Dynamo detected a call to a .functools.lru_cache")
def test_compiles_into_one_graph(rand: Any, name: str, convention: str) -> None:
    # aot_eager traces forward and backward as the default backend does, without a C++ compiler.
    def run(a: Tensor, phi: Tensor, temperature: float) -> Tensor:
        return OPERATORS[name](a, phi, temperature=temperature, convention=convention)

    torch.compiler.reset()
    compiled = torch.compile(run, fullgraph=True, backend="aot_eager")
    for pixels in ((4, 6), (5, 7)):
        cells, scores = rand(2, 2, 3) - 0.5, rand(2, *pixels)
        for temperature in (0.3, 0.4, 0.5):  # From the second on it is a symbol.
            torch.testing.assert_close(
                compiled(cells, scores, temperature), run(cells, scores, temperature)
            )


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of storages made inside it, at their peak."""

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self.known: set[int] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given = {
            t.untyped_storage()._cdata
            for t in tree_flatten((args, kwargs or {}))[0]
            if isinstance(t, Tensor)
        }
        result = func(*args, **(kwargs or {}))
        for tensor in tree_flatten(result)[0]:
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                if storage._cdata not in self.known | given:
                    self.known.add(storage._cdata)
                    self.live += storage.nbytes()
                    self.peak = max(self.peak, self.live)
                    weakref.finalize(storage, self.free, storage._cdata, storage.nbytes())
        return result

    def free(self, key: int, size: int) -> None:
        self.known.discard(key)
        self.live -= size


def peak_buffers(run: Callable[[], Tensor]) -> float:
    with LiveBytes() as counter:
        result = run()
    return counter.peak / (result.numel() * result.element_size())


def test_the_memory_counter_counts(rand: Any) -> None:
    x = rand(256, 256)
    assert peak_buffers(lambda: x + 1) == pytest.approx(1.0, abs=0.01)
    assert peak_buffers(lambda: (x + 1) * (x + 2) + (x + 3)) == pytest.approx(4.0, abs=1.01)


@pytest.mark.parametrize("pixels", [224, 225])
def test_needs_at_most_three_buffers_of_the_outputs_size(rand: Any, pixels: int) -> None:
    cells, scores = rand(2, 7, 7), rand(2, pixels, pixels)
    assert 1.0 <= peak_buffers(lambda: usu(cells, scores)) <= 3.2


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS)
@pytest.mark.parametrize("operator", OPERATORS.values(), ids=OPERATORS)
def test_cuda_equals_the_cpu(rand: Any, grid: CellGrid, operator: Callable[..., Tensor]) -> None:
    cells, scores = rand(2, *grid.cells) - 0.3, rand(2, *grid.pixels)
    fine = operator(cells.cuda(), scores.cuda(), grid=grid)
    assert fine.is_cuda
    torch.testing.assert_close(fine.cpu(), operator(cells, scores, grid=grid))


def test_tensors_on_two_devices_are_refused(rand: Any) -> None:
    with pytest.raises(
        ValueError, match="cells and scores must be on one device, got cpu and meta"
    ):
        usu(rand(1, 2), torch.empty(1, 4, device="meta"))


@pytest.mark.parametrize("operator", [usu, iwmr])
def test_double_scores_make_a_double_map(rand: Any, operator: Callable[..., Tensor]) -> None:
    cells, scores = rand(1, 2, 2), rand(1, 8, 8).double()
    assert operator(cells, scores).dtype == torch.float64
    assert operator(cells.double(), scores.float()).dtype == torch.float64
    assert operator(cells.half(), scores.half()).dtype == torch.float32
