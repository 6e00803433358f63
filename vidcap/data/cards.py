"""Data set cards: written for data sets made here, read for any data set.

Guarantees: unknown facts are omitted; metadata and tables are well-formed whatever the annotations contain.
"""

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import DatasetCard, DatasetCardData
from huggingface_hub.errors import HTTPError

from hub_card.card import UNNAMED
from hub_card.markdown import block, bullets, table, text

from ..files import write_atomically

logger = logging.getLogger(__name__)
MANIFEST = "manifest.json"
CARD = "README.md"
# A card without this line was written or edited by someone else.
WRITTEN = "<!-- Written by vidcap data prepare, which replaces this file; remove this line to keep your changes. -->"
SIZES = {"n<1K": 10**3, "1K<n<10K": 10**4, "10K<n<100K": 10**5, "100K<n<1M": 10**6, "1M<n<10M": 10**7}
PATTERNS = {"parquet": "{split}-*.parquet", "webdataset": "{split}-*.tar", "folder": "{split}/**"}


def origin(source: str) -> dict[str, Any]:
    """
    Read the licence and the numbers of clips of a data set.

    Args:
        source: A folder, a file or a Hub id.

    Returns:
        `license`, if the card names one; for a folder made by `vidcap data prepare` also `annotated` and `kept`, its
        numbers of clips. A card that is unavailable or damaged is only logged, so that it ends no training.
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
        license = DatasetCard.load(source, ignore_metadata_errors=True).data.license
    except (OSError, ValueError, RuntimeError, HTTPError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        logger.warning(f"{source}: the data set card cannot be read, so its licence is unknown ({reason:.200})")
        return facts
    if license:
        facts["license"] = ", ".join(map(str, license)) if isinstance(license, list) else str(license)
    return facts


def write_card(folder: Path, manifest: Mapping[str, Any], reasons: Mapping[str, str], license: str | None) -> None:
    """Write the card of a data set into its folder, unless someone else wrote one.

    Args:
        folder: Folder of the data set.
        manifest, reasons, license: See [`dataset_card`].
    """
    path = folder / CARD
    written_by = WRITTEN.partition(",")[0]  # the rest of the line may differ between versions
    if path.is_file() and written_by not in path.read_text(encoding="utf-8", errors="replace"):
        logger.warning(f"{path} was not written by vidcap data prepare and is kept; delete it to get a new card")
        return
    write_atomically(path, dataset_card(folder.resolve().name, manifest, reasons, license=license))


def dataset_card(
    name: str, manifest: Mapping[str, Any], reasons: Mapping[str, str], *, license: str | None = None
) -> str:
    """
    Write the card of a data set made by `vidcap data prepare`.

    Args:
        name: Name of the data set.
        manifest: The result of `prepare`.
        reasons: The meaning of each reason to refuse a clip.
        license: An identifier of the Hub, such as `cc-by-4.0`.

    Returns:
        Markdown with metadata by which `datasets.load_dataset` finds the splits.
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
    kept = f"{captions['kept']:,} of {captions['annotated']:,} captions were kept" if captions["annotated"] else ""
    refused = [[reason, count, reasons[reason]] for reason, count in manifest["refused"].items() if count]
    cleaned = [
        [rule, *(count[key] for key in ("before", "after", "changed"))] for rule, count in manifest["cleaning"].items()
    ]
    stated = f"{text(license)}, as stated by the person who prepared the data set." if license else "not stated."
    parts = [
        f"---\n{metadata.to_yaml()}\n---\n{WRITTEN}\n\n# {text(name)}\n",
        f"Clips with captions, prepared from annotations in the format `{manifest['format']}`; {kept}. "
        "`manifest.json` lists every clip with its source and SHA-256, `refused.jsonl` the refused ones.\n",
        "## Splits\n\n" + table(["split", "clips", "annotated", "coverage"], rows),
        "## Use\n",
        block(f'from datasets import load_dataset\n\nprint(load_dataset("{UNNAMED}"))', "python"),
        block(f"vidcap train --dataset {UNNAMED} --output_dir my-captioner", "bash"),
    ]
    if refused:
        parts.append("## Refused clips\n\n" + table(["reason", "clips", "meaning"], refused))
    parts.append(
        "## Caption cleaning\n\nThe rules in order, with the numbers of captions before, after and changed.\n\n"
        + table(["rule", "before", "after", "changed"], cleaned)
    )
    notes = [f"Licence: {stated} The content of the clips may be under other rights than the captions."]
    notes.append("Only clips with equal bytes count as duplicates; nearly equal clips may be in several splits.")
    return "\n".join([*parts, "## Limitations\n\n" + bullets(notes)])
