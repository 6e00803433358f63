"""Settings that must stand before torch and the Hub's client are imported: one thread, no network, and a folder of its
own for the code of exported models, which processes that run tests side by side would write over one another."""

import os
import tempfile

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"
_modules = tempfile.TemporaryDirectory(prefix="vidcap-tests-")  # removed when the process ends
os.environ["HF_MODULES_CACHE"] = _modules.name

import torch  # noqa: E402

torch.set_num_threads(1)

import json  # noqa: E402
from pathlib import Path  # noqa: E402

import pytest  # noqa: E402

# A captioner that is trained in seconds.
SMALL = (
    "--backbone cnn --image_size 32 --num_frames 4 --hidden_size 32 --intermediate_size 64 --num_attention_heads 2 "
    "--encoder_layers 1 --multimodal_layers 1 --per_device_train_batch_size 4 --max_caption_length 16 "
    "--decoding_workers 1 --disable_tqdm True"
).split()
# Words that examples in the documentation use.
MORE_CAPTIONS = ("a man drives a red car", "a woman and a dog", "a cat jumps", "a dog runs")


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with drawn clips, `my-clips`, and a small captioner that was trained on them, `my-captioner`.

    It is for all tests: they copy what they change.
    """
    import train_hf
    from vidcap.demo.demo_data import generate_demo_data

    folder = tmp_path_factory.mktemp("trained")
    generate_demo_data(folder / "my-clips", train=24, validation=4, test=6, size=32)
    metadata = folder / "my-clips" / "train" / "metadata.jsonl"
    lines = [json.loads(line) for line in metadata.read_text(encoding="utf-8").splitlines()]
    for line, more in zip(lines, MORE_CAPTIONS, strict=False):
        line["captions"] = [line.pop("caption"), more]
    metadata.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    (folder / "my-clips" / "README.md").write_text("---\nlicense: cc-by-4.0\n---\n")
    command = ["--dataset", str(folder / "my-clips"), "--output_dir", str(folder / "my-captioner"), *SMALL]
    command += ["--max_steps", "20", "--feature_cache", str(folder / "cache")]
    assert train_hf.main(command) == 0
    return folder
