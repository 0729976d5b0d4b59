"""Observation of the penalized layers during a forward pass."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node

from famseg.flatness._errors import LayerError
from famseg.flatness._tracing._arguments import plain
from famseg.flatness._tracing._checkpoint import computed_again
from famseg.flatness._tracing._composite import composites
from famseg.flatness._tracing._layer import others
from famseg.flatness._tracing._operator import Layer, Operator, dimensions

Edit = Callable[["Site"], Tensor]
"""Takes a site with features and output, and returns the output passed on to the network."""

Feed = Callable[["Site"], Tensor | None]
"""Returns a replacement for a layer's input, or ``None`` to keep the input."""

Care = Literal["none", "precision", "derivatives"]


class Site:
    """Input and output of a layer during one pass.

    Attributes:
        layer: The layer.
        features: Its input.
        own: Its own output.
        output: The output as the rest of the network received it.
        operator: Its linear map.
        shift: The leaf of zeros that was added to its output, if an edit added one.
        node: The operation that computed `output` when the layer returned.
        calls: How often it was called.
        empty: Whether its input had no rows.
    """

    features: Tensor
    own: Tensor
    output: Tensor
    operator: Operator
    node: Node | None

    def __init__(self, layer: Layer, name: str) -> None:
        self.layer = layer
        self.name = name
        self.calls = 0
        self.shift: Tensor | None = None
        self.empty = False

    def record(self, features: Tensor, output: Tensor, edit: Edit) -> Tensor:
        """Record the tensors of a call and return its edited output."""
        self.features, self.own = plain(features), output
        self.operator = Operator(self.layer, features, output)
        self.output = edit(self)
        self.node = self.output.grad_fn
        self._versions = features._version, self.output._version
        return self.output

    @property
    def unchanged(self) -> bool:
        """Whether the layer's output has not been changed in place."""
        return self.output._version == self._versions[1]

    def check(self, model: nn.Module) -> None:
        """Refuse a pass that used the layer more than once, or changed its input in place."""
        if self.calls > 1:
            raise LayerError(
                f"layer {self.name!r} was called {self.calls} times in one forward pass: its "
                f"flatness would have to count every use. {others(model, self.name)}"
            )
        if self.features._version != self._versions[0]:
            raise LayerError(
                f"the input of layer {self.name!r} was changed in place after the layer had used "
                "it, so its features are lost. Use the out-of-place form of that operation."
            )


class IdleLayersError(LayerError):
    """A batch does not use some layers.

    Args:
        uncalled: Layers that were not called.
        empty: Layers that were called without rows.

    Attributes:
        names: All these layers.
        uncalled: Those that were not called.
    """

    def __init__(self, uncalled: set[str], empty: set[str]) -> None:
        listed = ", ".join(map(repr, sorted(uncalled or empty)))
        super().__init__(
            f"layer {listed} was not called in the forward pass. Penalize a layer that is "
            "called (layers inside nn.MultiheadAttention never are)."
            if uncalled
            else f"layer {listed} got an empty batch, but flatness is a mean over samples."
        )
        self.names = uncalled | empty
        self.uncalled = uncalled


def check_used(sites: Iterable[Site]) -> None:
    """Refuse a pass that does not use some of the layers.

    Raises:
        IdleLayersError: Listing these layers.
    """
    seen = list(sites)
    uncalled = {site.name for site in seen if site.calls == 0}
    empty = {site.name for site in seen if site.empty}
    if uncalled or empty:
        raise IdleLayersError(uncalled, empty)


def add_shift(site: Site) -> Tensor:
    """Add a leaf of zeros to the layer's output, with respect to which derivatives are computed."""
    site.shift = torch.zeros_like(plain(site.own), requires_grad=True)
    return site.own + site.shift


def leave(site: Site) -> Tensor:
    """Keep the layer's output."""
    return site.own


def own_input(site: Site) -> None:
    """Keep the layer's input."""


@contextmanager
def watched(
    layers: Mapping[str, Layer],
    edit: Edit,
    *,
    care: Care,
    as_written: bool = False,
    feed: Feed = own_input,
) -> Iterator[dict[str, Site]]:
    """Run a forward pass, loss included, inside this context.

    Inside it, each layer's input comes from the feed, and its output passes through the edit. With
    care for ``"precision"``, the network after the first of the layers runs in the precision of its
    weight, without autocast. With care for ``"derivatives"``, functions that torch differentiates
    incorrectly are also replaced there, see `composites`. With ``as_written``, compiled modules run
    eagerly. All of this is undone on exit, also after exceptions, and applied again when a
    checkpoint recomputes a layer.
    """
    sites = {name: Site(layer, name) for name, layer in layers.items()}
    device = next(iter(layers.values())).weight.device.type
    island = care != "none" and torch.amp.is_autocast_available(device)
    with ExitStack() as stack:
        # Importing Dynamo takes longer than most first steps. If it is not loaded, nothing is
        # compiled.
        if as_written and "torch._dynamo" in sys.modules:
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        if island:
            # Restores the caller's autocast state regardless of the hook and the network.
            enabled, dtype = torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)
            stack.enter_context(torch.autocast(device, dtype=dtype, enabled=enabled))
        if care == "derivatives":
            stack.enter_context(
                composites(
                    lambda: any(site.calls for site in sites.values()),
                    lambda tensor: _leads(sites.values(), tensor),
                )
            )
        hooked = functools.partial(_hooked, edit=edit, feed=feed, island=device if island else None)
        stack.enter_context(
            computed_again(lambda: lambda: hooked([Site(layer, n) for n, layer in layers.items()]))
        )
        stack.enter_context(hooked(sites.values()))
        yield sites


