"""Makes the classes known to transformers once it is loaded, and does not load it for that.

Importing transformers takes longer than captioning a clip. So [`when_loaded`] keeps what is to be done: where
transformers' Auto classes are loaded already it is done at once, otherwise a finder in `sys.meta_path` watches modules
being imported, does it right after the Auto classes have been, and goes.

Guarantees: whichever of this package and transformers is imported first, the Auto classes and `pipeline` know the
model. Limitations: a program that empties `sys.meta_path` registers by calling [`register`] itself.
"""

import sys
from collections.abc import Callable, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from threading import RLock
from types import ModuleType
from typing import Any, NoReturn

# Any of these means that somebody can ask transformers for a captioner, or holds one.
TRIGGERS = (
    "transformers.models.auto.configuration_auto",
    "modeling_vidcap.modeling_vidcap",
    "processing.processing_vidcap",
)
# Of these no module may be half loaded when the classes are registered, which imports most of them.
WATCHED = ("hub_card", "modeling_vidcap", "processing", "transformers", "vidcap")


class _ImportWatcher(MetaPathFinder):
    """Counts the watched modules that are being loaded, by any thread, and does what is due when there are none."""

    def __init__(self) -> None:
        self.due: list[Callable[[], None]] = []
        self.loading = 0
        self.lock = RLock()

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """What the other finders find, with a loader that tells when it begins and ends."""
        if fullname.partition(".")[0] not in WATCHED:
            return None
        others = (finder for finder in sys.meta_path if finder is not self)
        spec = next(filter(None, (finder.find_spec(fullname, path, target) for finder in others)), None)
        if spec is not None and spec.loader is not None:
            # On the loader itself: one around it would lack what else loaders can do, such as giving the source.
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
            self.do_what_is_due()

        return exec_module

    def do_what_is_due(self) -> None:
        """Calls what is kept, unless it has to wait."""
        with self.lock:
            if self.loading or not any(name in sys.modules for name in TRIGGERS):
                return
            due, self.due = self.due, []
            if self in sys.meta_path:
                sys.meta_path.remove(self)
        for each in due:
            each()


_watcher = _ImportWatcher()


def when_loaded(callback: Callable[[], None]) -> None:
    """Calls `callback` once transformers' Auto classes are loaded, which may be now; earlier callbacks come first."""
    with _watcher.lock:
        _watcher.due.append(callback)
        if _watcher not in sys.meta_path:
            sys.meta_path.insert(0, _watcher)
    _watcher.do_what_is_due()


class _NoDefaultModel(dict[str, Any]):
    """Stands where transformers looks up a task's default model, to say how to get one instead of a KeyError."""

    def __getitem__(self, key: str) -> NoReturn:
        raise ValueError(
            'pipeline("video-captioning") has no default model: pass model="FOLDER_OR_HUB_ID"; to make one, run '
            "`vidcap train --dataset FOLDER_OR_HUB_ID --output_dir FOLDER`"
        )


def register() -> None:
    """Registers the classes with the Auto classes and the pipeline registry; harmless when repeated."""
    from transformers import AutoConfig, AutoModel, AutoModelForImageTextToText, AutoProcessor, AutoVideoProcessor
    from transformers.pipelines import PIPELINE_REGISTRY

    from processing import VideoCaptionProcessor, VideoCaptionVideoProcessor

    from .configuration_vidcap import VideoCaptionConfig
    from .modeling_vidcap import VideoCaptionForConditionalGeneration
    from .pipeline_vidcap import VideoCaptioningPipeline
    from .saving_vidcap import TASK

    AutoConfig.register(VideoCaptionConfig.model_type, VideoCaptionConfig, exist_ok=True)
    for each in (AutoModel, AutoModelForImageTextToText):
        each.register(VideoCaptionConfig, VideoCaptionForConditionalGeneration, exist_ok=True)
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
