"""The card of a data set: written of one that was made here, read of any that is trained on.

Promises: what is not known is left out; whatever the annotations hold, metadata and tables stay well-formed.
"""

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx2  # which huggingface_hub brings, and whose errors it lets through
import yaml
from huggingface_hub import DatasetCard, DatasetCardData

from hub_card.card import UNNAMED
from hub_card.markdown import block, bullets, table, text

from ..files import write_atomically

logger = logging.getLogger("vidcap")
MANIFEST = "manifest.json"
CARD = "README.md"
# A card without this line is somebody's own.
WRITTEN = "<!-- Written by vidcap data prepare, which writes it anew; without this line it is left as it is. -->"
SIZES = {"n<1K": 10**3, "1K<n<10K": 10**4, "10K<n<100K": 10**5, "100K<n<1M": 10**6, "1M<n<10M": 10**7}
PATTERNS = {"parquet": "{split}-*.parquet", "webdataset": "{split}-*.tar", "folder": "{split}/**"}


def origin(source: str) -> dict[str, Any]:
    """
    Reads what a data set tells of itself.

    Args:
        source: A folder, a file or a Hub id.

    Returns:
        `license`, if its card names one; of a folder that `vidcap data prepare` made also `annotated` and `kept`, its
        numbers of clips. A card that cannot be had, or is damaged, is said in the log: it ends no training.
    """
    folder, facts = Path(source), dict[str, Any]()
    try:
        if folder.exists():
            if (folder / MANIFEST).is_file():
                manifest = json.loads((folder / MANIFEST).read_bytes())
                facts = {name: manifest[name] for name in ("annotated", "kept") if name in manifest}
            if not (folder / CARD).is_file():
                return facts
            source = str(folder / CARD)
        found = DatasetCard.load(source, ignore_metadata_errors=True).data.license
    except (OSError, ValueError, RuntimeError, httpx2.HTTPError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        logger.warning(f"{source}: its card cannot be read, so that no licence of it is told ({reason:.200})")
        return facts
    if found:
        facts["license"] = ", ".join(map(str, found)) if isinstance(found, list) else str(found)
    return facts


def write_card(folder: Path, manifest: Mapping[str, Any], reasons: Mapping[str, str], license: str | None) -> None:
    """Writes the card of a data set in its folder, unless there is one of somebody's own.

    Args:
        folder: Of the data set.
        manifest, reasons, license: See [`dataset_card`].
    """
    path = folder / CARD
    if path.is_file() and WRITTEN not in path.read_text(encoding="utf-8", errors="replace"):
        logger.warning(f"{path}: not written by this command, and left as it is")
        return
    write_atomically(path, dataset_card(folder.resolve().name, manifest, reasons, license=license))


def dataset_card(
    name: str, manifest: Mapping[str, Any], reasons: Mapping[str, str], *, license: str | None = None
) -> str:
    """
    Writes the card of a data set made by `vidcap data prepare`.

    Args:
        name: Of the data set.
        manifest: What `prepare` returned.
        reasons: For each reason to leave a clip out, what it means.
        license: An identifier of the Hub, such as `cc-by-4.0`.

    Returns:
        Markdown with metadata, by which `datasets.load_dataset` finds the splits.
    """
    splits = {split: counts for split, counts in manifest["splits"].items() if counts["annotated"]}
    pattern = PATTERNS[manifest["form"]]
    metadata = DatasetCardData(
        license=license,
        pretty_name=name,
        task_categories=["video-text-to-text"],
        tags=["video-captioning", "vidcap"],
        size_categories=next((size for size, most in SIZES.items() if manifest["kept"] < most), "n>10M"),
        configs=[
            {
                "config_name": "default",
                "data_files": [
                    {"split": split, "path": pattern.format(split=split)}
                    for split, counts in splits.items()
                    if counts["kept"]
                ],
            }
        ],
    )
    rows = [
        [split, counts["kept"], counts["annotated"], f"{counts['coverage']:.1%}"] for split, counts in splits.items()
    ]
    captions = manifest["captions"]
    said = f"{captions['kept']:,} of {captions['annotated']:,} captions are left" if captions["annotated"] else ""
    refused = [[reason, count, reasons[reason]] for reason, count in manifest["refused"].items() if count]
    cleaned = [
        [rule, *(count[key] for key in ("before", "after", "changed"))] for rule, count in manifest["cleaning"].items()
    ]
    stated = f"Stated by whoever prepared it: {text(license)}." if license else "None was stated."
    parts = [
        f"---\n{metadata.to_yaml()}\n---\n{WRITTEN}\n\n# {text(name)}\n",
        f"Clips with captions, prepared from annotations in the form `{manifest['format']}`; {said}. "
        "`manifest.json` lists every clip with its source and SHA-256, `refused.jsonl` what was left out.\n",
        "## Splits\n\n" + table(["split", "clips", "annotated", "coverage"], rows),
        "## Use\n",
        block(f'from datasets import load_dataset\n\nprint(load_dataset("{UNNAMED}"))', "python"),
        block(f"vidcap train --dataset {UNNAMED} --output_dir my-captioner", "bash"),
    ]
    if refused:
        parts.append("## Clips that were left out\n\n" + table(["reason", "clips", "meaning"], refused))
    parts.append(
        "## Cleaning of the captions\n\nEach rule in its turn: captions before it, after it, and changed by it.\n\n"
        + table(["rule", "before", "after", "changed"], cleaned)
    )
    notes = [f"Licence: {stated} What the clips show may be under other rights than their captions."]
    notes.append("Duplicates are told by equal bytes only: clips that are nearly the same may be in several splits.")
    return "\n".join([*parts, "## Limits\n\n" + bullets(notes)])
