"""Sizes that follow from those of a config, whatever class holds it."""

from typing import Any


class DerivedSizes:
    """Properties of [`VideoCaptionConfig`], and of a config that is read without transformers."""

    thumbnail_size: int
    color_bins: int
    feature_size: int
    hidden_size: int
    text_layers: int
    multimodal_layers: int
    decoder_config: Any

    @property
    def thumbnail_features(self) -> int:
        """Values of the thumbnail in each cell."""
        return 3 * self.thumbnail_size**2

    @property
    def cell_features(self) -> int:
        """Values of a cell: the backbone's channels, the thumbnail, the histogram of colours."""
        return self.feature_size + self.thumbnail_features + self.color_bins**3

    @property
    def num_hidden_layers(self) -> int:
        """Decoder layers in all: the text-only ones, then those that see the video."""
        decoder: Any = self.decoder_config
        return self.text_layers + self.multimodal_layers if decoder is None else decoder.num_hidden_layers

    @property
    def decoder_size(self) -> int:
        """Width of the decoder."""
        decoder: Any = self.decoder_config
        return self.hidden_size if decoder is None else decoder.hidden_size
