"""A CAM's constructor, whatever its package calls the arguments."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pytorch_grad_cam.base_cam import BaseCAM
from torch import Tensor, nn

_RESHAPE = "reshape_transform"
_LIBRARY = ("model", "target_layers", _RESHAPE)


@dataclass(frozen=True)
class Construction:
    """The arguments of one CAM, of which the first two are its model and its layers.

    Attributes:
        bound: The arguments, by the constructor's own names.
    """

    bound: inspect.BoundArguments

    @classmethod
    def bind(
        cls, init: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> "Construction":
        """Give arguments their names.

        Raises:
            TypeError: If one is missing, or there is no such argument.
        """
        parameters = list(inspect.signature(init).parameters.values())
        if parameters[0].kind is inspect.Parameter.VAR_POSITIONAL:  # It passes the library's on.
            library = inspect.signature(BaseCAM.__init__).parameters
            parameters = [*(library[name] for name in _LIBRARY), *parameters]
        return cls(inspect.Signature(parameters).bind(*args, **kwargs))

    @property
    def model(self) -> Any:
        """The user's model."""
        return self.bound.arguments[self._name(0)]

    @property
    def reshape_transform(self) -> Any:
        """The user's reshape transform, if any."""
        return {**self.bound.arguments, **self.bound.kwargs}.get(_RESHAPE)

    def fill(self, model: nn.Module, reshape: Callable[[Tensor], Tensor] | None) -> None:
        """Replace the model, and pass a reshape transform where there is an argument for it."""
        self.bound.arguments[self._name(0)] = model
        if reshape is not None and _RESHAPE in self.bound.signature.parameters:
            self.bound.arguments[_RESHAPE] = reshape

    def check_layers(self, may_be_empty: bool) -> None:
        """Raise unless the layers are a list, and one that names a layer if it has to.

        Raises:
            TypeError: If they are a module that holds no others.
            ValueError: If there are none.
        """
        name = self._name(1)
        check_layers(name, self.bound.arguments[name], may_be_empty)

    def _name(self, index: int) -> str:
        return list(self.bound.signature.parameters)[index]


def check_layers(name: str, layers: Any, may_be_empty: bool = False) -> None:
    """Raise unless layers are a list, and one that names a layer if it has to."""
    if isinstance(layers, nn.Module) and not hasattr(layers, "__iter__"):
        raise TypeError(
            f"{name} must be a list of modules, got a {type(layers).__name__}. Try {name}=[layer]."
        )
    if len(layers) == 0 and not may_be_empty:
        raise ValueError(f"{name} must name at least one layer, got none.")
