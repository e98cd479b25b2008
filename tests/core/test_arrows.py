"""Who may import whom, read from the source and seen in a fresh interpreter."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("usu_core", "usu_captum", "usu_gradcam", "usu_cli")
OURS = {*PACKAGES, "benchmarks", "tests"}
ALLOWED = {
    "usu_core": set(),
    "usu_captum": {"usu_core"},
    "usu_gradcam": {"usu_core"},
    "usu_cli": {"usu_core", "usu_captum", "usu_gradcam"},
}
HEAVY = {"captum", "pytorch_grad_cam", "timm", "matplotlib", "skimage", "cv2", "scipy", "tomli_w"}


def imported(source: str, package: str) -> set[str]:
    """Top-level names a module imports, anywhere in it; relative imports are of its own package."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(package if node.level else (node.module or "").partition(".")[0])
    return found


def wrong_arrows(source: str, package: str) -> set[str]:
    return (imported(source, package) & OURS) - ALLOWED[package] - {package}


@pytest.mark.parametrize("package", PACKAGES)
def test_arrows_point_inwards(package: str) -> None:
    files = sorted((ROOT / package).rglob("*.py"))
    assert files or package != "usu_core"
    for path in files:
        wrong = wrong_arrows(path.read_text(encoding="utf-8"), package)
        assert not wrong, f"{path.relative_to(ROOT)} imports {wrong}"


@pytest.mark.parametrize(
    ("source", "package", "wrong"),
    [
        ("import usu_captum", "usu_core", {"usu_captum"}),
        ("def f():\n    from usu_cli._main import main", "usu_core", {"usu_cli"}),
        ("from usu_captum import LayerGradCam", "usu_gradcam", {"usu_captum"}),
        ("import tests.core, benchmarks", "usu_cli", {"tests", "benchmarks"}),
        ("from usu_core import usu\nfrom . import _layers\nimport captum", "usu_captum", set()),
    ],
)
def test_the_arrow_test_can_fail(source: str, package: str, wrong: set[str]) -> None:
    assert wrong_arrows(source, package) == wrong


def modules_after(statement: str) -> set[str]:
    """Names of all modules a fresh interpreter has loaded after a statement."""
    code = f"{statement}\nimport json, sys\nprint(json.dumps(sorted(sys.modules)))"
    result = subprocess.run(  # noqa: S603
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    return set(json.loads(result.stdout.splitlines()[-1]))


@pytest.fixture(scope="module")
def after_core() -> set[str]:
    """What importing the core loads; it leaves torch's global state as it was."""
    ask = "torch.is_grad_enabled(), torch.get_default_dtype(), torch.initial_seed()"
    return modules_after(f"import torch\nbefore = {ask}\nimport usu_core\nassert before == ({ask})")


def heavy(modules: set[str]) -> set[str]:
    return {name for name in HEAVY if name in modules}


def test_importing_the_core_loads_no_heavy_package(after_core: set[str]) -> None:
    assert "usu_core" in after_core
    assert heavy(after_core) == set()
    assert not after_core & (set(PACKAGES) - {"usu_core"})


def test_the_heavy_import_test_can_fail() -> None:
    assert heavy(modules_after("import usu_core, tomli_w")) == {"tomli_w"}


def test_the_core_costs_little_beyond_torch(after_core: set[str]) -> None:
    """Few third-party modules more than torch alone, and none but its own and the library's."""
    extra = after_core - modules_after("import torch")
    foreign = {
        name
        for name in extra
        if name.partition(".")[0] not in sys.stdlib_module_names | {"usu_core", "torch", "numpy"}
    }
    assert foreign == set()
    assert len([name for name in extra if name.startswith("torch.")]) < 40
