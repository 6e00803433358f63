"""The cache of a frozen backbone's features: what shares it, and how they are computed fast."""

import inspect
import pickle
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader

import train_hf
from modeling_vidcap import backbones_vidcap
from modeling_vidcap.pretrained.backbones import OWN, load_backbone
from processing.clips.augmentation import ClipAugmentation
from processing.clips.clip_dataset import ClipDataset
from processing.clips.collator import VideoCaptionCollator
from processing.clips.epochs import EpochBatches, SeededClips
from processing.clips.rows import load_clips
from tests.modeling_vidcap.test_backbones import save_backbone
from tests.processing.clips.test_sources import SMALL
from tests.tiny import tiny_model, tiny_processor
from vidcap.demo.demo_data import generate_demo_data
from vidcap.inference.clip_cache import open_clip_cache
from vidcap.inference.loading import load_captioner


def test_features_of_another_backbone_or_histogram_have_another_cache(tmp_path):
    processor = tiny_processor()
    options: list[dict] = [{}, {"color_bins": 2}, {"thumbnail_size": 2}, {"grayscale_backbone": True}]
    for stages in ([2], [0, 1]):  # 40 channels both
        settings = load_backbone("efficientnet_lite0", grid=2, stages=stages).settings
        options.append(settings)
    models = [tiny_model(**{"freeze_backbone": True, **each}) for each in options]
    folders = [open_clip_cache(model, processor, folder=tmp_path).folder for model in models]
    assert len(set(folders)) == len(models)
    assert open_clip_cache(models[0], processor, folder=tmp_path).folder == folders[0]


def test_features_of_other_stages_of_the_same_weights_have_another_cache(tmp_path):
    source, processor = save_backbone("dinov2", tmp_path), tiny_processor()
    folders = []
    for stages in (None, [0], [1], [2], [1, 2], [2, 1]):
        loaded = load_backbone(source, grid=2, stages=stages, frozen=True)
        model = tiny_model(**loaded.settings)
        loaded.fill(model.backbone)
        cache = open_clip_cache(model, processor, folder=tmp_path / "cache")
        folders.append(cache.folder)
    assert len(set(folders)) == len(folders)


def test_whatever_shapes_the_features_is_in_the_name_of_their_cache(tmp_path):
    """Each setting of a config that the backbone looks at, by changing it; a new one fails here until it is listed."""
    processor = tiny_processor()

    def folder(**changes) -> Path:
        model = tiny_model(**{"freeze_backbone": True, **changes})
        return open_clip_cache(model, processor, folder=tmp_path).folder

    read = set(re.findall(r"config\.(\w+)", inspect.getsource(backbones_vidcap)))
    read |= set(re.findall(r"config\.(\w+)", inspect.getsource(backbones_vidcap.frame_maps)))
    changes: dict[str, dict] = {
        "feature_grid": {"feature_grid": 3},
        "thumbnail_size": {"thumbnail_size": 2},
        "color_bins": {"color_bins": 2},
        "image_mean": {"image_mean": [0.4, 0.5, 0.5]},
        "image_std": {"image_std": [0.4, 0.5, 0.5]},
        "grayscale_backbone": {"grayscale_backbone": True},
        "cnn_hidden_sizes": {"cnn_hidden_sizes": [8, 8, 16]},
    }
    elsewhere = {
        "backbone_config", "backbone_stages",  # the test above, and the one before it
        "own_backbone", "encodes_clips", "frame_stride", "check_frames",  # of clip encoders, whose pixels are kept
        "freeze_backbone", "trained_backbone_stages",  # which decide whether there are features to keep
    }  # fmt: skip
    assert read - elsewhere == set(changes)
    found = [folder(), *(folder(**each) for each in changes.values())]
    assert len(set(found)) == len(found)


@pytest.mark.parametrize("family", ["efficientnet_lite0", "resnet", "vit"])
def test_a_trained_model_finds_the_features_it_was_trained_on(family: str, tmp_path: Path) -> None:
    source = family if family in OWN else save_backbone(family, tmp_path)
    loaded = load_backbone(source, grid=2)
    model, processor = tiny_model(**(loaded.settings | {"freeze_backbone": True})), tiny_processor()
    loaded.fill(model.backbone)
    trained_on = open_clip_cache(model, processor, folder=tmp_path / "cache").folder
    model.save_pretrained(tmp_path / "trained")
    processor.save_pretrained(tmp_path / "trained")
    model, processor = load_captioner(tmp_path / "trained", device="cpu")
    processor.video_processor.decoding_threads = 2
    assert open_clip_cache(model, processor, folder=tmp_path / "cache").folder == trained_on
    for other_frames in ("skip_loop_filter", "snap_to_keyframes"):
        setattr(processor.video_processor, other_frames, True)
        assert open_clip_cache(model, processor, folder=tmp_path / "cache").folder != trained_on
        setattr(processor.video_processor, other_frames, False)


