"""Each published format on a small file of its own form; mistakes are named by file and line or entry."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from vidcap.data.annotation_files import BadRows
from vidcap.data.annotations import READERS, Annotation, read_annotations, read_split_lists


def read(folder: Path, format: str, content: str | bytes | dict | list) -> list[Annotation]:
    path = folder / "captions"
    if isinstance(content, (dict, list)):
        content = json.dumps(content)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_annotations(path, format)


def test_tgif_merges_the_captions_of_a_url(tmp_path: Path) -> None:
    content = (
        "https://38.media.tumblr.com/9f6c25cc350f12aa74a7dc386a5c4985/tumblr_a.gif\ta man is glaring, and someone\n"
        "https://33.media.tumblr.com/tumblr_b.gif\ta cat tries to catch a mouse\r\n"
        "\n"
        "https://38.media.tumblr.com/9f6c25cc350f12aa74a7dc386a5c4985/tumblr_a.gif\ta man\twith a tab\n"
    )
    first, second = read(tmp_path, "tgif", content)
    assert first.source.endswith("tumblr_a.gif") and first.is_url and first.split is None
    assert first.captions == ("a man is glaring, and someone", "a man\twith a tab")
    assert second == Annotation("https://33.media.tumblr.com/tumblr_b.gif", ("a cat tries to catch a mouse",))


MSRVTT: dict[str, Any] = {
    "info": {"year": "2016"},
    "videos": [
        {
            "category": 9,
            "url": "https://www.youtube.com/watch?v=9lZi22qLlEo",
            "video_id": "video0",
            "start time": 137.72,
            "end time": 149.44,
            "split": "train",
            "id": 0,
        },
        {"url": "https://x", "video_id": "video1", "start time": 0, "end time": 10, "split": "validate", "id": 1},
    ],
    "sentences": [
        {"caption": "a car is shown", "video_id": "video0", "sen_id": 0},
        {"caption": "a woman sings", "video_id": "video1", "sen_id": 1},
        {"caption": "in a red car a man drives", "video_id": "video0", "sen_id": 2},
    ],
}


def test_msrvtt_joins_videos_and_sentences(tmp_path: Path) -> None:
    captions = ("a car is shown", "in a red car a man drives")
    assert read(tmp_path, "msrvtt", MSRVTT) == [
        Annotation("video0", captions, "train", 137.72, 149.44, clip="video0"),
        Annotation("video1", ("a woman sings",), "validation", 0.0, 10.0, clip="video1"),
    ]


def test_msvd_and_vatex_find_the_part_in_the_name(tmp_path: Path) -> None:
    lines = "# MSVD\n\nmv89psg6zh4_33_46 a bird is bathing\n-4wsuPCjDBc_5_15 a squirrel\nmv89psg6zh4_33_46 a bird\n"
    assert read(tmp_path, "msvd", lines) == [
        Annotation("mv89psg6zh4", ("a bird is bathing", "a bird"), None, 33.0, 46.0, clip="mv89psg6zh4_33_46"),
        Annotation("-4wsuPCjDBc", ("a squirrel",), None, 5.0, 15.0, clip="-4wsuPCjDBc_5_15"),
    ]
    entries = [{"videoID": "a_b_000122_000132", "enCap": ["a man", "men"], "chCap": ["一个男人"]}]
    assert read(tmp_path, "vatex", entries) == [
        Annotation("a_b", ("a man", "men"), None, 122.0, 132.0, clip="a_b_000122_000132")
    ]


def test_activitynet_gives_one_annotation_a_part(tmp_path: Path) -> None:
    entry = {"duration": 82.73, "timestamps": [[0.83, 19.86], [60.81, 17.37]], "sentences": ["A woman", " She"]}
    assert read(tmp_path, "activitynet", {"v_QOlSCBRmfWY": entry}) == [
        Annotation("v_QOlSCBRmfWY", ("A woman",), None, 0.83, 19.86),
        Annotation("v_QOlSCBRmfWY", (" She",), None, 17.37, 60.81),
    ]


def test_charades_parts_its_descriptions(tmp_path: Path) -> None:
    content = (
        "id,subject,scene,script,objects,descriptions,actions,length\r\n"
        '46GP8,HR43,Kitchen,"A, B",food;pan,"A person cooks food, twice.;They leave.",c092 11.90 21.20,24\r\n'
    )
    assert read(tmp_path, "charades", content) == [Annotation("46GP8", ("A person cooks food, twice.", "They leave."))]


def test_coco_and_flickr30k_are_images(tmp_path: Path) -> None:
    content = {
        "images": [
            {"id": 7, "file_name": "000000000007.jpg", "coco_url": "http://images.cocodataset.org/7.jpg"},
            {"id": 8, "file_name": "000000000008.jpg"},
        ],
        "annotations": [
            {"image_id": 8, "id": 1, "caption": "A dog."},
            {"image_id": 7, "id": 2, "caption": "A bicycle\n"},
            {"image_id": 8, "id": 3, "caption": "Dogs."},
        ],
    }
    assert read(tmp_path, "coco", content) == [
        Annotation("http://images.cocodataset.org/7.jpg", ("A bicycle\n",), clip="000000000007.jpg"),
        Annotation("000000000008.jpg", ("A dog.", "Dogs."), clip="000000000008.jpg"),
    ]
    lines = "1000092795.jpg#0\tTwo young guys .\n1000092795.jpg#1\tTwo young men .\n"
    assert read(tmp_path, "flickr30k", lines) == [
        Annotation("1000092795.jpg", ("Two young guys .", "Two young men ."))
    ]


def test_our_own_forms(tmp_path: Path) -> None:
    lines = (
        '\ufeff{"file_name": "cat.mp4", "caption": "a cat", "split": "val"}\n'
        '{"url": "https://x.org/dog.gif", "file_name": "dog1.gif", "captions": ["a dog", "dogs"]}\n'
        '{"file_name": "long.mp4", "start": 1, "end": 2.5, "caption": "a part"}\n'
    )
    expected = [
        Annotation("cat.mp4", ("a cat",), "validation"),
        Annotation("https://x.org/dog.gif", ("a dog", "dogs"), clip="dog1.gif"),
        Annotation("long.mp4", ("a part",), None, 1.0, 2.5),
    ]
    assert read(tmp_path, "jsonl", lines) == expected
    rows = (
        "file_name,url,caption,split,start,end\n"
        'cat.mp4,,"a cat",val,,\n'
        "dog1.gif,https://x.org/dog.gif,a dog,,,\n"
        "long.mp4,,a part,,1,2.5\n"
        "dog1.gif,https://x.org/dog.gif,dogs,,,\n"
    )
    assert read(tmp_path, "csv", rows) == expected
    assert read(tmp_path, "csv", 'file_name,captions\na.gif,"[""a, b"", ""c""]"\n')[0].captions == ("a, b", "c")


SENTS = {
    "train": "vid1\ta squirrel is eating\nvid2\ta man cooks\nvid1\ta chipmunk\n",
    "val": "vid3\ta dog\n",
    "test": "vid4\ta cat\n",
}
VIDEOS = "-4wsuPCjDBc_5_15 vid1\n-7KMZQEsJW4_205_208 vid2\na_b_1_2 vid3\n-8y1Q0rA3n8_95_102 vid4\n"


def write_msvd(folder: Path) -> list[Path]:
    (folder / "youtube_mapping.txt").write_text(VIDEOS)
    files = [folder / f"sents_{split}_lc_nopunc.txt" for split in SENTS]
    for file, lines in zip(files, SENTS.values(), strict=True):
        file.write_text(lines)
    return files


def test_msvd_in_the_files_of_its_splits(tmp_path: Path) -> None:
    train, *_ = write_msvd(tmp_path)
    first = Annotation(
        "-4wsuPCjDBc", ("a squirrel is eating", "a chipmunk"), "train", 5.0, 15.0, clip="-4wsuPCjDBc_5_15"
    )
    second = Annotation("-7KMZQEsJW4", ("a man cooks",), "train", 205.0, 208.0, clip="-7KMZQEsJW4_205_208")
    assert read_annotations(train, "msvd") == [first, second]
    whole = read_annotations(tmp_path, "msvd")
    assert {clip.clip: clip.split for clip in whole} == {
        "-4wsuPCjDBc_5_15": "train",
        "-7KMZQEsJW4_205_208": "train",
        "a_b_1_2": "validation",
        "-8y1Q0rA3n8_95_102": "test",
    }
    train.write_text("vid1\ta squirrel\nvid9\ta cow\n")
    bad = BadRows()
    assert len(read_annotations(train, "msvd", bad)) == 1
    assert [str(mistake) for mistake in bad.mistakes] == [f"{train}, line 2: vid9 is not in youtube_mapping.txt"]
    (tmp_path / "youtube_mapping.txt").unlink()
    assert read_annotations(train, "msvd")[1] == Annotation("vid9", ("a cow",), "train")
    with pytest.raises(ValueError, match="holds no sents_"):
        read_annotations(tmp_path.parent, "msvd")


def test_split_lists_by_their_usual_names(tmp_path: Path) -> None:
    lists = write_msvd(tmp_path)
    assert read_split_lists(lists)["-8y1Q0rA3n8_95_102"] == "test"
    assert set(read_split_lists(lists).values()) == {"train", "validation", "test"}
    names = tmp_path / "val_list.txt"
    names.write_text("-4wsuPCjDBc_5_15\n")
    assert read_split_lists([names]) == {"-4wsuPCjDBc_5_15": "validation"}
    with pytest.raises(ValueError, match="-4wsuPCjDBc_5_15 is in the list of train too"):
        read_split_lists([*lists, names])
    with pytest.raises(ValueError, match="unknown split 'train_val'"):
        read_split_lists([names.rename(tmp_path / "train_val.txt")])


def test_an_image_of_flickr8k_under_the_name_of_a_second_download(tmp_path: Path) -> None:
    lines = "2258277193_5.jpg.1#0\tpeople waiting\n2258277193_5.jpg#1\tSome people .\n"
    assert read(tmp_path, "flickr30k", lines) == [Annotation("2258277193_5.jpg", ("people waiting", "Some people ."))]


@pytest.mark.parametrize(
    ("format", "content", "mistakes", "clips"),
    [
        ("tgif", b"http://a/b.gif\tone\nhttp://a/c.gif two\nhttp://a/d.gif\t\xe9\nhttp://a/e.gif\tsix\n", [2, 3], 2),
        ("activitynet", {"v": {"timestamps": [[0, 1], [3, 3], [1]], "sentences": ["a", "b", "c"]}}, [1, 2], 1),
        ("activitynet", {"v": {"timestamps": [[0, 1]], "sentences": ["a"]}, "w": {"timestamps": []}}, ["w"], 1),
        ("msvd", "a_1_2 a cat\na_3_3 a dog\nb a cow\n", [2, 3], 1),
        ("charades", "id,descriptions\r\n1,a;b\r\n3\r\n4,c\r\n", [3], 2),
        ("flickr30k", "a.jpg#0\tone\na.jpg\ttwo\n", [2], 1),
        ("vatex", [{"videoID": "a_1_2", "enCap": ["x"]}, {"videoID": "a_1_2"}], [1], 1),
        ("msrvtt", "videos/1/split", ["videos entry 1"], 1),
        ("msrvtt", "sentences/1/video_id", ["videos entry 1", "sentences"], 1),
        (
            "coco",
            {
                "images": [{"id": 1, "file_name": "a"}, {"id": 2, "file_name": "b"}],
                "annotations": [{"image_id": 1, "caption": "x"}, {"image_id": 3, "caption": "y"}, {"image_id": 1}],
            },
            ["annotations entry 2", "images entry 1", "annotations"],
            1,
        ),
        ("jsonl", '{"file_name": "a", "caption": "b"}\n{"caption": "c"}\n{\n', [2, 3], 1),
        ("csv", "file_name,caption,start,end\na,b,,\nc,d,2,1\ne,f,x,\n", [3, 4], 1),
        (
            "jsonl",
            '{"url": "a", "caption": "b", "split": "train"}\n{"url": "a", "caption": "c", "split": "test"}',
            [2],
            1,
        ),
    ],
)
def test_bad_rows_leave_the_others(
    tmp_path: Path, format: str, content: Any, mistakes: list[int | str], clips: int
) -> None:
    if format == "msrvtt":
        content = changed(content, "all")
    path = tmp_path / "captions"
    path.write_bytes(content if isinstance(content, bytes) else b"")
    if not isinstance(content, bytes):
        path.write_text(content if isinstance(content, str) else json.dumps(content), newline="")
    bad = BadRows()
    assert len(read_annotations(path, format, bad)) == clips
    places = [str(mistake.place) for mistake in bad.mistakes]
    assert len(places) == len(mistakes), places
    assert all(str(part) in place for part, place in zip(mistakes, places, strict=True)), places
    assert all(str(mistake).startswith(f"{path}, {mistake.place}: ") for mistake in bad.mistakes)


PUBLISHED = Path(os.environ.get("VIDCAP_ANNOTATIONS", ""))


@pytest.mark.skipif("VIDCAP_ANNOTATIONS" not in os.environ, reason="needs VIDCAP_ANNOTATIONS, a folder of the files")
@pytest.mark.parametrize(
    ("name", "format", "clips", "captions", "refused", "split"),
    [
        ("activitynet/train.json", "activitynet", 37_419, 37_419, 2, None),
        ("activitynet/val_1.json", "activitynet", 17_505, 17_505, 0, None),
        ("charades/Charades_v1_train.csv", "charades", 7_985, 11_593, 0, None),
        ("coco/captions_val2017.json", "coco", 5_000, 25_014, 0, None),
        ("flickr8k/Flickr8k.token.txt", "flickr30k", 8_092, 40_460, 0, None),
        ("msrvtt/test_videodatainfo.json", "msrvtt", 2_990, 59_800, 0, "test"),
        ("msvd/AllVideoDescriptions.txt", "msvd", 1_970, 80_827, 0, None),
        ("msvd/sents_train_lc_nopunc.txt", "msvd", 1_200, 48_774, 0, "train"),
        ("msvd/sents_val_lc_nopunc.txt", "msvd", 100, 4_290, 0, "validation"),
        ("msvd/sents_test_lc_nopunc.txt", "msvd", 670, 27_763, 0, "test"),
        ("tgif/results-lstm-cnn-finetune-cvpr16.tsv", "tgif", 11_360, 11_360, 0, None),
        ("youcook2/yc2_train.json", "activitynet", 10_337, 10_337, 0, None),
    ],
)
def test_published_files_are_read_whole(
    name: str, format: str, clips: int, captions: int, refused: int, split: str | None
) -> None:
    bad = BadRows()
    found = read_annotations(PUBLISHED / name, format, bad)
    assert (len(found), sum(len(clip.captions) for clip in found), len(bad.mistakes)) == (clips, captions, refused)
    assert {clip.split for clip in found} == {split}


@pytest.mark.skipif("VIDCAP_ANNOTATIONS" not in os.environ, reason="needs VIDCAP_ANNOTATIONS, a folder of the files")
def test_published_split_lists_name_every_clip() -> None:
    sents = [PUBLISHED / "msvd" / f"sents_{split}_lc_nopunc.txt" for split in ("train", "val", "test")]
    lists = read_split_lists(sents)
    assert len(lists) == 1_970
    assert {clip.clip for clip in read_annotations(PUBLISHED / "msvd" / "AllVideoDescriptions.txt", "msvd")} == set(
        lists
    )
    tgif = read_split_lists([PUBLISHED / "tgif" / name for name in ("val.txt", "test.txt")])
    results = read_annotations(PUBLISHED / "tgif" / "results-lstm-cnn-finetune-cvpr16.tsv", "tgif")
    assert {tgif.get(clip.source) for clip in results} == {"test"}


def changed(path: str, value: Any) -> dict[str, Any]:
    content = json.loads(json.dumps(MSRVTT))
    target = content
    *keys, last = path.split("/")
    for key in keys:
        target = target[int(key) if isinstance(target, list) else key]
    target[last] = value
    return content


@pytest.mark.parametrize(
    ("format", "content", "message"),
    [
        ("tgif", "http://a/b.gif\tone\nhttp://a/c.gif two\n", "line 2: not `URL TAB caption`: 'http://a/c.gif two'"),
        ("tgif", b"http://a/b.gif\tone\nhttp://a/c.gif\tcaf\xe9\n", "line 2: not UTF-8 (invalid continuation byte)"),
        ("tgif", "\n", "no captions"),
        ("msrvtt", "{\n", "line 2: not JSON (Expecting property name enclosed in double quotes)"),
        ("msrvtt", {"videos": []}, ': no "sentences"'),
        ("msrvtt", changed("videos/1/split", "all"), "videos entry 1: unknown split 'all'"),
        ("msrvtt", changed("videos/1/start time", "0"), "videos entry 1: \"start time\" is '0'"),
        ("msrvtt", changed("videos/1/end time", 0), "videos entry 1: the part from 0.0 to 0.0 seconds"),
        (
            "msrvtt",
            changed("sentences/1/caption", None),
            "sentences entry 1: \"caption\" is 'None'",
        ),
        ("msrvtt", changed("sentences/1/video_id", "video9"), "videos entry 1: video1 "),
        ("msrvtt", changed("videos/1/video_id", "video0"), "videos entry 1: video0 "),
        ("msvd", "# x\nmv89psg6zh4 a bird\n", "line 2: 'mv89psg6zh4' "),
        ("vatex", {"videoID": "a_1_2"}, ": not a list"),
        ("vatex", [{"videoID": "a_1_2", "chCap": []}], 'entry 0: no "enCap"'),
        ("vatex", [{"videoID": "a_1_2", "enCap": ["a", 3]}], "entry 0: caption 3 "),
        ("activitynet", [], ": not a JSON object"),
        ("activitynet", {"v_x": {"timestamps": [[0, 1]], "sentences": []}}, "v_x: 1 timestamps for 0 sentences"),
        ("activitynet", {"v_x": {"timestamps": [[0]], "sentences": ["a"]}}, "v_x, part 0: timestamp [0] is not"),
        ("charades", "id,script\n1,2\n", "line 1: no column descriptions; the columns are id, script"),
        ("charades", "id,descriptions\n1,2\n3\n", "line 3: more or fewer fields than the 2 columns"),
        ("charades", 'id,descriptions\n1,"2\n', "line 2: not CSV (unexpected end of data)"),
        (
            "coco",
            {"images": [{"id": 1, "file_name": "a"}], "annotations": []},
            "images entry 0: image 1 ",
        ),
        ("coco", {"images": [], "annotations": [{"image_id": 1, "caption": "a"}]}, "annotations: image 1 "),
        ("flickr30k", "a.jpg#0\tone\na.jpg\ttwo\n", "line 2: not `NAME#NUMBER TAB caption`"),
        ("jsonl", '{"file_name": "a"', "line 1: not JSON"),
        ("jsonl", '{"caption": "a"}', 'line 1: has neither "file_name" nor "url"'),
        ("jsonl", '{"file_name": "a"}', 'line 1: must have either a "caption"'),
        ("jsonl", '{"file_name": "a", "caption": "b", "start": 1}', "line 1: has only one of start and end"),
        ("jsonl", '{"file_name": "a", "caption": "b", "start": 3, "end": 2}', "line 1: the part from 3.0 to 2.0"),
        (
            "jsonl",
            '{"url": "a", "caption": "b", "split": "train"}\n{"url": "a", "caption": "c", "split": "test"}',
            "line 2: a is in the split test here, but in train at line 1",
        ),
        ("csv", "file_name,captions\na,b\n", "line 2: not JSON"),
    ],
)
def test_a_mistake_is_one_line_with_its_place(tmp_path: Path, format: str, content: Any, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        read(tmp_path, format, content)
    text = str(caught.value)
    assert text.startswith(str(tmp_path / "captions")) and message in text and "\n" not in text, text


def test_every_format_has_a_sample_here() -> None:
    text = Path(__file__).read_text(encoding="utf-8")
    assert all(f'"{format}"' in text for format in READERS)
