"""Model randomisation: what drops, in which order, and that nothing is left behind."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from usu_core.metrics import max_sensitivity, model_randomisation


class Scaled(nn.Module):
    """A module with a parameter and no way of its own to draw it."""

    def __init__(self) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.linspace(0.5, 1.5, 6))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.factor


def network() -> nn.Sequential:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Linear(12, 6), nn.BatchNorm1d(6), Scaled(), nn.Dropout(0.5), nn.Tanh(), nn.Linear(6, 3)
    )
    net[0].eval()
    net[3].eval()
    net[5].bias.requires_grad_(False)
    net[0].weight.grad = torch.ones(6, 12)
    return net


IMAGES = torch.randn(4, 12, generator=torch.Generator().manual_seed(1))


def gradient(model: nn.Module) -> Tensor:
    images = IMAGES.clone().requires_grad_()
    model(images)[:, 0].sum().backward()
    assert images.grad is not None
    return images.grad.abs()


def snapshot(model: nn.Module) -> list[Any]:
    return [
        {name: value.clone() for name, value in model.state_dict().items()},
        [p.requires_grad for p in model.parameters()],
        [None if p.grad is None else p.grad.clone() for p in model.parameters()],
        [module.training for module in model.modules()],
        [id(p) for p in model.parameters()] + [id(p.grad) for p in model.parameters()],
        torch.get_rng_state(),
    ]


def equal(first: Any, second: Any) -> bool:
    if isinstance(first, Tensor):
        return torch.equal(first, second)
    if isinstance(first, dict):
        return all(equal(first[name], second[name]) for name in first)
    if isinstance(first, list):
        return all(equal(a, b) for a, b in zip(first, second, strict=True))
    return bool(first == second)


@pytest.mark.parametrize("order", ["cascading", "independent"])
def test_maps_of_gradients_follow_the_model_and_edges_do_not(order: str) -> None:
    net = network()
    found = model_randomisation(gradient, net, order=order)
    assert found.layers == ("5", "2", "1", "0")
    assert found.similarity.shape == (4, 4)
    assert float(found.similarity[:, 0].mean()) < 0.9
    assert float(found.similarity[:, 3].mean()) < 0.6
    images = model_randomisation(lambda model: IMAGES.abs(), net, order=order)
    torch.testing.assert_close(images.similarity, torch.ones(4, 4).double())
    again = model_randomisation(gradient, net, order=order)
    assert torch.equal(again.similarity, found.similarity)
    other = model_randomisation(gradient, net, order=order, seed=9)
    assert not torch.equal(other.similarity, found.similarity)


@pytest.mark.parametrize(
    ("order", "changed"),
    [
        ("cascading", [set(), {"5"}, {"5", "2"}, {"5", "2", "0"}]),
        ("independent", [set(), {"5"}, {"2"}, {"0"}]),
    ],
)
def test_which_layers_are_drawn(order: str, changed: list[set[str]]) -> None:
    net, seen = network(), []
    before = {name: p.clone() for name, p in net.named_parameters()}

    def attribute(model: nn.Module) -> Tensor:
        now = model.named_parameters()
        seen.append({name.split(".")[0] for name, p in now if not torch.equal(p, before[name])})
        return IMAGES

    model_randomisation(attribute, net, order=order, layers=["5", "2", "0"])
    assert seen == changed


class Outer(nn.Module):
    """A module with a parameter of its own and others inside it, one of which is not drawn."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.token = nn.Linear(12, 3), nn.Parameter(torch.linspace(0, 1, 12))
        self.places = nn.Parameter(torch.arange(12), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner((x + self.token)[:, self.places])  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("layers", "changed"),
    [
        (None, [set(), {"inner.weight", "inner.bias"}, {"token"}]),
        (
            ["", "inner"],
            [set(), {"token", "inner.weight", "inner.bias"}, {"inner.weight", "inner.bias"}],
        ),
    ],
)
def test_by_default_a_module_is_drawn_without_its_parts(layers: Any, changed: Any) -> None:
    net, seen = Outer(), []
    before = {name: p.clone() for name, p in net.named_parameters()}

    def attribute(model: nn.Module) -> Tensor:
        now = model.named_parameters()
        seen.append({name for name, p in now if not torch.equal(p, before[name])})
        return gradient(model)

    found = model_randomisation(attribute, net, order="independent", layers=layers)
    assert found.layers == ("inner", "") if layers is None else tuple(layers)
    assert seen == changed


def test_blocks_and_spreads() -> None:
    net = nn.Sequential(nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3)), Scaled())
    net[1].factor.data = 5 + torch.randn(4000, generator=torch.Generator().manual_seed(0)) / 8
    seen: list[Tensor] = []

    def attribute(model: nn.Module) -> Tensor:
        seen.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
        return IMAGES

    model_randomisation(attribute, net, layers=["1", "0"])
    factor = seen[1][-4000:]
    assert not bool((factor == seen[0][-4000:]).any())
    assert float(factor.mean()) == pytest.approx(5, abs=0.02)
    assert float(factor.std()) == pytest.approx(1 / 8, rel=0.1)
    assert not bool((seen[2][:-4000] == seen[0][:-4000]).any())


