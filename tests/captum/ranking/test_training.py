"""Training: it learns, goes on exactly where it was stopped, and stops where it must."""

import copy
import csv
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from usu_captum import ImageSpace
from usu_captum.ranking import (
    ArrayImages,
    DatasetImages,
    NetworkConfig,
    PartOfImages,
    RankingNetwork,
    RankingObjective,
    RankTransport,
    Sample,
    TrainingConfig,
    build_network,
    load_network,
    split_images,
    train_explainer,
)
from usu_captum.ranking._checkpoint import load_checkpoint, save_checkpoint
from usu_captum.ranking._classes import choose_classes
from usu_captum.ranking._curves import COLUMNS
from usu_captum.ranking._judging import judge_source
from usu_captum.ranking._processes import open_accelerator
from usu_captum.ranking._run_state import CURVES, EXPLAINER, PICTURE, STATE

ROOT = Path(__file__).parents[3]
QUICK = TrainingConfig(
    steps=6,
    batch_size=4,
    learning_rate=3e-3,
    grids=(4, 8),
    objective=RankingObjective(RankTransport(regularisation=0.05), n_percentiles=4, smoothing=0.0),
    log_every=1,
    evaluate_every=3,
    checkpoint_every=2,
)


def weights(folder: Path, name: str = STATE) -> dict[str, Tensor]:
    with safe_open(folder / name, "pt") as file:
        return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118


def assert_same_weights(one: Path, other: Path) -> None:
    ours, theirs = weights(one), weights(other)
    assert ours.keys() == theirs.keys()
    assert any(key.startswith("optimiser.") for key in ours)
    for key, value in ours.items():
        assert torch.equal(value, theirs[key]), key


def step_of(folder: Path) -> int:
    """Return the step of a folder's checkpoint, 0 if there is none."""
    if not (folder / STATE).exists():
        return 0
    with safe_open(folder / STATE, "pt") as file:
        return int(json.loads(file.metadata()["usu"])["step"])


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / CURVES).open() as file:
        return list(csv.DictReader(file))


@pytest.fixture
def train(
    classifier: nn.Module, config: NetworkConfig, source: ArrayImages, space: Any, tmp_path: Path
) -> Callable[..., Any]:
    def run(name: str = "run", settings: TrainingConfig = QUICK, **changes: Any) -> Any:
        torch.manual_seed(3)
        data, held_out = split_images(source, 6)
        arguments = {
            "classifier": classifier,
            "network": build_network(config, classifier),
            "data": data,
            "held_out": held_out,
            "space": space,
            **changes,
        }
        return train_explainer(
            config=settings, out_dir=tmp_path / name, progress=False, **arguments
        )

    return run


def test_it_writes_what_it_says(
    train: Callable[..., Any], tmp_path: Path, classifier: Any, images: Tensor
) -> None:
    result = train()
    folder = tmp_path / "run"
    assert {p.name for p in folder.iterdir()} == {
        STATE, EXPLAINER, "explainer.json", CURVES, PICTURE
    }  # fmt: skip
    assert result.steps == 6
    assert result.path == folder / EXPLAINER
    loaded = load_network(result.path, classifier)
    targets = torch.tensor([0, 1, 2])
    assert torch.equal(loaded(images, targets), result.network(images, targets))
    found = rows(folder)
    assert tuple(found[0]) == COLUMNS
    assert [int(r["step"]) for r in found] == [0, 1, 2, 3, 4, 5, 6]
    assert [bool(r["held_out_deletion"]) for r in found] == [True, *[False, False, True] * 2]
    assert float(found[1]["temperature"]) == 1.0
    assert float(found[-1]["temperature"]) == pytest.approx(0.3)
    assert {r["grid"] for r in found[1:]} <= {"4", "8"}
    facts = json.loads((folder / "explainer.json").read_text())
    assert facts["metrics"] == result.best
    assert facts["training"]["objective"]["sorter"]["name"] == "RankTransport"
    assert len(facts["data"]["training"]) == 64
    assert (folder / PICTURE).read_bytes()[:4] == b"\x89PNG"


