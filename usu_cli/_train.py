"""``usu train-explainer``: fit a ranking network to a person's classifier and images."""

import sys
import warnings
from dataclasses import fields

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
from usu_cli._asked import classifier_as_asked
from usu_cli._errors import UsageError, one_line
from usu_cli._folder import check_apart, prepare_folder
from usu_cli._options import TrainOptions
from usu_cli._table import counted

_SHOWN = 12  # folders that are told with their outputs


def run_train(options: TrainOptions) -> None:
    """Train, or go on with a run that was stopped, and say where the network is.

    Raises:
        UsageError: if anything named does not exist or does not fit, or training cannot go on.
    """
    if not options.data.exists():
        raise UsageError(f"--data {str(options.data)!r} does not exist")
    check_apart(options.out, options.data)
    prepare_folder(options.out)
    classifier = classifier_as_asked(options)
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
        network = build_network(
            NetworkConfig(
                classifier.outputs,
                shape,
                encoder=options.encoder,
                conditioning=options.conditioning,
                gradients=options.gradients,
            ),
            classifier.model,
            encoder_weights=options.encoder_weights,
            pretrained=options.encoder != "classifier" and options.encoder_weights is None,
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
        )
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "[0-9]+ of [0-9]+ images could not be read")
            result = train_explainer(
                classifier.model, network, data, config, options.out, space=space,
                held_out=held_out,
            )  # fmt: skip
    except (ValueError, TypeError, OSError, FloatingPointError) as error:
        raise UsageError(_by_its_flag(one_line(error))) from error
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


def _by_its_flag(message: str) -> str:
    """Name the option instead of the argument that a message begins with."""
    name, _, rest = message.partition(" ")
    name = {"out_dir": "out", "path": "data", "folder": "data"}.get(name, name)
    known = {field.name for field in fields(TrainOptions)}
    return f"--{name.replace('_', '-')} {rest}" if name in known and rest[:4] == "must" else message


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
