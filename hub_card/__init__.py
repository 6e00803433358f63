"""Model -> Hub: a folder that loads anywhere, the proof that it does, its card, and the upload.

After its import, `push_to_hub` of model, processor and pipeline writes a card and checks the upload.
"""

from typing import TYPE_CHECKING

from modeling_vidcap.registration import when_loaded
from processing.support.lazy_names import lazy_names

if TYPE_CHECKING:
    from .card import model_card as model_card
    from .exporter import ExportError as ExportError
    from .exporter import export_model as export_model
    from .exporter import push_to_hub as push_to_hub
    from .exporter import verify_export as verify_export
    from .sharing import push_captioner as push_captioner
    from .upload import PushError as PushError
else:
    __getattr__, __dir__, __all__ = lazy_names(
        __name__,
        {
            ".card": ("model_card",),
            ".exporter": ("ExportError", "export_model", "push_to_hub", "verify_export"),
            ".sharing": ("push_captioner",),
            ".upload": ("PushError",),
        },
    )


def _register() -> None:
    from .sharing import register

    register()


when_loaded(_register)
