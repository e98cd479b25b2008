"""Upsamplers to TOML and back."""

import tomllib
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from usu_core import (
    IWMR,
    USU,
    GivenLabels,
    GradientScorer,
    Interpolation,
    MaskedPerturbation,
    Quadtree,
    Refinement,
    ScoreMapOnly,
    ShapleyRegression,
    Slic,
    available,
    from_dict,
    from_toml,
    resolve,
    to_dict,
    to_toml,
)

POSITIVE = st.floats(1e-6, 1e6)
FILLS, OUTPUTS = (
    st.sampled_from(["blur", "mean", "zero"]),
    st.sampled_from(["probability", "logit", "log-odds"]),
)
SEGMENTERS = st.one_of(
    st.builds(
        Slic,
        segments=st.sets(st.integers(1, 999), min_size=1, max_size=4).map(
            lambda s: tuple(sorted(s))
        ),
        compactness=POSITIVE,
        sigma=st.floats(0, 9),
    ),
    st.sampled_from([Quadtree((1, 2, 4)), Quadtree((3,)), Quadtree((5, 15))]),
)
SCORERS = st.one_of(
    st.builds(
        MaskedPerturbation,
        mode=st.sampled_from(["drop", "keep", "both", "coalitions"]),
        fill=FILLS,
        output=OUTPUTS,
        chunk_size=st.integers(1, 999),
        samples=st.integers(2, 999),
        seed=st.integers(0, 9),
    ),
    st.builds(GradientScorer, fill=FILLS, output=OUTPUTS),
    st.builds(ShapleyRegression, samples=st.integers(2, 999), fill=FILLS, seed=st.integers(0, 9)),
)
REFINEMENTS = st.builds(
    Refinement,
    mixing=st.sampled_from(["average", "segment", "pixel"]),
    kernel=st.sampled_from(["range", "diagonal"]),
    padding=st.sampled_from(["edge", "zero"]),
    norm=st.sampled_from(["rms", "frobenius"]),
    scale=st.sampled_from(["peak", "rank"]),
    threshold=POSITIVE,
    centre=POSITIVE,
    width=POSITIVE,
    tolerance=POSITIVE,
)
COMMON = {
    "segmenter": SEGMENTERS,
    "scorer": SCORERS,
    "refinement": REFINEMENTS,
    "convention": st.sampled_from(["density", "total"]),
}
OPERATOR = {
    "temperature": POSITIVE,
    "potential": st.sampled_from(["tensor", "power", "log-odds"]),
    "negative": st.sampled_from(["same", "invert"]),
}
UPSAMPLERS = st.one_of(
    st.builds(Interpolation, st.sampled_from(["nearest", "bilinear", "lanczos"])),
    st.builds(ScoreMapOnly, **COMMON),
    st.builds(USU, **COMMON, **OPERATOR),
    st.builds(
        IWMR,
        **COMMON,
        **OPERATOR,
        prior=st.sampled_from(["uniform", "mass"]),
        importance=st.sampled_from(["max", "mean"]),
        importance_temperature=POSITIVE,
    ),
)


@pytest.mark.parametrize("name", available())
def test_every_name_survives_the_trip(name: str) -> None:
    upsampler = resolve(name)
    back = from_toml(to_toml(upsampler))
    assert back == upsampler
    assert type(back) is type(upsampler)
    assert hash(back) == hash(upsampler)


@given(UPSAMPLERS)
def test_every_configuration_survives_the_trip(upsampler: Any) -> None:
    text = to_toml(upsampler)
    assert from_toml(text) == upsampler
    assert tomllib.loads(text) == to_dict(upsampler)
    assert from_dict(to_dict(upsampler)) == upsampler


def test_the_round_trip_can_fail() -> None:
    assert from_toml(to_toml(USU(temperature=0.25))) != USU(temperature=0.26)


def test_missing_fields_have_their_defaults() -> None:
    text = 'type = "USU"\n[segmenter]\ntype = "Slic"\nsegments = [3, 9]'
    assert from_toml(text) == USU(segmenter=Slic(segments=(3, 9)))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('type = "US"', "type must be one of .*, got 'US'. Did you mean 'USU'"),
        ("temperature = 1.0", "type must be one of .*, got None"),
        ('type = "USU"\ntemprature = 1.0', "field of USU must be one of .* mean 'temperature'"),
        ('type = "USU"\ntemperature = -1.0', "temperature must be finite and above 0, got -1.0"),
        ('type = "Slic"', "text must describe an upsampler, got a Slic"),
        ('type = "USU', "Unterminated string"),
    ],
)
def test_texts_that_describe_no_upsampler(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        from_toml(text)


@pytest.mark.parametrize(
    ("upsampler", "message"),
    [
        (USU(potential=lambda s: s), "USU.potential must be a plain value .* got function"),
        (
            USU(scorer=MaskedPerturbation(fill=torch.zeros(1))),
            "MaskedPerturbation.fill must be a plain value .* got Tensor",
        ),
        (USU(segmenter=GivenLabels([torch.tensor([0])])), "GivenLabels"),
    ],
)
def test_tensors_and_functions_are_described_but_not_written(upsampler: Any, message: str) -> None:
    assert to_dict(upsampler)["type"] == "USU"
    with pytest.raises(ValueError, match=message):
        to_toml(upsampler)
