"""The demo clips: their captions are true, their splits are apart, their folder is whole or absent."""

import json
from collections import Counter
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image, ImageSequence

from processing import uniform_indices
from vidcap.demo import demo_data
from vidcap.demo.demo_data import SPLITS, draw_specs, generate_demo_data, plan_splits
from vidcap.demo.demo_drawing import COLOURS, HARD_INVERSE, INVERSE, SHAPES, ClipSpec, render_background, render_clip

COUNTS = {"train": 12, "validation": 8, "test": 16}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("demo") / "clips"
    assert generate_demo_data(folder, **COUNTS) == COUNTS
    return folder


def read_metadata(folder: Path, split: str) -> list[dict]:
    return [json.loads(line) for line in (folder / split / "metadata.jsonl").read_text().splitlines()]


def decode(path: Path) -> tuple[np.ndarray, float]:
    """Frames (T, H, W, 3) and the length in seconds, by decoders that know nothing of how the file was written."""
    if path.suffix == ".gif":
        with Image.open(path) as image:
            frames, durations = zip(
                *[(np.asarray(f.convert("RGB")), f.info["duration"]) for f in ImageSequence.Iterator(image)],
                strict=True,
            )
        return np.stack(frames), sum(durations) / 1000
    with av.open(str(path)) as container:
        decoded = list(container.decode(video=0))
    return np.stack([f.to_ndarray(format="rgb24") for f in decoded]), decoded[-1].time + decoded[1].time


def watch(masks: np.ndarray) -> str:
    """Name the action that a silhouette (T, H, W) performs, from the pixels alone."""
    size = masks.shape[-1]
    area = masks.sum(axis=(1, 2))
    if not area.all():
        return "blinks"
    ys, xs = np.mgrid[:size, :size] / size
    x, y = (masks * xs).sum(axis=(1, 2)) / area, (masks * ys).sum(axis=(1, 2)) / area
    if abs(x[-1] - x[0]) > 0.15:
        return "slides right" if x[-1] > x[0] else "slides left"
    if abs(y[-1] - y[0]) > 0.15:
        return "slides down" if y[-1] > y[0] else "slides up"
    if area[-1] > 1.8 * area[0]:  # 1.5 times as wide; half-covered pixels count, most of all in a small silhouette
        return "grows"
    if area[0] > 1.8 * area[-1]:
        return "shrinks"
    if area.max() > 1.7 * area[0]:
        return "pulses"
    if np.ptp(x) > 0.15:  # a spinning heart's centre of mass moves too, but less
        return "loops" if np.ptp(y) > 0.15 else "shakes"
    if np.ptp(y) > 0.15:
        return "bounces"
    if (masks ^ masks[0]).sum(axis=(1, 2)).max() > 0.1 * area[0]:
        return "spins"
    return "rests"


def silhouettes(spec: ClipSpec, frames: np.ndarray) -> tuple[np.ndarray, list[tuple[int, int]]]:
    """Where the object is (T, H, W), and the first and last frame of each action."""
    masks = np.abs(frames.astype(int) - render_background(spec)).max(axis=-1) > 30
    return masks, list(pairwise((0, *spec.turning_frames, spec.num_frames - 1)))


@pytest.mark.parametrize("seed", range(3))
def test_splits_share_no_pair_and_no_order(seed):
    plan = plan_splits(seed)
    for kind in (0, 1):  # colour-shape pairs, orders
        shown = [set(plan[split][kind]) for split in SPLITS]
        assert not (shown[0] & shown[1] or shown[0] & shown[2] or shown[1] & shown[2])
    train_pairs, train_orders = plan["train"]
    for held_out in ("validation", "test"):
        pairs, orders = plan[held_out]
        assert all((second, first) in train_orders for first, second in orders)
        assert {colour for colour, _ in pairs} <= {colour for colour, _ in train_pairs}
        assert {shape for _, shape in pairs} <= {shape for _, shape in train_pairs}
    assert len(COLOURS) >= 6 and len(SHAPES) >= 5 and len(INVERSE) >= 8
    for place in (0, 1):  # each action in each place, with many partners
        assert min(Counter(order[place] for order in train_orders).values()) >= 6
        assert sorted(order[place] for order in plan["test"][1]) == sorted(INVERSE)


