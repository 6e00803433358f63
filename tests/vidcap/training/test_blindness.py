"""A blind run is told during training, one that sees is not."""

import json
import random
import shutil

import pytest

import train_hf

OPTIONS = (
    "--backbone cnn --freeze_backbone True --image_size 32 --num_frames 4 --hidden_size 32 --intermediate_size 64 "
    "--num_attention_heads 2 --per_device_train_batch_size 16 --max_steps 20 --eval_strategy no "
    "--load_best_model_at_end False --test_split none --max_caption_length 16 --disable_tqdm True"
).split()


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """96 training and 48 validation clips."""
    from vidcap.demo.demo_data import generate_demo_data

    folder = tmp_path_factory.mktemp("blind")
    generate_demo_data(folder / "clips", train=96, validation=48, test=0, size=32)
    return folder / "clips"


def train(clips, output, caplog, *more):
    caplog.clear()
    cache = ["--feature_cache", str(clips.parent / "cache")]
    with caplog.at_level("INFO"):
        assert train_hf.main(["--dataset", str(clips), "--output_dir", str(output), *OPTIONS, *cache, *more]) == 0
    return [record.getMessage() for record in caplog.records if "make no difference" in record.getMessage()]


def test_a_run_that_sees_is_not_told_blind(clips, tmp_path, caplog):
    assert train(clips, tmp_path / "good", caplog) == []
    config = json.loads((tmp_path / "good" / "config.json").read_text())
    assert len(config["memory_shape"]) == 4
    assert "caption memory:" in caplog.text and "memory weight" in caplog.text


def test_shuffled_pairs_are_told_within_a_fifth_of_the_steps(clips, tmp_path, caplog):
    shuffled = tmp_path / "shuffled"
    shutil.copytree(clips, shuffled)
    path = shuffled / "train" / "metadata.jsonl"
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    captions = [line["caption"] for line in lines]
    random.Random(0).shuffle(captions)
    path.write_text(
        "".join(
            json.dumps({**line, "caption": caption}) + "\n" for line, caption in zip(lines, captions, strict=True)
        ),
        encoding="utf-8",
    )
    told = train(shuffled, tmp_path / "blind", caplog, "--feature_cache", str(tmp_path / "cache"))
    assert len(told) == 1 and told[0].startswith("after 3 steps") and "vidcap data inspect" in told[0]
