"""What a run logs reaches the places that `--report_to` names."""

from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import train_hf
from vidcap.demo.demo_data import generate_demo_data

SMALL = (
    "--backbone cnn --image_size 32 --num_frames 4 --hidden_size 32 --intermediate_size 64 --num_attention_heads 2 "
    "--max_steps 4 --logging_steps 1 --eval_strategy steps --eval_steps 2 --save_strategy no "
    "--load_best_model_at_end False --max_caption_length 16 --disable_tqdm True --use_cpu True --bf16 False "
    "--test_split none --per_device_train_batch_size 2 --decoding_workers 1"
).split()


def test_tensorboard_gets_the_parts_of_the_loss_the_pace_and_the_scores(tmp_path: Path) -> None:
    generate_demo_data(tmp_path / "clips", train=8, validation=2, test=0, size=32)
    command = ["--dataset", str(tmp_path / "clips"), "--output_dir", str(tmp_path / "m"), *SMALL]
    command += ["--feature_cache", str(tmp_path / "cache"), "--report_to", "tensorboard"]
    assert train_hf.main(command) == 0
    (run,) = (tmp_path / "m" / "runs").iterdir()
    events = EventAccumulator(str(run))
    events.Reload()
    for name in ("loss", "caption_loss", "contrastive_loss", "learning_rate", "clips_per_second", "waiting"):
        assert [event.step for event in events.Scalars(f"train/{name}")] == [1, 2, 3, 4], name
    assert [event.step for event in events.Scalars("eval/cider")] == [2, 4]