def test_hard_splits_share_no_order_and_training_has_three_in_ten():
    plan = plan_splits(7, hard=True)
    shown = {split: set(plan[split][1]) for split in SPLITS}
    assert len(HARD_INVERSE) == 12 and len(shown["train"]) == 12 * 11 * 3
    assert sum(map(len, shown.values())) == len(set.union(*shown.values())) == 12 * 11 * 10
    assert all(len(set(order)) == 3 for order in set.union(*shown.values()))
    for place in range(3):
        assert min(Counter(order[place] for order in shown["train"]).values()) >= 20
    pairs = [set(plan[split][0]) for split in SPLITS]
    assert not (pairs[0] & pairs[1] or pairs[0] & pairs[2] or pairs[1] & pairs[2])
    assert len({spec.actions for spec in draw_specs("train", 1500, hard=True)}) > 380


@pytest.mark.parametrize("hard", [False, True], ids=["two actions", "three actions"])
@pytest.mark.parametrize("split", SPLITS)
def test_captions_are_true_forwards_and_backwards(split, hard):
    combinations = set()
    for spec in draw_specs(split, 150, seed=5, hard=hard):
        frames = render_clip(spec)
        assert frames.dtype == np.uint8 and frames.shape == (spec.num_frames, 64, 64, 3)
        masks, spans = silhouettes(spec, frames)
        border = np.concatenate([masks[:, [0, -1], :].ravel(), masks[:, :, [0, -1]].ravel()])
        assert not border.any(), f"leaves the frame: {spec}"

        parts = [masks[begin : end + 1] for begin, end in spans]
        *first, last = [watch(part) for part in parts]
        assert spec.caption == f"a {spec.colour} {spec.shape} {', then '.join(first)} and then {last}", spec
        *first, last = [watch(part[::-1]) for part in reversed(parts)]
        assert spec.caption_reversed == f"a {spec.colour} {spec.shape} {', then '.join(first)} and then {last}", spec

        middle = frames[masks].reshape(-1, 3)
        assert (np.abs(middle.astype(int) - COLOURS[spec.colour]).max(axis=-1) <= 8).mean() > 0.5
        combinations.add((spec.colour, spec.shape, spec.actions))
    assert len(combinations) > 140 or split != "train" and not hard  # the others have about 50 to show
    plans = {split: plan_splits(5, hard=hard)[split] for split in SPLITS}
    assert {split for split in SPLITS if (spec.colour, spec.shape) in plans[split][0]} == {split}
    assert {split for split in SPLITS if spec.actions in plans[split][1]} == {split}


def test_sixteen_frames_show_each_of_three_actions_five_times():
    seen = Counter()
    for spec in draw_specs("test", 120, seed=6, hard=True):
        masks, spans = silhouettes(spec, render_clip(spec))
        indices = np.array(uniform_indices(spec.num_frames, 16))
        for action, (begin, end) in zip(spec.actions, spans, strict=True):
            part = masks[indices[(indices >= begin) & (indices <= end)]]
            assert len(part) >= 5, spec
            seen[action] += 1
            if action == "blinks":
                assert not part.any(axis=(1, 2)).all(), spec
            elif action == "spins":  # not by an angle after which the shape looks the same
                assert np.median((part[1:] ^ part[:-1]).sum(axis=(1, 2))) > 0.2 * part[0].sum(), spec
    assert min(seen[action] for action in HARD_INVERSE) >= 10


def test_reversed_caption_is_the_inverse_of_the_last_action_then_of_those_before():
    spec = replace(draw_specs("train", 1)[0], colour="pink", shape="star")
    captions = {
        ("slides left", "grows"): "shrinks and then slides right",
        ("spins", "slides up"): "slides down and then spins",
        ("blinks", "bounces"): "bounces and then blinks",
        ("shrinks", "grows"): "shrinks and then grows",
        ("slides up", "loops", "grows"): "shrinks, then loops and then slides down",
        ("pulses", "slides left", "shakes"): "shakes, then slides right and then pulses",
    }
    for actions, backwards in captions.items():
        spec = replace(spec, actions=actions)
        assert spec.caption == f"a pink star {', then '.join(actions[:-1])} and then {actions[-1]}"
        assert spec.caption_reversed == f"a pink star {backwards}"


