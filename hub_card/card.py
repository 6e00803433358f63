"""Facts about a model -> its card, the README.md of a repository.

Guarantees: unknown facts are left out, and nothing is made up; no local path gets into the card; tables and metadata
stay well-formed, and no text of the data or the model becomes markup, whatever it holds.

Limitations: scores go into `model-index`, not into `.eval_results/` files, which the Hub takes for registered
benchmarks only.
"""

import math
import re
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any

import jinja2
from huggingface_hub import EvalResult, ModelCardData

from .labels import SCORES, control_label
from .markdown import code, settings, table, text

TEMPLATE = Path(__file__).with_name("card_template.md")
UNNAMED = "FOLDER_OR_HUB_ID"  # stands for the model until it has a name on the Hub
HUB_TASK = "video-text-to-text"  # the Hub's nearest task
SHOWN = ("cider", "bleu4", "rougeL", "exact", "distinct")  # scores in the table
METRICS = {"cider": "cider", "bleu4": "bleu", "rougeL": "rouge", "exact": "exact_match"}  # the Hub's names of scores
COSTS = {
    "train_seconds": ("training time", "s"),
    "total_seconds": ("whole run, including the evaluation", "s"),
    "steps": ("steps", ""),
    "peak_rss_mb": ("peak memory", "MiB"),
}
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
BASES = ("model_name_or_path", "backbone", "decoder", "text_embeddings")  # arguments that may name a base model
REQUIREMENTS = ("torch", "torchvision", "transformers", "av", "Pillow")  # of the exported code


def model_card(facts: Mapping[str, Any]) -> str:
    """
    Write a card.

    Args:
        facts (`Mapping`): the contents of `report.json`, all of them optional: of the evaluation `scores`, `controls`,
            `verdict`, `retrieval`, `coverage`, `clips`; of the run `data_sets` (for each `name`, `weight`, numbers of
            clips by split, `license`, `annotated`, `kept`), `words`, `recipe`, `skipped_clips`, `parameters`,
            `train_seconds`, `total_seconds`, `steps`, `peak_rss_mb`, `hardware`, `commit`, `versions`, `arguments`.
            Besides: `repo_id`; `name`, for the scores where there is no `repo_id`; `license` (an identifier of the
            Hub), `language`, `tags`, `backbone`, `num_frames`, `samples` (`file`, `hypothesis`, `references`,
            `exact`) and, there or among the arguments, `dataset` (a Hub id, a name, or a folder, of which the last
            part is shown; or a list of them). Other keys are ignored.

    Returns:
        `str`: Markdown with YAML metadata on top, `model-index` with the scores among them.

    Raises:
        `ValueError`: if `repo_id` cannot be the name of a repository.
    """
    repo_id = facts.get("repo_id")
    if repo_id is not None and not re.fullmatch(r"([\w.-]+/)?[\w.-]+", repo_id):
        raise ValueError(f"repo_id={repo_id!r} is not the name of a repository; pass user/name")
    names = _data_names(facts)
    # Nothing is escaped but by the filters, and facts that are missing are false.
    environment = jinja2.Environment(
        undefined=jinja2.ChainableUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    environment.filters |= {"text": text, "code": code, "settings": settings, "number": _number}
    environment.filters |= {"count": "{:,}".format, "percent": "{:.1%}".format}
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        facts=facts,
        arguments=facts.get("arguments") or {},
        words=facts.get("words") or {},
        metadata=_metadata(facts, names),
        title=repo_id.rpartition("/")[2] if repo_id else "Video captioner",
        model=repo_id or UNNAMED,
        requirements=_requirements(str(facts.get("backbone"))),
        transformers=version("transformers"),
        score_table=_score_table(facts) if facts.get("scores") else "",
        data_table=_data_table(facts, names),
        cost=_cost(facts),
    )


def name_card(card: bytes, repo_id: str) -> bytes:
    """Put a name into the snippets of a card that was written without one."""
    return card.replace(UNNAMED.encode(), repo_id.encode())


def _metadata(facts: Mapping[str, Any], names: Sequence[str]) -> str:
    repo_id, arguments, results = facts.get("repo_id"), facts.get("arguments") or {}, _results(facts, names)
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
    return metadata.to_yaml().strip()


