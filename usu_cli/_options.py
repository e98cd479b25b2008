"""What every command can be asked for, and what it does unless told otherwise.

Apart from the commands, so that ``--help`` can show it without waiting for torch.
"""

from dataclasses import dataclass
from pathlib import Path

Triple = tuple[float, float, float]


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """What every command asks of a model; see ``--help``."""

    model: str
    arch: str | None = None
    weights: Path | None = None
    classes: Path | None = None
    mean: Triple | None = None
    std: Triple | None = None
    size: int | None = None


@dataclass(frozen=True, kw_only=True)
class ExplainOptions(ModelOptions):
    """What was asked for on the command line; see ``usu explain --help``."""

    images: tuple[Path, ...]
    upsamplers: tuple[str, ...]
    out: Path = Path("usu-explain")
    layer: str | None = None
    target: str | None = None


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What a command line and a plan say in the same words.

    Args:
        methods: Names in :func:`usu_cli.evaluate.known_methods`.
        metrics: Names in ``MEASURES``.
        evaluations: Model evaluations that a perturbation method may spend on an image.
        steps: Steps of deletion and insertion.
        samples: Boxes, subsets or masks that a metric draws.
        precision: ``"bf16"`` to judge, never to explain, in mixed precision.
        batch_size: Images per model call.
        seed: Of everything drawn at random.
    """

    methods: tuple[str, ...]
    metrics: tuple[str, ...]
    evaluations: int = 160
    steps: int = 16
    samples: int = 96
    precision: str = "no"
    batch_size: int = 64
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class MapOptions(ModelOptions, Wanted):
    """Which maps of which model to measure how; see ``--help``."""

    out: Path
    upsamplers: tuple[str, ...]
    layer: str | None = None
    target: str | None = None


@dataclass(frozen=True, kw_only=True)
class CompareOptions(MapOptions):
    """What was asked for on the command line; see ``usu compare --help``."""

    images: tuple[Path, ...]
    out: Path = Path("usu-compare")


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions(MapOptions):
    """What was asked for on the command line; see ``usu evaluate --help``."""

    data: Path
    out: Path = Path("usu-evaluate")
    against: tuple[str, ...] | None = None
    masks: Path | None = None
    images: int | None = None


@dataclass(frozen=True, kw_only=True)
class TrainOptions(ModelOptions):
    """What was asked for on the command line; see ``usu train-explainer --help``."""

    data: Path
    out: Path = Path("usu-explainer")
    held_out: int = 100
    labelled: bool = False
    encoder: str = "classifier"
    encoder_weights: Path | None = None
    conditioning: str = "head"
    gradients: bool = False
    cells: int | None = None
    insertion_weight: float = 1.0
    steps: int = 2000
    batch_size: int = 32
    learning_rate: float = 1e-3
    precision: str = "no"
    seed: int = 0
    evaluate_every: int = 200
    checkpoint_every: int = 200
    patience: int = 0
    workers: int = 0
    strict: bool = False
