"""Captioners of this package without transformers, whose import takes longer than captioning a clip.

`loading.py` selects the models and options that run here; all others run within transformers. Both share the
arithmetic (`modeling_vidcap/blocks_vidcap.py` and the modules above it) and write the same captions.
"""
