"""How a Captum class comes to accept ``upsampler=``: one decorator for all of them."""

from collections.abc import Callable
from inspect import Parameter, Signature, signature
from typing import Any, TypeVar

from captum.log import log_usage

from usu_captum._models import keeping_gradient_flags
from usu_captum._options import ARGUMENTS, PARAMETERS, Options, split_options

Attribute = Callable[..., Any]
"""An ``attribute`` method as a function: the object, its inputs, Captum's arguments by name."""

Upsample = Callable[[Any, Attribute, Any, dict[str, Any], Options], Any]
"""Runs Captum and upsamples: the object, Captum's method, inputs, arguments and options."""

Class = TypeVar("Class", bound=type)


def unlogged(attribute: Any) -> Attribute:
    """Return the function inside Captum's usage log, as Captum's own internal calls use it."""
    inner: Attribute = getattr(attribute, "__wrapped__", attribute)
    return inner


def accepts_upsampler(
    upsample: Upsample, *more: Parameter, keywords: tuple[Parameter, ...] = PARAMETERS
) -> Callable[[Class], Class]:
    """Give a subclass of a Captum class an ``attribute`` method with this package's keywords.

    The method has the signature of the installed Captum's plus the keywords, so it follows what
    Captum versions differ in. Without an upsampler, Captum's own function runs and nothing else.

    Args:
        upsample: What happens when there is an upsampler.
        more: Parameters that Captum's method lacks and the score needs.
        keywords: The keywords to add, if not all.
    """

    def decorate(cls: Class) -> Class:
        base = cls.__mro__[1]
        method = extended(base.__dict__["attribute"], upsample, *more, keywords=keywords)
        method.__qualname__ = f"{cls.__qualname__}.attribute"
        method.__module__ = cls.__module__
        method.__doc__ = (
            f"Attribute as :meth:`captum.attr.{base.__name__}.attribute` does, and upsample if "
            f"asked to.\n\nCaptum's arguments come first, unchanged; these follow by keyword.\n\n"
            f"{ARGUMENTS}\n"
        )
        cls.attribute = log_usage(part_of_slo=True)(method)  # type: ignore[attr-defined]
        return cls

    return decorate


def extended(
    original: Any,
    upsample: Upsample,
    *more: Parameter,
    keywords: tuple[Parameter, ...] = PARAMETERS,
) -> Attribute:
    """Return a Captum ``attribute`` function that takes this package's keywords as well."""
    captum = unlogged(original)
    its = signature(captum)
    full = _with_keywords(its, (*more, *keywords))
    extra = {parameter.name for parameter in more}

    def attribute(*args: Any, **kwargs: Any) -> Any:
        # Binding names every argument, and refuses unknown ones as Python would.
        bound = full.bind(*args, **kwargs)
        method, inputs, *_ = bound.args
        options, arguments = split_options(_by_name(bound.arguments, full))
        if options.upsampler is None:
            return captum(method, inputs, **{k: v for k, v in arguments.items() if k not in extra})
        with keeping_gradient_flags(inputs):
            return upsample(method, captum, inputs, arguments, options)

    attribute.__signature__ = full  # type: ignore[attr-defined]
    attribute.__name__ = "attribute"
    return attribute


def _by_name(arguments: dict[str, Any], of: Signature) -> dict[str, Any]:
    """Return bound arguments by name, without the object and its inputs."""
    names = list(of.parameters)[:2]
    result: dict[str, Any] = {}
    for name, value in arguments.items():
        if of.parameters[name].kind is Parameter.VAR_KEYWORD:
            result |= value
        elif name not in names:
            result[name] = value
    return result


def _with_keywords(its: Signature, added: tuple[Parameter, ...]) -> Signature:
    """Add keyword-only parameters before a trailing ``**kwargs``."""
    present = list(its.parameters.values())
    tail = [p for p in present if p.kind is Parameter.VAR_KEYWORD]
    head = present[: len(present) - len(tail)]
    new = [p.replace(kind=Parameter.KEYWORD_ONLY) for p in added if p.name not in its.parameters]
    return its.replace(parameters=[*head, *new, *tail])
