"""Facts about a model -> its card, the README.md of a repository.

Promises: what is not known is left out, nothing is made up; no path of the machine gets into the card; whatever a
value holds, tables and metadata stay well-formed, and no text of the data or the model becomes markup. Gives up:
`.eval_results/` files, which the Hub takes for registered benchmarks only; scores go into `model-index`.
"""

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from string import Template
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from .labels import SCORES, control_label
from .markdown import bullets, code, settings, table, text

TEMPLATE = Path(__file__).with_name("card_template.md")
UNNAMED = "FOLDER_OR_HUB_ID"  # stands for the model until it has a name on the Hub
HUB_TASK = "video-text-to-text"  # the nearest that the Hub has
SHOWN = ("cider", "bleu4", "rougeL", "exact", "distinct")  # of the scores
METRICS = {"cider": "cider", "bleu4": "bleu", "rougeL": "rouge", "exact": "exact_match"}  # as the Hub calls them
MEASURED = {
    "train_seconds": ("training time", "s"),
    "total_seconds": ("whole run, evaluation included", "s"),
    "steps": ("steps", ""),
    "peak_rss_mb": ("peak memory", "MiB"),
}
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
# Arguments that may name a model which this one was made of.
BASES = ("model_name_or_path", "backbone", "decoder", "text_embeddings")


def model_card(facts: Mapping[str, Any]) -> str:
    """
    Writes a card.

    Args:
        facts (`Mapping`): the contents of `report.json`, all of them optional: of the evaluation `scores`, `controls`,
            `verdict`, `retrieval`, `coverage`, `clips`; of the run `data_sets` (for each `name`, `weight`, numbers of
            clips by split, `license`, `annotated`, `kept`), `words`, `recipe`, `skipped_clips`, `parameters`,
            `train_seconds`, `total_seconds`, `steps`, `peak_rss_mb`, `hardware`, `commit`, `versions`, `arguments`.
            Besides: `repo_id`; `name`, for the scores where there is no `repo_id`; `license` (an identifier of the
            Hub), `language`, `tags`, `backbone`, `num_frames`, `samples` (`file`, `hypothesis`, `references`,
            `exact`) and, there or among the arguments, `dataset` (a Hub id, a name, or a folder, of which the last
            part is told; or a list of them). Other keys are ignored.

    Returns:
        `str`: Markdown with YAML metadata on top, `model-index` with the scores among them.

    Raises:
        `ValueError`: if `repo_id` cannot be the name of a repository.
    """
    repo_id, backbone = facts.get("repo_id"), facts.get("backbone")
    if repo_id is not None and not re.fullmatch(r"([\w.-]+/)?[\w.-]+", repo_id):
        raise ValueError(f"{repo_id!r} is no name of a repository: user/name is one")
    names = _data_names(facts)
    arguments = facts.get("arguments") or {}
    results = _results(facts, names)
    bases = dict.fromkeys(str(arguments[key]) for key in BASES if HUB_ID.fullmatch(str(arguments.get(key))))
    metadata = ModelCardData(
        library_name="transformers",
        pipeline_tag=HUB_TASK,
        tags=["video-captioning", "vidcap", "custom_code", *facts.get("tags", ())],
        license=facts.get("license"),
        language=facts.get("language"),
        base_model=list(bases) or None,
        datasets=[name for name in names if HUB_ID.fullmatch(name)] or None,
        metrics=list(dict.fromkeys(result.metric_type for result in results)) or None,
        model_name=(repo_id.rpartition("/")[2] if repo_id else facts.get("name", "video-captioner")),
        eval_results=results or None,
    )
    if not results:
        metadata.pop("model_name")
    requirements = ["torch", "torchvision", "transformers", "av", "Pillow"]
    if backbone and str(backbone).startswith("timm"):
        requirements.append("timm")
    sections = [_samples(facts), _scores(facts), _training(facts, names)]
    size = f" It has {facts['parameters']:,} parameters." if "parameters" in facts else ""
    return Template(TEMPLATE.read_text(encoding="utf-8")).substitute(
        metadata=metadata.to_yaml().strip(),
        title=text(repo_id.rpartition("/")[2]) if repo_id else "Video captioner",
        frames=f"{facts['num_frames']} frames" if "num_frames" in facts else "some frames",
        size=size,
        model=repo_id or UNNAMED,
        requirements=", ".join(requirements),
        sections="".join(f"\n{section}" for section in sections if section),
        limits=bullets(_limits(facts)),
    )


def name_card(card: bytes, repo_id: str) -> bytes:
    """A card that was written before the model had a name, with this one in its snippets."""
    return card.replace(UNNAMED.encode(), repo_id.encode())


