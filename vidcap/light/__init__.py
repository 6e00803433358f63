"""Our own captioners without transformers, which takes longer to import than a clip takes to be captioned.

`loading.py` says which models and options are run here; everything else takes the path through transformers. Both
share the arithmetic (`modeling_vidcap/blocks_vidcap.py` and what stands on it) and write the same captions.
"""
