"""The version, in a file of its own that needs no other: setuptools reads it, and so does `vidcap --version`."""

VERSION = "0.2.0.dev0"  # of vidcap, and of the checkpoints that it writes
