"""``usu methods``: the names that the other commands take."""

from usu_cli._about import about
from usu_cli._table import text_table
from usu_cli.evaluate import MEASURES, is_coarse, known_methods
from usu_core import available, resolve

_BETTER = {True: "higher", False: "lower", None: "neither"}


def run_methods() -> None:
    """Print upsamplers, attribution methods and metrics, each with what it is."""
    upsamplers = [(name, type(resolve(name)).__name__, about(name)) for name in available()]
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
