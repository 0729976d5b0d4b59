"""Results of the modules before the penalized layers, recorded in one pass and reused later.

The network after the layers is rerun on a part of a batch by calling the model again. Modules that
finished before the first layer began are not computed a second time: they return the part's rows of
their recorded outputs, with the graph of the first pass. Nothing before the layers is thus computed
twice, and every parameter that affects the loss around the layers, through a skip connection, a
second tower or a gate, gets its gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from famseg.flatness._tracing._arguments import mapped
from famseg.flatness._tracing._checkpoint import computed_again
from famseg.flatness._tracing._operator import Layer
from famseg.flatness._tracing._samples import leaves
from famseg.flatness._tracing._state import RandomState, random_state, set_random_state

_STUBBED = ("_call_impl", "_compiled_call_impl")


class Finished(NamedTuple):
    """A call of a module that finished before the first penalized layer began.

    Attributes:
        name: Name of the module.
        held: Paths of the returned tensors that hold one row per sample.
        changed: Whether its output was changed in place later, so that a copy must be kept.
    """

    name: str
    held: frozenset[str]
    changed: bool


@dataclass
class Call:
    """The output of a module, with the versions of its tensors at that time.

    Attributes:
        name: Name of the module.
        output: The output.
        random: Random state after the call, if requested.
    """

    name: str
    output: object
    random: RandomState | None = None
    versions: tuple[int, ...] = field(init=False)

    def __post_init__(self) -> None:
        self.versions = self._versions()

    @property
    def intact(self) -> bool:
        """Whether the output has not been changed in place since."""
        return self.versions == self._versions()

    def _versions(self) -> tuple[int, ...]:
        return tuple(tensor._version for _, tensor in leaves(self.output, self.name))


def bodies(model: nn.Module, layers: Mapping[str, Layer]) -> dict[str, nn.Module]:
    """Return the modules that neither are nor contain any of the layers, outside compiled code."""
    own = {id(layer) for layer in layers.values()}
    found: dict[str, nn.Module] = {}

    def visit(name: str, module: nn.Module) -> None:
        if not own & {id(one) for one in module.modules()}:
            found[name] = module
        compiled = hasattr(module, "_orig_mod") or module._compiled_call_impl is not None
        if id(module) in own or compiled:
            return
        for key, child in module.named_children():
            visit(f"{name}.{key}" if name else key, child)

    visit("", model)
    return found


@contextmanager
def finished_noted(model: nn.Module, layers: Mapping[str, Layer]) -> Iterator[list[Call]]:
    """Collect the outermost module calls that finish before the first of the layers begins.

    Calls that may be in the same checkpoint as a layer are omitted, because the checkpoint
    recomputes them during backward, when outputs are no longer replaced.
    """
    calls: list[Call] = []
    open_calls: list[nn.Module] = []
    begun, certain = False, -1

    def begin(*_: object) -> None:
        nonlocal begun
        begun = True

    def enter(module: nn.Module, _: object) -> None:
        if not begun:
            open_calls.append(module)

    def leave(module: nn.Module, name: str, output: object) -> None:
        if begun or not open_calls:
            return
        while open_calls.pop() is not module:  # an inner call that raised an exception
            pass
        if not open_calls:
            calls.append(Call(name, output))

    def leaving(name: str) -> Callable[..., None]:
        return lambda module, _, output: leave(module, name, output)

    def checkpoint() -> Callable[[], AbstractContextManager[None]]:
        nonlocal certain
        if not begun and not open_calls and certain < 0:
            certain = len(calls)
        return nullcontext

    with ExitStack() as stack:
        stack.enter_context(computed_again(checkpoint))
        for layer in layers.values():
            stack.callback(layer.register_forward_pre_hook(begin).remove)
        for name, module in bodies(model, layers).items():
            stack.callback(module.register_forward_pre_hook(enter).remove)
            stack.callback(module.register_forward_hook(leaving(name)).remove)
        yield calls
        if certain >= 0:
            del calls[certain:]


@contextmanager
def kept(
    model: nn.Module, plan: Sequence[Finished], *, draws_on: torch.device | None
) -> Iterator[list[Call]]:
    """Collect the outputs of the calls in a plan; empty if they cannot be reused.

    Args:
        model: The network.
        plan: The calls.
        draws_on: Device of their random numbers, to record the random state after each call for a
            pass that repeats them; ``None`` if there is no such pass.
    """
    calls: list[Call] = []
    left = _by_module(model, plan)
    inside = 0
    certain = True

    def enter(*_: object) -> None:
        nonlocal inside
        inside += 1

    def checkpoint() -> Callable[[], AbstractContextManager[None]]:
        nonlocal certain
        # A checkpoint that may contain both calls of the plan and a layer, as in `finished_noted`.
        certain &= inside > 0 or not any(left.values())
        return nullcontext

    def note(module: nn.Module, _: object, output: object) -> None:
        nonlocal inside
        inside -= 1
        if not left[module]:
            return  # a later call, after the layers
        one = left[module].pop(0)
        if one.changed:
            output = mapped(output, lambda _, tensor: tensor.clone(), "")
        state = None if draws_on is None else random_state(draws_on)
        calls.append(Call(one.name, output, state))

    with ExitStack() as stack:
        if left:
            stack.enter_context(computed_again(checkpoint))
        for module in left:
            stack.callback(module.register_forward_pre_hook(enter).remove)
            stack.callback(module.register_forward_hook(note).remove)
        yield calls
        if not certain:
            calls.clear()


@contextmanager
def given_back(
    model: nn.Module, plan: Sequence[Finished], calls: Sequence[Call], part: Tensor | None
) -> Iterator[None]:
    """Make the modules of a plan return their recorded outputs, or a part's rows of these.

    Args:
        model: The network.
        plan: The calls.
        calls: Their outputs, in the same order.
        part: Indices of the samples in the part; ``None`` for all.
    """
    left = _by_module(model, plan)
    outputs: dict[nn.Module, list[Call]] = {module: [] for module in left}
    for one, call in zip(plan, calls, strict=True):
        outputs[model.get_submodule(one.name)].append(call)

    def rows(held: frozenset[str], output: object) -> object:
        if part is None:
            return output

        def cut(path: str, tensor: Tensor) -> Tensor:
            return tensor[part.to(tensor.device)] if path in held else tensor

        return mapped(output, cut, "")

    def stub(module: nn.Module) -> Callable[..., Any]:
        original: Callable[..., Any] = module._call_impl

        def call(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
            if not left[module]:
                return original(*args, **kwargs)
            one, call = left[module].pop(0), outputs[module].pop(0)
            if call.random is not None:
                set_random_state(call.random)
            return rows(one.held, call.output)

        return call

    with ExitStack() as stack:
        for module in left:
            for name in _STUBBED:
                # Set only on the instance, bypassing nn.Module.__setattr__.
                stack.callback(_put_back, module, name, module.__dict__.get(name))
            module.__dict__.update(dict.fromkeys(_STUBBED, stub(module)))
        yield


def _by_module(model: nn.Module, plan: Sequence[Finished]) -> dict[nn.Module, list[Finished]]:
    found: dict[nn.Module, list[Finished]] = {}
    for one in plan:
        found.setdefault(model.get_submodule(one.name), []).append(one)
    return found


def _put_back(module: nn.Module, name: str, value: object) -> None:
    if value is None:
        module.__dict__.pop(name, None)
    else:
        module.__dict__[name] = value
