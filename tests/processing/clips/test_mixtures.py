"""Several data sets as one: shares of the weights, each clip once a pass of its source, resumed runs, the report."""

import json
from collections import Counter
from itertools import islice
from pathlib import Path

import datasets
import pytest
from safetensors.torch import load_file

import train_hf
from hub_card.card import model_card
from processing.clips.epochs import EpochBatches
from processing.clips.mixtures import MixedEpochBatches, MixedStreams, Mixture, drawn_of, next_source
from processing.clips.rows import has_split, join_sources, load_clips
from processing.clips.sources import DatasetError
from tests.processing.clips.test_sources import as_parquet, as_table
from tests.vidcap.training.test_resume import KINDS, SMALL, assert_equal, kill_when_written
from vidcap.demo.demo_data import generate_demo_data
from vidcap.training import checkpoints
from vidcap.training.checkpoints import seal


@pytest.mark.parametrize("weights", [(1, 1), (2, 1, 1), (0.7, 0.2, 0.1), (1000, 1), (1, 999, 3, 3)])
def test_shares_hold_at_any_moment(weights):
    drawn = [0] * len(weights)
    for total in range(1, 1500):
        drawn[next_source(drawn, weights)] += 1
        assert drawn_of(total, weights) == drawn
        assert all(
            abs(count - total * weight / sum(weights)) < 1.5 for count, weight in zip(drawn, weights, strict=True)
        )