@pytest.fixture(scope="module")
def clips_of_features(tmp_path_factory) -> ClipDataset:
    return make_clips(tmp_path_factory.mktemp("clips"))


def make_clips(root: Path) -> ClipDataset:
    generate_demo_data(root / "data", train=5, validation=1, test=0, size=32)
    model, processor = tiny_model(freeze_backbone=True), tiny_processor()
    return ClipDataset(
        load_clips(root / "data", "train"), open_clip_cache(model, processor, folder=root / "cache")
    ).prepare("clips")


@pytest.mark.slow
def test_workers_that_share_no_memory_read_features(clips_of_features):
    loader = DataLoader(
        SeededClips(clips_of_features),
        batch_sampler=EpochBatches(5, 2, seed=1),
        collate_fn=VideoCaptionCollator(tiny_processor()),
        num_workers=1,
        multiprocessing_context="spawn",
    )
    assert [batch["video_features"].shape for batch in loader] == [(2, 4, 4, 16), (2, 4, 4, 16), (1, 4, 4, 16)]


def test_what_a_worker_would_have_to_compute_is_named(clips_of_features):
    elsewhere = pickle.loads(pickle.dumps(clips_of_features))
    assert torch.equal(elsewhere[1]["video_features"], clips_of_features[1]["video_features"])
    row = clips_of_features.rows[2]["video"]
    path = clips_of_features.cache.path(row)
    content = path.read_bytes()
    for damage in (path.unlink, lambda: path.write_bytes(content[:100])):
        damage()
        with pytest.raises(ValueError, match=f"{row['path']}: its features are gone from {path.parent}"):
            pickle.loads(pickle.dumps(clips_of_features))[2]
    assert path.read_bytes() != content
    clips_of_features[2]  # here it is made anew
    assert path.read_bytes() == content


@pytest.mark.slow
def test_training_with_spawned_workers(tmp_path):
    generate_demo_data(tmp_path / "data", train=8, validation=2, test=0, size=32)
    options = " ".join(SMALL).replace("--backbone cnn", "--backbone efficientnet_lite0").split()
    command = ["--dataset", str(tmp_path / "data"), "--output_dir", str(tmp_path / "m"), *options]
    command += ["--feature_cache", str(tmp_path / "c"), "--dataloader_num_workers", "2"]
    command += ["--dataloader_multiprocessing_context", "spawn"]
    run = subprocess.run([sys.executable, train_hf.__file__, *command], capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr


def test_features_of_mirrored_clips_are_kept_beside_the_others(tmp_path, caplog):
    clips = make_clips(tmp_path)
    rows, cache = clips.rows, clips.cache
    captions = [["a dog walks to the left"], *([each] for each in "abcd")]
    rows = rows.remove_columns("captions").add_column("captions", captions)
    always, never = ClipAugmentation.from_parts("flip=1"), ClipAugmentation.from_parts("none")
    plain = ClipDataset(rows, cache, augmentation=never).prepare("clips")
    mirrored = ClipDataset(rows, cache, augmentation=always).prepare("clips")
    assert torch.equal(mirrored[0]["video_features"], plain[0]["video_features"])  # a caption tells its side
    pixels = cache.video_processor(rows[1]["video"], return_tensors="pt")["pixel_values_videos"].flip(-1)
    found = mirrored[1]["video_features"]
    assert not torch.equal(found, plain[1]["video_features"])
    assert torch.allclose(found.float(), cache.encode(pixels)[0][: len(found)].float(), atol=1e-2)
    half = ClipDataset(rows, cache, augmentation=ClipAugmentation.from_parts("flip")).prepare("clips")
    looks = [torch.equal(half[1]["video_features"], found) for _ in range(40)]
    assert 8 < sum(looks) < 32

    # Where the files are gone, what is stored is enough, but nothing can be mirrored that was not before.
    for index in (0, 1, 2):
        path = Path(rows[index]["video"]["path"])
        path.rename(path.with_suffix(".gone"))
    cache.mirrored().path(rows[2]["video"]).unlink()
    again = ClipDataset(rows, cache, augmentation=always).prepare("clips")
    assert torch.equal(again[1]["video_features"], found)
    assert torch.equal(again[2]["video_features"], plain[2]["video_features"])
    assert torch.equal(again[3]["video_features"], mirrored[3]["video_features"])
    assert "not mirroring 1 clips" in caplog.text
