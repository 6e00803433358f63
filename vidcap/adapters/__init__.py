"""Captioners of other families with the interface of the package's own; names are imported lazily.

A new family is a subclass of [`CaptionAdapter`] and an entry in [`FAMILIES`] per model type; docs/captioners.md shows
one.
"""

from typing import TYPE_CHECKING

from processing.support.lazy_names import lazy_names

if TYPE_CHECKING:
    from .base import CaptionAdapter as CaptionAdapter
    from .base import SeparateProcessor as SeparateProcessor
    from .chat import ChatAdapter as ChatAdapter
    from .families import FAMILIES as FAMILIES
    from .families import UnsupportedModelError as UnsupportedModelError
    from .families import family_of as family_of
    from .git import GitAdapter as GitAdapter
    from .vision_encoder_decoder import VisionEncoderDecoderAdapter as VisionEncoderDecoderAdapter
else:
    __getattr__, __dir__, __all__ = lazy_names(
        __name__,
        {
            ".base": ("CaptionAdapter", "SeparateProcessor"),
            ".chat": ("ChatAdapter",),
            ".families": ("FAMILIES", "UnsupportedModelError", "family_of"),
            ".git": ("GitAdapter",),
            ".vision_encoder_decoder": ("VisionEncoderDecoderAdapter",),
        },
    )
