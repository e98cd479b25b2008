"""Encoders, decoder, conditioning, and what they are built from."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from captum.attr import InputXGradient, LayerGradientXActivation
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from usu_captum import IMAGENET, ImageSpace
from usu_captum.ranking import (
    ClassifierEncoder,
    HeadConditioning,
    NetworkConfig,
    RankingNetwork,
    TimmEncoder,
    _classifier_features,
    build_network,
    default_stages,
    head_rows,
    load_network,
    save_network,
)
from usu_captum.ranking._classifier_features import sum_to_map
from usu_captum.ranking._decoder import level_sizes


def test_maps_have_the_images_size(network: RankingNetwork, images: Tensor) -> None:
    maps = network(images, torch.tensor([0, 1, 2]))
    assert maps.shape == (3, 1, 16, 16)
    assert bool(torch.isfinite(maps).all())
    assert network.config.layers == ("first", "second")


@pytest.mark.parametrize("conditioning", ["head", "embedding"])
@pytest.mark.parametrize("readout", ["film", "concat"])
def test_the_class_matters(
    classifier: Any, config: NetworkConfig, images: Tensor, conditioning: str, readout: str
) -> None:
    chosen = replace(config, conditioning=conditioning, readout=readout, prior="flat")
    network = build_network(chosen, classifier).eval()
    one, other = (network(images, torch.full((3,), i)) for i in (0, 1))
    assert not torch.allclose(one, other)


def test_cells_are_averaged_and_enlarged(
    classifier: Any, config: NetworkConfig, images: Tensor
) -> None:
    network = build_network(replace(config, prior="cam"), classifier).eval()
    coarse = build_network(replace(config, prior="cam", cells=4), classifier).eval()
    coarse.load_state_dict(network.state_dict())
    targets = torch.tensor([0, 1, 2])
    flat = replace(config, prior="flat")
    alone = build_network(flat, classifier).eval()
    alone.load_state_dict(network.state_dict(), strict=False)
    start = network(images, targets) - alone(images, targets)
    means = F.avg_pool2d(alone(images, targets), 4)
    expected = start + F.interpolate(means, (16, 16), mode="bilinear")
    torch.testing.assert_close(coarse(images, targets), expected)
    assert not torch.allclose(coarse(images, targets), network(images, targets), atol=1e-4)


def test_a_map_does_not_depend_on_its_batch(network: RankingNetwork, images: Tensor) -> None:
    network.train()
    network.decoder.refinement.layers[0].p = 0.0
    targets = torch.tensor([0, 1, 2])
    alone = network(images[1:2], targets[1:2])
    torch.testing.assert_close(network(images, targets)[1:2], alone, rtol=1e-4, atol=1e-5)


def test_training_starts_nearly_flat(
    classifier: Any, config: NetworkConfig, images: Tensor
) -> None:
    flat = build_network(replace(config, prior="flat"), classifier).eval()
    maps = flat(images, torch.zeros(3, dtype=torch.long))
    assert maps.std() < 0.2


def test_the_activation_map_is_the_start(
    classifier: Any, config: NetworkConfig, images: Tensor
) -> None:
    """With the decoder silenced, what is left is the class activation map, standardised."""
    network = build_network(config, classifier).eval()
    assert network.config.prior == "cam"
    network.decoder.refinement.score.weight.data.zero_()
    features = classifier.second(classifier.first(images))
    rows = classifier.head.weight - classifier.head.weight.mean(0)
    cells = torch.einsum("bchw,c->bhw", features, rows[2])
    cells = (cells - cells.mean((1, 2), keepdim=True)) / cells.std((1, 2), keepdim=True)
    expected = nn.functional.interpolate(cells[:, None], (16, 16), mode="bilinear")
    found = network(images, torch.full((3,), 2))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_no_activation_map_where_the_head_weighs_something_else() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 49, 3))
    config = NetworkConfig(3, (3, 16, 16), width=8, middle=8, head=4)
    assert build_network(config, net).config.prior == "flat"
    with pytest.raises(ValueError, match='prior must not be "cam"'):
        build_network(replace(config, prior="cam"), net)


def test_all_weights_are_trained(classifier: Any, network: RankingNetwork, images: Tensor) -> None:
    network.train()
    network(images, torch.tensor([0, 1, 2])).square().sum().backward()
    assert all(p.grad is not None for p in network.parameters() if p.requires_grad)
    assert all(p.grad is None for p in classifier.parameters())


def test_classifier_features_leave_no_trace(
    classifier: Any, images: Tensor, trace: Callable[..., Any], same_trace: Callable[..., None]
) -> None:
    classifier.train()
    before = trace(classifier)
    stages = ClassifierEncoder(classifier, ["first", "second"])(images)
    same_trace(before, trace(classifier))
    assert [tuple(s.shape) for s in stages] == [(3, 6, 16, 16), (3, 8, 8, 8)]
    with pytest.raises(RuntimeError):
        ClassifierEncoder(classifier, ["first"])(images[:, :2])
    same_trace(before, trace(classifier))


def test_the_classifier_is_not_part_of_the_network(
    network: RankingNetwork, classifier: Any
) -> None:
    own = {id(p) for p in network.parameters()}
    assert not own & {id(p) for p in classifier.parameters()}
    assert not [k for k in network.state_dict() if "rows" in k]
    classifier.eval()
    network.train()
    assert not classifier.training


def test_gradients_sum_to_known_attributions(classifier: Any, images: Tensor) -> None:
    """The products are input x gradient and, at the layer, HiResCAM, but for their unit."""
    targets = torch.tensor([2, 0, 1])
    encoder = ClassifierEncoder(classifier, ["first", "second"], gradients=True)
    stages = encoder(images, targets)
    assert [s.shape[1] for s in stages] == [6, 12, 16, 1]

    def centred(inputs: Tensor) -> Tensor:
        logits = classifier(inputs)
        return logits - logits.mean(1, keepdim=True)

    at_pixels = InputXGradient(centred).attribute(images.clone().requires_grad_(), target=targets)
    layer = LayerGradientXActivation(centred, classifier.second)
    from_layer = layer.attribute(images, target=targets)
    features, at_layer = stages[2].chunk(2, 1)
    assert torch.equal(features, classifier.second(classifier.first(images)))
    for found, wanted in ((stages[0][:, 3:], at_pixels), (at_layer, from_layer)):
        unit = wanted.square().mean((1, 2, 3), keepdim=True).sqrt()
        torch.testing.assert_close(found, (wanted / unit).detach())


def test_gradients_leave_no_trace(
    classifier: Any, images: Tensor, trace: Callable[..., Any], same_trace: Callable[..., None]
) -> None:
    classifier.train()
    before = trace(classifier)
    encoder = ClassifierEncoder(classifier, ["first"], gradients=True)
    with torch.inference_mode():
        stages = encoder(images, torch.tensor([0, 1, 2]))
    same_trace(before, trace(classifier))
    assert not any(stage.requires_grad for stage in stages)
    with pytest.raises(ValueError, match="targets must name the classes"):
        encoder(images)
    with pytest.raises(ValueError, match="differentiable"):
        ClassifierEncoder(Detached(classifier), ["net.first"], gradients=True)(
            images, torch.tensor([0, 1, 2])
        )
    same_trace(before, trace(classifier))


class Detached(nn.Module):
    """No gradient reaches the features."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.net(images.detach())
        return logits


