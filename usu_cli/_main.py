"""The command line: what may be given, and what is said when it cannot be done."""

import argparse
import io
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from usu_cli._arguments import (
    Commands,
    Parser,
    Version,
    add_command,
    add_names,
    deviation_of_colours,
    given_options,
    natural,
    of_colours,
    path,
    positive,
    positive_number,
    show_defaults,
)
from usu_cli._errors import UsageError, one_line
from usu_cli._options import CompareOptions, EvaluateOptions, ExplainOptions, TrainOptions

_DEFAULT_UPSAMPLERS = ("nearest", "bilinear", "usu", "iwmr-mass", "tilted")
_COMPARED_METRICS = ("deletion", "insertion")
_DEFAULT_METRICS = (*_COMPARED_METRICS, "correlation", "infidelity")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the ``usu`` command.

    Args:
        arguments: The command line without the program's name; that of the process if not given.

    Raises:
        SystemExit: with code 2, after one line on stderr, if the request cannot be met; 130 if it
            was interrupted; 1 if nobody reads what is printed any more.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A narrow encoding may cost a rule or an arrow, not the answer. stderr replaces anyway.
        sys.stdout.reconfigure(errors="replace")
    try:
        try:
            given = _parser().parse_args(arguments)
            given.run(given)
        finally:
            sys.stdout.flush()  # here, where a failure can still be told
    except BrokenPipeError:
        # As Python's documentation has it: nothing may be left to flush when the process ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(1) from None
    except (UsageError, OSError) as error:
        print(f"usu: error: {one_line(error)}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        print("usu: interrupted", file=sys.stderr)
        raise SystemExit(130) from None


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="usu", description="Attribution maps redistributed to pixels instead of interpolated."
    )
    parser.add_argument("--version", action=Version)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _add_demo(commands)
    _add_explain(commands)
    _add_compare(commands)
    _add_evaluate(commands)
    _add_train_explainer(commands)
    for name, text, run in (
        ("methods", "list upsamplers, methods and metrics by name", _methods),
        ("doctor", "say what is installed, what is missing, and whether it works", _doctor),
    ):
        add_command(commands, name, text, run)
    return parser


def _add_demo(commands: Commands) -> None:
    text = "explain synthetic pictures whose truth is known; needs no network"
    demo = add_command(commands, "demo", text, _demo)
    folder, count = "folder to write to (default %(default)s)", "how many (default %(default)s)"
    demo.add_argument("--out", type=path, default=Path("usu-demo"), help=folder)
    demo.add_argument("--images", type=positive, default=6, help=count)


def _add_explain(commands: Commands) -> None:
    explain = add_command(commands, "explain", "explain your own images and model", _explain)
    add = explain.add_argument
    add("images", nargs="+", type=path, metavar="IMAGE", help="image files")
    _add_model(explain)
    add("--layer", help="layer to explain, as in model.named_modules(); by default the last stage")
    add("--target", help="class to explain, by index or name; by default each image's top-1")
    add_names(
        explain,
        ("--upsampler", "--upsamplers"),
        f"may be repeated; by default {','.join(_DEFAULT_UPSAMPLERS)}",
        dest="upsamplers",
    )
    add("--classes", type=path, metavar="FILE", help="class names: .txt, .csv or .json")
    add("--out", type=path, help="folder to write to")
    show_defaults(explain, ExplainOptions)


def _add_compare(commands: Commands) -> None:
    text = "methods and upsamplers side by side on a few images, every map measured"
    compare = add_command(commands, "compare", text, _compare)
    compare.add_argument("images", nargs="+", type=path, metavar="IMAGE", help="image files")
    _add_model(compare)
    _add_maps(compare, _COMPARED_METRICS)
    compare.add_argument("--out", type=path, help="folder to write to")
    show_defaults(compare, CompareOptions)


def _add_evaluate(commands: Commands) -> None:
    text = "measure maps on your images and model, and compare them; run again to resume"
    evaluate = add_command(commands, "evaluate", text, _evaluate)
    add = evaluate.add_argument
    add(
        "--data",
        type=path,
        required=True,
        metavar="DIR|LIST",
        help="folder of images, .txt with a path per line, or .csv: image[,target][,mask]",
    )
    add("--masks", type=path, metavar="DIR", help="a/b.png, bright on the object, for a/b.jpg")
    add("--images", type=positive, metavar="N", help="only so many, evenly spaced")
    _add_model(evaluate)
    _add_maps(evaluate, _DEFAULT_METRICS)
    add_names(
        evaluate,
        ("--against",),
        "compare with these upsamplers or methods; by default bilinear, if measured",
    )
    add("--out", type=path, help="folder to write to")
    show_defaults(evaluate, EvaluateOptions)


