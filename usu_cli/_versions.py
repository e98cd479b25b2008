"""The versions that a result depends on."""

from importlib.metadata import version

import usu_core


def versions() -> dict[str, str]:
    """Return the version of this project and of what it computes with."""
    packages = ("torch", "torchvision", "timm", "captum", "scikit-image", "numpy")
    return {"usu-attribution": usu_core.__version__, **{name: version(name) for name in packages}}
