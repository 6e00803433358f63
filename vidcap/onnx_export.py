"""The former place of `vidcap.inference.onnx_export`, kept for the name that the documentation used."""

from .inference.onnx_export import OnnxCaptioner

__all__ = ["OnnxCaptioner"]