def _add_maps(command: Parser, metrics: tuple[str, ...]) -> None:
    """Add what asks for maps and their measures."""
    add = command.add_argument
    add("--layer", help="layer to explain, as in model.named_modules(); by default the last stage")
    add("--target", help="class to explain, by index or name; by default each image's top-1")
    add("--classes", type=path, metavar="FILE", help="class names: .txt, .csv or .json")
    add_names(command, ("--methods",), "by default LayerGradCam; all: usu methods")
    add_names(command, ("--upsamplers",), f"by default {','.join(_DEFAULT_UPSAMPLERS)}")
    add_names(command, ("--metrics",), f"by default {','.join(metrics)}")
    add(
        "--evaluations",
        type=positive,
        metavar="N",
        help="model evaluations for RISE and the like; usu spends about as many",
    )
    add("--steps", type=positive, help="of deletion and insertion")
    add("--samples", type=positive, help="boxes or pixel sets that a metric draws")
    add("--precision", choices=("no", "bf16"), help="bf16 to judge, not to explain")
    add("--batch-size", type=positive, help="images per model call")
    add("--seed", type=natural)


def _add_model(command: Parser) -> None:
    add = command.add_argument
    add(
        "--model",
        required=True,
        help="timm:NAME, torchvision:NAME, package.module:function or FILE.safetensors",
    )
    add("--arch", help="architecture of FILE.safetensors: one of the first three")
    add("--weights", type=path, metavar="FILE.safetensors", help="local weights for a named model")
    rgb = ("R", "G", "B")
    text = "of values in [0, 1], instead of the model's own"
    add("--mean", type=of_colours, nargs=3, metavar=rgb, help=text)
    add("--std", type=deviation_of_colours, nargs=3, metavar=rgb, help="likewise")
    add("--size", type=positive, metavar="PIXELS", help="side of the model's input, likewise")


def _add_train_explainer(commands: Commands) -> None:
    text = "train a network to explain your model in one pass; run again to resume"
    train = add_command(commands, "train-explainer", text, _train_explainer)
    add = train.add_argument
    add("--data", type=path, required=True, help="folder of images, or .npz with uint8 images")
    _add_model(train)
    add("--out", type=path, help="folder to write to")
    add("--held-out", type=positive, help="images to evaluate on, drawn at random")
    add("--labelled", action="store_true", help="one folder per class, or labels in the .npz")
    add(
        "--classes", type=path, metavar="FILE", help="class names that folders have: as for explain"
    )
    add("--encoder", help="the model's own features, or timm:NAME")
    add("--encoder-weights", type=path, metavar="FILE.safetensors", help="of a timm encoder")
    add("--conditioning", choices=("head", "embedding"),
        help="tell the class by the model's last layer, or learn a vector for each")  # fmt: skip
    add("--gradients", action="store_true", help="let it read gradients too: a backward pass more")
    add("--cells", type=natural, metavar="PER-SIDE",
        help="of its maps; 0 for pixels (default 14 from 112 pixels on, else 0)")  # fmt: skip
    add("--insertion-weight", type=positive_number, metavar="WEIGHT",
        help="of insertion, beside deletion's 1")  # fmt: skip
    add("--steps", type=positive)
    add("--batch-size", type=positive, help="images per step and process")
    add("--learning-rate", type=positive_number)
    add("--precision", choices=("no", "bf16"), help="bf16 for mixed precision")
    add("--seed", type=natural)
    add("--evaluate-every", type=positive, metavar="STEPS")
    add("--checkpoint-every", type=positive, metavar="STEPS")
    add("--patience", type=natural, help="stop after so many evaluations without a gain; 0: never")
    add("--workers", type=natural, help="processes that read images")
    add("--strict", action="store_true", help="stop at an image that cannot be read")
    show_defaults(train, TrainOptions)


def _demo(given: argparse.Namespace) -> None:
    # Imported late, here and below, so that --help does not wait for torch.
    from usu_cli._demo import run_demo

    run_demo(images=given.images, out=given.out)


def _explain(given: argparse.Namespace) -> None:
    from usu_cli._explain import run_explain

    run_explain(ExplainOptions(**given_options(given, upsamplers=_DEFAULT_UPSAMPLERS)))


def _compare(given: argparse.Namespace) -> None:
    from usu_cli.evaluate import run_compare

    run_compare(CompareOptions(**_map_options(given, metrics=_COMPARED_METRICS)))


def _evaluate(given: argparse.Namespace) -> None:
    from usu_cli.evaluate import run_evaluate

    options = _map_options(given, metrics=_DEFAULT_METRICS, against=None)
    run_evaluate(EvaluateOptions(**options))


def _map_options(given: argparse.Namespace, **defaults: tuple[str, ...] | None) -> dict[str, Any]:
    return given_options(
        given, methods=("LayerGradCam",), upsamplers=_DEFAULT_UPSAMPLERS, **defaults
    )


def _train_explainer(given: argparse.Namespace) -> None:
    from usu_cli._train import run_train

    run_train(TrainOptions(**given_options(given)))


def _methods(given: argparse.Namespace) -> None:
    from usu_cli._methods import run_methods

    run_methods()


def _doctor(given: argparse.Namespace) -> None:
    from usu_cli._doctor import run_doctor

    run_doctor()
