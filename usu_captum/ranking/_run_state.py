"""The state of a run: everything it needs to go on as if it had never stopped."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from usu_captum._digest import weights_digest
from usu_captum._image_space import ImageSpace
from usu_captum._models import bare_module, modules_of
from usu_captum.ranking._checkpoint import load_checkpoint, save_checkpoint
from usu_captum.ranking._network import RankingNetwork
from usu_captum.ranking._network_files import network_facts, network_state, restore_network

STATE = "training.safetensors"
EXPLAINER = "explainer.safetensors"
CURVES = "curves.csv"
PICTURE = "curves.png"
FILES = (STATE, EXPLAINER, "explainer.json", CURVES, PICTURE)
_FREE = {
    "versions",
    "training.workers",
    "training.strict",
    "training.log_every",
    "training.checkpoint_every",
    "training.objective.chunk_size",
}
"""What may change when a run goes on: no weight depends on it."""


@dataclass
class RunState:
    """How far a run is, beside the weights.

    Random numbers are no part of it: a step's draws depend on the seed and its number alone.
    """

    step: int = 0
    best: dict[str, float] | None = None
    evaluations_without_gain: int = 0
    finished: bool = False
    unreadable: list[str] = field(default_factory=list)

    def note_unreadable(self, names: tuple[str, ...] | list[str]) -> None:
        """Remember images by name, each once."""
        self.unreadable += [name for name in dict.fromkeys(names) if name not in self.unreadable]

    def note_figures(self, figures: dict[str, float], patience: int) -> bool:
        """Remember what an evaluation gave, and whether to stop; return whether it is the best."""
        better = self.best is None or _gain(figures) > _gain(self.best)
        if better:
            self.best = figures
        self.evaluations_without_gain = 0 if better else self.evaluations_without_gain + 1
        self.finished = 0 < patience <= self.evaluations_without_gain
        return better


def save_run(
    folder: Path,
    state: RunState,
    network: RankingNetwork,
    optimiser: torch.optim.Optimizer,
    identity: Mapping[str, Any],
) -> None:
    """Write weights, the optimiser's moments and the state into one file, atomically."""
    moments = optimiser.state_dict()
    tensors = {f"network.{name}": value for name, value in network_state(network).items()}
    for index, slots in moments["state"].items():
        for slot, value in slots.items():
            tensors[f"optimiser.{index}.{slot}"] = torch.as_tensor(value)
    save_checkpoint(
        folder / STATE,
        tensors,
        {
            **identity,
            "step": state.step,
            "best": state.best,
            "evaluations_without_gain": state.evaluations_without_gain,
            "finished": state.finished,
            "unreadable": state.unreadable,
        },
    )


def resume_run(
    folder: Path,
    network: RankingNetwork,
    optimiser: torch.optim.Optimizer,
    identity: Mapping[str, Any],
) -> RunState:
    """Return where a run in ``folder`` stopped, with weights and moments put back.

    A folder without a run, or with one that has done nothing yet, gives a new one.

    Raises:
        ValueError: If the run there is another: of other data, settings, classes or architecture,
            or of another classifier or space.
    """
    path = folder / STATE
    if not path.exists():
        return RunState()
    try:
        tensors, facts = load_checkpoint(path)
    except ValueError as error:
        raise ValueError(
            f"out_dir must be empty or hold this same run, got a {STATE} of no run in "
            f"{str(folder)!r}. Try another folder."
        ) from error
    # Older checkpoints know neither the classifier nor the space.
    known = {name: value for name, value in identity.items() if name in facts}
    differing = [
        f"{name} {before!r}, now {after!r}"
        for name, before, after in _differences("", {name: facts[name] for name in known}, known)
    ]
    if differing and facts["step"] == 0 and facts["best"] is None:
        return RunState()
    if differing:
        raise ValueError(
            f"out_dir must be empty or hold this same run, got one with {'; '.join(differing)} in "
            f"{str(folder)!r}. Try another folder."
        )
    restore_network(network, _under("network.", tensors))
    slots: dict[int, dict[str, Tensor]] = {}
    for name, value in _under("optimiser.", tensors).items():
        index, slot = name.split(".", 1)
        slots.setdefault(int(index), {})[slot] = value
    optimiser.load_state_dict(
        {"state": slots, "param_groups": optimiser.state_dict()["param_groups"]}
    )
    return RunState(
        step=facts["step"],
        best=_best_if_kept(folder, facts["best"]),
        evaluations_without_gain=facts["evaluations_without_gain"],
        finished=facts["finished"],
        unreadable=facts["unreadable"],
    )


def identify_run(
    classifier: Any,
    network: RankingNetwork,
    space: ImageSpace | None,
    settings: Mapping[str, Any],
    data: Mapping[str, Any],
    processes: int,
) -> dict[str, Any]:
    """Return what must be the same for a run to go on, and the versions, which may change.

    A classifier whose module a function hides cannot be told from another.

    Raises:
        ValueError: If JSON cannot hold the settings.
    """
    modules = modules_of(classifier)
    try:
        json.dumps(settings, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"config must hold what JSON can, to be recorded, got another setting: {error}. Try a "
            "sorter whose attributes are numbers and strings."
        ) from error
    return {
        **network_facts(network),
        "classifier": weights_digest(bare_module(modules[0])) if modules else None,
        "space": None if space is None else asdict(space),
        "training": settings,
        "data": data,
        "processes": processes,
    }


def stop_unless_finite(what: str, value: Tensor, step: int, folder: Path) -> None:
    """Raise ``FloatingPointError`` if a value of a step is not finite; say what is kept."""
    if bool(torch.isfinite(value).all()):
        return
    raise FloatingPointError(
        f"the {what} is not finite at step {step}. The last checkpoint is in "
        f"{str(folder / STATE)!r}. Try a lower learning_rate or precision='no', in another folder."
    )


def _gain(figures: dict[str, float]) -> float:
    return figures["insertion"] - figures["deletion"]


def _best_if_kept(folder: Path, best: dict[str, float] | None) -> dict[str, float] | None:
    """Return the best figures if the explainer in a folder is the one they are of.

    A kill can leave the explainer of an evaluation that is later than the checkpoint. It comes
    again, and takes the place of that file as the first did.
    """
    path = folder / EXPLAINER
    if best is None or not path.exists() or load_checkpoint(path)[1].get("step") != best["step"]:
        return None
    return best


def _differences(name: str, before: Any, after: Any) -> list[tuple[str, Any, Any]]:
    """Return the leaves that differ, by dotted name; JSON has lists for tuples."""
    if name in _FREE:
        return []
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        keys = dict.fromkeys((*before, *after))
        prefix = f"{name}." if name else ""
        return [
            found
            for key in keys
            for found in _differences(f"{prefix}{key}", before.get(key), after.get(key))
        ]
    old, new = (list(v) if isinstance(v, tuple) else v for v in (before, after))
    return [] if old == new else [(name, old, new)]


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