def _results(facts: Mapping[str, Any], names: Sequence[str]) -> list[EvalResult]:
    """The scores, each as the Hub's client has it. Data that are not on the Hub are of the type `custom`."""
    tested = [str(each["name"]) for each in facts.get("data_sets") or () if each.get("test")] or names
    name = " + ".join(tested) or "unknown"
    scores = facts.get("scores") or {}
    return [
        EvalResult(
            task_type=HUB_TASK,
            task_name="Video captioning",
            dataset_type=name if HUB_ID.fullmatch(name) else "custom",
            dataset_name=name,
            dataset_split=(facts.get("arguments") or {}).get("test_split"),
            metric_type=METRICS[key],
            metric_name=SCORES[key],
            metric_value=round(float(scores[key]), 4),
        )
        for key in METRICS
        if key in scores and math.isfinite(scores[key])
    ]


def _samples(facts: Mapping[str, Any]) -> str:
    """Clips with what the model says of them."""
    samples = facts.get("samples")
    if not samples:
        return ""
    parts = ["## Samples\n\nClips of the test split, drawn at random, with the model's caption and what is true.\n"]
    for number, each in enumerate(samples, start=1):
        truth = "equals a reference" if each["exact"] else f"true is {code(each['references'][0])}"
        parts.append(f"![sample {number}](samples/{each['file']})\n\n{code(each['hypothesis'])}: {truth}\n")
    return "\n".join(parts)


def _scores(facts: Mapping[str, Any]) -> str:
    """The table of scores and controls, and the verdict; nothing without scores."""
    if not facts.get("scores"):
        return ""
    controls = facts.get("controls") or {}
    rows = {"this model": facts["scores"]}
    rows |= {f"control: {control_label(key)}": control for key, control in controls.items()}
    columns = [key for key in SHOWN if any(key in row for row in rows.values())]
    gaps = any("gap" in row for row in controls.values())
    head = ["", *(SCORES[key] for key in columns), *(["CIDEr lost (95 % interval)"] if gaps else [])]
    body = [
        [name, *(_number(row.get(key)) for key in columns), *([_gap(row)] if gaps else [])]
        for name, row in rows.items()
    ]
    clips, split = facts.get("clips"), (facts.get("arguments") or {}).get("test_split")
    said = f"On {clips:,} clips" if isinstance(clips, int) else ""
    said += f" of the split {code(split)}" if said and split else ""
    scale = "CIDEr, BLEU and ROUGE are times 100; exact (equal to a reference) and distinct are shares."
    lines = ["## Scores", "", f"{said}. {scale}" if said else scale]
    if controls:
        lines.append(
            "The controls take something away from the clips, or give every clip the commonest caption: a captioner "
            "that follows the video lies far above them. Some are run on part of the clips: their CIDEr compares by "
            "what is lost only."
        )
    lines += ["", table(head, body)]
    coverage = facts.get("coverage") or {}
    if coverage.get("scored", 0) < coverage.get("asked", 0):
        lines += [f"Scored are {coverage['scored']:,} of {coverage['asked']:,} clips; the others are not counted.", ""]
    reversed_scores = controls.get("reversed") or {}
    if "exact_reversed" in reversed_scores:
        share = _number(reversed_scores["exact_reversed"])
        lines += [f"Played backwards, the caption was exactly what is then true for a share of {share}.", ""]
    if facts.get("verdict"):
        lines += ["By these controls, it", "", bullets([text(each["sentence"], 1000) for each in facts["verdict"]])]
    if retrieval := facts.get("retrieval"):
        found, clip = (retrieval[key]["r1"] for key in ("text_to_video", "video_to_text"))
        lines += [
            f"A caption finds its clip among all of them with a share of {_number(found)} at first rank, a clip its "
            f"caption with {_number(clip)}.",
            "",
        ]
    return "\n".join(lines).rstrip() + "\n"


def _training(facts: Mapping[str, Any], names: Sequence[str]) -> str:
    """Data, recipe and cost of the training; nothing where none of it is known."""
    parts = [_data(facts, names), _recipe(facts), _cost(facts)]
    return "\n".join(["## Training\n", *(part for part in parts if part)]) if any(parts) else ""