def _leads(sites: Iterable[Site], tensor: Tensor) -> bool:
    """Return whether a tensor depends on any of the layers, by its call or its weight."""
    used = [site for site in sites if site.calls and not site.empty]
    ends = {site.node for site in used} - {None}
    weights = {id(site.layer.weight) for site in used}
    seen: set[Node | None] = {None}
    stack = [tensor.grad_fn]
    while stack:
        node = stack.pop()
        if node in ends or id(getattr(node, "variable", None)) in weights:
            return True
        if node not in seen and node is not None:
            seen.add(node)
            stack.extend(following for following, _ in node.next_functions)
    return False


@contextmanager
def _hooked(sites: Iterable[Site], *, edit: Edit, feed: Feed, island: str | None) -> Iterator[None]:
    with ExitStack() as stack:
        for site in sites:
            _hook(stack, site, edit, feed, island=island)
        yield


@contextmanager
def ended_at(layers: Mapping[str, Layer]) -> Iterator[dict[str, Node | None]]:
    """Make the graph of a pass begin at the first of the layers, and record what precedes it.

    Yields:
        The operation that computed the input of that layer, by its name.
    """
    led: dict[str, Node | None] = {}
    with _cutting(layers, led), computed_again(lambda: _again(layers, dict(led))):
        yield led


def _again(
    layers: Mapping[str, Layer], led: dict[str, Node | None]
) -> Callable[[], AbstractContextManager[None]]:
    return lambda: _cutting(layers, dict(led))


@contextmanager
def _cutting(layers: Mapping[str, Layer], led: dict[str, Node | None]) -> Iterator[None]:
    """Cut the graph at the first of the layers that is called."""

    def cut(name: str, tensor: Tensor) -> Tensor:
        led[name] = tensor.grad_fn
        return tensor.detach()

    def before(
        name: str, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        if led:  # the path from one layer to the next is part of the tail
            return None
        if args:
            return (cut(name, args[0]), *args[1:]), kwargs
        return args, kwargs | {"input": cut(name, kwargs["input"])}

    with ExitStack() as stack:
        for name, layer in layers.items():
            hook = functools.partial(before, name)
            stack.callback(layer.register_forward_pre_hook(hook, with_kwargs=True).remove)
        yield


@contextmanager
def compiled_noted(model: nn.Module, layers: Mapping[str, Layer]) -> Iterator[set[nn.Module]]:
    """Collect the compiled modules that contain a layer or run after the first of the layers."""
    behind: set[nn.Module] = set()
    begun = False

    def begin(*_: object) -> None:
        nonlocal begun
        begun = True

    def note(module: nn.Module, _: object) -> None:
        if begun:
            behind.add(module)

    with ExitStack() as stack:
        for layer in layers.values():
            stack.callback(layer.register_forward_pre_hook(begin).remove)
        for module in model.modules():
            inner = getattr(module, "_orig_mod", None)
            if inner is None and getattr(module, "_compiled_call_impl", None) is None:
                continue
            if any(layer in set(module.modules()) for layer in layers.values()):
                behind.add(module)
            stack.callback((inner or module).register_forward_pre_hook(note).remove)
        yield behind


def _hook(stack: ExitStack, site: Site, edit: Edit, feed: Feed, *, island: str | None) -> None:
    layer = site.layer

    def before(
        module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        site.calls += 1
        fed = feed(site) if site.calls == 1 else None
        if fed is not None:
            args, kwargs = (fed, *args[1:]), {k: a for k, a in kwargs.items() if k != "input"}
        # Checked here and not before the pass, because a network may itself enable autocast.
        if island is not None and torch.is_autocast_enabled(island):
            torch.set_autocast_enabled(island, False)
            args = tuple(_cast(a, layer) for a in args)
            kwargs = {k: _cast(a, layer) for k, a in kwargs.items()}
        return args, kwargs

    def after(
        module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor
    ) -> Tensor | None:
        if site.calls > 1:
            return None  # refused at the end of the pass
        features: Tensor = args[0] if args else kwargs["input"]
        if features.ndim > 1 and features.shape[0] == 0:
            site.empty = True
            return None
        check_features(features, layer, site.name)
        return site.record(features, output, edit)

    stack.callback(layer.register_forward_pre_hook(before, with_kwargs=True).remove)
    stack.callback(layer.register_forward_hook(after, with_kwargs=True).remove)


def _cast(argument: Any, layer: Layer) -> Any:  # noqa: ANN401
    if isinstance(argument, Tensor) and argument.is_floating_point():
        return argument.to(layer.weight.dtype)
    return argument


def autocast_on(device: str) -> bool:
    """Return whether autocast is enabled."""
    return torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)


@contextmanager
def without_autocast(device: str) -> Iterator[None]:
    """Disable autocast where it exists; a network may have enabled it again."""
    if not torch.amp.is_autocast_available(device):
        yield
        return
    with torch.autocast(device, enabled=False):
        yield


def eagerly(function: Callable[..., Any], *args: Any) -> Any:  # noqa: ANN401
    """Call a function uncompiled from code that ``torch.compile`` traces."""
    import torch._dynamo  # takes seconds, but is loaded already if code is traced

    return torch._dynamo.disable(function)(*args)  # type: ignore[no-untyped-call]


def check_features(features: Tensor, layer: Layer, name: str) -> None:
    """Refuse an input without samples."""
    needed = dimensions(layer)
    if features.ndim < needed:
        raise LayerError(
            f"layer {name!r} got an input of shape {tuple(features.shape)}, but it needs a "
            "batch dimension. Pass a batch of one as inputs[None]."
        )
    if features.numel() == 0:
        raise LayerError(f"layer {name!r} got an empty input of shape {tuple(features.shape)}.")
