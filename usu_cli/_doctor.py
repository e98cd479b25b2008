"""``usu doctor``: what is installed, what is missing, and whether the basics work here."""

import os
import platform
import re
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, requires, version

import torch
from torch import nn

import usu_core
from usu_captum import LayerGradCam
from usu_cli._errors import UsageError, one_line
from usu_cli._table import text_table

_REQUIREMENT = re.compile(r"""([\w.-]+)[^;]*(?:;.*extra == ["'](\w+)["'])?""")


def run_doctor() -> None:
    """Print versions, extras and checks.

    Raises:
        UsageError: If a check fails, or a package is missing that is always needed.
    """
    rows = [("usu-attribution", usu_core.__version__), ("Python", platform.python_version())]
    needed = _requirements()
    always = needed.pop("", [])
    rows += [(name, _version(name) or "missing") for name in always]
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    rows += [
        ("GPU", gpu),
        ("CPU cores", str(os.cpu_count())),
        ("threads of torch", str(torch.get_num_threads())),
    ]
    for extra, names in needed.items():
        missing = [name for name in names if _version(name) is None]
        # By their own names, which pip finds from an installation and from a clone alike.
        install = f"missing: pip install {' '.join(missing)}"
        rows.append((f"extra {extra}", install if missing else "installed"))
    failed = []
    for name, check in _CHECKS.items():
        try:
            check()
            rows.append((name, "works"))
        except Exception as error:  # whatever is wrong with this machine is what was asked for
            rows.append((name, f"fails: {one_line(error)}"))
            failed.append(name)
    print(text_table(("what", "state"), rows, left=True))
    absent = [name for name in always if _version(name) is None]
    faults = [f"missing: pip install {' '.join(absent)}"] if absent else []
    if failed:
        faults.append(f"{len(failed)} of {len(_CHECKS)} checks failed: {', '.join(failed)}")
    if faults:
        raise UsageError("; ".join(faults))


def _requirements() -> dict[str, list[str]]:
    """Return the packages that this one says it needs, by extra; under "" those without one.

    Raises:
        UsageError: If it is not installed, and so says nothing.
    """
    try:
        said = requires("usu-attribution") or []
    except PackageNotFoundError:
        raise UsageError("usu-attribution is not installed; try pip install -e .") from None
    found: dict[str, list[str]] = {}
    for match in filter(None, map(_REQUIREMENT.match, said)):
        found.setdefault(match[2] or "", []).append(match[1])
    return found


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _check_mass() -> None:
    """Redistribution keeps the mass of every cell."""
    cells, scores = torch.rand(2, 7, 7), torch.rand(2, 224, 224)
    fine = usu_core.usu(cells, scores)
    kept = usu_core.CellGrid.even((7, 7), (224, 224)).mean(fine)
    torch.testing.assert_close(kept, cells)


def _check_grad_cam() -> None:
    """Grad-CAM of a small network, redistributed, from image to map."""
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3, stride=8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    ).eval()
    fine = LayerGradCam(net, net[1]).attribute(torch.rand(1, 3, 64, 64), 0, upsampler="usu")
    if fine.shape != (1, 1, 64, 64) or not bool(fine.isfinite().all()):
        raise RuntimeError(f"the map has shape {tuple(fine.shape)} or values that are not finite")


def _check_plug_ins() -> None:
    """Upsamplers that other packages bring can be loaded."""
    for name in usu_core.available():
        usu_core.resolve(name)


_CHECKS: dict[str, Callable[[], None]] = {
    "mass of cells": _check_mass,
    "Grad-CAM with usu": _check_grad_cam,
    "upsamplers by name": _check_plug_ins,
}
