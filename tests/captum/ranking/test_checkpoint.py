"""Checkpoints: exact, atomic, never pickled, and refused where they do not fit."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from usu_captum.ranking import (
    NetworkConfig,
    RankingNetwork,
    build_network,
    load_network,
    save_network,
)
from usu_captum.ranking._checkpoint import load_checkpoint, save_checkpoint


@pytest.fixture
def saved(tmp_path: Path, network: RankingNetwork) -> Path:
    save_network(tmp_path / "e.safetensors", network, {"step": 7, "metrics": {"deletion": 0.5}})
    return tmp_path / "e.safetensors"


def test_round_trip_is_exact(
    saved: Path, network: RankingNetwork, classifier: Any, images: Tensor
) -> None:
    loaded = load_network(saved, classifier)
    assert loaded.config == network.config
    assert not loaded.training
    targets = torch.tensor([0, 1, 2])
    assert torch.equal(loaded(images, targets), network(images, targets))


def test_what_is_recorded(saved: Path) -> None:
    with safe_open(saved, "pt") as file:
        inside = json.loads(file.metadata()["usu"])
    beside = json.loads(saved.with_suffix(".json").read_text())
    assert inside == beside
    assert inside["step"] == 7
    assert inside["network"]["layers"] == ["first", "second"]
    assert {"torch", "usu", "accelerate"} <= set(inside["versions"])
    assert len(inside["encoder"]) == 64


def test_only_what_is_trained_is_saved(tmp_path: Path) -> None:
    config = NetworkConfig(
        4, (3, 64, 64), encoder="timm:test_resnet", conditioning="embedding", width=8, middle=8,
        head=4,
    )  # fmt: skip
    for trainable in (False, True):
        network = build_network(replace(config, trainable=trainable))
        path = tmp_path / f"{trainable}.safetensors"
        save_network(path, network, {})
        tensors, facts = load_checkpoint(path)
        assert any(name.startswith("encoder.") for name in tensors) == trainable
        assert (facts["encoder"] is None) == trainable
    loaded = load_network(tmp_path / "True.safetensors")
    for name, value in loaded.state_dict().items():
        assert torch.equal(value, network.state_dict()[name])


def test_a_frozen_encoder_must_be_the_same(tmp_path: Path) -> None:
    weights = tmp_path / "w.safetensors"
    for seed in (0, 1):
        torch.manual_seed(seed)
        save_file(timm.create_model("test_resnet").state_dict(), weights)
        if seed == 0:
            config = NetworkConfig(
                4, (3, 64, 64), encoder="timm:test_resnet", conditioning="embedding", width=8,
                middle=8, head=4,
            )  # fmt: skip
            save_network(
                tmp_path / "e.safetensors", build_network(config, encoder_weights=weights), {}
            )
            load_network(tmp_path / "e.safetensors", encoder_weights=weights)
    with pytest.raises(
        ValueError, match="encoder_weights must be the encoder weights it was trained on"
    ):
        load_network(tmp_path / "e.safetensors", encoder_weights=weights)


def test_another_class_count_is_refused(saved: Path, classifier: Any) -> None:
    classifier.head = nn.Linear(8, 5)
    with pytest.raises(ValueError, match=r"one row of 4 logits .* got \(1, 5\)"):
        load_network(saved, classifier)


def test_another_image_size_is_refused(tmp_path: Path) -> None:
    def flat(side: int) -> nn.Module:
        return nn.Sequential(nn.Conv2d(3, 4, 1), nn.Flatten(), nn.Linear(4 * side * side, 4))

    network = build_network(NetworkConfig(4, (3, 8, 8), width=8, middle=8, head=4), flat(8))
    save_network(tmp_path / "e.safetensors", network, {})
    with pytest.raises(ValueError, match=r"images of shape \(3, 8, 8\)"):
        load_network(tmp_path / "e.safetensors", flat(9))


def test_another_architecture_is_refused(saved: Path, classifier: Any) -> None:
    other = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)
    )
    with pytest.raises(ValueError, match="'first'"):
        load_network(saved, other)
    classifier.first[0] = nn.Conv2d(3, 9, 3, padding=1)
    classifier.first[1] = nn.BatchNorm2d(9)
    classifier.second[0] = nn.Conv2d(9, 8, 3, padding=1)
    with pytest.raises(ValueError, match=r"must be of this architecture.* 3 reshaped"):
        load_network(saved, classifier)


def test_another_classifier_is_refused(saved: Path, classifier: Any) -> None:
    classifier.first[0].weight.data += 0.01
    with pytest.raises(
        ValueError, match=r"classifier must have the weights .*RankingExplainer\(changed"
    ):
        load_network(saved, classifier)


def test_what_is_no_checkpoint(tmp_path: Path, classifier: Any) -> None:
    path = tmp_path / "x.safetensors"
    with pytest.raises(ValueError, match="got no file"):
        load_network(path, classifier)
    torch.save({"a": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match="unreadable file"):
        load_network(path, classifier)
    save_file({"a": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match="format 1, got None"):
        load_network(path, classifier)
    save_checkpoint(path, {"a": torch.zeros(1)}, {"step": 1})
    with pytest.raises(ValueError, match="network's checkpoint"):
        load_network(path, classifier)


def test_a_failed_write_keeps_the_old_file(
    saved: Path, network: RankingNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = saved.read_bytes()

    def fails(tensors: Mapping[str, Tensor], path: Path, metadata: Any) -> None:
        Path(path).write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr("safetensors.torch.save_file", fails)
    with pytest.raises(OSError, match="disk full"):
        save_network(saved, network, {})
    assert saved.read_bytes() == before
    assert {p.name for p in saved.parent.iterdir()} == {"e.safetensors", "e.json"}


def test_nan_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        save_checkpoint(tmp_path / "x.safetensors", {}, {"loss": float("nan")})
    assert not list(tmp_path.iterdir())


def test_what_is_loaded_by_mistake(saved: Path, network: RankingNetwork, classifier: Any) -> None:
    with pytest.raises(ValueError, match=r"got a folder .* Try the explainer\.safetensors in it"):
        load_network(saved.parent, classifier)
    with pytest.raises(TypeError, match=r"classifier must be the module .* got NoneType"):
        load_network(saved)
    state = {f"network.{name}": value for name, value in network.state_dict().items()}
    _, facts = load_checkpoint(saved)
    save_checkpoint(saved, state, facts)
    with pytest.raises(ValueError, match=r"state of a training run.* Try the explainer"):
        load_network(saved, classifier)


def test_paths_may_be_text(tmp_path: Path, network: RankingNetwork, classifier: Any) -> None:
    save_network(str(tmp_path / "e.safetensors"), network, {})
    assert load_network(str(tmp_path / "e.safetensors"), classifier).config == network.config
