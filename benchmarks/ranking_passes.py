"""Single passes alone, on every reported photograph: is a trained explainer's the best of them?

    python -m benchmarks.ranking_passes resnet18 --gradients
    python -m benchmarks.ranking_passes deit_tiny --gradients

Takes the network of ``benchmarks.ranking_train`` (which trains it if it is not there), its
reported images and its measures. Without the methods that cost an image many passes there is time
for five times as many photographs, which tell smaller differences from chance.
"""

from torch import Tensor

from benchmarks._common import RESULTS, environment, write_json
from benchmarks._ranking_case import ask, journalled
from benchmarks._ranking_maps import refined_maps, single_pass_maps
from benchmarks._ranking_subjects import PHOTOGRAPHS, Subject
from benchmarks.ranking_heldout import summarise, summary_table
from benchmarks.ranking_train import Explain, judging
from usu_captum.ranking import RankingNetwork

MEASURES = {"deletion": False, "insertion": True}


def main() -> None:
    """Measure, print the table and write the JSON."""
    compare(__doc__, "passes", passes, images=400)


def compare(about: str, kind: str, explain: Explain, *, images: int) -> None:
    """Judge maps of reported photographs, and pair each with the explainer's single pass.

    Args:
        about: What the command line says of itself.
        kind: Names the journal and the result.
        explain: Returns the maps, the single pass among them.
        images: How many photographs unless told otherwise.
    """
    case = ask(about, tuple(PHOTOGRAPHS), images=images)
    records = journalled(case, kind, judging(explain))
    summary = summarise([record["metrics"] for record in records], MEASURES)
    print(summary_table(summary))
    write_json(
        case.out or RESULTS / f"ranking_{kind}_{case.stem}.json",
        {
            "environment": environment(),
            "images": len(records),
            "summary": summary,
            "records": records,
        },
    )


def passes(
    subject: Subject, network: RankingNetwork, image: Tensor, target: int
) -> dict[str, Tensor]:
    """Return the maps of a single pass, the explainer's first."""
    return {
        **refined_maps(subject, network, image, target, ()),
        **single_pass_maps(subject, image, target),
    }


if __name__ == "__main__":
    main()
