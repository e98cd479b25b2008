"""The command line: what may be given, and what is said when it cannot be done."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from usu_cli._errors import UsageError

_DEFAULT_UPSAMPLERS = ("nearest", "bilinear", "usu", "iwmr-mass", "tilted")
_DEFAULT_METRICS = ("deletion", "insertion", "correlation", "infidelity")


class _Parser(argparse.ArgumentParser):
    """Reports its own errors as everything else here does: in one line."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message} (see {self.prog} --help)")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the ``usu`` command.

    Args:
        arguments: The command line without the program's name; that of the process if not given.

    Raises:
        SystemExit: with code 2, after one line on stderr, if the request cannot be met.
    """
    try:
        given = _parser().parse_args(arguments)
        given.run(given)
    except UsageError as error:
        print(f"usu: error: {' '.join(str(error).split())}", file=sys.stderr)
        raise SystemExit(2) from None


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="usu", description="Attribution maps redistributed to pixels instead of interpolated."
    )
    parser.add_argument("--version", action=_Version)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _add_demo(commands)
    _add_explain(commands)
    _add_evaluate(commands)
    _add_train_explainer(commands)
    for name, text, run in (
        ("methods", "list upsamplers, methods and metrics by name", _methods),
        ("doctor", "say what is installed, what is missing, and whether it works", _doctor),
    ):
        command = commands.add_parser(name, help=text, description=text.capitalize() + ".")
        command.set_defaults(run=run)
    return parser


def _add_demo(commands: "argparse._SubParsersAction[_Parser]") -> None:
    text = "explain synthetic pictures whose truth is known; needs no network"
    demo = commands.add_parser("demo", help=text, description=text.capitalize() + ".")
    demo.add_argument("--out", type=Path, default=Path("usu-demo"), help="folder to write to")
    demo.add_argument("--images", type=_positive, default=6, help="how many pictures")
    demo.set_defaults(run=_demo)


def _add_explain(commands: "argparse._SubParsersAction[_Parser]") -> None:
    text = "explain your own images and model"
    explain = commands.add_parser("explain", help=text, description=text.capitalize() + ".")
    add = explain.add_argument
    add("images", nargs="+", type=Path, metavar="IMAGE", help="image files")
    _add_model(explain)
    add("--layer", help="layer to explain, as in model.named_modules(); by default the last stage")
    add("--target", help="class to explain, by index or name; by default each image's top-1")
    add(
        "--upsampler", action="append", metavar="NAME[,NAME...]",
        help=f"may be repeated; by default {','.join(_DEFAULT_UPSAMPLERS)}",
    )  # fmt: skip
    add("--classes", type=Path, metavar="FILE", help="class names: .txt, .csv or .json")
    add("--out", type=Path, default=Path("usu-explain"), help="folder to write to")
    explain.set_defaults(run=_explain)


def _add_evaluate(commands: "argparse._SubParsersAction[_Parser]") -> None:
    text = "measure maps on your images and model, and compare them; run again to resume"
    evaluate = commands.add_parser("evaluate", help=text, description=text.capitalize() + ".")
    add = evaluate.add_argument
    add(
        "--data",
        type=Path,
        required=True,
        metavar="DIR|LIST",
        help="folder of images, .txt with a path per line, or .csv: image[,target][,mask]",
    )
    add("--masks", type=Path, metavar="DIR", help="a/b.png, bright on the object, for a/b.jpg")
    add("--images", type=_positive, metavar="N", help="only so many, evenly spaced")
    _add_model(evaluate)
    add("--layer", help="layer to explain, as in model.named_modules(); by default the last stage")
    add("--target", help="class to explain, by index or name; by default each image's top-1")
    add("--classes", type=Path, metavar="FILE", help="class names: .txt, .csv or .json")
    names: dict[str, Any] = {"action": "append", "metavar": "NAME[,NAME...]"}
    add("--methods", **names, help="by default LayerGradCam; all: usu methods")
    add("--upsamplers", **names, help=f"by default {','.join(_DEFAULT_UPSAMPLERS)}")
    add("--metrics", **names, help=f"by default {','.join(_DEFAULT_METRICS)}")
    add(
        "--against",
        **names,
        help="compare with these upsamplers or methods; by default bilinear, if measured",
    )
    add(
        "--evaluations",
        type=_positive,
        default=150,
        metavar="N",
        help="model evaluations for RISE and the like; usu spends about as many",
    )
    add("--steps", type=_positive, default=16, help="of deletion and insertion")
    add("--samples", type=_positive, default=96, help="boxes or pixel sets that a metric draws")
    add("--precision", choices=("no", "bf16"), default="no", help="bf16 to judge, not to explain")
    add("--batch-size", type=_positive, default=64, help="images per model call")
    add("--seed", type=int, default=0)
    add("--out", type=Path, default=Path("usu-evaluate"), help="folder to write to")
    evaluate.set_defaults(run=_evaluate)


def _add_model(command: _Parser) -> None:
    add = command.add_argument
    add("--model", required=True, help="timm:NAME, torchvision:NAME or FILE.safetensors")
    add("--arch", help="architecture of FILE.safetensors: timm:NAME or torchvision:NAME")
    add("--weights", type=Path, metavar="FILE.safetensors", help="local weights for a named model")
    add("--mean", type=float, nargs=3, metavar=("R", "G", "B"), help="instead of the model's own")
    add("--std", type=_positive_float, nargs=3, metavar=("R", "G", "B"), help="likewise")
    add("--size", type=_positive, metavar="PIXELS", help="side of the model's input, likewise")


def _add_train_explainer(commands: "argparse._SubParsersAction[_Parser]") -> None:
    text = "train a network to explain your model in one pass; run again to resume"
    train = commands.add_parser("train-explainer", help=text, description=text.capitalize() + ".")
    add = train.add_argument
    add("--data", type=Path, required=True, help="folder of images, or .npz with uint8 images")
    _add_model(train)
    add("--out", type=Path, default=Path("usu-explainer"), help="folder to write to")
    add("--held-out", type=_positive, default=100, help="images to evaluate on, drawn at random")
    add("--labelled", action="store_true", help="one folder per class, or labels in the .npz")
    add("--encoder", default="classifier", help="the model's own features, or timm:NAME")
    add("--encoder-weights", type=Path, metavar="FILE.safetensors", help="of a timm encoder")
    add("--conditioning", choices=("head", "embedding"), default="head",
        help="tell the class by the model's last layer, or learn a vector for each")  # fmt: skip
    add("--steps", type=_positive, default=2000)
    add("--batch-size", type=_positive, default=32, help="images per step and process")
    add("--learning-rate", type=_positive_float, default=1e-3)
    add("--precision", choices=("no", "bf16"), default="no", help="bf16 for mixed precision")
    add("--seed", type=int, default=0)
    add("--evaluate-every", type=_positive, default=200, metavar="STEPS")
    add("--checkpoint-every", type=_positive, default=200, metavar="STEPS")
    add("--patience", type=int, default=0, help="stop after so many evaluations without a gain")
    add("--workers", type=int, default=0, help="processes that read images")
    add("--strict", action="store_true", help="stop at an image that cannot be read")
    train.set_defaults(run=_train_explainer)


def _demo(given: argparse.Namespace) -> None:
    # Imported late, here and below, so that --help does not wait for torch.
    from usu_cli._demo import run_demo

    run_demo(images=given.images, out=given.out)


def _explain(given: argparse.Namespace) -> None:
    from usu_cli._explain import ExplainOptions, run_explain

    run_explain(
        ExplainOptions(
            images=tuple(given.images),
            model=given.model,
            out=given.out,
            upsamplers=_names(given.upsampler) or _DEFAULT_UPSAMPLERS,
            arch=given.arch,
            weights=given.weights,
            layer=given.layer,
            target=given.target,
            classes=given.classes,
            mean=tuple(given.mean) if given.mean else None,
            std=tuple(given.std) if given.std else None,
            size=given.size,
        )
    )


def _evaluate(given: argparse.Namespace) -> None:
    from usu_cli.evaluate import EvaluateOptions, run_evaluate

    values = {name: v for name, v in vars(given).items() if name not in ("run", "version")}
    for name in ("mean", "std"):
        values[name] = tuple(values[name]) if values[name] else None
    values["methods"] = _names(given.methods) or ("LayerGradCam",)
    values["upsamplers"] = _names(given.upsamplers) or _DEFAULT_UPSAMPLERS
    values["metrics"] = _names(given.metrics) or _DEFAULT_METRICS
    values["against"] = _names(given.against) or None
    run_evaluate(EvaluateOptions(**values))


def _train_explainer(given: argparse.Namespace) -> None:
    from usu_cli._train import TrainOptions, run_train

    values = {name: v for name, v in vars(given).items() if name not in ("run", "version")}
    for name in ("mean", "std"):
        values[name] = tuple(values[name]) if values[name] else None
    run_train(TrainOptions(**values))


def _methods(given: argparse.Namespace) -> None:
    from usu_cli._methods import run_methods

    run_methods()


def _doctor(given: argparse.Namespace) -> None:
    from usu_cli._doctor import run_doctor

    run_doctor()


def _names(given: Sequence[str] | None) -> tuple[str, ...]:
    """Return the names of an option that may be repeated and takes several at once."""
    names = (name.strip() for part in given or () for name in part.split(","))
    return tuple(dict.fromkeys(name for name in names if name))


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {value}")
    return value


def _positive_float(text: str) -> float:
    value = float(text)
    if not value > 0:
        raise argparse.ArgumentTypeError(f"must be positive, got {value}")
    return value


class _Version(argparse.Action):
    """Looks the version up only when asked for: that imports torch."""

    def __init__(self, option_strings: Sequence[str], dest: str) -> None:
        super().__init__(option_strings, dest, nargs=0, help="show the version and exit")

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> NoReturn:
        import usu_core

        print(f"usu {usu_core.__version__}")
        parser.exit()
