"""Names of the last release that are refused with the new ones; this file goes with the next release."""

import sys
from types import ModuleType
from typing import Any, NoReturn


class _Called(ModuleType):
    """A module that was a list when it was called."""

    __now__: str

    def __call__(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise TypeError(f"{self.__name__} is a module; its list is {self.__now__} now")


def retire_call(module: str, now: str) -> None:
    """Let calling ``module`` name what lists its contents ``now``."""
    sys.modules[module].__class__ = _Called
    sys.modules[module].__now__ = now  # type: ignore[attr-defined]
