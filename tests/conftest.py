"""What the tests of several commands share."""

import sys
from pathlib import Path

import pytest


@pytest.fixture
def odd_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put a module with unusual models into the working folder."""
    (tmp_path / "odd_models.py").write_text(
        "import timm, torch\n"
        "from torch import nn\n"
        "def net(outputs):\n"
        "    torch.manual_seed(0)\n"
        "    return timm.create_model('test_resnet', num_classes=outputs)\n"
        "def logits(): return net(5)\n"
        "def probabilities(): return nn.Sequential(net(5), nn.Softmax(1))\n"
        "def single(): return net(1)\n"
        "def nothing():\n"
        "    model = nn.Sequential(net(5), nn.Linear(5, 5))\n"
        "    model[1].weight.data.fill_(float('nan'))\n"
        "    return model\n"
        "def grey(): return nn.Sequential(nn.Conv2d(1, 4, 3), nn.AdaptiveAvgPool2d(1),\n"
        "                                 nn.Flatten(), nn.Linear(4, 2))\n"
        "def wrapped():\n"
        "    from torchvision.transforms import Grayscale\n"
        "    return nn.Sequential(Grayscale(), grey())\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "odd_models", raising=False)
