"""Model -> Hub: a folder that loads anywhere, the proof that it does, its card, and the upload."""

from .card import model_card
from .exporter import ExportError, export_model, push_to_hub, verify_export
from .upload import PushError

__all__ = ["ExportError", "PushError", "export_model", "model_card", "push_to_hub", "verify_export"]
