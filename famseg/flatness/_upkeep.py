"""When to look again at a model and a loss that a plan was made for."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence

from torch import Tensor, nn

LONGEST = 128
"""Penalized steps after which a plan is checked again at the latest: it is never wrong for more."""
_FIRST = 8

_OWN = frozenset(nn.Module().__dict__)
_PLAIN = (int, float, bool, str, bytes, complex, type(None))

Marks = dict[tuple[int, str], Hashable]


class Upkeep:
    """Says when the facts that a plan rests on are to be found out anew.

    That is after 8 penalized steps, then after 16 more, and so on, at most `LONGEST` apart; and at
    the next one after an attribute of the model, of one of its modules or of the loss was changed
    between two steps, as a schedule or a user does. What changes in every pass (counters, lists,
    tensors that are kept) does not count as such a change, nor what changed before and left the
    plan as it was: whatever these do to the loss is found at the intervals.

    Args:
        parts: The model and the loss, as they are when the plan is made.
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
        """Note that the facts were found out anew, and whether the plan stays the same."""
        if same:
            self._idle |= self._changed
        self._gap = min(2 * self._gap, LONGEST)
        self._due_at = self._steps + self._gap

    def stepped(self, parts: Sequence[object]) -> None:
        """Note a penalized step."""
        self._steps += 1
        self._marks = marks(parts)
        self._idle |= _differing(self._before, self._marks)

    def counted(self) -> bool:
        """Note a penalized step that needs no look at attributes; return whether a check is due."""
        self._steps += 1
        return self._steps >= self._due_at

    def try_again(self) -> None:
        """Let a plan that a batch could not settle be checked soon, and ever more rarely."""
        self._tries += 1
        self._due_at = self._steps + min(2 ** (self._tries - 1), LONGEST)

    def doubt(self) -> None:
        """Let the plan be checked before the next penalized step."""
        self._due_at = self._steps


def marks(parts: Iterable[object]) -> Marks:
    """Return what shows that a model or a loss was changed: attributes by value or by identity."""
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
        return value if value == value else "nan"  # NaN differs from itself
    if isinstance(value, tuple) and all(isinstance(item, _PLAIN) for item in value):
        return value
    if isinstance(value, Tensor):  # comparing its numbers would wait for the device
        return id(value)
    return id(value), len(value) if isinstance(value, list | dict | set) else 0