@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
@pytest.mark.parametrize("hide", [nn.utils.weight_norm, nn.utils.parametrizations.weight_norm])
def test_weights_behind_a_parametrisation_are_drawn(hide: Any) -> None:
    net = nn.Sequential(hide(nn.Linear(12, 3)))
    seen: list[Tensor] = []

    def attribute(model: nn.Module) -> Tensor:
        seen.append(model(IMAGES).detach())
        return gradient(model)

    result = model_randomisation(attribute, net)
    assert not bool((seen[1] == seen[0]).any())
    assert float(result.similarity.min()) < 0.9


def test_the_attribution_meets_the_same_random_state_every_time() -> None:
    found = model_randomisation(lambda model: torch.rand(2, 9), network())
    torch.testing.assert_close(found.similarity, torch.ones(2, 4).double())


def test_a_map_that_is_a_view_of_the_weights_is_kept() -> None:
    found = model_randomisation(lambda model: model[0].weight, network(), layers=["0"])
    assert float(found.similarity.abs().max()) < 0.9


class PlannedError(Exception):
    pass


@pytest.mark.parametrize("order", ["cascading", "independent"])
@pytest.mark.parametrize("failure", [None, PlannedError, KeyboardInterrupt])
@pytest.mark.parametrize("at", [0, 3])
def test_no_trace_is_left(order: str, failure: Any, at: int) -> None:
    net = network()
    before, calls = snapshot(net), [0]

    def attribute(model: nn.Module) -> Tensor:
        model.train()
        torch.rand(3)
        result = gradient(model)
        for parameter in model.parameters():
            parameter.requires_grad_(True)
        if failure is not None and calls[0] == at:
            raise failure
        calls[0] += 1
        return result

    if failure is None:
        model_randomisation(attribute, net, order=order)
    else:
        with pytest.raises(failure):
            model_randomisation(attribute, net, order=order)
    assert equal(snapshot(net), before)


class Smoothed(nn.Module):
    """A module whose forward pass puts another tensor in its buffer's place."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(12))

    def forward(self, x: Tensor) -> Tensor:
        self.mean = 0.9 * self.mean + 0.1 * x.detach().mean(0)
        return x - self.mean


@pytest.mark.parametrize("order", ["cascading", "independent"])
def test_buffers_that_are_set_anew_are_put_back(order: str) -> None:
    net = nn.Sequential(Smoothed(), nn.Linear(12, 3), nn.Linear(3, 3))
    own, seen = net[0].mean, []

    def attribute(model: nn.Module) -> Tensor:
        seen.append(model[0].mean.clone())
        return gradient(model)

    model_randomisation(attribute, net, order=order)
    assert net[0].mean is own
    assert not bool(own.any())
    assert bool(seen[1].any()) == (order == "cascading")


@pytest.mark.parametrize("failure", [None, PlannedError])
def test_a_buffer_that_cannot_be_written_to_keeps_nothing_from_being_restored(
    failure: Any,
) -> None:
    net = network()
    net.register_buffer("ones", torch.ones(1).expand(3))
    before = snapshot(net)

    def attribute(model: nn.Module) -> Tensor:
        model.eval()
        if failure is not None:
            raise failure
        return gradient(model)

    if failure is None:
        model_randomisation(attribute, net)
    else:
        with pytest.raises(failure):
            model_randomisation(attribute, net)
    assert equal(snapshot(net), before)


@pytest.mark.parametrize(
    "call",
    [
        lambda attribute: model_randomisation(attribute, network()),
        lambda attribute: max_sensitivity(attribute, IMAGES[:, None]),
    ],
)
def test_what_is_no_tensor_is_refused(call: Any) -> None:
    with pytest.raises(TypeError, match=r"attribute\(.*\) must be a torch.Tensor, got tuple"):
        call(lambda given: (IMAGES,))


def test_the_trace_test_can_fail() -> None:
    net = network()
    before = snapshot(net)
    gradient(net)
    assert not equal(snapshot(net), before)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"order": "random"}, "order must be one of cascading, independent, got 'random'"),
        ({"layers": ["9"]}, "layers must name modules of the model.*got '9'"),
        ({"layers": ["4"]}, "that have parameters, got '4'"),
        ({"layers": []}, "model must have parameters to draw anew"),
        ({"attribute": lambda model: IMAGES / 0}, r"attribute\(model\) must be finite"),
    ],
)
def test_what_does_not_fit_is_refused(options: dict[str, Any], message: str) -> None:
    net = network()
    before = snapshot(net)
    with pytest.raises(ValueError, match=message):
        model_randomisation(**({"attribute": gradient, "model": net} | options))
    assert equal(snapshot(net), before)


def test_layers_are_drawn_one_unlike_the_other() -> None:
    net = nn.Sequential(nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 6))
    seen: list[list[Tensor]] = []

    def attribute(model: nn.Module) -> Tensor:
        seen.append([net[0].weight.detach().clone(), net[2].weight.detach().clone()])
        return IMAGES

    model_randomisation(attribute, net)
    assert not bool((seen[-1][0] == seen[-1][1]).any())


def test_parameters_that_are_replaced_are_put_back() -> None:
    net = nn.Linear(12, 3)
    own, value = net.weight, net.weight.detach().clone()

    def attribute(model: nn.Module) -> Tensor:
        model.weight = nn.Parameter(model.weight.detach() * 2)  # type: ignore[attr-defined]
        return gradient(model)

    model_randomisation(attribute, net, layers=[""])
    assert net.weight is own
    assert torch.equal(net.weight, value)
