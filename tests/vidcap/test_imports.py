"""What a command imports, which is most of the time it takes, and that classes are registered all the same."""

import subprocess
import sys

import pytest

import vidcap
from tests.media import texture, write_video
from tests.tiny import tiny_model, tiny_processor

SLOW = ("datasets", "timm", "torch", "torchvision", "transformers")
LIST_SLOW = f"print(*[name for name in {SLOW} if name in sys.modules])"


@pytest.fixture(scope="module")
def captioner(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("captioner")
    model = tiny_model()
    model.generation_config.max_new_tokens = 6
    model.save_pretrained(folder)
    tiny_processor().save_pretrained(folder)
    return str(folder)


def python(code: str, *argv: str) -> list[str]:
    """The lines that a fresh process prints."""
    command = [sys.executable, "-c", f"import sys\n{code}", *argv]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


RUN = f"""
from vidcap.cli import main
try:
    status = main(sys.argv[1:])
except SystemExit as end:
    status = end.code
print("status", status)
{LIST_SLOW}
"""


@pytest.mark.parametrize(
    ("argv", "status"),
    [
        (["--help"], 0),
        (["--version"], 0),
        (["caption", "--help"], 0),
        (["evaluate", "--help"], 0),
        (["data", "prepare", "--help"], 0),
        (["train", "--help"], 0),
        (["caption", "--model", "m"], 2),
        (["caption", "a.mp4", "b.mp4", "--model", "m", "--format", "srt"], 2),
        (["classify", "a.mp4", "--model", "m"], 2),
    ],
)
def test_help_and_wrong_usage_need_no_library(argv, status):
    *_, said, imported = python(RUN, *argv)
    assert (said, imported) == (f"status {status}", "")


def test_captions_need_torch_alone(captioner, tmp_path):
    clip = write_video(tmp_path / "clip.mp4", texture(8), rate=8)
    caption, said, imported = python(RUN, "caption", str(clip), "--model", captioner, "--num_beams", "2")
    assert caption.startswith(f"{clip}: ") and (said, imported) == ("status 0", "torch")


def test_importing_vidcap_needs_no_library_and_offers_its_names():
    *names, imported = python(f"import vidcap\nprint(*dir(vidcap), sep='\\n')\n{LIST_SLOW}")
    assert imported == "" and {"VideoCaptionConfig", "VideoDecodeError", "__version__"} <= set(names)
    with pytest.raises(AttributeError, match="'vidcap' has no attribute 'nothing'"):
        vidcap.nothing  # noqa: B018


LOAD = "print(type(AutoModel.from_pretrained(sys.argv[1])).__module__)"
PIPE = """
made = pipeline("video-captioning", model=sys.argv[1])
print(type(made.model).__module__, type(made.model).push_to_hub.__module__, made.push_to_hub.__module__)
print(PIPELINE_REGISTRY.supported_tasks["video-captioning"]["impl"].__module__)
"""
PIPELINES = "from transformers.pipelines import PIPELINE_REGISTRY, pipeline"
MODEL = "modeling_vidcap.modeling_vidcap"


@pytest.mark.parametrize(
    ("imports", "use", "expected"),
    [
        ("import vidcap\nfrom transformers import AutoModel", LOAD, [MODEL]),
        ("from transformers import AutoModel\nimport vidcap", LOAD, [MODEL]),
        ("import modeling_vidcap\nfrom transformers import AutoModel", LOAD, [MODEL]),
        # What imports the Auto classes in the middle of being imported itself.
        ("import vidcap\nimport transformers.modeling_layers\nfrom transformers import AutoModel", LOAD, [MODEL]),
        ("import modeling_vidcap.encoder_vidcap\nfrom transformers import AutoModel", LOAD, [MODEL]),
        (
            f"import vidcap\n{PIPELINES}",
            PIPE,
            [f"{MODEL} hub_card.sharing hub_card.sharing", "vidcap.inference.pipelines"],
        ),
        (
            f"{PIPELINES}\nimport vidcap",
            PIPE,
            [f"{MODEL} hub_card.sharing hub_card.sharing", "vidcap.inference.pipelines"],
        ),
        (
            "import vidcap\nfrom processing import VideoCaptionProcessor",
            "print(VideoCaptionProcessor.push_to_hub.__module__)",
            ["hub_card.sharing"],
        ),
    ],
)
def test_classes_are_registered_in_whichever_order_packages_are_imported(imports, use, expected, captioner):
    assert python(f"{imports}\n{use}", captioner) == expected


def test_nothing_watches_imports_once_classes_are_registered():
    code = """
import modeling_vidcap
for _ in range(2):
    print(any("vidcap" in type(each).__module__ for each in sys.meta_path))
    from transformers import AutoModel
"""
    assert python(code) == ["True", "False"]
