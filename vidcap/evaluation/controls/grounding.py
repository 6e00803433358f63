"""Grounding of words: the fall of each word's probability when the video is withheld.

The decoder reads the true captions word by word (teacher forcing), once with their own clip and once with another.
Another clip rather than none: without a clip most captioners leave the distribution they were trained on, whereas the
mean over other clips is what the captioner would say about any clip, p(word | words before it).

Guarantees: a word of several tokens counts once, by the product of their probabilities.

Limitations: words that the tokenizer does not know are only counted, as `unknown`; a word that is true of both clips
hardly falls.
"""

import math
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from modeling_vidcap.modeling_vidcap import shift_right
from processing.clips.clip_dataset import ClipDataset
from processing.clips.collator import IGNORED, VideoCaptionCollator
from vidcap.evaluation.scores.bootstrap import paired_bootstrap
from vidcap.inference.captioning import map_batches

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from modeling_vidcap import VideoCaptionForConditionalGeneration
    from processing import VideoCaptionProcessor

WITHHELD = "the clip is replaced by another one, of which none of its true captions is true"
# Excluded are words of movement (up, down, over, through, off, out ...) and of order (before, after).
FUNCTION_WORDS = frozenset(
    "a an the this that these those and or but then than as while when so of in on at to into onto from by with for "
    "is are was were be been being am do does did has have had can could will would may it its he she they his her "
    "their them him we our you your i my me there here which who what some any no not also very".split()
)
_WORD = re.compile(r"\w+(?:['’\-]\w+)*")


def ground_words(
    model: "VideoCaptionForConditionalGeneration",
    processor: "VideoCaptionProcessor",
    clips: ClipDataset,
    indices: Sequence[int],
    partners: Sequence[int],
    *,
    batch_size: int = 16,
) -> dict[str, Any]:
    """Measure how far each content word of the clips' first captions depends on the clip.

    Args:
        model, processor: A captioner of this package.
        clips: Clips with captions.
        indices: The clips to use.
        partners: For each of these another clip with other captions.
        batch_size: Clips read at once.

    Returns:
        `words`: for each content word (all but English [`FUNCTION_WORDS`]) its `count`, its mean `probability` with
        its own clip and `without_video`, the `fall` between them and its 95 % `interval` over occurrences (`None` for
        one occurrence), largest fall first; `fall`, the mean over all
        occurrences; `clips`, `unknown` and `withheld`, the meaning of "without video".

    Raises:
        ValueError: If the tokenizer gives no character offsets of its tokens.
    """
    tokenizer: Any = processor.tokenizer
    if not tokenizer.is_fast:
        raise ValueError(
            f"grounding needs character offsets of tokens, which {type(tokenizer).__name__} does not give: use a fast "
            "tokenizer, or omit the control other_clip"
        )
    collator = VideoCaptionCollator(processor, max_length=model.config.max_position_embeddings)
    captions = [clips.rows[index]["captions"][0] for index in indices]
    labels = collator.labels(captions)  # (N, L)
    position = 0

    def log_probabilities(inputs: dict[str, torch.Tensor]) -> list[list[float]]:
        nonlocal position
        batch = labels[position : position + len(inputs["video_mask"])].to(model.device)
        position += len(batch)
        logits = model(**inputs, decoder_input_ids=shift_right(batch, model.config), use_cache=False).logits
        # Those of padding are gathered too, and ignored below.
        return logits.float().log_softmax(dim=-1).gather(-1, batch.clamp(min=0).unsqueeze(-1)).squeeze(-1).tolist()

    def read_beside(clip_indices: Sequence[int], progress: str) -> list[list[float]]:
        nonlocal position
        position = 0
        subset = torch.utils.data.Subset(clips, clip_indices)
        return map_batches(log_probabilities, model, processor, subset, batch_size, progress)

    own, other = read_beside(indices, "grounding"), read_beside(partners, "grounding, other clips")
    occurrences: dict[str, list[tuple[float, float]]] = {}
    unknown = 0
    for caption, row, with_video, without in zip(captions, labels.tolist(), own, other, strict=True):
        for word, tokens in word_tokens(tokenizer, caption, limit=sum(label != IGNORED for label in row) - 1):
            if word in FUNCTION_WORDS:
                continue
            if any(row[token] == tokenizer.unk_token_id for token in tokens):
                unknown += 1
                continue
            pair = [math.exp(sum(values[token] for token in tokens)) for values in (with_video, without)]
            occurrences.setdefault(word, []).append((pair[0], pair[1]))
    words = {}
    for word, pairs in occurrences.items():
        probability, without_video = (sum(values) / len(pairs) for values in zip(*pairs, strict=True))
        words[word] = {
            "count": len(pairs),
            "probability": probability,
            "without_video": without_video,
            "fall": probability - without_video,
            "interval": _interval(pairs),
        }
    falls = [probability - without for pairs in occurrences.values() for probability, without in pairs]
    return {
        "words": dict(sorted(words.items(), key=lambda item: -item[1]["fall"])),
        "fall": sum(falls) / len(falls) if falls else None,
        "clips": len(captions),
        "unknown": unknown,
        "withheld": WITHHELD,
    }


def _interval(pairs: Sequence[tuple[float, float]]) -> tuple[float, float] | None:
    if len(pairs) < 2:
        return None
    own, other = zip(*pairs, strict=True)
    gap = paired_bootstrap(other, own)
    return gap.low, gap.high


def word_tokens(tokenizer: "PreTrainedTokenizerBase", caption: str, *, limit: int) -> list[tuple[str, list[int]]]:
    """The words of a caption, in lower case, each with the positions of its tokens.

    Punctuation is omitted, and words that do not end before token `limit`, where a cut caption ends.
    """
    encoded = tokenizer(caption, return_offsets_mapping=True)
    words = [(match.group().lower(), match.span(), list[int]()) for match in _WORD.finditer(caption)]
    for place, (start, end) in enumerate(encoded["offset_mapping"]):
        for _, (first, last), places in words:
            if start < last and first < end:
                places.append(place)
    return [(word, places) for word, _, places in words if places and places[-1] < limit]
