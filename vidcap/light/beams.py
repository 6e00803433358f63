"""Beam search of transformers' `generate`, for a decoder that reads one word at a time.

Guarantees: the captions that transformers finds with `early_stopping=False`. Limitations: no sampling, and of what can
be done to scores only `suppress_tokens`.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from modeling_vidcap.greedy_vidcap import GreedyWriter

from .settings import EncodedClips, SearchSettings

if TYPE_CHECKING:
    from .model import LightCaptioner


IMPOSSIBLE = -1e9  # a score below all that captions can have


@dataclass
class Beams:
    """K captions of each of B clips, unfinished or finished, best first.

    Args:
        sequences: `(B, K, 1 + max_new_tokens)`.
        scores: `(B, K)`: sums of logarithms of probabilities; of finished captions with the length penalty.
        lengths: `(B, K)`: tokens, EOS included, of finished captions.
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
        """Those of the indices `(B, count)`."""
        sequences = self.sequences.take_along_dim(order[..., None], dim=1)
        rest = (each.take_along_dim(order, dim=1) for each in (self.scores, self.lengths, self.finished))
        return Beams(sequences, *rest)

    def joined(self, other: "Beams") -> "Beams":
        """These beams, then those."""
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
        found, parents = _continue(running, settings.suppress(words, log_probabilities), length, settings)

        # A clip's captions go on from the best that have not ended; ended ones count if they are among the best.
        alive = found.scores + found.finished * IMPOSSIBLE
        order = alive.topk(beams)[1]
        running = found.pick(order)
        running.scores = alive.take_along_dim(order, dim=1)
        found.finished[:, beams:] = False
        found.scores = found.scores / length**settings.length_penalty
        found.scores += ~improvable * IMPOSSIBLE
        found.scores += ~found.finished * IMPOSSIBLE
        done = done.joined(found)
        done = done.best(done.scores, beams)

        worst = torch.where(done.finished, done.scores.amin(dim=1, keepdim=True), IMPOSSIBLE)
        possible = running.scores[:, :1] / length**settings.length_penalty
        improvable &= (possible > worst).any(dim=-1, keepdim=True)
        if length + 1 == limit or not bool(improvable.any()):
            break
        writer.reorder((parents.take_along_dim(order, dim=1) + clip_rows).flatten())
    return done


def _first_beams(batch: int, beams: int, limit: int, settings: SearchSettings) -> Beams:
    """Captions that hold the start token alone. All but the first beam are ruled out, or all would be the same."""
    sequences = torch.full((batch, beams, limit), settings.pad_token_id)
    sequences[:, :, 0] = settings.decoder_start_token_id
    scores = torch.zeros(batch, beams)
    scores[:, 1:] = IMPOSSIBLE
    lengths = torch.zeros(batch, beams, dtype=torch.long)
    return Beams(sequences, scores, lengths, torch.zeros(batch, beams, dtype=torch.bool))


def _continue(
    running: Beams, log_probabilities: torch.Tensor, length: int, settings: SearchSettings
) -> tuple[Beams, torch.Tensor]:
    """The best continuations by one word, so many that as many as there are beams have not ended, and the beams
    `(B, count)` that they go on from; `finished` are those that end or are as long as can be.

    Args:
        log_probabilities: `(B * K, V)` of the next word.
        length: Tokens of the continuations, without the start token.
    """
    batch, beams, _ = running.sequences.shape
    vocabulary = log_probabilities.shape[-1]
    totals = log_probabilities.unflatten(0, (batch, beams)) + running.scores[..., None]
    scores, indices = totals.flatten(1).topk(max(2, 1 + len(settings.eos_token_ids)) * beams)
    parents, words = indices // vocabulary, indices % vocabulary
    found = running.pick(parents)
    found.sequences[:, :, length] = words
    found.scores = scores
    found.lengths = torch.full_like(words, length)
    found.finished = settings.ended(found.sequences[:, :, : 1 + length])
    return found, parents