def _results(facts: Mapping[str, Any], names: Sequence[str]) -> list[EvalResult]:
    """The scores in the form of the Hub's client; data that are not on the Hub have the type `custom`."""
    tested = [str(data_set["name"]) for data_set in facts.get("data_sets") or () if data_set.get("test")] or names
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


def _requirements(backbone: str) -> str:
    """Packages that the exported code needs, with the versions that this package requires."""
    try:
        lines = requires("vidcap") or []
    except PackageNotFoundError:
        lines = []
    stated = {re.split(r"[^\w.-]", line)[0].lower(): line for line in lines if ";" not in line}
    names = (*REQUIREMENTS, "timm") if backbone.startswith("timm") else REQUIREMENTS
    return ", ".join(stated.get(name.lower(), name) for name in names)


def _score_table(facts: Mapping[str, Any]) -> str:
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
    return table(head, body)


def _data_table(facts: Mapping[str, Any], names: Sequence[str]) -> str:
    """The data sets of the training, with the known facts of each; empty without any."""
    data_sets = facts.get("data_sets") or []
    weights = [data_set.get("weight") for data_set in data_sets]
    if not data_sets:
        given = (facts.get("arguments") or {}).get("dataset_weights")
        weights = given if given and len(given) == len(names) else [None] * len(names)
        data_sets = [{"name": name} for name in names]
    if not data_sets:
        return ""
    columns: dict[str, list[Any]] = {"data": [data_set["name"] for data_set in data_sets]}
    if all(weights):
        columns["share of the training clips"] = [f"{weight / sum(weights):.3g}" for weight in weights]
    titles = {"license": "licence", **{split: f"{split} clips" for split in ("train", "validation", "test")}}
    for key, title in titles.items():
        if any(data_set.get(key) is not None for data_set in data_sets):
            columns[title] = [data_set.get(key, "unknown" if key == "license" else None) for data_set in data_sets]
    if any(data_set.get("annotated") for data_set in data_sets):
        columns["of the annotated clips"] = [_coverage(data_set) for data_set in data_sets]
    return table(list(columns), list(zip(*columns.values(), strict=True)))


def _coverage(data_set: Mapping[str, Any]) -> str | None:
    annotated, kept = data_set.get("annotated"), data_set.get("kept")
    return f"{kept:,} of {annotated:,} ({kept / annotated:.1%})" if annotated and kept is not None else None


def _cost(facts: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Names and values of the backbone, the time, the memory and the machine, as far as known."""
    items: list[tuple[str, Any]] = [("frame backbone", facts.get("backbone"))]
    for key, (name, unit) in COSTS.items():
        if facts.get(key) is not None:
            items.append((name, f"{facts[key]:,.0f} {unit}".strip()))
    if hardware := facts.get("hardware"):
        gpus = hardware.get("gpus") or []
        items += [
            ("CPU", hardware["cpu"]),
            ("usable cores", hardware["cpu_count"]),
            ("processes, threads per process", f"{hardware['processes']}, {hardware['threads']}"),
            ("GPUs", ", ".join(f"{gpus.count(name)} x {name}" for name in dict.fromkeys(gpus)) or None),
        ]
    items.append(("commit of the code", facts.get("commit")))
    return [(name, value) for name, value in items if value is not None]


def _data_names(facts: Mapping[str, Any]) -> list[str]:
    """Names of the data for other people: Hub ids as they are, the last part of folders."""
    given = facts.get("dataset") or (facts.get("arguments") or {}).get("dataset")
    names = []
    for name in given if isinstance(given, list) else [given]:
        if name:
            path = Path(str(name))
            names.append(path.resolve().name if path.exists() or path.is_absolute() else str(name))
    return names


def _gap(row: Mapping[str, Any]) -> str | None:
    if "gap" not in row:
        return None
    gap, low, high = row["gap"]["cider"]
    return f"{gap:.1f} ({low:.1f} to {high:.1f})"


def _number(value: float | None) -> str:
    return "" if value is None else f"{round(value, 3):.3g}" if abs(value) < 1 else f"{value:.1f}"


__all__ = ["model_card", "name_card"]