def test_it_learns(classifier: nn.Module, config: NetworkConfig, tmp_path: Path) -> None:
    """A classifier of which one corner is all that counts: the map has to find that corner."""
    torch.manual_seed(0)

    class Corner(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.features = nn.Conv2d(1, 4, 3, padding=1)
            self.head = nn.Linear(4, 2)

        def forward(self, images: Tensor) -> Tensor:
            self.head(self.features(images).mean((2, 3)))  # features to read, no part in the score
            bright = 2 * images[:, :, :4, :4].mean((1, 2, 3))
            return torch.stack([bright, 1 - bright], 1) * 4

    net = Corner().eval()
    pictures = torch.rand(16, 1, 16, 16) * 0.2 + 0.8
    data = DatasetImages(list(pictures), (1, 16, 16))
    network = build_network(
        NetworkConfig(2, (1, 16, 16), width=8, middle=8, head=8, prior="flat"), net
    )
    settings = replace(
        QUICK, steps=60, references=("black",), rivals=0.0, grids=(4,), learning_rate=1e-2,
        checkpoint_every=60, evaluate_every=0,
    )  # fmt: skip
    from usu_captum import ImageSpace

    space = ImageSpace((0.0,), (1.0,))
    train_explainer(net, network, data, settings, tmp_path, space=space, progress=False)
    losses = [float(row["loss"]) for row in rows(tmp_path)]
    maps = network(pictures, torch.zeros(16, dtype=torch.long))
    corner = nn.functional.avg_pool2d(maps, 4).flatten(1)
    assert sum(losses[-5:]) < sum(losses[:5])
    assert (corner.argmax(1) == 0).float().mean() > 0.9


def test_a_run_is_reproducible_and_seeded(train: Callable[..., Any], tmp_path: Path) -> None:
    for name in ("one", "two"):
        train(name)
    assert_same_weights(tmp_path / "one", tmp_path / "two")
    train("three", replace(QUICK, seed=1))
    ours, theirs = weights(tmp_path / "one"), weights(tmp_path / "three")
    assert not all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_every_step_draws_anew(
    train: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from usu_captum.ranking import _run

    seeds = []

    def noting(*args: Any, generator: torch.Generator, **options: Any) -> Any:
        seeds.append((generator.initial_seed(), torch.initial_seed()))
        return choose_classes(*args, generator=generator, **options)

    monkeypatch.setattr(_run, "choose_classes", noting)
    train()
    assert len(set(seeds)) == len({a for a, _ in seeds}) == len({b for _, b in seeds}) == 6
    assert len({(row["grid"], row["reference"]) for row in rows(tmp_path / "run")}) > 1


def test_an_interrupted_run_goes_on_exactly(
    train: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C during step 4: the checkpoint of step 2 is what the second call finds."""
    train("whole")
    from usu_captum.ranking import _run

    step, taken = _run.Run._step, []

    def interrupted(self: Any, *args: Any) -> Any:
        if len(taken) == 3:
            raise KeyboardInterrupt
        taken.append(1)
        return step(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(_run.Run, "_step", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train("stopped")
    assert len(rows(tmp_path / "stopped")) == 4
    train("stopped")
    assert_same_weights(tmp_path / "whole", tmp_path / "stopped")
    assert rows(tmp_path / "whole") == rows(tmp_path / "stopped")
    assert (
        weights(tmp_path / "whole", EXPLAINER).keys()
        == weights(tmp_path / "stopped", EXPLAINER).keys()
    )


SCRIPT = """
import sys, warnings
warnings.simplefilter("ignore")
import numpy as np, torch
from pathlib import Path
from torch import nn
from usu_captum import ImageSpace
from usu_captum.ranking import *

torch.set_num_threads(1)
torch.manual_seed(1)
net = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(4),
                    nn.Flatten(), nn.Linear(64, 3)).eval()
network = build_network(NetworkConfig(
    3, (1, 16, 16), width=8, middle=8, head=8, dropout=0.2 * (len(sys.argv) > 4)), net)
rng = np.random.default_rng(0)
space = ImageSpace((0.5,), (0.25,))
data = ArrayImages(rng.integers(0, 256, (30, 16, 16), dtype=np.uint8), None, (1, 16, 16), space)
config = TrainingConfig(
    steps=int(sys.argv[2]), batch_size=int(sys.argv[3]), grids=(4, 8), checkpoint_every=5,
    evaluate_every=0, log_every=1, rivals=0.5 * (len(sys.argv) > 4), references=("black", "blur"),
    objective=RankingObjective(RankTransport(regularisation=0.05), n_percentiles=4, smoothing=0.0))
train_explainer(net, network, data, config, sys.argv[1], space=space, progress=False)
"""


def command(tmp_path: Path, name: str, *arguments: str) -> list[str]:
    script = tmp_path / "train.py"
    script.write_text(SCRIPT)
    return [sys.executable, *arguments, str(script), str(tmp_path / name)]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def test_a_killed_run_goes_on_exactly(tmp_path: Path) -> None:
    options = ("40", "8", "random")
    whole = subprocess.Popen(  # noqa: S603 - fixed arguments
        [*command(tmp_path, "whole"), *options], env=environment()
    )
    killed = [*command(tmp_path, "killed"), *options]
    with subprocess.Popen(killed, env=environment()) as process:  # noqa: S603
        deadline = time.monotonic() + 120
        while not step_of(tmp_path / "killed") and time.monotonic() < deadline:
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert 0 < step_of(tmp_path / "killed") < 40
    subprocess.run(killed, env=environment(), check=True)  # noqa: S603
    assert whole.wait() == 0
    assert_same_weights(tmp_path / "whole", tmp_path / "killed")
    assert rows(tmp_path / "whole") == rows(tmp_path / "killed")


def test_two_processes_share_the_work(tmp_path: Path) -> None:
    """Two gloo processes with half the batch each take the steps that one alone takes."""
    launch = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")
    two = [*command(tmp_path, "two", *launch), "6", "4"]
    one = [*command(tmp_path, "one"), "6", "8"]
    for arguments in (two, one):
        done = subprocess.run(  # noqa: S603 - fixed arguments
            arguments,
            env={**environment(), "ACCELERATE_USE_CPU": "true"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-2000:]
    with safe_open(tmp_path / "two" / STATE, "pt") as file:
        facts = json.loads(file.metadata()["usu"])
    assert (facts["processes"], facts["step"]) == (2, 6)
    losses = [[float(row["loss"]) for row in rows(tmp_path / name)] for name in ("two", "one")]
    assert len(losses[0]) == 6
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


def test_another_run_is_refused(
    train: Callable[..., Any], classifier: Any, config: NetworkConfig, source: ArrayImages
) -> None:
    train()
    wider = build_network(replace(config, width=16), classifier)
    for changes, message in (
        ({"settings": replace(QUICK, learning_rate=1e-4)}, "training.learning_rate 0.003, now"),
        ({"data": source}, "data.training"),
        ({"network": wider}, "network.width 8, now 16"),
        ({"held_out": None}, "data.held_out"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=f"out_dir must be empty .*{message}"):
            train(**changes)
    classifier.first[0].weight.data += 1
    with pytest.raises(ValueError, match="encoder"):
        train()


def test_another_space_or_classifier_is_another_run(
    train: Callable[..., Any], classifier: Any, config: NetworkConfig, space: Any, tmp_path: Path
) -> None:
    """Of classifiers whose features the network does not read, too; older runs say neither."""
    own = build_network(config, copy.deepcopy(classifier))
    train(network=copy.deepcopy(own))
    with pytest.raises(ValueError, match=r"out_dir must be .* space\.mean \[0\.5\], now \[0\.1\]"):
        train(network=copy.deepcopy(own), space=replace(space, mean=(0.1,)))
    classifier.head.bias.data += 1
    with pytest.raises(ValueError, match=r"out_dir must be .* with classifier '"):
        train(network=copy.deepcopy(own))
    tensors, facts = load_checkpoint(tmp_path / "run" / STATE)
    older = {name: fact for name, fact in facts.items() if name not in ("classifier", "space")}
    save_checkpoint(tmp_path / "run" / STATE, tensors, older)
    assert train(network=copy.deepcopy(own)).steps == 6


def test_a_finished_run_is_not_repeated(
    train: Callable[..., Any], tmp_path: Path, images: Tensor
) -> None:
    first = train()
    before = (tmp_path / "run" / STATE).stat().st_mtime_ns
    again = train()
    assert (tmp_path / "run" / STATE).stat().st_mtime_ns == before
    assert again.best == first.best
    targets = torch.tensor([0, 1, 2])
    assert torch.equal(again.network(images, targets), first.network(images, targets))


def test_early_stop(train: Callable[..., Any], tmp_path: Path) -> None:
    """At a rate that changes nothing, the evaluation before the first step stays the best."""
    still = replace(QUICK, steps=50, evaluate_every=1, patience=3, learning_rate=1e-12)
    result = train(settings=replace(still, weight_decay=0.0))
    assert (result.steps, result.best["step"]) == (3, 0)
    assert train(settings=replace(still, weight_decay=0.0)).steps == 3


def test_no_trace(
    train: Callable[..., Any],
    classifier: nn.Module,
    trace: Callable[..., Any],
    same_trace: Callable[..., None],
    config: NetworkConfig,
) -> None:
    network = build_network(config, classifier)
    classifier.train()
    classifier.first.eval()
    before = trace(classifier)
    train("a", network=network)
    assert all(parameter.grad is None for parameter in network.parameters())
    # The fixture seeds before it builds its own network.
    after = trace(classifier)
    after["random"] = before["random"]
    same_trace(before, after)


def test_the_random_state_is_kept(
    classifier: nn.Module, network: RankingNetwork, source: ArrayImages, space: Any, tmp_path: Path
) -> None:
    before = torch.get_rng_state()
    train_explainer(classifier, network, source, QUICK, tmp_path, space=space, progress=False)
    assert torch.equal(before, torch.get_rng_state())


def test_mixed_precision(train: Callable[..., Any], tmp_path: Path) -> None:
    train(settings=replace(QUICK, precision="bf16", steps=2))
    assert all(value.dtype != torch.bfloat16 for value in weights(tmp_path / "run").values())


def test_a_nan_stops_and_keeps_the_last_checkpoint(
    train: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from usu_captum.ranking import _run

    def poisoned(self: Any, model: Any, optimiser: Any, batch: Any) -> Any:
        if self.state.step == 3:
            next(model.parameters()).data.fill_(float("nan"))
        return step(self, model, optimiser, batch)

    step = _run.Run._step
    monkeypatch.setattr(_run.Run, "_step", poisoned)
    with pytest.raises(
        FloatingPointError, match=r"not finite at step 4\. The last checkpoint .*\. Try"
    ):
        train()
    with safe_open(tmp_path / "run" / STATE, "pt") as file:
        assert json.loads(file.metadata()["usu"])["step"] == 2
    assert all(bool(torch.isfinite(v).all()) for v in weights(tmp_path / "run").values())


def test_a_classifier_without_gradients(train: Callable[..., Any], classifier: Any) -> None:
    def detached(images: Tensor) -> Tensor:
        with torch.no_grad():
            result: Tensor = classifier(images)
        return result

    with pytest.raises(ValueError, match="must be differentiable in the images"):
        train(classifier=detached)


def test_another_class_count(train: Callable[..., Any], classifier: Any) -> None:
    with pytest.raises(ValueError, match="one row of 4 logits"):
        train(classifier=lambda images: classifier(images)[:, :3])


def test_a_nan_in_the_first_step(train: Callable[..., Any], images: Tensor) -> None:
    class Unchecked(DatasetImages):
        def __getitem__(self, index: int) -> Sample:
            return Sample(images[index] * torch.nan, -1)

    data = Unchecked(images, (3, 16, 16))
    with pytest.raises(FloatingPointError, match=r"not finite at step 1\. The last .* Try a lower"):
        train(data=data, held_out=None)


@pytest.mark.parametrize("name", ["data", "held_out"])
def test_images_that_training_cannot_read(
    train: Callable[..., Any], images: Tensor, name: str
) -> None:
    for wrong in (images, TensorDataset(images)):
        kind = type(wrong).__name__
        with pytest.raises(TypeError, match=rf"{name} .* got {kind}\. Try DatasetImages\({name}"):
            train(**{name: wrong})
    small = DatasetImages(images[..., :8], (3, 16, 8))
    with pytest.raises(ValueError, match=rf"{name} must give .* \(3, 16, 16\), .* \(3, 16, 8\)"):
        train(**{name: small})


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_classifier_of_another_dtype(
    train: Callable[..., Any], classifier: Any, dtype: Any, tmp_path: Path
) -> None:
    train(classifier=classifier.to(dtype), settings=replace(QUICK, steps=1))
    assert all(bool(value.isfinite().all()) for value in weights(tmp_path / "run").values())


def test_unreadable_images_are_reported(
    classifier: nn.Module, network: RankingNetwork, tmp_path: Path
) -> None:
    class Broken:
        def __len__(self) -> int:
            return 8

        def __getitem__(self, index: int) -> Tensor:
            if index == 5:
                raise OSError("truncated")
            return torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(index))

    data = DatasetImages(Broken(), (3, 16, 16))
    settings = replace(QUICK, references=("blur",), evaluate_every=0)
    with pytest.warns(UserWarning, match="1 of 8 images could not be read: item 5: truncated"):
        result = train_explainer(
            classifier, network, data, settings, tmp_path / "a", progress=False
        )
    assert result.unreadable == ("item 5: truncated",)
    with pytest.raises(ValueError, match="item 5"):
        train_explainer(
            classifier, network, data, replace(settings, strict=True), tmp_path / "b",
            progress=False,
        )  # fmt: skip
    readable = PartOfImages(data, [0, 1, 2, 3])
    # Item 5 of the one is not item 5 of the other.
    judged = replace(settings, evaluate_every=6)
    with pytest.warns(UserWarning, match="2 of 16 images could not be read: held_out: item 5: tr"):
        result = train_explainer(
            classifier, network, data, judged, tmp_path / "d", held_out=data, progress=False
        )
    assert result.unreadable == ("held_out: item 5: truncated", "item 5: truncated")
    with pytest.raises(ValueError, match="item 5"):
        train_explainer(
            classifier, network, readable, replace(settings, strict=True), tmp_path / "c",
            held_out=PartOfImages(data, [4, 5]), progress=False,
        )  # fmt: skip


@pytest.mark.parametrize("draw", [lambda: float(torch.rand(())), random.random])
def test_a_run_on_random_images_goes_on_exactly(
    train: Callable[..., Any], images: Tensor, tmp_path: Path, draw: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    from usu_captum.ranking import _run

    class Flipped:
        def __len__(self) -> int:
            return len(images)

        def __getitem__(self, index: int) -> Tensor:
            return images[index].flip(-1) if draw() < 0.5 else images[index]

    data = DatasetImages(Flipped(), (3, 16, 16))
    parts = {"data": data, "held_out": data}
    train("whole", **parts)
    step = _run.Run._step

    def interrupted(self: Any, *args: Any) -> Any:
        if self.state.step == 3:
            raise KeyboardInterrupt
        return step(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(_run.Run, "_step", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train("stopped", **parts)
    random.seed(7)
    train("stopped", **parts)
    assert_same_weights(tmp_path / "whole", tmp_path / "stopped")
    assert rows(tmp_path / "whole") == rows(tmp_path / "stopped")


def test_the_first_evaluation_is_not_lost(
    train: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that is stopped in its first step knows how good the start is."""
    from usu_captum.ranking import _evaluation, _run

    train("whole")

    def stopped(*given: Any, **options: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(_run.Run, "_step", stopped)
        with pytest.raises(KeyboardInterrupt):
            train()
    _, facts = load_checkpoint(tmp_path / "run" / STATE)
    assert (facts["step"], facts["best"]["step"]) == (0, 0)
    seen: list[int] = []
    judge = _evaluation.judge_source

    def noting(*given: Any, **options: Any) -> Any:
        seen.append(1)
        return judge(*given, **options)

    monkeypatch.setattr(_evaluation, "judge_source", noting)
    train()
    assert len(seen) == 2  # After three steps and after six.
    assert_same_weights(tmp_path / "whole", tmp_path / "run")
    assert rows(tmp_path / "whole") == rows(tmp_path / "run")


def test_a_run_that_did_nothing_yet_may_be_another(
    train: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from usu_captum.ranking import _run

    def stopped(*given: Any, **options: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(_run, "evaluate", stopped)
        with pytest.raises(KeyboardInterrupt):
            train()
    assert train(settings=replace(QUICK, steps=2)).steps == 2


def test_slow_steps_are_saved_by_the_clock(
    train: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from usu_captum.ranking import _run

    saved: list[int] = []
    save = _run.save_run

    def noting(folder: Path, state: Any, *given: Any) -> None:
        saved.append(state.step)
        save(folder, state, *given)

    monkeypatch.setattr(_run, "save_run", noting)
    settings = replace(QUICK, steps=3, checkpoint_every=100)
    train("quick", settings)
    assert saved == [0, 0, 3]
    monkeypatch.setattr(_run, "SAVED_EVERY", 0.0)
    train("slow", settings)
    assert saved[3:] == [0, 0, 1, 2, 3]
    assert_same_weights(tmp_path / "quick", tmp_path / "slow")


def test_evaluations_count_their_passes(
    train: Callable[..., Any],
    classifier: Any,
    capsys: pytest.CaptureFixture[str],
    source: ArrayImages,
    space: Any,
    config: NetworkConfig,
) -> None:
    seen: list[int] = []

    def counted(images: Tensor) -> Any:
        seen.append(len(images))
        return classifier(images)

    total, _ = judge_source(
        build_network(config, classifier).eval(), counted, PartOfImages(source, range(6)),
        references=("black", "blur"), space=space, batch_size=4, device=torch.device("cpu"),
        progress=True,
    )  # fmt: skip
    assert total[2] == 6
    assert sum(seen) == 6 * (1 + 2 * 42)
    assert f"/{sum(seen)} [" in capsys.readouterr().err


def test_the_best_network_is_the_one_its_figures_are_of(
    train: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kill after an evaluation's network was written, and before the checkpoint was."""
    from usu_captum.ranking import _run

    def scripted(*figures: float) -> Callable[..., Any]:
        left = list(figures)
        return lambda *given, **options: ({"deletion": 0.0, "insertion": left.pop(0)}, ())

    def killed(*given: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(_run, "evaluate", scripted(0.1, 0.5))
        patch.setattr(_run.Run, "_log", lambda self, row, found: found and killed())
        with pytest.raises(KeyboardInterrupt):
            train()
    assert load_checkpoint(tmp_path / "run" / EXPLAINER)[1]["step"] == 3
    # As if evaluations were not repeatable: this time step 3 is worse, and so is step 6.
    monkeypatch.setattr(_run, "evaluate", scripted(0.05, 0.04))
    result = train()
    facts = json.loads((tmp_path / "run" / "explainer.json").read_text())
    assert result.best == facts["metrics"] == {"step": 3, "deletion": 0.0, "insertion": 0.05}
    assert facts["step"] == 3


def test_another_precision_of_accelerate(train: Callable[..., Any]) -> None:
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    try:
        AcceleratorState._reset_state(True)
        Accelerator(mixed_precision="bf16", cpu=True)
        with pytest.raises(ValueError, match=r'mixed_precision="no", got .* of \'bf16\''):
            train()
    finally:
        AcceleratorState._reset_state(True)


@pytest.mark.parametrize("fails", [False, True])
def test_accelerate_is_as_it_was(train: Callable[..., Any], fails: bool) -> None:
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState, PartialState, is_initialized

    settings = replace(QUICK, steps=1, evaluate_every=0)
    AcceleratorState._reset_state(True)
    if fails:
        with pytest.raises(ValueError, match="gradient"):
            train(settings=settings, classifier=lambda images: torch.zeros(len(images), 4))
    else:
        train(settings=settings)
    assert not is_initialized()
    assert not PartialState._shared_state
    try:
        # One that was there stays.
        mine = Accelerator(mixed_precision="no", cpu=True)
        train("again", settings=settings)
        assert AcceleratorState().mixed_precision == mine.mixed_precision
        assert is_initialized()
    finally:
        AcceleratorState._reset_state(True)


def test_the_callers_autocast_keeps_no_old_weights(
    train: Callable[..., Any], tmp_path: Path
) -> None:
    """Held-out images are judged by the weights as they are, also where autocast caches them."""
    settings = replace(QUICK, steps=3, learning_rate=0.05, evaluate_every=1)
    found = []
    for cached in (True, False):
        with torch.autocast("cpu", torch.bfloat16, cache_enabled=cached):
            train(str(cached), settings)
        found.append([row["held_out_deletion"] for row in rows(tmp_path / str(cached))])
    assert found[0] == found[1]
    assert len(set(found[0])) == 4


def test_a_space_of_another_network(train: Callable[..., Any], classifier: Any) -> None:
    network = build_network(
        NetworkConfig(
            4, (3, 64, 64), encoder="timm:test_resnet", conditioning="embedding", width=8, middle=8,
            head=4, space=ImageSpace((0.1,), (0.2,)),
        )
    )  # fmt: skip
    with pytest.raises(ValueError, match=r"space must be the network's, .*got ImageSpace"):
        train(network=network)


def test_encoders_may_have_weights_without_a_gradient() -> None:
    for trainable in (False, True):
        handler = open_accelerator(trainable=trainable).ddp_handler
        assert bool(handler and handler.find_unused_parameters) == trainable


def test_a_space_is_missed_before_anything_is_done(
    train: Callable[..., Any], tmp_path: Path
) -> None:
    settings = replace(QUICK, references=("blur", "mean"))
    with pytest.raises(ValueError, match="reference='mean' needs to know where the images live"):
        train(settings=settings, space=None)
    assert not (tmp_path / "run").exists()


def test_what_changes_no_weight_may_change(train: Callable[..., Any], tmp_path: Path) -> None:
    train()
    before = (tmp_path / "run" / STATE).stat().st_mtime_ns
    other = replace(
        QUICK, workers=1, strict=True, log_every=3, checkpoint_every=3,
        objective=replace(QUICK.objective, chunk_size=8),
    )  # fmt: skip
    assert train(settings=other).steps == 6
    assert (tmp_path / "run" / STATE).stat().st_mtime_ns == before


def test_settings_that_cannot_be_recorded(train: Callable[..., Any], tmp_path: Path) -> None:
    class Sorter:
        score_range = None

        def __init__(self) -> None:
            self.weight = torch.ones(2)

        def top_masks(self, scores: Tensor, shares: Tensor, **options: Any) -> Tensor:
            return RankTransport().top_masks(scores, shares)

    settings = replace(QUICK, objective=RankingObjective(Sorter(), n_percentiles=4))
    with pytest.raises(ValueError, match=r"config must hold what JSON can, .* Try a sorter"):
        train(settings=settings)
    assert not list((tmp_path / "run").iterdir())


def test_other_files_in_the_folder(train: Callable[..., Any], tmp_path: Path) -> None:
    """What a kill left half written goes; a file that is no checkpoint is named."""
    (tmp_path / "run").mkdir()
    half = tmp_path / "run" / f".{STATE}.1.partial"
    for path in (half, tmp_path / "run" / ".mine.partial"):
        path.write_bytes(b"half")
    train()
    assert not half.exists()
    assert (tmp_path / "run" / ".mine.partial").exists()
    (tmp_path / "run" / STATE).write_bytes(b"mine")
    with pytest.raises(ValueError, match=r"out_dir must be empty .* of no run"):
        train()


class TestClasses:
    logits = torch.tensor([[3.0, 2.0, 1.0], [1.0, 3.0, 2.0]]).repeat(500, 1)

    def choose(self, labels: list[int], **options: Any) -> Any:
        arguments = {"mode": "one", "rivals": 0.25, **options}
        generator = torch.Generator().manual_seed(0)
        return choose_classes(
            self.logits, torch.tensor(labels).repeat(500), generator=generator, **arguments
        )

    @pytest.mark.parametrize("label", [3, -2])
    def test_labels_of_no_output(self, label: int) -> None:
        with pytest.raises(ValueError, match=f"outputs 0 to 2, or -1 if not known, got {label}"):
            self.choose([0, label])

    def test_made_for_the_class_that_judges(self) -> None:
        found = self.choose([-1, -1])
        assert torch.equal(found.conditions, found.judges)
        assert set(found.conditions[::2].tolist()) == {0, 1}
        share = (found.conditions != self.logits.argmax(1)).float().mean()
        assert 0.2 < share < 0.3

    def test_the_rival_is_the_truth_where_the_model_is_wrong(self) -> None:
        found = self.choose([2, 1], rivals=1.0)
        assert set(found.judges[::2].tolist()) == {2}
        assert set(found.judges[1::2].tolist()) == {2}

    def test_published(self) -> None:
        found = self.choose([2, 1], mode="published")
        assert found.conditions[:2].tolist() == [0, 1]
        assert found.judges[:2].tolist() == [[0, 2], [1, 2]]


class TestConfig:
    def test_schedules(self) -> None:
        config = TrainingConfig(steps=100, learning_rate=1.0)
        rates = [config.rate_at(i) for i in range(100)]
        assert rates[0] == pytest.approx(1 / 6)
        assert max(rates) == rates[5] == rates[6] == 1.0
        assert rates[6:] == sorted(rates[6:], reverse=True)
        assert rates[-1] < 0.001

    def test_grids(self) -> None:
        assert TrainingConfig().grids_for((224, 224)) == (7, 8, 14, 16, 28, 32)
        assert TrainingConfig().grids_for((28, 28)) == (7, 14, 28)
        assert TrainingConfig().grids_for((37, 41)) == (7, 14, 28)
        with pytest.raises(ValueError, match="at most the image's side 8"):
            TrainingConfig(grids=(16,)).grids_for((8, 8))

    def test_the_record_is_json(self) -> None:
        for config in (TrainingConfig(), TrainingConfig.published(10)):
            assert json.loads(json.dumps(config.record(), allow_nan=False))["seed"] == config.seed

    def test_the_published_sorter_starts_anew(self) -> None:
        assert not TrainingConfig.published(10).objective.sorter.warm_start

    def test_published_form(
        self,
        classifier: nn.Module,
        network: RankingNetwork,
        source: Any,
        space: Any,
        tmp_path: Path,
    ) -> None:
        config = replace(TrainingConfig.published(1), grids=(4, 7), batch_size=2, precision="no")
        train_explainer(classifier, network, source, config, tmp_path, space=space, progress=False)
        assert len(rows(tmp_path)) == 1

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"steps": 0}, "steps must be at least 1"),
            ({"learning_rate": 0.0}, "learning_rate must be finite and above 0"),
            ({"warm_up": 1.5}, "warm_up must lie in"),
            ({"temperatures": (1.0,)}, "a first and a last"),
            ({"references": ("blakc",)}, "Did you mean 'black'"),
            ({"references": ()}, "at least one"),
            ({"targets": "two"}, "targets must be one of"),
            ({"precision": "fp16"}, "precision must be one of"),
        ],
    )
    def test_bad_settings(self, change: dict[str, Any], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            TrainingConfig(**change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"temperatures": 0.3}, r"temperatures must be a sequence, got 0\.3\. Try \(1\.0, 0\.3\)"),
        ({"grids": 4}, "grids must be a sequence, got 4"),
        ({"references": "blur"}, "references must be a sequence, got 'blur'"),
        ({"rivals": "a"}, "rivals must be a number, got str"),
        ({"weight_decay": "a"}, "weight_decay must be a number, got str"),
        ({"objective": "x"}, "objective must be a RankingObjective, got str"),
    ],
)
def test_settings_of_the_wrong_kind(change: dict[str, Any], message: str) -> None:
    with pytest.raises(TypeError, match=message):
        TrainingConfig(**change)
