"""`push_to_hub` of model, processor, pipeline and trainer: through the exporter, with a card, and checked first.

Where this package is absent, these classes come out of a model's folder and push as transformers has it, unchecked.
"""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers.utils import PushToHubMixin

from modeling_vidcap import VideoCaptionForConditionalGeneration, VideoCaptioningPipeline
from processing import VideoCaptionProcessor

from .card import model_card
from .exporter import UPLOADED, export_model, known_facts, push_to_hub, verify_export
from .upload import upload_model


def push_captioner(
    model: Any = None,
    processor: Any = None,
    *,
    repo_id: str,
    facts: Mapping[str, Any] | None = None,
    private: bool | None = None,
    token: str | None = None,
    max_shard_size: int | str = "50GB",
    force: bool = False,
    **commit: Any,
) -> str:
    """
    Writes a captioner aside, checks it against the one in memory, and uploads it in one commit.

    Args:
        model ([`VideoCaptionForConditionalGeneration`], *optional*): the model.
        processor ([`VideoCaptionProcessor`], *optional*): its processor. One of the two may be pushed alone: into a
            repository that has the other, or will; it is checked as far as it goes.
        repo_id (`str`): `user/name`, created where needed.
        facts (`Mapping`, *optional*): what the card may tell, see [`model_card`]. A processor alone brings no card.
        private, token, force, max_shard_size: see [`push_to_hub`] and [`export_model`].
        **commit: `commit_message`, `commit_description`, `revision`, `create_pr`.

    Returns:
        `str`: the address of the repository.

    Raises:
        `ExportError`: if it does not verify; nothing is uploaded then.
    """
    facts = {"repo_id": repo_id, **(facts or {})}
    commit = {name: value for name, value in commit.items() if value}
    options: Any = {"private": private, "token": token, "commit": commit, "force": force}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if model is not None and processor is not None:
            export_model(model, processor, folder, facts=facts, max_shard_size=max_shard_size)
            same: Any = {"model": model, "processor": processor}
            return push_to_hub(folder, repo_id, **options, **same)
        if model is not None:
            model.save_pretrained(folder, max_shard_size=max_shard_size)
            (folder / "README.md").write_text(model_card({**known_facts(model), **facts}), encoding="utf-8")
        else:
            processor.save_pretrained(folder)
        verify_export(folder, model=model, processor=processor, complete=False)
        commit.setdefault("commit_message", "Upload a part of a video captioner")
        return upload_model(folder, repo_id, UPLOADED, complete=False, **options)


def _push_model(self: Any, repo_id: str, *, tags: Any = None, **options: Any) -> str:
    """As in transformers, with a card and checked before the upload, see [`push_captioner`]."""
    return push_captioner(self, repo_id=repo_id, facts=_tagged(tags), **options)


def _push_processor(self: Any, repo_id: str, *, tags: Any = None, **options: Any) -> str:
    """As in transformers, checked before the upload, see [`push_captioner`]; `tags` are a matter of the model."""
    return push_captioner(processor=self, repo_id=repo_id, **options)


def _push_pipeline(self: Any, repo_id: str, *, tags: Any = None, **options: Any) -> Any:
    """As in transformers, with a card and checked before the upload, see [`push_captioner`]."""
    if not isinstance(self.model, VideoCaptionForConditionalGeneration):
        return PushToHubMixin.push_to_hub(self, repo_id, tags=tags, **options)
    return push_captioner(self.model, self.processor, repo_id=repo_id, facts=_tagged(tags), **options)


def _tagged(tags: Any) -> dict[str, Any]:
    return {"tags": [tags] if isinstance(tags, str) else list(tags or [])}


def register() -> None:
    """Has the classes push through this file, which their own, copied into models' folders, cannot import."""
    for each, push in (
        (VideoCaptionForConditionalGeneration, _push_model),
        (VideoCaptionProcessor, _push_processor),
        (VideoCaptioningPipeline, _push_pipeline),
    ):
        setattr(each, "push_to_hub", push)  # noqa: B010 - what it replaces has another signature
