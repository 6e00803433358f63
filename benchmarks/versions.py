"""A model saved under one environment, loaded under another: do they write the same captions?

    python benchmarks/versions.py .venv/bin/python .venv-oldest/bin/python

Each interpreter saves a captioner with random weights from one seed and captions three drawn clips with its own and
with the other's, by this package and by the code in the exported folder alone. The output is a Markdown table; the
exit status is 1 if any caption differs from that of the environment that saved the model.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

SAVE = """
import sys
import numpy as np
from hub_card import export_model
from tests.tiny import tiny_clip, tiny_model, tiny_processor

export_model(tiny_model(), tiny_processor(), sys.argv[1])
np.save(sys.argv[2], np.stack([tiny_clip(seed) for seed in range(3)]))
"""

CAPTION = """
import json, sys
import numpy as np
import torch
import transformers

own_code = sys.argv[3] == "exported code"
if not own_code:
    import vidcap
arguments = {"model": sys.argv[1], "trust_remote_code": own_code}
captioner = transformers.pipeline(None if own_code else "video-captioning", **arguments)
captions = [result[0]["generated_text"] for result in captioner(list(np.load(sys.argv[2])), max_new_tokens=12)]
print(json.dumps({"transformers": transformers.__version__, "torch": torch.__version__, "captions": captions}))
"""


def run(python: str, script: str, *arguments: str, with_package: bool = True) -> str:
    """Standard output of `script` under an interpreter, without network; the package is found in this folder."""
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT) if with_package else ""}
    with tempfile.TemporaryDirectory() as folder:
        environment["HF_MODULES_CACHE"] = folder
        command = [python, "-c", script, *arguments]
        finished = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True)
    if finished.returncode:
        raise RuntimeError(f"{python}: {finished.stderr.strip().splitlines()[-1]}")
    return finished.stdout


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("interpreters", nargs=2, help="Python of each environment")
    interpreters = parser.parse_args().interpreters
    print("| saved by | loaded by | with | captions |\n| --- | --- | --- | --- |")
    failures = 0
    with tempfile.TemporaryDirectory() as scratch:
        clips = str(Path(scratch, "clips.npy"))
        for index, saver in enumerate(interpreters):
            folder = str(Path(scratch, str(index)))
            run(saver, SAVE, folder, clips)
            expected = json.loads(run(saver, CAPTION, folder, clips, "vidcap"))
            for reader in interpreters:
                for code in ("vidcap", "exported code"):
                    found = json.loads(run(reader, CAPTION, folder, clips, code, with_package=code == "vidcap"))
                    equal = found["captions"] == expected["captions"]
                    failures += not equal
                    saved, loaded = (
                        f"transformers {x['transformers']}, torch {x['torch']}" for x in (expected, found)
                    )
                    captions = "the same" if equal else f"{found['captions']}, not {expected['captions']}"
                    print(f"| {saved} | {loaded} | {code} | {captions} |", flush=True)
    return failures > 0


if __name__ == "__main__":
    sys.exit(main())
