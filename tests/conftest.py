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
        "def logits(): return nn.Sequential(net(5))\n"
        "def probabilities(): return nn.Sequential(net(5), nn.Softmax(1))\n"
        "def single(): return net(1)\n"
        "def nothing():\n"
        "    model = nn.Sequential(net(5), nn.Linear(5, 5))\n"
        "    model[1].weight.data.fill_(float('nan'))\n"
        "    return model\n"
        "def grey(): return nn.Sequential(nn.Conv2d(1, 4, 3), nn.AdaptiveAvgPool2d(1),\n"
        "                                 nn.Flatten(), nn.Linear(4, 2))\n"
        "class Pair(nn.Module):\n"
        "    def forward(self, x): return x, 2 * x\n"
        "class Parts(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.conv, self.pair, self.idle = nn.Conv2d(3, 4, 9, 8), Pair(), nn.ReLU()\n"
        "    def forward(self, x): return sum(self.pair(self.conv(x))).mean((2, 3))\n"
        "class Darkness(Parts):\n"
        "    def forward(self, x):\n"
        "        if x.any(): raise RuntimeError('it is light')\n"
        "        return super().forward(x)\n"
        "class OneByOne(Parts):\n"
        "    def forward(self, x):\n"
        "        if len(x) > 1: raise RuntimeError('one at a time')\n"
        "        return super().forward(x)\n"
        "class Caching(Parts):\n"
        "    factor = None\n"
        "    def forward(self, x):\n"
        "        if self.factor is None: self.factor = torch.ones(1)\n"
        "        return super().forward(x) * self.factor\n"
        "class Renewing(Caching):\n"
        "    def forward(self, x):\n"
        "        if not torch.is_grad_enabled(): self.factor = None\n"
        "        return super().forward(x)\n"
        "def wrapped():\n"
        "    from torchvision.transforms import Grayscale\n"
        "    return nn.Sequential(Grayscale(), grey())\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "odd_models", raising=False)
