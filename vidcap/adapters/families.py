"""Adapters by the model types of their configs."""

from .base import CaptionAdapter
from .chat import ChatAdapter
from .git import GitAdapter
from .vision_encoder_decoder import VisionEncoderDecoderAdapter

FAMILIES: dict[str, type[CaptionAdapter]] = {
    "git": GitAdapter,
    "llava_next_video": ChatAdapter,
    "qwen2_5_vl": ChatAdapter,
    "qwen2_vl": ChatAdapter,
    "smolvlm": ChatAdapter,
    "vision-encoder-decoder": VisionEncoderDecoderAdapter,
}


class UnsupportedModelError(LookupError):
    """A model that cannot be used, for its type or its weights.

    Not a ValueError, after which transformers would try other classes when it loads a model for a pipeline.
    """


def family_of(model_type: str | None, name: str) -> type[CaptionAdapter]:
    """The adapter class of a model type.

    Args:
        model_type: As in the model's config, if set there.
        name: The model's name, for the message.

    Raises:
        UnsupportedModelError: If there is none; the message lists the supported types.
    """
    if model_type is None or model_type not in FAMILIES:
        raise UnsupportedModelError(
            f"{name} is a model of type {model_type}: pass a video captioner of type vidcap, such as one made by "
            f"`vidcap train`, or of type {', '.join(sorted(FAMILIES))}"
        )
    return FAMILIES[model_type]
