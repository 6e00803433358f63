"""The card of a data set: written of one that was made here, read of any that is trained on.

Promises: what is not known is left out; whatever the annotations hold, metadata and tables stay well-formed.
"""

import json
import logging
from pathlib import Path
from typing import Any

import httpx2  # which huggingface_hub brings, and whose errors it lets through
import yaml
from huggingface_hub import DatasetCard

logger = logging.getLogger("vidcap")
MANIFEST = "manifest.json"
CARD = "README.md"


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
