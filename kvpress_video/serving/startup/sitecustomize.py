"""Runs at the start of every Python process under `kvpress-video run`.

Most of these processes load no model, so only the standard library is imported until transformers is imported.
"""

from __future__ import annotations

import functools
import importlib.machinery
import importlib.util
import os
import signal
import sys
from typing import Any

HERE = os.path.dirname(os.path.abspath(__file__))
PACKAGE = os.path.dirname(os.path.dirname(HERE))
DEPLOYMENT = "kvpress_video.serving.deployment"


class LoadHook:
    """Finder that delegates to the other finders and hands certain modules to a function."""

    def __init__(self, loading: dict[str, Any]) -> None:
        self.loading = loading

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if name not in self.loading:
            return None
        others = (finder for finder in sys.meta_path if finder is not self and hasattr(finder, "find_spec"))
        spec: Any = next(filter(None, (finder.find_spec(name, path, target) for finder in others)), None)
        if spec is not None and spec.loader is not None:
            spec.loader = HookedLoader(spec.loader, self.loading[name])
        return spec


class HookedLoader:
    """Loader that executes a module through a function."""

    def __init__(self, loader: Any, load: Any) -> None:
        self.loader = loader
        self.load = load

    def __getattr__(self, name: str) -> Any:
        return getattr(self.loader, name)

    def create_module(self, spec: Any) -> Any:
        return self.loader.create_module(spec)

    def exec_module(self, module: Any) -> None:
        module.__spec__.loader = module.__loader__ = self.loader
        self.load(self.loader, module)


def load_modeling(loader: Any, module: Any) -> None:
    """Wrap `PreTrainedModel.from_pretrained`, which every model class uses, to patch what it returns."""
    loader.exec_module(module)
    stock = module.PreTrainedModel.__dict__["from_pretrained"].__func__

    @functools.wraps(stock)
    def from_pretrained(cls: Any, *args: Any, **kwargs: Any) -> Any:
        loaded = stock(cls, *args, **kwargs)
        try:
            from kvpress_video.serving.deployment import deploy
        except ImportError as error:
            print(f"kvpress-video: {cls.__name__} is NOT compressed: {error} ({sys.executable})", file=sys.stderr)
            return loaded
        deploy(loaded)
        return loaded

    module.PreTrainedModel.from_pretrained = classmethod(from_pretrained)


def load_torchvision(loader: Any, module: Any) -> None:
    """Import torchvision; if compiled operators are missing, repair it as `import kvpress_video` does."""
    try:
        loader.exec_module(module)
    except RuntimeError:
        file = os.path.join(PACKAGE, "utils", "torchvision_compat.py")
        spec: Any = importlib.util.spec_from_file_location("kvpress_video_torchvision_compat", file)
        repair = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(repair)
        del sys.modules["torchvision"]
        hook.loading.pop("torchvision")
        repair.repair_torchvision()
        importlib.import_module("torchvision")


def report_on_sigterm() -> None:
    """Print statistics on SIGTERM, which skips exit handlers, then terminate as usual."""
    if signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        return

    def report(number: int, frame: Any) -> None:
        if DEPLOYMENT in sys.modules:
            sys.modules[DEPLOYMENT].log_all_stats()
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)

    def reset() -> None:
        if signal.getsignal(signal.SIGTERM) is report:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)

    signal.signal(signal.SIGTERM, report)
    os.register_at_fork(after_in_child=reset)


def run_shadowed() -> None:
    """Run the sitecustomize that this one shadows, if there is one."""
    path = [folder for folder in sys.path if os.path.abspath(folder) != HERE]
    spec = importlib.machinery.PathFinder.find_spec("sitecustomize", path)
    if spec is not None and spec.loader is not None:
        sys.modules["sitecustomize"] = shadowed = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(shadowed)


hook = LoadHook({"transformers.modeling_utils": load_modeling, "torchvision": load_torchvision})
if "KVPRESS_VIDEO_RUN" in os.environ:
    sys.meta_path.insert(0, hook)
    report_on_sigterm()
run_shadowed()
