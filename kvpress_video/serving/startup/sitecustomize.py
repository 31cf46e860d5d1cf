"""Runs first in every Python process of a command that was started by `kvpress-video run`.

Most of them load no model, so it imports nothing but the standard library until transformers is there.
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


class Follower:
    """Finds modules as the other finders do, and lets a function take part in the loading of some."""

    def __init__(self, loading: dict[str, Any]) -> None:
        self.loading = loading

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if name not in self.loading:
            return None
        others = (finder for finder in sys.meta_path if finder is not self and hasattr(finder, "find_spec"))
        spec: Any = next(filter(None, (finder.find_spec(name, path, target) for finder in others)), None)
        if spec is not None and spec.loader is not None:
            spec.loader = FollowedLoader(spec.loader, self.loading[name])
        return spec


class FollowedLoader:
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
    """Every model passes through `PreTrainedModel.from_pretrained`, whichever class it is asked of."""
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
    """As it is, or, where that fails for want of compiled operators, repaired as `kvpress_video.load` does."""
    try:
        loader.exec_module(module)
    except RuntimeError:
        file = os.path.join(PACKAGE, "utils", "torchvision_compat.py")
        spec: Any = importlib.util.spec_from_file_location("kvpress_video_torchvision_compat", file)
        repair = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(repair)
        del sys.modules["torchvision"]
        follower.loading.pop("torchvision")
        repair.repair_torchvision()


def speak_on_sigterm() -> None:
    """Statistics are said at exit, which this signal skips, and servers end by it, at last, as any process would."""
    if signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        return

    def speak(number: int, frame: Any) -> None:
        if DEPLOYMENT in sys.modules:
            sys.modules[DEPLOYMENT].say_all_statistics()
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)

    def forget() -> None:
        if signal.getsignal(signal.SIGTERM) is speak:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)

    signal.signal(signal.SIGTERM, speak)
    os.register_at_fork(after_in_child=forget)


def run_the_other() -> None:
    """The sitecustomize that would have run without this one, if there is one, takes its place."""
    path = [folder for folder in sys.path if os.path.abspath(folder) != HERE]
    spec = importlib.machinery.PathFinder.find_spec("sitecustomize", path)
    if spec is not None and spec.loader is not None:
        sys.modules["sitecustomize"] = other = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(other)


follower = Follower({"transformers.modeling_utils": load_modeling, "torchvision": load_torchvision})
if "KVPRESS_VIDEO_RUN" in os.environ:
    sys.meta_path.insert(0, follower)
    speak_on_sigterm()
run_the_other()
