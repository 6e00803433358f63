"""Model -> Hub: a folder that loads anywhere, the proof that it does, its card, and the upload.

Importing it has `push_to_hub` of model, processor and pipeline write a card and check what they upload.
"""

from .card import model_card
from .exporter import ExportError, export_model, push_to_hub, verify_export
from .sharing import push_captioner, register
from .upload import PushError

register()

__all__ = [
    "ExportError",
    "PushError",
    "export_model",
    "model_card",
    "push_captioner",
    "push_to_hub",
    "verify_export",
]
