"""Facts about a model -> its card, the README.md of a repository.

Promises: what is not known is left out, nothing is made up; no path of the machine gets into the card; whatever a
value holds, tables and metadata stay well-formed.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from string import Template
from typing import Any

from huggingface_hub import ModelCardData

TEMPLATE = Path(__file__).with_name("card_template.md")
SCORES = {"cider": "CIDEr", "bleu4": "BLEU-4", "rougeL": "ROUGE-L", "exact": "exact", "distinct": "distinct"}
CONTROLS = {
    "other_clip": "control: another clip's frames",
    "reversed": "control: played backwards",
    "most_frequent": "control: most frequent training caption",
}
SETTINGS = (
    "learning_rate",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "num_train_epochs",
    "max_steps",
    "max_train_minutes",
    "warmup_steps",
    "weight_decay",
    "word_dropout",
    "label_smoothing",
    "contrastive_weight",
    "bf16",
    "seed",
)
MEASURED = {
    "train_seconds": ("training time", "s"),
    "total_seconds": ("whole run", "s"),
    "peak_rss_mb": ("peak memory", "MB"),
}
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def model_card(facts: Mapping[str, Any]) -> str:
    """
    Writes a card.

    Args:
        facts (`Mapping`): the contents of `report.json` (`scores`, `controls`, `parameters`, `train_seconds`,
            `total_seconds`, `peak_rss_mb`, `versions`) and, all optional: `repo_id`, `license` (an identifier of the
            Hub), `language`, `tags`, `backbone`, `num_frames`, `arguments` (the training arguments; known ones are
            shown) and, there or among the facts, `dataset` (a Hub id, a name, or a folder, of which the last part is
            told; or a list of them, with `dataset_weights` among the arguments). Other keys are ignored.

    Returns:
        `str`: Markdown with YAML metadata on top. Scores and controls stand in a table, the settings in a list.
    """
    repo_id, backbone = facts.get("repo_id"), facts.get("backbone")
    arguments = facts.get("arguments") or {}
    given = facts.get("dataset") or arguments.get("dataset")
    names = [_dataset(each) for each in (given if isinstance(given, list) else [given]) if each]
    weights = arguments.get("dataset_weights") if isinstance(given, list) else None
    metadata = ModelCardData(
        library_name="transformers",
        pipeline_tag="video-text-to-text",
        tags=["video-captioning", "vidcap", "custom_code", *facts.get("tags", ())],
        license=facts.get("license"),
        language=facts.get("language"),
        datasets=[name for name in names if HUB_ID.fullmatch(name)] or None,
    )
    requirements = ["torch", "torchvision", "transformers", "av", "Pillow"]
    if backbone and str(backbone).startswith("timm"):
        requirements.append("timm")
    sections = [_scores(facts), _training(facts, _mixed(names, weights))]
    size = f" It has {facts['parameters']:,} parameters." if "parameters" in facts else ""
    return Template(TEMPLATE.read_text(encoding="utf-8")).substitute(
        metadata=metadata.to_yaml().strip(),
        title=repo_id.rpartition("/")[2] if repo_id else "Video captioner",
        frames=f"{facts['num_frames']} frames" if "num_frames" in facts else "some frames",
        size=size,
        model=repo_id or "FOLDER_OR_HUB_ID",
        requirements=", ".join(requirements),
        sections="".join(f"\n{section}" for section in sections if section),
    )


def _scores(facts: Mapping[str, Any]) -> str:
    """The table of scores and controls; nothing without scores."""
    if not facts.get("scores"):
        return ""
    controls = facts.get("controls") or {}
    rows = {"this model": facts["scores"], **{CONTROLS[key]: controls[key] for key in CONTROLS if key in controls}}
    columns = [key for key in SCORES if any(key in row for row in rows.values())]
    lines = [
        "## Scores",
        "",
        "CIDEr, BLEU and ROUGE are times 100; exact (equal to a reference) and distinct are shares.",
    ]
    if controls:
        lines.append(
            "The controls give the model the frames of another clip, or play the clip backwards, or give every clip "
            "the commonest caption: a captioner that follows the video lies far above them."
        )
    lines += ["", _row(["", *(SCORES[key] for key in columns)]), "|---" * (len(columns) + 1) + "|"]
    lines += [_row([name, *(_number(row.get(key)) for key in columns)]) for name, row in rows.items()]
    reversed_scores = controls.get("reversed") or {}
    if "exact_reversed" in reversed_scores:
        share = _number(reversed_scores["exact_reversed"])
        lines += ["", f"Played backwards, the caption was exactly what is then true for a share of {share}."]
    return "\n".join(lines) + "\n"


def _training(facts: Mapping[str, Any], dataset: str | None) -> str:
    """Data, settings and cost of the training, as a list; nothing where none of it is known."""
    arguments = facts.get("arguments") or {}
    items = [("data", dataset), ("frame backbone", facts.get("backbone"))]
    items += [(key, arguments.get(key)) for key in SETTINGS]
    items += [
        (name, f"{facts[key]:,.0f} {unit}") for key, (name, unit) in MEASURED.items() if facts.get(key) is not None
    ]
    items += [(name, version) for name, version in sorted((facts.get("versions") or {}).items())]
    lines = [f"- {_text(name)}: {_text(value)}" for name, value in items if value is not None]
    return "\n".join(["## Training", "", *lines]) + "\n" if lines else ""


def _mixed(names: Sequence[str], weights: Sequence[float] | None) -> str | None:
    """The data sets in one line, with the share of the training clips that came from each."""
    if weights is None:
        return ", ".join(names) or None
    shares = [f"{weight / sum(weights):.3g}" for weight in weights]
    return ", ".join(f"{name} ({share} of the clips)" for name, share in zip(names, shares, strict=True))


def _dataset(dataset: Any) -> str:
    """The name under which others may know the data: a Hub id as it is, of a folder its last part."""
    path = Path(str(dataset))
    return path.resolve().name if path.exists() or path.is_absolute() else str(dataset)


def _row(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}" if abs(value) < 1 else f"{value:.1f}"


def _text(value: Any) -> str:
    """One line of text that Markdown shows as it is."""
    return re.sub(r"([\\`*\[\]<>|])", r"\\\1", " ".join(str(value).split()))


__all__ = ["model_card"]
