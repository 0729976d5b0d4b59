"""Faster imports of MONAI, ignite and torch.optim in the command, without unused modules.

``import monai`` executes all of its modules, most of them twice, and imports transformers, pandas,
matplotlib and scikit-image; ignite imports all of ``torch.distributed`` for one ``isinstance``.
This takes three quarters of the time from the start of a command to its first step. A meta path
finder before Python's own changes how these packages are initialized, but not what they provide:

- ``monai`` does not scan its own modules. Its subpackages and modules are imported on first access
  of an attribute, and all of them before a bundle looks up a class by its bare name.
- packages in `_DEFERRED` that MONAI imports by ``optional_import`` are imported on first use, and
  so is matplotlib.pyplot.
- ``ignite.handlers.checkpoint`` imports the class of ZeRO optimizers only if one can exist.
- pydicom imports neither requests nor tqdm, which it needs only to download its example files.
- scipy does not parse its docstrings to add notes on array libraries to them.
- torch hides its optimizers from TorchDynamo only once TorchDynamo is loaded.

This affects only processes of the command, and only imports after it; `famseg` as a library does
not change imports. ``tests/test_libraries.py`` compares the result with a plain ``import monai``;
if it fails after an upgrade, look here first.
"""

# ruff: noqa: ANN401 # arguments and values of other packages, passed on unchanged

from __future__ import annotations

import contextlib
import functools
import importlib.util
import pkgutil
import sys
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import ModuleType, SimpleNamespace
from typing import Any

# Packages that are slow to import and that MONAI needs only for a few functions each.
_DEFERRED = {
    "bs4",
    "matplotlib",
    "mlflow",
    "nibabel",
    "onnx",
    "pandas",
    "PIL",
    "pydicom",
    "requests",
    "scipy",
    "skimage",
    "sklearn",
    "torchvision",
    "transformers",
}
_CHANGED = {
    "ignite.handlers.checkpoint",
    "pydicom.data.download",
    "scipy._lib._array_api",
    "torch._compile",
    "torch.optim.optimizer",
}
# Modules of MONAI that import pyplot, each for one function.
_PLOTTING = {"monai.optimizers.lr_finder", "monai.utils.jupyter_utils"}
_ZERO = "torch.distributed.optim"


