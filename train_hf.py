"""Train a video captioner on a folder or Hub data set of captioned clips.

    python train_hf.py --dataset FOLDER --output_dir DIR
    python train_hf.py --dataset FOLDER --output_dir DIR --max_train_minutes 6
    python train_hf.py --dataset FOLDER user/name clips.csv --dataset_weights 2 1 1 --output_dir DIR
    python train_hf.py recipes/demo.yaml --dataset FOLDER --output_dir DIR
    python train_hf.py --dataset user/name --output_dir DIR --streaming --max_steps 10000 --push_to_hub
    torchrun --nproc_per_node 2 train_hf.py --dataset FOLDER --output_dir DIR

The same command, given again after an interruption, resumes from the last checkpoint. A YAML file holds the same
options. `--help` shows the options that people use, `--help all` every option.

`DIR` then loads by `AutoModel.from_pretrained`, `pipeline("video-captioning")` and `vidcap caption --model DIR`;
scores and controls on the test split are in `DIR/report.json` and `DIR/report.html`.
"""

import os
import sys

# Threads that wait for one another spin briefly, then sleep. By default they keep spinning, and beside another busy
# process a step takes many times as long (docs/log.md). torch reads this when it is imported.
os.environ.setdefault("GOMP_SPINCOUNT", "3000")

from vidcap.training.main import main

if __name__ == "__main__":
    sys.exit(main())
