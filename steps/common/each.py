"""A function called with each of some items, here or by an engine in other processes."""

from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

Item = TypeVar("Item")
Answer = TypeVar("Answer")


class Each(Protocol):
    """Calls a function with each item. Both are pickled where that is another process."""

    def __call__(self, call: Callable[[Item], Answer], items: Sequence[Item]) -> list[Answer]:
        """The answers in the order of the items; raises the UserError of the first item that has one."""
        ...


def here(call: Callable[[Item], Answer], items: Sequence[Item]) -> list[Answer]:
    """One item after another, in this process."""
    return [call(item) for item in items]
