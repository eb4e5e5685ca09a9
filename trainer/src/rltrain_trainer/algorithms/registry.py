"""Functions by name: those that come with the trainer, and those that a user's module adds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TypeVar

Function = TypeVar("Function", bound=Callable[..., object])


class Registry(Mapping[str, Function]):
    """The functions that one field of the configuration can name.

    field: dotted path of that field, for messages.
    """

    def __init__(self, field: str) -> None:
        self._field = field
        self._functions: dict[str, Function] = {}

    def register(self, name: str) -> Callable[[Function], Function]:
        """A decorator that adds a function under `name`. Raises ValueError when the name is taken."""

        def add(function: Function) -> Function:
            if name in self._functions:
                raise ValueError(f"{self._field}: {name} is registered already; choose another name")
            self._functions[name] = function
            return function

        return add

    def named(self, name: str) -> Function:
        """The function of that name. Raises ValueError, naming what there is."""
        if name not in self._functions:
            raise ValueError(
                f"{self._field}: {name} is not one of {', '.join(sorted(self._functions))}; a module of "
                "spec.runtime.modules can register more"
            )
        return self._functions[name]

    def __getitem__(self, name: str) -> Function:
        return self._functions[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._functions)

    def __len__(self) -> int:
        return len(self._functions)
