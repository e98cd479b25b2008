"""What lies inside Captum's wrappers."""

import copy
from typing import Any

from captum.attr import NoiseTunnel
from torch import nn


def innermost(method: Any) -> Any:
    """Return the attribution method that a chain of noise tunnels runs."""
    while isinstance(method, NoiseTunnel):
        method = method.attribution_method
    return method


def with_innermost(method: Any, replacement: Any) -> Any:
    """Return a copy of a chain of noise tunnels that runs another method; nothing is changed."""
    if not isinstance(method, NoiseTunnel):
        return replacement
    result = copy.copy(method)
    result.attribution_method = with_innermost(method.attribution_method, replacement)
    return result


def uncompiled(method: Any) -> Any:
    """Return a copy of a method that runs the model behind ``torch.compile``, if there is one.

    Captum's hooks do not survive compilation: depending on the model they are ignored, or fail in
    the compiler. Scores still come from the compiled model.
    """
    inner = innermost(method)
    compiled = inner.forward_func
    plain = getattr(compiled, "_orig_mod", None)
    if plain is None and not isinstance(compiled, nn.Module):
        plain = getattr(compiled, "_torchdynamo_orig_callable", None)
    if plain is None:
        return method
    replacement = copy.copy(inner)
    for name, value in vars(inner).items():
        if value is compiled:
            setattr(replacement, name, plain)
    return with_innermost(method, replacement)
