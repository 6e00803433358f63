"""Beam search as in transformers' `generate`, for a decoder that reads one word at a time.

Guarantees: the captions that transformers finds with `early_stopping=False`. Limitations: no sampling, and no
processing of scores but `suppress_tokens`.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from modeling_vidcap.decoding_vidcap import GreedyWriter

from .settings import EncodedClips, SearchSettings

if TYPE_CHECKING:
    from .model import LightCaptioner


IMPOSSIBLE = -1e9  # a score below that of any caption


@dataclass
class Beams:
    """K captions of each of B clips, unfinished or finished, best first.

    Attributes:
        sequences: `(B, K, 1 + max_new_tokens)`.
        scores: `(B, K)`: sums of log-probabilities; for finished captions with the length penalty.
        lengths: `(B, K)`: number of tokens of finished captions, EOS included.
        finished: `(B, K)` of bool.
    """

    sequences: torch.Tensor
    scores: torch.Tensor
    lengths: torch.Tensor
    finished: torch.Tensor

    def best(self, by: torch.Tensor, count: int) -> "Beams":
        """The `count` beams with the highest values of `by` `(B, K)`."""
        return self.pick(by.topk(count)[1])

    def pick(self, order: torch.Tensor) -> "Beams":
        """The beams of the indices `(B, count)`."""
        sequences = self.sequences.take_along_dim(order[..., None], dim=1)
        rest = (values.take_along_dim(order, dim=1) for values in (self.scores, self.lengths, self.finished))
        return Beams(sequences, *rest)

    def joined(self, other: "Beams") -> "Beams":
        """These beams, then the others."""
        pairs = zip(vars(self).values(), vars(other).values(), strict=True)
        return Beams(*(torch.cat(pair, dim=1) for pair in pairs))


def search_beams(model: "LightCaptioner", clips: EncodedClips, settings: SearchSettings) -> Beams:
    """The `num_beams` likeliest captions of each of B clips."""
    batch, beams, limit = len(clips.last_hidden_state), settings.num_beams, settings.max_length
    running = _first_beams(batch, beams, limit, settings)
    done = Beams(running.sequences, torch.full_like(running.scores, IMPOSSIBLE), running.lengths, running.finished)
    improvable = torch.ones(batch, 1, dtype=torch.bool)
    writer = GreedyWriter(model.model.decoder, clips.repeat(beams), limit)
    clip_rows = beams * torch.arange(batch)[:, None]
    for length in range(1, limit):
        words = running.sequences[:, :, length - 1].reshape(-1, 1)
        log_probabilities = model.lm_logits(writer.read(words))[:, -1].log_softmax(dim=-1)
        continued, parents = _continue(running, settings.suppress(words, log_probabilities), length, settings)

        # The best unfinished captions of a clip are continued; finished ones count if they are among the best.
        alive = continued.scores + continued.finished * IMPOSSIBLE
        order = alive.topk(beams)[1]
        running = continued.pick(order)
        running.scores = alive.take_along_dim(order, dim=1)
        continued.finished[:, beams:] = False
        continued.scores = continued.scores / length**settings.length_penalty
        continued.scores += ~improvable * IMPOSSIBLE
        continued.scores += ~continued.finished * IMPOSSIBLE
        done = done.joined(continued)
        done = done.best(done.scores, beams)

        worst = torch.where(done.finished, done.scores.amin(dim=1, keepdim=True), IMPOSSIBLE)
        possible = running.scores[:, :1] / length**settings.length_penalty
        improvable &= (possible > worst).any(dim=-1, keepdim=True)
        if length + 1 == limit or not bool(improvable.any()):
            break
        writer.reorder((parents.take_along_dim(order, dim=1) + clip_rows).flatten())
    return done


def _first_beams(batch: int, beams: int, limit: int, settings: SearchSettings) -> Beams:
    """Captions of the start token only; all beams but the first are ruled out, or all would be the same."""
    sequences = torch.full((batch, beams, limit), settings.pad_token_id)
    sequences[:, :, 0] = settings.decoder_start_token_id
    scores = torch.zeros(batch, beams)
    scores[:, 1:] = IMPOSSIBLE
    lengths = torch.zeros(batch, beams, dtype=torch.long)
    return Beams(sequences, scores, lengths, torch.zeros(batch, beams, dtype=torch.bool))


def _continue(
    running: Beams, log_probabilities: torch.Tensor, length: int, settings: SearchSettings
) -> tuple[Beams, torch.Tensor]:
    """The best continuations by one word, at least K of them unfinished, and their parent beams `(B, count)`.

    Args:
        log_probabilities: `(B * K, V)`, of the next word.
        length: Number of tokens of the continuations, without the start token.
    """
    batch, beams, _ = running.sequences.shape
    vocabulary = log_probabilities.shape[-1]
    totals = log_probabilities.unflatten(0, (batch, beams)) + running.scores[..., None]
    scores, indices = totals.flatten(1).topk(max(2, 1 + len(settings.eos_token_ids)) * beams)
    parents, words = indices // vocabulary, indices % vocabulary
    continued = running.pick(parents)
    continued.sequences[:, :, length] = words
    continued.scores = scores
    continued.lengths = torch.full_like(words, length)
    continued.finished = settings.ended(continued.sequences[:, :, : 1 + length])
    return continued, parents