def test_a_network_that_reads_gradients_starts_from_hirescam(
    classifier: Any, config: NetworkConfig, images: Tensor
) -> None:
    network = build_network(replace(config, gradients=True), classifier).eval()
    assert network.config.prior == "cam"
    with torch.no_grad():
        network.decoder.refinement.score.weight.zero_()
        maps = network(images, torch.tensor([0, 1, 2]))
    coarse = LayerGradientXActivation(classifier, classifier.second).attribute(
        images, target=torch.tensor([0, 1, 2])
    )
    mean_logit = LayerGradientXActivation(lambda x: classifier(x).mean(1), classifier.second)
    coarse = (coarse - mean_logit.attribute(images)).sum(1, keepdim=True).detach()
    fine = F.interpolate(coarse, (16, 16), mode="bilinear")
    both = torch.stack([maps.flatten(1), fine.flatten(1)])
    for own, known in both.unbind(1):
        assert torch.corrcoef(torch.stack([own, known]))[0, 1] > 0.9999


def test_without_an_average_the_start_is_half_grad_cam() -> None:
    """A head with a weight per pixel tells HiResCAM and Grad-CAM apart."""
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2)).eval()
    images = torch.rand(2, 1, 8, 8)
    start = ClassifierEncoder(net, ["1"], gradients=True)(images, torch.tensor([0, 1]))[-1]
    features = net[1](net[0](images)).detach()
    weights = net[3].weight.detach()
    slopes = (weights - weights.mean(0)).reshape(2, 4, 6, 6)
    hires = (features * slopes).sum(1)
    cam = (features * slopes.mean((2, 3), keepdim=True)).sum(1)
    halves = [
        (m - m.mean((1, 2), keepdim=True)) / m.std((1, 2), keepdim=True) / 2 for m in (hires, cam)
    ]
    torch.testing.assert_close(start[:, 0], halves[0] + halves[1], rtol=1e-4, atol=1e-5)