def install() -> None:
    """Insert the finder before Python's own; a second call has no effect."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


class _Finder:
    """Finds modules like Python, but lets `_Loader` execute them."""

    @staticmethod
    def find_spec(
        name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name not in _CHANGED and name.partition(".")[0] != "monai":
            return None
        spec = PathFinder.find_spec(name, path, target)
        # Modules with any other loader (a zip, an editable installation) are not changed.
        if spec is not None and type(spec.loader) is SourceFileLoader:
            spec.loader = _Loader(spec.loader.name, spec.loader.path)
        return spec


class _Loader(SourceFileLoader):
    def exec_module(self, module: ModuleType) -> None:
        execute = super().exec_module
        if module.__name__ == "monai":
            _execute_unscanned(execute, module)
        elif module.__name__ == "ignite.handlers.checkpoint":
            _execute_without_zero(execute, module)
        elif module.__name__ == "pydicom.data.download":
            _execute_without_downloads(execute, module)
        elif module.__name__ in _PLOTTING:
            _execute_without_pyplot(execute, module)
        else:
            execute(module)
        if module.__name__ == "scipy._lib._array_api":
            vars(module)["FunctionDoc"] = _Unparsed
        if module.__name__ == "torch._compile":
            vars(module)["_disable_dynamo"] = _disabling(module._disable_dynamo)
        if module.__name__ == "torch.optim.optimizer":
            using_grad = _using_grad(module._use_grad_for_differentiable)
            vars(module)["_use_grad_for_differentiable"] = using_grad
        if module.__name__ == "monai.utils.module":
            vars(module)["optional_import"] = _deferring(module.optional_import)
        if module.__name__ == "monai.bundle.config_item":
            locator = module.ComponentLocator
            locator._find_module_names = _after_all_of_monai(locator._find_module_names)
        if (
            module.__name__.startswith("monai")
            and hasattr(module, "__path__")
            and "__getattr__" not in vars(module)
        ):
            vars(module)["__getattr__"] = functools.partial(_submodule, module.__name__)


def _execute_unscanned(execute: Callable[[ModuleType], None], monai: ModuleType) -> None:
    walk = pkgutil.walk_packages

    def walk_others(
        path: Any = None, prefix: str = "", onerror: Any = None
    ) -> Iterator[pkgutil.ModuleInfo]:
        return iter(()) if prefix == "monai." else walk(path, prefix, onerror)

    pkgutil.walk_packages = walk_others
    try:
        execute(monai)
    finally:
        pkgutil.walk_packages = walk
        if "monai.utils.module" in sys.modules:
            vars(sys.modules["monai.utils.module"])["walk_packages"] = walk
    # Start of the scan. MONAI's packages have circular imports, which not every order of imports
    # resolves.
    import_module("monai.apps")


def _submodule(package: str, name: str) -> ModuleType:
    """Import a module that the scan would have set as an attribute of its package."""
    full = f"{package}.{name}"
    if name.startswith("__") or importlib.util.find_spec(full) is None:
        raise AttributeError(f"module {package!r} has no attribute {name!r}")
    return import_module(full)


def _after_all_of_monai(find: Callable[..., list[str]]) -> Callable[..., list[str]]:
    """Import everything that the scan would, before ``find`` searches ``sys.modules``."""

    @functools.wraps(find)
    def find_in_all(*arguments: Any) -> list[str]:
        monai = sys.modules["monai"]
        for entry in pkgutil.walk_packages(monai.__path__, "monai."):
            _import_as_the_scan(entry.name, monai)
        return find(*arguments)

    return find_in_all


def _import_as_the_scan(name: str, monai: ModuleType) -> None:
    scanned = monai.excludes
    utils = sys.modules["monai.utils.module"]
    if utils.match(scanned, name) is None:
        # As in the scan, since a module may need a package that is not installed.
        with contextlib.suppress(utils.OptionalImportError):
            import_module(name)


def _deferring(optional_import: Callable[..., tuple[Any, bool]]) -> Callable[..., tuple[Any, bool]]:
    @functools.wraps(optional_import)
    def deferring(module: str, *arguments: Any, **options: Any) -> tuple[Any, bool]:
        ask = functools.partial(optional_import, module, *arguments, **options)
        caller = sys._getframe(1).f_globals.get("__name__", "")
        if not str(caller).startswith("monai.") or not _is_there(module, *arguments, **options):
            return ask()
        return _Deferred(ask), True

    return deferring


def _is_there(
    module: str,
    version: str = "",
    version_checker: Callable[..., bool] | None = None,
    *_: Any,
    version_args: Any = None,
    as_type: str = "default",
    **__: Any,
) -> bool:
    """Return whether an import can be deferred: an installed package with a suitable version."""
    package = module.partition(".")[0]
    if package not in _DEFERRED or as_type != "default" or version_args is not None:
        return False
    if module in sys.modules or not _found(module if package in sys.modules else package):
        return False
    if not version:
        return True
    if version_checker is None:
        return False
    from importlib import metadata  # slow to import, and rarely needed

    names = {"skimage": "scikit-image", "PIL": "pillow", "sklearn": "scikit-learn"}
    installed = metadata.version(names.get(package, package))
    return version_checker(SimpleNamespace(__version__=installed, __name__=package), version)


def _found(name: str) -> bool:
    """Return whether a module can be found, which imports its parent packages."""
    with contextlib.suppress(ImportError, ValueError):
        return importlib.util.find_spec(name) is not None
    return False


class _Deferred:
    """Proxy for a module, function or class that is imported on first use."""

    def __init__(self, ask: Callable[[], tuple[Any, bool]]) -> None:
        self._ask = ask

    def _get(self) -> Any:
        if "_value" not in vars(self):
            self._value, _ = self._ask()
        return self._value

    def __getattr__(self, name: str) -> Any:
        return getattr(self._get(), name)

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        return self._get()(*arguments, **options)

    def __dir__(self) -> list[str]:
        return dir(self._get())

    def __instancecheck__(self, instance: object) -> bool:
        return isinstance(instance, self._get())

    def __subclasscheck__(self, subclass: type) -> bool:
        return issubclass(subclass, self._get())

    def __mro_entries__(self, bases: tuple[Any, ...]) -> tuple[Any, ...]:
        return (self._get(),)

    def __reduce__(self) -> tuple[Any, ...]:
        return _Deferred, (self._ask,)


def _execute_without_pyplot(execute: Callable[[ModuleType], None], module: ModuleType) -> None:
    names = [name for name in ("matplotlib", "matplotlib.pyplot") if name not in sys.modules]
    if "matplotlib.pyplot" not in names or not _found("matplotlib"):
        execute(module)
        return
    sys.modules.update({name: ModuleType(name) for name in names})
    try:
        execute(module)
    finally:
        for name in names:
            sys.modules.pop(name, None)
    vars(module)["plt"] = _Deferred(lambda: (import_module("matplotlib.pyplot"), True))


def _execute_without_downloads(execute: Callable[[ModuleType], None], module: ModuleType) -> None:
    # None makes an import fail, which pydicom expects where these are not installed.
    absent = [name for name in ("requests", "tqdm") if name not in sys.modules]
    sys.modules.update(dict.fromkeys(absent))  # type: ignore[arg-type]
    try:
        execute(module)
    finally:
        for name in absent:
            sys.modules.pop(name, None)


class _Unparsed:
    """Stands in for numpydoc's parser of a docstring, which stays as it is."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.text = f"signature\n{function.__doc__ or ''}"

    def __getitem__(self, section: str) -> list[str]:
        return []  # to which a note is added

    def __str__(self) -> str:
        return self.text