def _data(facts: Mapping[str, Any], names: Sequence[str]) -> str:
    """What it was trained on: a table of data sets with what is known of each, and what their captions hold."""
    data_sets = facts.get("data_sets") or []
    weights = [each.get("weight") for each in data_sets]
    if not data_sets:
        given = (facts.get("arguments") or {}).get("dataset_weights")
        weights = given if given and len(given) == len(names) else [None] * len(names)
        data_sets = [{"name": name} for name in names]
    if not data_sets:
        return ""
    columns: dict[str, list[Any]] = {"data": [each["name"] for each in data_sets]}
    if all(weights):
        columns["share of the training clips"] = [f"{weight / sum(weights):.3g}" for weight in weights]
    titles = {"license": "licence", **{split: f"{split} clips" for split in ("train", "validation", "test")}}
    for key, title in titles.items():
        if any(each.get(key) is not None for each in data_sets):
            columns[title] = [each.get(key, "unknown" if key == "license" else None) for each in data_sets]
    if any(each.get("annotated") for each in data_sets):
        columns["of the annotated clips"] = [_coverage(each) for each in data_sets]
    lines = [table(list(columns), list(zip(*columns.values(), strict=True)))]
    notes = []
    if words := facts.get("words"):
        notes.append(f"{words['captions']:,} training captions with {words['words']:,} different words")
    if skipped := facts.get("skipped_clips"):
        notes.append(f"{len(skipped):,} clips could not be read and were left out")
    return "\n".join([*lines, *([bullets(notes)] if notes else [])])


def _coverage(data_set: Mapping[str, Any]) -> str | None:
    annotated, kept = data_set.get("annotated"), data_set.get("kept")
    return f"{kept:,} of {annotated:,} ({kept / annotated:.1%})" if annotated and kept is not None else None


def _recipe(facts: Mapping[str, Any]) -> str:
    """The options that were given, for `vidcap train RECIPE.yaml`."""
    if not facts.get("recipe"):
        return ""
    said = "Options that were not left at their defaults, as a recipe of `vidcap train`:"
    return f"{said}\n\n{settings(facts['recipe'])}"


def _cost(facts: Mapping[str, Any]) -> str:
    hardware = facts.get("hardware") or {}
    items: list[tuple[str, Any]] = [("frame backbone", facts.get("backbone"))]
    items += [
        (name, f"{facts[key]:,.0f} {unit}".strip())
        for key, (name, unit) in MEASURED.items()
        if facts.get(key) is not None
    ]
    if hardware:
        items += [
            ("CPU", hardware["cpu"]),
            ("usable cores", hardware["cpu_count"]),
            ("processes, threads of each", f"{hardware['processes']}, {hardware['threads']}"),
            ("GPUs", _counted(hardware.get("gpus"))),
        ]
    items.append(("commit of the code", facts.get("commit")))
    lines = [f"{text(name)}: {text(value)}" for name, value in items if value is not None]
    if versions := facts.get("versions"):
        lines.append("versions: " + ", ".join(f"{text(name)} {text(value)}" for name, value in versions.items()))
    return bullets(lines)


def _counted(gpus: Sequence[str] | None) -> str | None:
    return ", ".join(f"{gpus.count(name)} x {name}" for name in dict.fromkeys(gpus)) if gpus else None


def _limits(facts: Mapping[str, Any]) -> list[str]:
    """What the data and the evaluation show of its limits, words first."""
    limits, words = [], facts.get("words") or {}
    if not facts.get("scores"):
        limits.append("It was not tested: nothing is known of how often its captions are right.")
    if words.get("subjects"):
        shares = ", ".join(f"{code(word)} ({share:.1%})" for word, share in list(words["subjects"].items())[:5])
        limits.append(f"What the training captions speak of most, and what it will see most readily: {shares}.")
    if words.get("never_said"):
        most = ", ".join(f"{code(word)} ({count})" for word, count in words["never_said_most"].items())
        limits.append(
            f"Of the {words['references']:,} content words of the test captions, {words['never_said']:,} are in none "
            f"of its captions; the most frequent of them, with the number of clips: {most}."
        )
    if words.get("not_grounded"):
        listed = ", ".join(map(code, words["not_grounded"]))
        limits.append(f"Said from habit, since showing another clip makes them hardly less likely: {listed}.")
    return limits


def _data_names(facts: Mapping[str, Any]) -> list[str]:
    """The names under which others may know the data: Hub ids as they are, of folders the last part."""
    given = facts.get("dataset") or (facts.get("arguments") or {}).get("dataset")
    names = []
    for each in given if isinstance(given, list) else [given]:
        if each:
            path = Path(str(each))
            names.append(path.resolve().name if path.exists() or path.is_absolute() else str(each))
    return names


def _gap(row: Mapping[str, Any]) -> str | None:
    if "gap" not in row:
        return None
    gap, low, high = row["gap"]["cider"]
    return f"{gap:.1f} ({low:.1f} to {high:.1f})"


def _number(value: float | None) -> str:
    return "" if value is None else f"{round(value, 3):.3g}" if abs(value) < 1 else f"{value:.1f}"


__all__ = ["model_card", "name_card"]
