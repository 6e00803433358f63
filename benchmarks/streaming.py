"""Peak memory and clips a second of training on a stream, which must not depend on how long the stream is.

    python benchmarks/streaming.py --clips 1000 100000

Draws a few hundred clips of 32 pixels, writes them over and over into WebDataset shards of a thousand clips, trains a
tiny model for one pass over each number of clips, or as many as make 200 steps, in a process of its own, and compares
the last with the first, which is trained once more at the end, since a machine's pace changes within minutes.
"""

import argparse
import io
import json
import statistics
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from tqdm.auto import tqdm

ROOT = Path(__file__).resolve().parents[1]
BATCH, SHARD, MIN_STEPS = 64, 1000, 200
OPTIONS = (
    "--streaming True --backbone cnn --image_size 32 --num_frames 4 --preset 1m --logging_steps 10 "
    f"--per_device_train_batch_size {BATCH} --eval_strategy no --save_strategy no --load_best_model_at_end False "
    "--test_split none --max_validation_clips 8"
).split()


def write_shards(source: Path, folder: Path, count: int) -> None:
    """`count` clips of `source` in shards, the same ones again and again under other names."""
    for split, total in (("train", count), ("validation", 8)):
        rows = [json.loads(line) for line in (source / split / "metadata.jsonl").read_text().splitlines()]
        clips = [((source / split / row["file_name"]).read_bytes(), row["caption"]) for row in rows]
        for shard in tqdm(range((total + SHARD - 1) // SHARD), f"writing {split}", unit="shard"):
            with tarfile.open(folder / f"{split}-{shard:06d}.tar", "w") as tar:
                for number in range(shard * SHARD, min(total, (shard + 1) * SHARD)):
                    clip, caption = clips[number % len(clips)]
                    for suffix, content in ((".mp4", clip), (".json", json.dumps({"caption": caption}).encode())):
                        info = tarfile.TarInfo(f"{number:09d}{suffix}")
                        info.size = len(content)
                        tar.addfile(info, io.BytesIO(content))


def mp4_only(folder: Path) -> None:
    """Leaves out of a folder of drawn clips those that are no MP4: a shard holds one type of clip."""
    for split in ("train", "validation"):
        metadata = folder / split / "metadata.jsonl"
        lines = [line for line in metadata.read_text().splitlines() if json.loads(line)["file_name"].endswith(".mp4")]
        metadata.write_text("\n".join(lines))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, nargs="+", default=[1000, 100_000], metavar="N")
    arguments = parser.parse_args()
    if len(arguments.clips) < 2:
        parser.error("--clips: two numbers are compared")
    results = []
    with tempfile.TemporaryDirectory() as scratch:
        drawn = Path(scratch, "drawn")
        draw = [sys.executable, "-m", "vidcap", "demo-data", str(drawn), "--train", "300", "--validation", "20"]
        subprocess.run([*draw, "--test", "0", "--size", "32"], check=True, cwd=ROOT)
        mp4_only(drawn)
        for count in (*arguments.clips, arguments.clips[0]):
            shards, output = Path(scratch, f"shards-{count}"), Path(scratch, f"model-{len(results)}")
            if not shards.is_dir():
                shards.mkdir()
                write_shards(drawn, shards, count)
            train = [sys.executable, "train_hf.py", "--dataset", str(shards), "--output_dir", str(output), *OPTIONS]
            train += ["--max_steps", str(max(MIN_STEPS, count // BATCH))]
            subprocess.run(train, check=True, cwd=ROOT, stdout=subprocess.DEVNULL)
            report = json.loads((output / "report.json").read_text())
            log = [json.loads(line) for line in (output / "training_log.jsonl").read_text().splitlines()]
            pace = statistics.median([entry["clips_per_second"] for entry in log[1:] if "clips_per_second" in entry])
            results.append((count, report["peak_rss_mb"], pace))
    print("\n| clips | peak memory, MB | clips a second |\n|---|---|---|")
    for count, memory, pace in results:
        print(f"| {count:,} | {memory:,.0f} | {pace:.0f} |")
    *others, (_, long_memory, long_pace), (_, memory, pace) = results
    memory, pace = (memory + others[0][1]) / 2, (pace + others[0][2]) / 2
    print(f"memory {long_memory / memory - 1:+.1%}, clips a second {long_pace / pace - 1:+.1%}")


if __name__ == "__main__":
    main()
