"""What the exported code takes from transformers beside its public names, and the versions that it is for."""

import inspect
import json
import logging

import pytest
import transformers
from packaging.version import Version

from modeling_vidcap import VideoCaptionConfig
from modeling_vidcap.generation_vidcap import PRIVATE_OVERRIDES
from modeling_vidcap.settings_vidcap import warn_of_transformers
from tests import house
from tests.tiny import tiny_model

# As they were when the overrides were written; a change asks for a look at them.
SIGNATURES = {
    "GenerationMixin._get_logits_processor": [
        *("self", "generation_config", "input_ids_seq_length", "encoder_input_ids", "prefix_allowed_tokens_fn"),
        *("logits_processor", "device", "model_kwargs", "negative_prompt_ids", "negative_prompt_attention_mask"),
    ],
    "PreTrainedModel._init_weights": ["self", "module"],
    "Pipeline._sanitize_parameters": ["self", "pipeline_parameters"],
    "Pipeline._forward": ["self", "input_tensors", "forward_parameters"],
}


def overridden() -> set[str]:
    """Private methods of transformers' classes that classes of exported files define."""
    found = set()
    for module, path in house.modules().items():
        if path.parent.name != "modeling_vidcap" or not path.stem.endswith("_vidcap"):
            continue
        contents = vars(__import__(module, fromlist=["_"]))
        for defined in (value for value in contents.values() if inspect.isclass(value) and value.__module__ == module):
            for name in vars(defined):
                if not name.startswith("_") or name.startswith("__") or not callable(getattr(defined, name)):
                    continue
                for base in defined.__mro__[1:]:
                    if base.__module__.startswith("transformers.") and name in vars(base):
                        found.add(f"{base.__name__}.{name}")
                        break
    return found


def test_private_overrides_are_listed_with_their_reasons() -> None:
    assert overridden() == set(PRIVATE_OVERRIDES) == set(SIGNATURES)
    assert all(PRIVATE_OVERRIDES.values())


@pytest.mark.parametrize("method", SIGNATURES)
def test_what_is_overridden_is_still_there(method: str) -> None:
    owner, name = method.split(".")
    assert list(inspect.signature(getattr(getattr(transformers, owner), name)).parameters) == SIGNATURES[method]


def test_the_greedy_loop_has_the_parameters_that_generate_passes() -> None:
    """A parameter beyond those of `_sample` would be taken out of the inputs of the model."""
    from modeling_vidcap.generation_vidcap import _greedy_loop

    passed = set(inspect.signature(transformers.GenerationMixin._sample).parameters)
    assert set(inspect.signature(_greedy_loop).parameters) - passed == {"model"}


def test_another_version_of_transformers_is_told_in_one_line(tmp_path, caplog) -> None:
    tiny_model().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["transformers_version"] == transformers.__version__
    warn_of_transformers.cache_clear()
    with caplog.at_level(logging.WARNING):
        VideoCaptionConfig.from_pretrained(tmp_path)
        assert not caplog.messages
        other = f"{Version(transformers.__version__).major + 1}.1.0"
        for _ in range(2):  # said once
            VideoCaptionConfig.from_dict({**config, "transformers_version": other})
        assert len(caplog.messages) == 1 and other in caplog.messages[0] and "\n" not in caplog.messages[0]
