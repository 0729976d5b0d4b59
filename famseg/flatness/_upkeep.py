"""When to check a plan again for its model and loss."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence

from torch import Tensor, nn

LONGEST = 128
"""Largest number of penalized steps between two checks of a plan."""
_FIRST = 8

_OWN = frozenset(nn.Module().__dict__)
_PLAIN = (int, float, bool, str, bytes, complex, type(None))

Marks = dict[tuple[int, str], Hashable]


class Upkeep:
    """Decides when to check the facts on which a plan is based.

    A check is due after 8 penalized steps, then after 16 more, and so on, at intervals of at most
    `LONGEST`. It is also due at the next step after an attribute of the model, of one of its
    modules or of the loss was changed between two steps, such as by a schedule or a user.
    Attributes that change in every pass (counters, lists, stored tensors) do not count, nor do
    those whose earlier changes did not affect the plan; their effects are found at the regular
    checks.

    Args:
        parts: The model and the loss at the time the plan is made.
    """

    def __init__(self, parts: Sequence[object] = ()) -> None:
        self._steps, self._due_at, self._gap = 0, _FIRST, _FIRST
        self._tries = 0
        self._marks: Marks | None = None
        self._before: Marks = marks(parts)
        self._changed: set[tuple[int, str]] = set()
        self._idle: set[tuple[int, str]] = set()

    def due(self, parts: Sequence[object]) -> bool:
        """Return whether the plan must be checked before the next penalized step.

        Args:
            parts: The model and the loss.
        """
        self._before = marks(parts)
        if self._marks is not None:
            self._changed = _differing(self._before, self._marks) - self._idle
        return bool(self._changed) or self._steps >= self._due_at

    def checked(self, *, same: bool) -> None:
        """Record that the facts were checked, and whether the plan is unchanged."""
        if same:
            self._idle |= self._changed
        self._gap = min(2 * self._gap, LONGEST)
        self._due_at = self._steps + self._gap

    def stepped(self, parts: Sequence[object]) -> None:
        """Record a penalized step."""
        self._steps += 1
        self._marks = marks(parts)
        self._idle |= _differing(self._before, self._marks)

    def counted(self) -> bool:
        """Record a penalized step without comparing attributes; return whether a check is due."""
        self._steps += 1
        return self._steps >= self._due_at

    def try_again(self) -> None:
        """Schedule another check, at growing intervals, if a batch did not suffice for a plan."""
        self._tries += 1
        self._due_at = self._steps + min(2 ** (self._tries - 1), LONGEST)

    def doubt(self) -> None:
        """Schedule a check before the next penalized step."""
        self._due_at = self._steps


def marks(parts: Iterable[object]) -> Marks:
    """Return attributes, by value or identity, whose changes reveal a changed model or loss."""
    found: Marks = {}
    for part in parts:
        modules = part.modules() if isinstance(part, nn.Module) else (part,)
        for module in modules:
            attributes = getattr(module, "__dict__", None)
            if not isinstance(attributes, dict):
                continue
            for name, value in attributes.items():
                if name not in _OWN or name == "training":
                    found[id(module), name] = _mark(value)
    return found


def _differing(one: Marks, other: Marks) -> set[tuple[int, str]]:
    return {key for key in one.keys() | other.keys() if one.get(key) != other.get(key)}


def _mark(value: object) -> Hashable:
    if isinstance(value, _PLAIN):
        return value if value == value else "nan"  # NaN is not equal to itself
    if isinstance(value, tuple) and all(isinstance(item, _PLAIN) for item in value):
        return value
    if isinstance(value, Tensor):  # comparing values would synchronize with the device
        return id(value)
    return id(value), len(value) if isinstance(value, list | dict | set) else 0
