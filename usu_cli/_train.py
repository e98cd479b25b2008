"""``usu train-explainer``: fit a ranking network to a person's classifier and images."""

import re
import sys
import warnings
from contextlib import nullcontext
from dataclasses import fields, replace

import torch

from usu_captum import ImageSpace
from usu_captum.ranking import (
    FolderImages,
    NetworkConfig,
    TrainingConfig,
    build_network,
    open_images,
    split_images,
    train_explainer,
)
from usu_captum.ranking._run_state import FILES, STATE
from usu_cli._asked import classifier_as_asked
from usu_cli._errors import UsageError, one_line
from usu_cli._folder import check_apart, check_free, prepare_folder
from usu_cli._models import check_weights, fetching
from usu_cli._options import TrainOptions
from usu_cli._table import counted

_COARSE = 112  # pixels from which a map has cells, unless it is told otherwise
_SHOWN = 12  # folders that are told with their outputs
_FLAGS = {field.name: f"--{field.name.replace('_', '-')}" for field in fields(TrainOptions)}
_FLAGS |= {"out_dir": "--out", "path": "--data", "folder": "--data", "classifier": "--model"}
_ARGUMENT = re.compile(rf"""\b({"|".join(_FLAGS)})=("[^"]*"|'[^']*'|\w+)""")


def run_train(options: TrainOptions) -> None:
    """Train, or go on with a run that was stopped, and say where the network is.

    Raises:
        UsageError: if anything named does not exist or does not fit, or training cannot go on.
    """
    if not options.data.exists():
        raise UsageError(f"--data {str(options.data)!r} does not exist")
    if options.encoder_weights is not None:
        check_weights(options.encoder_weights)
    check_apart(options.out, options.data)
    read = (options.data, options.encoder_weights, options.weights)
    check_free(
        options.out,
        "train-explainer, whose training.safetensors would be there",
        FILES,
        own=FILES if (options.out / STATE).exists() else (),
        inputs=[path for path in read if path is not None],
    )
    prepare_folder(options.out)
    classifier = classifier_as_asked(options)
    if classifier.outputs < 2:
        raise UsageError(
            f"{classifier.name} has one output, and an explainer tells classes apart: it needs a "
            "model with at least two"
        )
    look = classifier.preprocessing
    shape = (3, look.size, look.size)
    space = ImageSpace(look.mean, look.std)
    try:
        source = open_images(
            options.data,
            shape,
            space,
            labelled=options.labelled,
            outputs=classifier.classes or classifier.outputs,
            leave_out=options.out,  # what was drawn there before
        )
        if options.held_out >= len(source):
            raise UsageError(
                f"--held-out {options.held_out} leaves none of {counted(len(source), 'image')} to "
                f"train on; give fewer ({TrainOptions.held_out} unless told otherwise)"
            )
        _say_labels(source)
        data, held_out = split_images(source, options.held_out, options.seed)
        # The decoder starts at random: a run that is called again must start alike.
        torch.manual_seed(options.seed)
        fetched = options.encoder != "classifier" and options.encoder_weights is None
        with fetching(options.encoder, "--encoder-weights") if fetched else nullcontext():
            network = build_network(
                NetworkConfig(
                    classifier.outputs,
                    shape,
                    encoder=options.encoder,
                    conditioning=options.conditioning,
                    gradients=options.gradients,
                    cells=_cells(options.cells, min(shape[1:])),
                    space=None if options.encoder == "classifier" else space,
                ),
                classifier.model,
                encoder_weights=options.encoder_weights,
                pretrained=fetched,
            )
        config = TrainingConfig(
            steps=options.steps,
            batch_size=options.batch_size,
            learning_rate=options.learning_rate,
            precision=options.precision,
            seed=options.seed,
            evaluate_every=options.evaluate_every,
            checkpoint_every=options.checkpoint_every,
            patience=options.patience,
            workers=options.workers,
            strict=options.strict,
            objective=replace(
                TrainingConfig().objective, insertion_weight=options.insertion_weight
            ),
        )
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "[0-9]+ of [0-9]+ images could not be read")
            result = train_explainer(
                classifier.model, network, data, config, options.out, space=space,
                held_out=held_out,
            )  # fmt: skip
    except (ValueError, TypeError, OSError, FloatingPointError) as error:
        raise UsageError(_in_flags(one_line(error))) from error
    if not _is_first_process():
        return
    if result.unreadable:
        print(f"{len(result.unreadable)} of {counted(len(source), 'image')} could not be read:")
        for name in result.unreadable:
            print(f"  {name}")
    if result.best is not None:
        print(
            f"best at step {int(result.best['step'])} of {result.steps}: deletion "
            f"{result.best['deletion']:.4f}, insertion {result.best['insertion']:.4f} on "
            f"{counted(len(held_out), 'held-out image')}"
        )
        if result.best["step"] == 0:
            print("no step improved on the untrained network: try more steps, or more images")
    print(f"trained explainer: {result.path}")


def _in_flags(message: str) -> str:
    """Say what Python's arguments are to be as it is said on a command line.

    Example:
        >>> _in_flags('labelled must be False for encoder="timm:NAME". Try labelled=False.')
        '--labelled must be left out for --encoder timm:NAME. Try leaving out --labelled.'
    """

    def flag(match: re.Match[str]) -> str:
        name, value = _FLAGS[match[1]], match[2].strip("\"'")
        return f"leaving out {name}" if value in ("False", "None") else f"{name} {value}"

    name, _, rest = message.partition(" ")
    if name in _FLAGS and rest.startswith("must"):
        rest = re.sub("^must be (False|None)", "must be left out", rest)
        message = f"{_FLAGS[name]} {rest}"
    return _ARGUMENT.sub(flag, message)


def _cells(asked: int | None, side: int) -> int | None:
    """Return the cells per side of a map of an image of ``side`` pixels; ``None`` for none."""
    if asked is None:
        return 14 if side >= _COARSE else None
    return asked or None


def _say_labels(source: object) -> None:
    """Say which folder is of which output, while a person can still tell that it is wrong."""
    known = source.output_of if isinstance(source, FolderImages) else {}
    if known and _is_first_process():
        shown = [f"{folder} is output {output}" for folder, output in known.items()]
        more = f", and {len(shown) - _SHOWN} more" if len(shown) > _SHOWN else ""
        print(f"labels: {', '.join(shown[:_SHOWN])}{more}", flush=True)


def _is_first_process() -> bool:
    from accelerate import PartialState

    first: bool = PartialState().is_main_process
    sys.stdout.flush()
    return first
