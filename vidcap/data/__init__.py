"""Data sets for training: prepared from published annotations, inspected and filtered (`vidcap data`)."""