def epochs_of(sizes, weights, ranks: int, epochs: int, batch: int = 4) -> list[list[list[int]]]:
    """For each epoch and batch the clips of all ranks."""
    found = []
    every = [
        MixedEpochBatches(sizes, weights, batch // ranks, seed=3, rank=rank, world_size=ranks) for rank in range(ranks)
    ]
    for epoch in range(epochs):
        for batches in every:
            batches.set_epoch(epoch)
        found.append([[draw for part in parts for draw in part] for parts in zip(*every, strict=True)])
    return found


@pytest.mark.parametrize("ranks", [1, 2])
def test_batches_hold_the_shares_and_each_clip_comes_once_a_pass_of_its_source(ranks):
    sizes, weights = (5, 21, 14), (2, 1, 1)
    found = epochs_of(sizes, weights, ranks, epochs=7)
    clips = [draw.clip for epoch in found for batch in epoch for draw in batch]
    assert len(clips) == 7 * sum(sizes)
    counts = Counter((clip >= 5) + (clip >= 26) for clip in clips)
    assert counts == {0: 140, 1: 70, 2: 70}
    for epoch in found:
        for batch in epoch:
            assert 1 <= sum(draw.clip < 5 for draw in batch) <= 3
    # One rank's clips come in another order than the common one, but only inside a batch of 4 of all of them.
    if ranks == 1:
        for source, (first, size) in enumerate(((0, 5), (5, 21), (26, 14))):
            own = [clip for clip in clips if first <= clip < first + size]
            for start in range(0, counts[source] // size * size, size):
                assert sorted(own[start : start + size]) == list(range(first, first + size))
    assert len({draw.seed for epoch in found for batch in epoch for draw in batch}) == len(clips)


def test_ranks_share_out_the_batches_of_one_process():
    one, two = (epochs_of((5, 21), (1, 1), ranks, epochs=3) for ranks in (1, 2))
    assert [[set(batch) for batch in epoch] for epoch in one] == [[set(batch) for batch in epoch] for epoch in two]
    sides = [
        {draw.clip < 5 for draw in batch}
        for batch in MixedEpochBatches((5, 21), (1, 1), 2, seed=3, rank=0, world_size=2)
    ]
    assert {True, False} in sides  # a rank is not left with one of the sources


def stream(name: str, count: int, shards: int = 1) -> datasets.IterableDataset:
    def rows(numbers):
        yield from ({"clip": f"{name}{number}"} for number in numbers)

    parts = [list(range(count))[shard::shards] for shard in range(shards)]
    made = datasets.IterableDataset.from_generator(
        lambda numbers: (row for part in numbers for row in rows(part)), gen_kwargs={"numbers": parts}
    )
    return made.shuffle(seed=3, buffer_size=4, max_buffer_input_shards=1)


def streams(weights=None) -> MixedStreams:
    return MixedStreams([stream("a", 3), stream("b", 10, shards=2), stream("c", 7)], Mixture(("a", "b", "c"), weights))


def read(mixed: MixedStreams, count: int, position=None) -> list:
    return list(islice(mixed.read(mixed.start() if position is None else position), count))


def test_streams_without_weights_take_turns_until_each_has_been_read_once():
    rows = read(streams(), 60)
    for start in (0, 20, 40):
        one_pass = [each.row["clip"] for each in rows[start : start + 20]]
        assert len(set(one_pass)) == 20
        assert [name[0] for name in one_pass[:9]] == list("abcabcabc")
        assert {each.epoch for each in rows[start : start + 20]} == {start // 20}
    assert [each.row["clip"] for each in rows[:20]] != [each.row["clip"] for each in rows[20:40]]


def test_streams_with_weights_hold_the_shares_and_go_through_each_source_pass_by_pass():
    rows = read(streams((2, 1, 1)), 120)
    assert Counter(each.row["clip"][0] for each in rows) == {"a": 60, "b": 30, "c": 30}
    for name, size in (("a", 3), ("b", 10), ("c", 7)):
        own = [each.row["clip"] for each in rows if each.row["clip"][0] == name]
        for start in range(0, len(own) // size * size, size):
            assert len(set(own[start : start + size])) == size
    assert len({(each.source, each.epoch, each.number) for each in rows}) == 120


@pytest.mark.parametrize("weights", [None, (3, 1, 2)])
def test_streams_go_on_behind_any_row(weights):
    whole = read(streams(weights), 50)
    for consumed in (1, 2, 9, 10, 13, 19, 20, 21, 22, 40, 49):
        position = json.loads(json.dumps(whole[consumed - 1].position))
        assert read(streams(weights), 50 - consumed, position) == whole[consumed:]


@pytest.mark.parametrize("weights", [None, (3, 1, 2)])
@pytest.mark.parametrize("ranks", [2, 3])
def test_ranks_share_out_each_stream(weights, ranks):
    found = []
    for rank in range(ranks):
        mixed = streams(weights)
        mixed.split(rank, ranks)
        found += [each.row["clip"] for each in read(mixed, 120) if each.epoch == 0]
    assert Counter(found) == Counter(dict.fromkeys(found, 1)) and len(found) == 20


def test_a_source_without_a_clip_for_a_process_is_named():
    mixed = streams((1, 1, 1))
    mixed.split(3, 4)
    with pytest.raises(DatasetError, match="a: .*no clips for this process"):
        read(mixed, 20)


# ---- training ---------------------------------------------------------------


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """A folder with a validation split, a table and Parquet shards with one, and a single file."""
    root = tmp_path_factory.mktemp("data")
    generate_demo_data(root / "folder", train=12, validation=3, test=2, size=32)
    generate_demo_data(root / "second", train=9, validation=2, test=1, size=32, seed=1)
    generate_demo_data(root / "third", train=5, validation=1, test=0, size=32, seed=2)
    (root / "shards").mkdir()
    as_parquet(root / "second", root / "shards")
    table = root / "tables"
    table.mkdir()
    as_table(root / "third", table, ".csv")
    (table / "validation.csv").unlink()
    (table / "train.csv").rename(table / "clips.csv")
    return [str(root / "folder"), str(root / "shards"), str(table / "clips.csv")]


def command(sources, output: Path, *options: str) -> list[str]:
    return ["--dataset", *sources, "--output_dir", str(output), "--feature_cache", str(output.parent / "c"), *options]


WEIGHTS = ("--dataset_weights", "2", "1", "1")


@pytest.mark.parametrize("kind", ["map-style", pytest.param("streaming", marks=pytest.mark.slow)])
def test_an_interrupted_run_of_a_mixture_goes_on_to_the_same_weights(sources, kind, tmp_path, monkeypatch, caplog):
    options = [*WEIGHTS, *SMALL, "--max_steps", "14", *KINDS[kind]]
    assert train_hf.main(command(sources, tmp_path / "whole", *options)) == 0
    written = []

    def fails_at_last(path, facts):
        written.append(path)
        if len(written) == 8:
            raise OSError("interrupted")
        seal(path, facts)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "seal", fails_at_last)
        assert train_hf.main(command(sources, tmp_path / "m", *options)) == 1
    assert train_hf.main(command(sources, tmp_path / "m", *options)) == 0
    assert f"resuming from {tmp_path / 'm' / written[-2].name} " in caplog.text
    assert_equal(tmp_path / "m", load_file(tmp_path / "whole" / "model.safetensors"))


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_killed_run_of_a_mixture_goes_on_to_the_same_weights(sources, kind, tmp_path):
    options = [*WEIGHTS, *SMALL, *KINDS[kind]]
    assert train_hf.main(command(sources, tmp_path / "whole", *options)) == 0
    kill_when_written(command(sources, tmp_path / "m", *options), tmp_path / "m", step=5, delay=0.03)
    assert train_hf.main(command(sources, tmp_path / "m", *options)) == 0
    assert_equal(tmp_path / "m", load_file(tmp_path / "whole" / "model.safetensors"))


SHORT = [
    *" ".join(SMALL).replace("--max_steps 40", "--max_steps 2").split(),
    *("--test_split", "test", "--eval_strategy", "steps"),
]


@pytest.mark.parametrize("streaming", ["False", "True"])
def test_what_is_used_of_each_is_said_and_told_in_report_and_card(sources, streaming, tmp_path, caplog, monkeypatch):
    made = []

    def spied(each):
        def begin(self, *args, **options):
            made.append(args)
            original(self, *args, **options)

        original = each.__init__
        monkeypatch.setattr(each, "__init__", begin)

    spied(MixedStreams if streaming == "True" else MixedEpochBatches)
    options = [*WEIGHTS, *SHORT, "--streaming", streaming]
    assert train_hf.main(command(sources, tmp_path / "m", *options)) == 0
    if streaming == "True":
        assert len(made[0][0]) == 3 and made[0][1] == Mixture(tuple(sources), (2.0, 1.0, 1.0))
    else:
        assert made == [([12, 9, 5], (2.0, 1.0, 1.0), 3)]
    train = [f"{count} train, " if streaming == "False" else "" for count in (12, 9, 5)]
    assert f"{sources[0]}: 50.0% of the training clips; clips: {train[0]}3 validation, 2 test" in caplog.text
    assert f"{sources[1]}: 25.0% of the training clips; clips: {train[1]}2 validation, 0 test" in caplog.text
    assert f"{sources[2]}: 25.0% of the training clips; clips: {train[2]}0 validation, 0 test" in caplog.text
    assert "clips.csv: clips from column 'path', captions from 'sentence'" in caplog.text
    report = json.loads((tmp_path / "m" / "report.json").read_text())
    assert [(each["name"], each["weight"]) for each in report["data_sets"]] == [
        ("folder", 2), ("shards", 1), ("clips.csv", 1),
    ]  # fmt: skip
    assert report["clips"] == 2 and str(Path(sources[0]).parent) not in json.dumps(report)
    card = (tmp_path / "m" / "README.md").read_text()
    counts = [f" {count} |" if streaming == "False" else "" for count in (12, 9, 5)]
    assert f"| folder | 0.5 |{counts[0]} 3 | 2 |\n| shards | 0.25 |{counts[1]} 2 | 0 |\n" in card
    assert f"| clips.csv | 0.25 |{counts[2]} 0 | 0 |\n" in card
    assert "shards (weight 1.0)" in (tmp_path / "m" / "report.html").read_text()


def test_a_recipe_names_several_and_without_validation_each_gives_up_a_share(sources, tmp_path, caplog):
    recipe = tmp_path / "mixed.yaml"
    recipe.write_text(f"dataset: [{sources[0]}, {sources[2]}]\nvalidation_split: none\n")
    assert train_hf.main([str(recipe), *command([], tmp_path / "m", *SHORT)[1:]]) == 0
    assert "validating on 2 clips set aside from training" in caplog.text
    assert f"{sources[2]}: clips: 4 train, 1 validation, 0 test" in caplog.text


def test_card_of_hub_data_sets():
    card = model_card({"arguments": {"dataset": ["me/a", "b"], "dataset_weights": [3, 1]}})
    assert "datasets:\n- me/a\n" in card and "| me/a | 0.75 |\n| b | 0.25 |\n" in card


@pytest.mark.parametrize(
    ("options", "status", "message"),
    [
        (WEIGHTS[:3], 2, "--dataset_weights 2 1: 2 weights for 3 data sets"),
        ([*WEIGHTS[:3], "0"], 2, "clips.csv is 0, not a number above 0"),
        ([*WEIGHTS[:3], "nan"], 2, "clips.csv is nan, not a number above 0"),
        (["--video_column", "a", "b"], 2, "--video_column a b: 2 columns for 3 data sets; give one for all of them"),
        (
            ["--train_split", "validation"],
            1,
            "clips.csv: the name of this file makes it the split train, ",
        ),
        (["--caption_column", "says"], 1, "--caption_column says is not a column; the columns are file_name, caption"),
    ],
)
def test_mistakes_are_named(sources, tmp_path, capsys, options, status, message):
    try:
        found = train_hf.main(command(sources, tmp_path / "m", *SHORT, *options))
    except SystemExit as stop:
        found = stop.code
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert found == status and message in error and error.startswith("train_hf.py: error: ")


def test_the_same_source_twice_is_refused(sources, tmp_path, capsys):
    with pytest.raises(SystemExit):
        train_hf.main(command([sources[0], f"{sources[0]}/../folder"], tmp_path / "m"))
    assert f"--dataset {sources[0]} and {sources[0]}/../folder are the same" in capsys.readouterr().err


def test_a_file_alone_has_the_split_of_its_name(sources, tmp_path):
    clips = Path(sources[2])
    assert has_split(clips, "train") and not has_split(clips, "validation") and len(load_clips(clips, "train")) == 5
    test = tmp_path / "test.csv"
    test.write_text(clips.read_text())
    assert has_split(test, "test") and not has_split(test, "train") and len(load_clips(test, "test")) == 5


def test_rows_of_every_form_are_joined(sources):
    rows = join_sources([load_clips(each, "train") for each in sources])
    assert list(rows["source"]) == [0] * 12 + [1] * 9 + [2] * 5
    assert [bool(row["video"]["bytes"]) for row in rows] == [number == 1 for number in rows["source"]]


def test_without_weights_an_epoch_is_that_of_one_data_set_with_all_clips():
    batches = EpochBatches(40, 4, seed=1)
    assert Counter(draw.clip for batch in batches for draw in batch) == Counter(range(40))