def test_folder_holds_what_the_metadata_says(folder):
    assert {path.name for path in folder.parent.iterdir()} == {"clips"}
    suffixes = []
    for split, count in COUNTS.items():
        rows, specs = read_metadata(folder, split), draw_specs(split, count)
        assert len(rows) == count == len(list((folder / split).iterdir())) - 1
        for row, spec in zip(rows, specs, strict=True):
            assert row["caption"] == spec.caption
            backwards = spec.caption_reversed if spec.caption_reversed != spec.caption else None
            assert row["caption_reversed"] == backwards
            path = folder / split / row["file_name"]
            suffixes.append(path.suffix)
            frames, seconds = decode(path)
            assert seconds == pytest.approx(spec.num_frames * spec.frame_ms / 1000)
            drawn = render_clip(spec)
            if path.suffix == ".mp4":  # equal neighbouring frames of a GIF are merged
                assert frames.shape == drawn.shape
            assert frames[0].shape == drawn[0].shape
            assert np.abs(frames[0].astype(int) - drawn[0]).mean() < 8
            assert np.abs(frames[-1].astype(int) - drawn[-1]).mean() < 8
            assert (np.abs(np.diff(frames.astype(int), axis=0)).max(axis=(1, 2, 3)) > 15).sum() >= 5  # it moves
    assert suffixes.count(".gif") == sum(COUNTS.values()) // 4


def test_datasets_loads_the_folder(folder, tmp_path):
    import datasets

    loaded = datasets.load_dataset("videofolder", data_dir=str(folder), cache_dir=str(tmp_path))
    assert {split: len(rows) for split, rows in loaded.items()} == COUNTS
    assert list(loaded["test"]["caption_reversed"]) == [r["caption_reversed"] for r in read_metadata(folder, "test")]


def test_same_seed_same_files(folder, tmp_path):
    generate_demo_data(tmp_path / "again", **COUNTS)
    files = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    for file in files:
        assert (folder / file).read_bytes() == (tmp_path / "again" / file).read_bytes(), file
    generate_demo_data(tmp_path / "other", **COUNTS, seed=1)
    assert read_metadata(tmp_path / "other", "test") != read_metadata(folder, "test")


def test_finished_folder_is_reused_and_any_other_refused(tmp_path, folder):
    target = tmp_path / "clips"
    target.mkdir()
    generate_demo_data(target, train=2, validation=0, test=1)
    assert not (target / "validation").exists()
    before = (target / "demo_data.json").stat().st_mtime_ns
    generate_demo_data(target, train=2, validation=0, test=1)
    assert (target / "demo_data.json").stat().st_mtime_ns == before
    for other in ({"train": 3}, {"train": 2, "seed": 1}, {"train": 2, "size": 96}, {"train": 2, "hard": True}):
        with pytest.raises(FileExistsError, match="clips contains other files"):
            generate_demo_data(target, validation=0, test=1, **other)
    with pytest.raises(FileExistsError, match="metadata.jsonl is a file"):
        generate_demo_data(target / "train" / "metadata.jsonl", train=2)
    with pytest.raises(ValueError, match="train=-1"):
        generate_demo_data(tmp_path / "new", train=-1)
    with pytest.raises(ValueError, match="size=63"):
        generate_demo_data(tmp_path / "new", size=63)
    assert not (tmp_path / "new").exists()


def test_interrupted_run_leaves_nothing(tmp_path, monkeypatch):
    clips = iter(range(3))

    def interrupt_at_the_fourth(spec):
        if next(clips, None) is None:
            raise KeyboardInterrupt
        return render_clip(spec)

    monkeypatch.setattr(demo_data, "render_clip", interrupt_at_the_fourth)
    with pytest.raises(KeyboardInterrupt):
        generate_demo_data(tmp_path / "clips", train=8)
    assert list(tmp_path.iterdir()) == []
