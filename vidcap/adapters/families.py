"""The families by the model types of their configs."""

from .base import CaptionAdapter
from .chat import ChatAdapter
from .git import GitAdapter
from .vision_encoder_decoder import VisionEncoderDecoderAdapter

# By the `model_type` of their configs.
FAMILIES: dict[str, type[CaptionAdapter]] = {
    "git": GitAdapter,
    "llava_next_video": ChatAdapter,
    "qwen2_5_vl": ChatAdapter,
    "qwen2_vl": ChatAdapter,
    "smolvlm": ChatAdapter,
    "vision-encoder-decoder": VisionEncoderDecoderAdapter,
}


class UnsupportedModelError(LookupError):
    """A model that cannot be driven, for its type or for its weights.

    No ValueError: where transformers loads a model for a pipeline, it takes those for a wrong class and tries others.
    """


def family_of(model_type: str | None, name: str) -> type[CaptionAdapter]:
    """The adapter of a model type.

    Args:
        model_type: As in the model's config, if that says one.
        name: The model's name, for the message.

    Raises:
        UnsupportedModelError: If there is none; the message lists the types that there are.
    """
    if model_type is None or model_type not in FAMILIES:
        raise UnsupportedModelError(
            f"{name} is a model of type {model_type}: pass a video captioner, of type vidcap, as `vidcap train` makes "
            f"it, or of type {', '.join(sorted(FAMILIES))}"
        )
    return FAMILIES[model_type]
