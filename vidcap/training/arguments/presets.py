"""Sizes that go together, from 1 to 150 million trained parameters.

Counted with 5,000 words and the features of EfficientNet-Lite0, whose own 3.4 million are frozen. `1m` is what
training takes unless told otherwise, `8m` what a bare [`VideoCaptionConfig`] has, `71m` the size of the captioner that
this project began with.
"""

_NAMES = (
    "hidden_size",
    "intermediate_size",
    "num_attention_heads",
    "encoder_layers",
    "text_layers",
    "multimodal_layers",
)
_SIZES = {
    "1m": (80, 320, 2, 1, 1, 1),
    "8m": (256, 1024, 4, 2, 1, 2),
    "25m": (384, 1536, 6, 3, 2, 4),
    "71m": (576, 2304, 9, 4, 3, 6),
    "150m": (768, 3072, 12, 6, 3, 7),
}
PRESETS: dict[str, dict[str, int]] = {name: dict(zip(_NAMES, sizes, strict=True)) for name, sizes in _SIZES.items()}
