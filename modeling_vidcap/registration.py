"""Registration of the classes with transformers, as soon as it is loaded and without loading it.

Importing transformers takes longer than captioning a clip. [`when_loaded`] therefore runs a callback at once if
transformers' Auto classes are loaded already; otherwise a finder in `sys.meta_path` watches imports, runs the callback
right after that of the Auto classes, and removes itself.

Guarantees: whichever of this package and transformers is imported first, the Auto classes and `pipeline` know the
model. Limitations: a program that empties `sys.meta_path` has to call [`register`] itself.
"""

import sys
from collections.abc import Callable, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from threading import RLock
from types import ModuleType
from typing import Any, NoReturn

# With any of these loaded, transformers may be asked for a captioner.
TRIGGERS = (
    "transformers.models.auto.configuration_auto",
    "modeling_vidcap.modeling_vidcap",
    "processing.processing_vidcap",
)
# No module of these may be half loaded when the classes are registered, which imports most of them.
WATCHED = ("hub_card", "modeling_vidcap", "processing", "transformers", "vidcap")


class _ImportWatcher(MetaPathFinder):
    """A finder that counts watched modules while they load, and runs the callbacks when none is loading."""

    def __init__(self) -> None:
        self.callbacks: list[Callable[[], None]] = []
        self.loading = 0
        self.lock = RLock()

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The spec of the other finders, with a loader that reports when it begins and ends."""
        if fullname.partition(".")[0] not in WATCHED:
            return None
        others = (finder for finder in sys.meta_path if finder is not self)
        spec = next(filter(None, (finder.find_spec(fullname, path, target) for finder in others)), None)
        if spec is not None and spec.loader is not None:
            # On the loader itself: a wrapper would lack its other methods, such as the one that returns the source.
            setattr(spec.loader, "exec_module", self._watched(spec.loader.exec_module))  # noqa: B010
        return spec

    def _watched(self, execute: Callable[[ModuleType], None]) -> Callable[[ModuleType], None]:
        def exec_module(module: ModuleType) -> None:
            with self.lock:
                self.loading += 1
            try:
                execute(module)
            finally:
                with self.lock:
                    self.loading -= 1
            self.run_callbacks()

        return exec_module

    def run_callbacks(self) -> None:
        """Run the callbacks, unless transformers is absent or a watched module is loading."""
        with self.lock:
            if self.loading or not any(name in sys.modules for name in TRIGGERS):
                return
            callbacks, self.callbacks = self.callbacks, []
            if self in sys.meta_path:
                sys.meta_path.remove(self)
        for callback in callbacks:
            callback()


_watcher = _ImportWatcher()


def when_loaded(callback: Callable[[], None]) -> None:
    """Call `callback` once transformers' Auto classes are loaded, possibly now; earlier callbacks run first."""
    with _watcher.lock:
        _watcher.callbacks.append(callback)
        if _watcher not in sys.meta_path:
            sys.meta_path.insert(0, _watcher)
    _watcher.run_callbacks()


class _NoDefaultModel(dict[str, Any]):
    """The task's entry for a default model, which raises a helpful error instead of a KeyError."""

    def __getitem__(self, key: str) -> NoReturn:
        raise ValueError(
            'pipeline("video-captioning") has no default model: pass model="FOLDER_OR_HUB_ID"; to train one, run '
            "`vidcap train --dataset FOLDER_OR_HUB_ID --output_dir FOLDER`"
        )


def register() -> None:
    """Register the classes with the Auto classes and the pipeline registry; may be repeated."""
    from transformers import AutoConfig, AutoModel, AutoModelForImageTextToText, AutoProcessor, AutoVideoProcessor
    from transformers.pipelines import PIPELINE_REGISTRY

    from processing import VideoCaptionProcessor, VideoCaptionVideoProcessor

    from .configuration_vidcap import VideoCaptionConfig
    from .modeling_vidcap import VideoCaptionForConditionalGeneration
    from .pipeline_vidcap import VideoCaptioningPipeline
    from .saving_vidcap import TASK

    AutoConfig.register(VideoCaptionConfig.model_type, VideoCaptionConfig, exist_ok=True)
    for auto_class in (AutoModel, AutoModelForImageTextToText):
        auto_class.register(VideoCaptionConfig, VideoCaptionForConditionalGeneration, exist_ok=True)
    AutoVideoProcessor.register(VideoCaptionConfig, VideoCaptionVideoProcessor, exist_ok=True)
    AutoProcessor.register(VideoCaptionConfig, VideoCaptionProcessor, exist_ok=True)
    if TASK not in PIPELINE_REGISTRY.supported_tasks:
        PIPELINE_REGISTRY.register_pipeline(
            TASK,
            pipeline_class=VideoCaptioningPipeline,
            pt_model=AutoModel,
            default=_NoDefaultModel(model=None),
            type="multimodal",
        )
