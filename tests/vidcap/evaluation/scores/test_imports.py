"""Scores need neither torch nor transformers."""

import subprocess
import sys

CODE = """
import sys
from vidcap.evaluation import caption_diversity, score_captions, scoring_facts
import vidcap.evaluation.scores.bootstrap
print(score_captions(["a dog"], [["a dog"]])["exact"], caption_diversity(["a dog"])["distinct"])
print([name for name in ("torch", "transformers") if name in sys.modules])
"""


def test_scores_import_without_torch():
    run = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    assert run.stdout.splitlines() == ["1.0 1.0", "[]"]