def _execute_without_zero(execute: Callable[[ModuleType], None], module: ModuleType) -> None:
    stands_in = ModuleType(_ZERO)
    vars(stands_in)["ZeroRedundancyOptimizer"] = _ZeroRedundancyOptimizer
    if sys.modules.setdefault(_ZERO, stands_in) is not stands_in:
        execute(module)
        return
    try:
        execute(module)
    finally:
        sys.modules.pop(_ZERO, None)


class _WhereImported(type):
    def __instancecheck__(cls, instance: object) -> bool:
        real = sys.modules.get(_ZERO)  # if it is not loaded, there is no such optimizer
        return real is not None and isinstance(instance, real.ZeroRedundancyOptimizer)


class _ZeroRedundancyOptimizer(metaclass=_WhereImported):
    """Proxy for ``torch.distributed.optim.ZeroRedundancyOptimizer`` in ``isinstance``."""


def _disabling(disable_dynamo: Callable[..., Any]) -> Callable[..., Any]:
    """Hide a function from TorchDynamo as torch does, but without importing TorchDynamo."""

    @functools.wraps(disable_dynamo)
    def disabling(fn: Callable[..., Any] | None = None, recursive: bool = True) -> Any:
        if fn is None:
            return functools.partial(disabling, recursive=recursive)
        hidden = disable_dynamo(fn, recursive)

        @functools.wraps(fn)
        def inner(*arguments: Any, **options: Any) -> Any:
            # If it has not been imported, it does not trace anything.
            call = hidden if "torch._dynamo" in sys.modules else fn
            return call(*arguments, **options)

        return inner

    return disabling


def _using_grad(use_grad: Callable[..., Any]) -> Callable[..., Any]:
    """Switch gradients in an optimizer step as torch does, without importing TorchDynamo."""

    @functools.wraps(use_grad)
    def using_grad(step: Callable[..., Any]) -> Callable[..., Any]:
        seen_by_dynamo = use_grad(step)

        @functools.wraps(step)
        def _use_grad(*arguments: Any, **options: Any) -> Any:
            if "torch._dynamo" in sys.modules:
                return seen_by_dynamo(*arguments, **options)
            import torch

            with torch.set_grad_enabled(arguments[0].defaults["differentiable"]):
                return step(*arguments, **options)

        return _use_grad

    return using_grad