def test_an_activation_map_has_no_scale() -> None:
    """Small gradients count as much as large ones; a constant and a zero map stay what they are."""
    stage = torch.rand(2, 3, 4, 4)
    wanted = sum_to_map(stage)
    torch.testing.assert_close(sum_to_map(stage * 1e-6), wanted, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(wanted.std((2, 3)), torch.ones(2, 1))
    for constant in (0.0, 0.5):
        assert not sum_to_map(torch.full((1, 3, 4, 4), constant)).any()


def test_gradients_of_an_unpooled_classifier_and_of_tokens() -> None:
    """Neither has an activation map of the head, both have one by gradients."""
    flat = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2))
    vit = timm.create_model("test_vit", num_classes=2).eval()
    for classifier, shape in ((flat, (1, 8, 8)), (vit, (3, 160, 160))):
        config = NetworkConfig(2, shape, gradients=True, width=8, middle=8, head=4)
        network = build_network(config, classifier).eval()
        maps = network(torch.rand(2, *shape), torch.tensor([0, 1]))
        assert maps.shape == (2, 1, *shape[1:])
        assert bool(torch.isfinite(maps).all())


@pytest.mark.parametrize(("layers", "message"), [(["thrid"], "thrid"), ([], "at least one")])
def test_layers_are_checked(classifier: Any, layers: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ClassifierEncoder(classifier, layers)


def test_a_layer_that_is_not_run(classifier: Any, images: Tensor) -> None:
    classifier.spare = nn.Conv2d(3, 3, 1)
    with pytest.raises(ValueError, match="got nothing from 'spare'"):
        ClassifierEncoder(classifier, ["spare"])(images)


class Reusing(nn.Module):
    """One pooling for two sizes, as many a tutorial's network has."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 4, 5), nn.Conv2d(4, 8, 5)
        self.pool = nn.MaxPool2d(2)
        self.head = nn.Linear(8 * 5 * 5, 10)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.pool(self.conv1(images).relu())
        result: Tensor = self.head(self.pool(self.conv2(maps).relu()).flatten(1))
        return result


def test_a_layer_that_runs_again_has_no_stage() -> None:
    net, images = Reusing().eval(), torch.rand(2, 3, 32, 32)
    layers = default_stages(net, images)
    assert layers == ("conv1", "conv2")
    sizes = [stage.shape[2] for stage in ClassifierEncoder(net, layers)(images)]
    assert sizes == [28, 10]
    with pytest.raises(ValueError, match="layers must run once, got 'pool'"):
        ClassifierEncoder(net, ["pool"])(images)
    assert not net.pool._forward_hooks


class Attending(nn.Module):
    """Cells that attend to each other, by a layer of its own, in front of the last map."""

    def __init__(self) -> None:
        super().__init__()
        self.cells = nn.Conv2d(3, 8, 8, stride=8)
        self.attend = nn.Softmax(-1)
        self.mixed = nn.Identity()
        self.norm, self.head = nn.LayerNorm(8), nn.Linear(8, 5)

    def forward(self, images: Tensor) -> Tensor:
        cells = self.cells(images)
        tokens = self.norm(cells.flatten(2).transpose(1, 2))
        shares = self.attend((tokens @ tokens.transpose(1, 2))[:, None])[:, 0]
        mixed = self.mixed((shares @ tokens).transpose(1, 2).unflatten(2, cells.shape[2:]))
        result: Tensor = self.head(mixed.mean((2, 3)))
        return result


def test_attention_has_no_stage() -> None:
    torch.manual_seed(0)
    assert default_stages(Attending().eval(), torch.rand(1, 3, 40, 40)) == ("mixed",)


def test_transformer_blocks_become_maps() -> None:
    vit = timm.create_model("test_vit", num_classes=5).eval()
    images = torch.rand(1, 3, 160, 160)
    assert default_stages(vit, images) == ("blocks.1", "blocks.2", "blocks.4", "blocks.5")
    config = NetworkConfig(5, (3, 160, 160), width=8, middle=8, head=4)
    network = build_network(config, vit).eval()
    assert [tuple(s.shape) for s in network.encoder(images)] == [(1, 64, 10, 10)] * 4
    assert network(images, torch.tensor([3])).shape == (1, 1, 160, 160)


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "test_convnext"])
@pytest.mark.parametrize("trainable", [False, True])
def test_timm_encoders(name: str, trainable: bool) -> None:
    config = NetworkConfig(
        5, (3, 64, 64), encoder=f"timm:{name}", conditioning="embedding", trainable=trainable,
        width=8, middle=8, head=4,
    )  # fmt: skip
    network = build_network(config).train()
    network(torch.rand(2, 3, 64, 64), torch.tensor([0, 4])).sum().backward()
    encoder = list(network.encoder.parameters())
    assert any(p.grad is not None for p in encoder) == trainable
    assert network.encoder.model.training == trainable


def test_a_timm_encoder_sees_its_own_space(tmp_path: Path) -> None:
    raw = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    config = NetworkConfig(
        5, (3, 64, 64), encoder="timm:test_resnet", conditioning="embedding", trainable=True,
        width=8, middle=8, head=4, space=IMAGENET,
    )  # fmt: skip
    network = build_network(config).eval()
    own = network.encoder.model.pretrained_cfg
    expected = ImageSpace(own["mean"], own["std"]).from_raw(raw)
    plain = network.encoder.model.forward_features(expected)
    torch.testing.assert_close(network.encoder(IMAGENET.from_raw(raw))[-1], plain)
    assert not torch.allclose(network.encoder(expected)[-1], plain, atol=1e-3)
    # The checkpoint knows the space.
    save_network(tmp_path / "n.safetensors", network, {})
    loaded = load_network(tmp_path / "n.safetensors")
    assert loaded.config == network.config
    torch.testing.assert_close(loaded.encoder(IMAGENET.from_raw(raw))[-1], plain)


def test_a_timm_encoder_of_other_channels_has_the_mean_of_its_space() -> None:
    encoder = TimmEncoder("test_resnet", input_shape=(1, 64, 64), space=ImageSpace((0.5,)))
    mean = encoder.model.pretrained_cfg["mean"]
    assert encoder.own_space.mean == pytest.approx((sum(mean) / 3,))
    assert encoder(torch.rand(1, 1, 64, 64))[-1].isfinite().all()


def test_timm_weights_come_from_a_file(tmp_path: Path) -> None:
    torch.manual_seed(0)
    whole = timm.create_model("test_resnet", num_classes=7).eval()
    save_file(whole.state_dict(), tmp_path / "w.safetensors")
    encoder = TimmEncoder(
        "test_resnet", input_shape=(3, 64, 64), weights=tmp_path / "w.safetensors"
    )
    images = torch.rand(1, 3, 64, 64)
    torch.testing.assert_close(encoder(images)[-1], whole.forward_features(images))
    vit = timm.create_model("test_vit").state_dict()
    save_file(vit, tmp_path / "vit.safetensors")
    with pytest.raises(ValueError, match=r"must fit timm's 'test_resnet', got [0-9]+ missing"):
        TimmEncoder("test_resnet", input_shape=(3, 64, 64), weights=tmp_path / "vit.safetensors")
    (tmp_path / "bad.safetensors").write_bytes(b"no")
    with pytest.raises(ValueError, match="must be a safetensors file"):
        TimmEncoder("test_resnet", input_shape=(3, 64, 64), weights=tmp_path / "bad.safetensors")
    with pytest.raises(ValueError, match="'resnet81'"):
        TimmEncoder("resnet81", input_shape=(3, 64, 64))


def test_head_rows_ignore_what_all_share() -> None:
    rows = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
    one, other = HeadConditioning(rows, 8), HeadConditioning(rows + torch.randn(6), 8)
    torch.testing.assert_close(one.rows, other.rows)


def test_head_rows_of_a_one_pixel_convolution() -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 5, 1))
    assert torch.equal(head_rows(net, 5), net[1].weight.flatten(1))
    with pytest.raises(ValueError, match="7 outputs"):
        head_rows(net, 7)


def test_an_unseen_class_is_described(classifier: Any, config: NetworkConfig) -> None:
    """Two classes with one row are one class to the head's conditioning, not to an embedding."""
    with torch.no_grad():
        classifier.head.weight[3] = classifier.head.weight[1]
    network = build_network(config, classifier).eval()
    images = torch.rand(1, *config.input_shape)
    one, three = (network(images, torch.tensor([i])) for i in (1, 3))
    torch.testing.assert_close(one, three)


def test_published_sizes() -> None:
    config = NetworkConfig.published(1000)
    assert (config.conditioning, config.readout, config.prior) == ("embedding", "concat", "flat")
    assert (config.middle, config.width, config.head, config.norm) == (256, 128, 64, "batch")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"classes": 1}, "classes must be at least 2"),
        ({"input_shape": (3, 8)}, "must be \\(C, H, W\\)"),
        ({"width": 0}, "width must be at least 1"),
        ({"cells": 0}, "cells must be at least 1"),
        ({"cells": 17}, "cells must be at most the image's side 16, got 17"),
        ({"conditioning": "heda"}, "Did you mean 'head'"),
        ({"norm": "layer"}, "norm must be one of"),
        ({"dropout": 1.0}, "dropout must lie"),
        ({"encoder": "resnet18"}, "timm:NAME"),
        ({"trainable": True}, "trainable must be False"),
        ({"encoder": "timm:x", "gradients": True}, "gradients must be False"),
        ({"encoder": "timm:x", "layers": ("a",)}, "layers are of"),
    ],
)
def test_bad_sizes(change: dict[str, Any], message: str) -> None:
    arguments = {"classes": 4, "input_shape": (3, 16, 16), **change}
    with pytest.raises(ValueError, match=message):
        NetworkConfig(**arguments)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layers": "layer4"}, r"layers must be a sequence, got 'layer4'\. Try \('layer4',\)"),
        ({"input_shape": 16}, "input_shape must be a sequence, got 16"),
    ],
)
def test_sequences_are_no_names(
    config: NetworkConfig, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(TypeError, match=message):
        replace(config, **change)
    with pytest.raises(ValueError, match=r"encoder must be .* got None"):
        replace(config, encoder=None)


def test_a_classifier_is_needed(config: NetworkConfig) -> None:
    with pytest.raises(TypeError, match="classifier must be a module"):
        build_network(config)


def test_weights_for_no_timm_encoder(classifier: Any, config: NetworkConfig) -> None:
    with pytest.raises(ValueError, match=r"encoder_weights must be None .* got 'w\.safetensors'"):
        build_network(config, classifier, encoder_weights=Path("w.safetensors"))


def test_batch_normalisation_on_request(classifier: Any, config: NetworkConfig) -> None:
    network = build_network(replace(config, norm="batch"), classifier)
    assert any(isinstance(m, nn.BatchNorm2d) for m in network.modules())


def test_levels_stay_inside_the_image() -> None:
    assert level_sizes([(14, 14)] * 4, (28, 28)) == [(28, 28), (28, 28), (14, 14), (7, 7)]


def test_the_layout_of_a_layer_is_asked_for_once(
    classifier: nn.Module, images: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Asking walks through all modules of the classifier, at every pass a good part of it."""
    asked: list[Any] = []
    own = _classifier_features.needs_layout

    def counted(*given: Any) -> bool:
        asked.append(given[1])
        return own(*given)

    monkeypatch.setattr(_classifier_features, "needs_layout", counted)
    encoder = ClassifierEncoder(classifier, ["first", "second"])
    first, again = encoder(images), encoder(images)
    assert len(asked) == 2
    for before, after in zip(first, again, strict=True):
        assert torch.equal(before, after)
    assert encoder(images[..., :8])[1].shape == (3, 8, 8, 4)
    assert len(asked) == 4


class Hidden(nn.Module):
    """As many channels before the hidden layer as after it."""

    def __init__(self, between: nn.Module) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU())
        self.between, self.head = between, nn.Linear(8, 4)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.between(self.features(images).mean((2, 3))))
        return logits


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_activation_map_needs_a_head_that_reads_the_last_stage(
    config: NetworkConfig, dtype: torch.dtype
) -> None:
    for between, prior in (
        (nn.Identity(), "cam"), (nn.Linear(8, 8), "flat"), (nn.LayerNorm(8), "flat")
    ):  # fmt: skip
        assert build_network(config, Hidden(between).to(dtype).eval()).config.prior == prior
    vit = timm.create_model("test_vit", num_classes=5).eval()
    tokens = NetworkConfig(5, (3, 160, 160), width=8, middle=8, head=4)
    assert build_network(tokens, vit).config.prior == "flat"
    # Networks of earlier versions say what they have, and can be built still.
    assert build_network(replace(tokens, prior="cam"), vit).config.prior == "cam"


def test_the_head_does_not_weigh_foreign_features() -> None:
    classifier = timm.create_model("test_resnet", num_classes=5).eval()
    config = NetworkConfig(5, (3, 64, 64), encoder="timm:test_resnet", width=8, middle=8, head=4)
    assert build_network(config, classifier).config.prior == "flat"
    with pytest.raises(ValueError, match=r'prior must not be "cam" .*timm:test_resnet'):
        build_network(replace(config, prior="cam"), classifier)


@pytest.mark.parametrize(
    "change", [{}, {"encoder": "timm:test_resnet"}, {"conditioning": "embedding"}]
)
def test_a_network_is_built_on_the_classifiers_device(
    classifier: Any, config: NetworkConfig, change: dict[str, Any]
) -> None:
    settings = replace(config, prior="flat", **change)  # nothing to compare without values
    network = build_network(settings, classifier.to("meta"))
    parts = [*network.parameters(), *network.buffers()]
    assert {part.device.type for part in parts} == {"meta"}


def test_any_classifier_is_checked(classifier: Any, config: NetworkConfig) -> None:
    with pytest.raises(ValueError, match=r"one row of 5 logits per image.*got \(1, 4\)"):
        build_network(replace(config, classes=5, conditioning="embedding"), classifier)
    with pytest.raises(ValueError, match=r"classifier must take images of shape \(1, 16, 16\)"):
        build_network(replace(config, input_shape=(1, 16, 16)), classifier)


def test_a_single_pixel_has_no_activation_map(config: NetworkConfig) -> None:
    net = nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4)
    ).eval()
    with pytest.raises(ValueError, match=r"layers must end in a map .* from '2'"):
        build_network(replace(config, layers=("1", "2"), gradients=True), net)
    assert build_network(replace(config, layers=("1", "2")), net).config.prior == "flat"


def test_a_compiled_classifier_is_read_behind_the_compiler(
    classifier: Any, config: NetworkConfig, images: Tensor
) -> None:
    compiled = torch.compile(classifier, backend="eager")
    with torch.no_grad():
        compiled(images)
    networks = []
    for given in (classifier, compiled):
        torch.manual_seed(3)
        networks.append(build_network(config, given).eval())
    assert networks[1].config.layers == ("first", "second")
    targets = torch.tensor([0, 1, 2])
    with torch.no_grad():
        own, found = (network(images, targets) for network in networks)
    assert torch.equal(own, found)
    encoder = ClassifierEncoder(compiled, default_stages(compiled, images))
    assert torch.equal(encoder(images)[-1], classifier.second(classifier.first(images)))


def test_a_parallel_classifier_is_read_behind_its_copies(
    classifier: Any, config: NetworkConfig, tmp_path: Path
) -> None:
    network = build_network(config, nn.DataParallel(classifier))
    assert network.config.layers == ("first", "second")
    save_network(tmp_path / "n.safetensors", network, {})
    for given in (classifier, nn.DataParallel(classifier)):
        assert load_network(tmp_path / "n.safetensors", given).config == network.config


def test_half_precision_keeps_the_order(
    classifier: Any, config: NetworkConfig, images: Tensor
) -> None:
    network = build_network(replace(config, prior="flat"), classifier).eval()
    targets = torch.tensor([0, 1, 2])
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        maps = network(images, targets)
    assert maps.dtype == torch.float32
    assert maps.unique().numel() > 0.9 * maps.numel()


def test_images_take_the_dtype_of_weights_not_of_counters() -> None:
    from usu_captum._models import in_its_dtype

    model = nn.Conv2d(1, 1, 1).half()
    counting = nn.Sequential()
    counting.register_parameter(
        "seen", nn.Parameter(torch.zeros(1, dtype=torch.int64), requires_grad=False)
    )
    counting.append(model)
    assert in_its_dtype(counting, torch.zeros(1, 1, 2, 2)).dtype == torch.float16
