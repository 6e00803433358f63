"""The former place of `vidcap.inference.captioning`, kept for the names that the documentation used."""

from .inference.captioning import embed_clips, embed_texts

__all__ = ["embed_clips", "embed_texts"]
