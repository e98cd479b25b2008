"""``usu methods``: the names that the other commands take."""

from usu_cli._table import text_table
from usu_cli.evaluate import MEASURES, is_coarse, known_methods
from usu_core import available, resolve

# Classes that several names share cannot tell them apart.
_ABOUT = {
    "nearest": "Repeat each cell's value: blocks.",
    "bilinear": "Interpolate linearly: what other tools do.",
    "bicubic": "Interpolate by cubic splines, which overshoot.",
    "lanczos": "Interpolate by Pillow's three-lobed kernel.",
    "bilinear-conserving": "Interpolate linearly, then rescale each cell to the mass it had.",
    "usu": "Keep each cell's mass and give it to the pixels the model scores highest.",
    "usu-fast": "As usu, with the scores of squares from one gradient.",
    "iwmr": "Move the total mass by the cells' scores alone, then within cells as usu.",
    "iwmr-mass": "Move each cell's mass by the cells' scores, then within cells as usu.",
}
_BETTER = {True: "higher", False: "lower", None: "neither"}


def run_methods() -> None:
    """Print upsamplers, attribution methods and metrics, each with what it is."""
    upsamplers = [
        (name, type(resolve(name)).__name__, _ABOUT.get(name) or _first_line(resolve(name)))
        for name in available()
    ]
    methods = [
        (name, "coarse" if is_coarse(name) else "fine")
        for name in sorted(known_methods(), key=str.lower)
    ]
    metrics = [
        (
            name,
            _BETTER[measure.higher_is_better],
            "yes" if measure.needs_mask else "",
            measure.about,
        )
        for name, measure in MEASURES.items()
    ]
    for title, header, rows in (
        ("Upsamplers", ("name", "class", "what it does"), upsamplers),
        ("Methods of usu evaluate; coarse ones are upsampled", ("name", "map"), methods),
        ("Metrics of usu evaluate", ("name", "better", "mask", "what it is"), metrics),
    ):
        print(f"{title}\n\n{text_table(header, rows, left=True)}\n")


def _first_line(upsampler: object) -> str:
    """Return what the class says of itself; functions and plug-ins may say nothing."""
    return (type(upsampler).__doc__ or "").strip().partition("\n")[0]
