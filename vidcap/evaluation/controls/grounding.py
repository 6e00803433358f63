"""Which words are owed to the video: how far each word's probability falls when the video is withheld.

The true captions are read by the decoder word by word (teacher forcing), once beside their own clip and once beside
another. Another clip, not none: without one most captioners are out of their depth, whereas the mean over other clips
is what the captioner would say of any clip, p(word | words before it), as it learned it.

Promises: a word of several tokens counts once, by the product of their probabilities. Gives up: words that the
tokenizer does not know, which are counted as `unknown`; a word that both clips call for hardly falls.
"""

import math
import re
from collections.abc import Sequence
from typing import Any

import torch

from modeling_vidcap.modeling_vidcap import shift_right
from processing.clips.clip_dataset import ClipDataset
from processing.clips.collator import IGNORED, VideoCaptionCollator
from vidcap.inference.captioning import map_batches

WITHHELD = "the clip is replaced by another one, of which none of the true captions holds"
# Not among them: words that may tell a movement (up, down, over, through, off, out ...) or an order (before, after).
FUNCTION_WORDS = frozenset(
    "a an the this that these those and or but then than as while when so of in on at to into onto from by with for "
    "is are was were be been being am do does did has have had can could will would may it its he she they his her "
    "their them him we our you your i my me there here which who what some any no not also very".split()
)
_WORD = re.compile(r"\w+(?:['’\-]\w+)*")


def ground_words(
    model: Any,
    processor: Any,
    clips: ClipDataset,
    indices: Sequence[int],
    partners: Sequence[int],
    *,
    batch_size: int = 16,
) -> dict[str, Any]:
    """How much each content word of the clips' first captions is owed to the clip.

    Args:
        indices: Which of the clips.
        partners: For each of these another clip with other captions.

    Returns:
        `words`: for each content word (any but English [`FUNCTION_WORDS`]) its `count`, the mean `probability` beside
        its own clip, that `without_video`, and the `fall` between them, the word that falls most first; `fall`, the
        mean over all of them; `clips`, `unknown` and `withheld`, which says what stands for no video.

    Raises:
        ValueError: If the tokenizer cannot tell which characters a token stands for.
    """
    tokenizer = processor.tokenizer
    if not tokenizer.is_fast:
        raise ValueError(
            f"{type(tokenizer).__name__} does not tell which characters a token stands for, which grounding needs: "
            "take a fast tokenizer, or leave the control other_clip out"
        )
    collator = VideoCaptionCollator(processor, max_length=model.config.max_position_embeddings)
    captions = [clips.rows[index]["captions"][0] for index in indices]
    labels = collator.labels(captions)  # (N, L)
    place = 0

    def probabilities(inputs: dict[str, torch.Tensor]) -> list[list[float]]:
        nonlocal place
        some = labels[place : place + len(inputs["video_mask"])].to(model.device)
        place += len(some)
        logits = model(**inputs, decoder_input_ids=shift_right(some, model.config), use_cache=False).logits
        found = logits.float().log_softmax(dim=-1).gather(-1, some.clamp(min=0).unsqueeze(-1))
        return found.squeeze(-1).tolist()  # those of padding are not looked at

    def run(which: Sequence[int], progress: str) -> list[list[float]]:
        nonlocal place
        place = 0
        some = torch.utils.data.Subset(clips, which)
        return map_batches(probabilities, model, processor, some, batch_size, progress)

    own, other = run(indices, "grounding"), run(partners, "grounding, other clips")
    found: dict[str, list[tuple[float, float]]] = {}
    unknown = 0
    for caption, row, with_video, without in zip(captions, labels.tolist(), own, other, strict=True):
        for word, tokens in word_tokens(tokenizer, caption, limit=sum(label != IGNORED for label in row) - 1):
            if word in FUNCTION_WORDS:
                continue
            if any(row[token] == tokenizer.unk_token_id for token in tokens):
                unknown += 1
                continue
            pair = [math.exp(sum(values[token] for token in tokens)) for values in (with_video, without)]
            found.setdefault(word, []).append((pair[0], pair[1]))
    words = {}
    for word, pairs in found.items():
        probability, without_video = (sum(each) / len(pairs) for each in zip(*pairs, strict=True))
        words[word] = {
            "count": len(pairs),
            "probability": probability,
            "without_video": without_video,
            "fall": probability - without_video,
        }
    falls = [one - two for pairs in found.values() for one, two in pairs]
    return {
        "words": dict(sorted(words.items(), key=lambda item: -item[1]["fall"])),
        "fall": sum(falls) / len(falls) if falls else None,
        "clips": len(captions),
        "unknown": unknown,
        "withheld": WITHHELD,
    }


def word_tokens(tokenizer: Any, caption: str, *, limit: int) -> list[tuple[str, list[int]]]:
    """The words of a caption, in lower case, each with the places of its tokens; words that do not end before place
    `limit`, where a caption that was cut ends, are left out, as are signs between words."""
    encoded = tokenizer(caption, return_offsets_mapping=True)
    words = [(match.group().lower(), match.span(), list[int]()) for match in _WORD.finditer(caption)]
    for place, (start, end) in enumerate(encoded["offset_mapping"]):
        for _, (first, last), places in words:
            if start < last and first < end:
                places.append(place)
    return [(word, places) for word, _, places in words if places and places[-1] < limit]
