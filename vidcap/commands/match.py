"""`vidcap classify` and `vidcap search`: clips and texts compared.

Guarantees: a clip that cannot be read is reported and left out.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..inference.subtitles import CaptionedClip
from .options import whole

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

    from .options import Subcommands


def add_match_commands(
    commands: "Subcommands", parents: Sequence[argparse.ArgumentParser]
) -> tuple[argparse.ArgumentParser, argparse.ArgumentParser]:
    """Add `classify` and `search` to the commands; `parents` have options of reading."""
    classify = commands.add_parser(
        "classify",
        parents=list(parents),
        help="choose the text that fits a clip best",
        description="Choose the nearest of several texts for each clip (zero-shot classification). The texts should "
        "read like the captions that the model was trained on.",
    )
    classify.add_argument("clips", nargs="+", metavar="CLIP", help="video, GIF, folder of images, or http(s) URL")
    classify.add_argument("--labels", nargs="+", required=True, metavar="TEXT", help="texts to choose from")
    classify.add_argument(
        "--format",
        choices=("text", "json"),
        default="text",
        help="format of the output; json has the scores of all texts [text]",
    )
    classify.set_defaults(run=run_classify)

    search = commands.add_parser(
        "search",
        parents=list(parents),
        help="find clips by a text",
        description="Sort clips by how well a text fits them.",
    )
    search.add_argument("text", help="text to look for, worded like the captions that the model was trained on")
    search.add_argument("clips", nargs="+", metavar="CLIP", help="video, GIF, folder of images, or http(s) URL")
    search.add_argument("--top", type=whole, default=10, metavar="N", help="clips to print [10]")
    search.add_argument("--format", choices=("text", "json"), default="text", help="format of the output [text]")
    search.set_defaults(run=run_search)
    return classify, search


def run_classify(arguments: argparse.Namespace) -> int:
    """Print each clip's best label; status 1 if a clip is unreadable."""
    clips, logits, sigmoid = compare(arguments, arguments.labels)
    shares = logits.sigmoid() if sigmoid else logits.softmax(dim=1)  # (clips, labels)
    rows: list[dict[str, Any]] = []
    for clip, scores in zip([clip for clip in clips if clip.error is None], shares.tolist(), strict=True):
        ranked = sorted(zip(arguments.labels, scores, strict=True), key=lambda pair: -pair[1])
        rows.append({"file": clip.file, "labels": [{"label": label, "score": score} for label, score in ranked]})
    if arguments.format == "json":
        print(json.dumps(rows, indent=2, ensure_ascii=False))
    else:
        for row in rows:
            best = row["labels"][0]
            print(f"{row['file']}: {best['label']} ({best['score']:.2f})")
    return int(any(clip.error is not None for clip in clips))


def run_search(arguments: argparse.Namespace) -> int:
    """Print the best-fitting clips; status 1 if a clip is unreadable."""
    clips, logits, _ = compare(arguments, [arguments.text])
    read = [clip for clip in clips if clip.error is None]
    order = logits[:, 0].argsort(descending=True).tolist()[: arguments.top]
    rows = [{"file": read[index].file, "score": logits[index, 0].item()} for index in order]
    if arguments.format == "json":
        print(json.dumps(rows, indent=2, ensure_ascii=False))
    else:
        for row in rows:
            print(f"{row['score']:8.3f}  {row['file']}")
    return int(len(read) < len(clips))


def compare(arguments: argparse.Namespace, texts: list[str]) -> tuple[list[CaptionedClip], "torch.Tensor", bool]:
    """Compare clips and texts.

    Returns:
        The clips with their errors; logits `(readable clips, texts)`; whether these belong to a sigmoid.

    Raises:
        ValueError: If the model has no common space of clips and texts, or no clip can be read.
    """
    import torch

    from ..inference.backends import use_fast_backbone
    from ..inference.captioning import embed_clips, embed_texts
    from ..inference.loading import check_compares, load_captioner
    from ..inference.reading import readable_clips

    model, processor = load_captioner(arguments.model, device=arguments.device)
    check_compares(model, arguments.model)
    use_fast_backbone(model, processor, arguments.backend)
    clips = [CaptionedClip(clip) for clip in arguments.clips]
    readable = list(readable_clips(clips, processor.video_processor, "reading clips"))
    if not readable:
        raise ValueError("none of the clips can be read")
    warn_of_unknown_words(processor.tokenizer, texts)
    video = embed_clips(model, processor, readable, batch_size=arguments.batch_size)
    text = embed_texts(model, processor, texts)
    with torch.inference_mode():
        logits = video @ text.T * model.logit_scale.exp()
        if model.logit_bias is not None:
            logits = logits + model.logit_bias
    return clips, logits.float().cpu(), model.logit_bias is not None


def warn_of_unknown_words(tokenizer: "PreTrainedTokenizerBase", texts: list[str]) -> None:
    """Warn of words that did not occur in training."""
    for text in texts:
        ids = tokenizer(text)["input_ids"]
        unknown = ids.count(tokenizer.unk_token_id)
        if unknown:
            message = f"vidcap: warning: {text!r}: {unknown} of its words did not occur in training and are ignored"
            print(message, file=sys.stderr)
