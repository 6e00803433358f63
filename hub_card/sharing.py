"""`push_to_hub` of model, processor, pipeline and trainer: through the exporter, with a card, after a check.

Where this package is absent, these classes come from a model's folder and push as in transformers, unchecked.
"""

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict, Unpack

from transformers.utils import PushToHubMixin

from modeling_vidcap import VideoCaptionForConditionalGeneration, VideoCaptioningPipeline
from processing import VideoCaptionProcessor

from .card import model_card
from .exporter import UPLOADED, export_model, known_facts, push_to_hub, verify_export
from .upload import upload_model

Tags = str | Sequence[str] | None


class PushOptions(TypedDict, total=False):
    """Options that every `push_to_hub` takes, see [`push_captioner`]."""

    private: bool | None
    token: str | None
    max_shard_size: int | str
    force: bool
    commit_message: str | None
    commit_description: str | None
    revision: str | None
    create_pr: bool | None


def push_captioner(
    model: VideoCaptionForConditionalGeneration | None = None,
    processor: VideoCaptionProcessor | None = None,
    *,
    repo_id: str,
    facts: Mapping[str, Any] | None = None,
    private: bool | None = None,
    token: str | None = None,
    max_shard_size: int | str = "50GB",
    force: bool = False,
    **commit: str | bool | None,
) -> str:
    """
    Export a captioner, check the export against the model in memory, and upload it in one commit.

    Args:
        model ([`VideoCaptionForConditionalGeneration`], *optional*): the model.
        processor ([`VideoCaptionProcessor`], *optional*): its processor. One of the two may be pushed alone, into a
            repository for both; it is checked as far as possible.
        repo_id (`str`): `user/name`, created where needed.
        facts (`Mapping`, *optional*): facts for the card, see [`model_card`]. A processor alone brings no card.
        private, token, force, max_shard_size: see [`push_to_hub`] and [`export_model`].
        **commit: `commit_message`, `commit_description`, `revision`, `create_pr`.

    Returns:
        `str`: the address of the repository.

    Raises:
        `ExportError`: if the export fails the check; nothing is uploaded then.
    """
    facts = {"repo_id": repo_id, **(facts or {})}
    given: dict[str, Any] = {name: value for name, value in commit.items() if value}
    options: Any = {"private": private, "token": token, "commit": given, "force": force}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if model is not None and processor is not None:
            export_model(model, processor, folder, facts=facts, max_shard_size=max_shard_size)
            same: Any = {"model": model, "processor": processor}
            return push_to_hub(folder, repo_id, **options, **same)
        if model is not None:
            model.save_pretrained(folder, max_shard_size=max_shard_size)
            (folder / "README.md").write_text(model_card({**known_facts(model), **facts}), encoding="utf-8")
        elif processor is not None:
            processor.save_pretrained(folder)
        verify_export(folder, model=model, processor=processor, complete=False)
        given.setdefault("commit_message", "Upload a part of a video captioner")
        return upload_model(folder, repo_id, UPLOADED, complete=False, **options)


def _push_model(
    self: VideoCaptionForConditionalGeneration, repo_id: str, *, tags: Tags = None, **options: Unpack[PushOptions]
) -> str:
    """As in transformers, with a card and a check before the upload, see [`push_captioner`]."""
    return push_captioner(self, repo_id=repo_id, facts=_tagged(tags), **options)


def _push_processor(
    self: VideoCaptionProcessor, repo_id: str, *, tags: Tags = None, **options: Unpack[PushOptions]
) -> str:
    """As in transformers, with a check before the upload, see [`push_captioner`]; `tags` belong to the model."""
    return push_captioner(processor=self, repo_id=repo_id, **options)


def _push_pipeline(
    self: VideoCaptioningPipeline, repo_id: str, *, tags: Tags = None, **options: Unpack[PushOptions]
) -> str:
    """As in transformers, with a card and a check before the upload, see [`push_captioner`]."""
    if not isinstance(self.model, VideoCaptionForConditionalGeneration):
        return PushToHubMixin.push_to_hub(self, repo_id, tags=tags, **options)  # type: ignore[arg-type, misc]
    return push_captioner(self.model, self.processor, repo_id=repo_id, facts=_tagged(tags), **options)


def _tagged(tags: Tags) -> dict[str, Any]:
    return {"tags": [tags] if isinstance(tags, str) else list(tags or [])}


def register() -> None:
    """Make the classes push through this file, which their own files, copied into model folders, cannot import."""
    for cls, push in (
        (VideoCaptionForConditionalGeneration, _push_model),
        (VideoCaptionProcessor, _push_processor),
        (VideoCaptioningPipeline, _push_pipeline),
    ):
        setattr(cls, "push_to_hub", push)  # noqa: B010 - the original has another signature
