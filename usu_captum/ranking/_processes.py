"""The processes that share a run, by accelerate."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


def open_accelerator(*, trainable: bool) -> Any:
    """Return this process's accelerator, which leaves precision to the run.

    Args:
        trainable: Whether the encoder is trained, of which not every weight need have a gradient.

    Raises:
        ValueError: If the process has an accelerator of another precision already, which cannot be
            changed any more.
    """
    from accelerate import Accelerator, DistributedDataParallelKwargs
    from accelerate.state import AcceleratorState, is_initialized

    precision = AcceleratorState().mixed_precision if is_initialized() else "no"
    if precision != "no":
        raise ValueError(
            f'accelerate must run with mixed_precision="no", got an Accelerator of {precision!r} '
            "in this process already, which would wrap the network. Try Accelerator() for yours, "
            'and TrainingConfig(precision="bf16").'
        )
    handlers = [DistributedDataParallelKwargs(find_unused_parameters=True)] if trainable else []
    # Autocast is entered where it is wanted, not wrapped around the network.
    return Accelerator(mixed_precision="no", kwargs_handlers=handlers)


@contextmanager
def accelerate_as_it_was() -> Iterator[None]:
    """Let accelerate forget, on any exit, the settings it keeps for the process.

    Those it had before stay, and so does the group of several processes, for the next run.
    """
    from accelerate.state import AcceleratorState, GradientState, PartialState, is_initialized

    had_settings, had_process = is_initialized(), bool(PartialState._shared_state)
    try:
        yield
    finally:
        if not had_settings and is_initialized():
            alone = PartialState().num_processes == 1
            AcceleratorState._reset_state(reset_partial_state=alone and not had_process)
            GradientState._reset_state()


def gather_names(accelerator: Any, names: list[str]) -> list[str]:
    """Return the names of all processes, each once and in one order on all of them."""
    from accelerate.utils import gather_object

    return sorted(set(gather_object(names))) if accelerator.num_processes > 1 else names
