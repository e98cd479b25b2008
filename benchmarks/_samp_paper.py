"""What the tables of SAMP's paper say: deletion and insertion, means over 100 images."""

Pair = tuple[float, float]

TABLES: dict[str, tuple[str, ...]] = {
    "table 1, methods": (
        "random",
        "LIME",
        "Grad-CAM",
        "IG",
        "SmoothGrad",
        "DeepLIFT",
        "RISE",
        "Blur IG",
        "Guided IG",
        "SAMP",
        "SAMP++",
    ),
    "table 2, bound and momentum": ("SAMP", "SAMP +MS", "SAMP +IC", "SAMP++"),
    "table 3, bounds": ("SAMP +IC", "bound 1/50", "bound 1/100", "bound 1/200"),
    "table 4, directions": ("deletion path", "insertion path", "SAMP +IC"),
    "table 6, baselines": ("zero + zero", "zero + one", "zero + uniform", "bound 1/50"),
}
"""Title to the maps of each table. "SAMP +IC" has the bound 1/10, "bound 1/50" starts at a blur."""

_METHODS: dict[str, dict[str, Pair]] = {
    "mnist": {
        "LIME": (0.282, 0.597),
        "Grad-CAM": (0.221, 0.715),
        "IG": (-0.038, 0.795),
        "SmoothGrad": (0.003, 0.547),
        "DeepLIFT": (-0.025, 0.791),
        "RISE": (0.059, 0.651),
        "Blur IG": (0.021, 0.804),
        "Guided IG": (-0.041, 0.762),
        "SAMP": (-0.093, 1.074),
        "SAMP++": (-0.137, 1.050),
    },
    "cifar10": {
        "LIME": (0.479, 0.722),
        "Grad-CAM": (0.314, 0.863),
        "IG": (-0.372, 1.452),
        "SmoothGrad": (0.777, 0.517),
        "DeepLIFT": (-0.300, 1.443),
        "RISE": (0.149, 0.904),
        "Blur IG": (-0.107, 1.407),
        "Guided IG": (-0.276, 1.209),
        "SAMP": (-0.733, 1.458),
        "SAMP++": (-0.899, 1.514),
    },
    "imagenet": {
        "LIME": (0.312, 0.898),
        "Grad-CAM": (0.313, 0.897),
        "IG": (0.197, 0.725),
        "SmoothGrad": (0.300, 0.605),
        "DeepLIFT": (0.216, 0.688),
        "RISE": (0.282, 0.849),
        "Blur IG": (0.261, 0.712),
        "Guided IG": (0.167, 0.699),
        "SAMP": (0.154, 0.984),
        "SAMP +MS": (0.144, 1.088),
        "SAMP +IC": (0.159, 1.056),
        "SAMP++": (0.145, 1.116),
        "bound 1/50": (0.218, 1.130),
        "bound 1/100": (0.249, 1.031),
        "bound 1/200": (0.279, 0.939),
        "deletion path": (0.108, 0.659),
        "insertion path": (0.199, 1.330),
        "zero + zero": (0.254, 0.779),
        "zero + one": (0.272, 0.743),
        "zero + uniform": (0.257, 0.681),
    },
}


def value(name: str, data: str) -> Pair | None:
    """Return the paper's deletion and insertion of a map on a set, if it prints them."""
    return _METHODS[data].get(name)
