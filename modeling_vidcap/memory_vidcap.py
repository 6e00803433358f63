"""A memory of training captions: a regression predicts what the caption of a clip says, and recalls those that fit.

The n-grams of a caption make a vector as in CIDEr-D (Vedantam et al. 2015, https://arxiv.org/abs/1411.5726): counts
times inverse document frequencies, each order from 1 to `ORDERS` scaled to one length, so that the product of two
captions' vectors is their CIDEr / 10 but for the penalty of lengths. A ridge regression from a clip's features to this
vector, found in closed form before training, gives the expected CIDEr / 10 of *any* caption of a clip. It holds what a
few hundred clips can teach; a decoder trained on as few learns sentences by heart instead.

Guarantees: n-grams are those of token ids, with any tokenizer. Limitations: the remembered captions are stored in the
model as they are.
"""

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from .settings_vidcap import contains_phrase

if TYPE_CHECKING:
    from .configuration_vidcap import VideoCaptionConfig

ORDERS = 4
RECALLED = 16  # captions that a clip recalls
EDGE = 3  # frames at each end of a clip, whose difference tells what changed
HASH_FACTOR = 1_000_003
HASH_SIZE = 1 << 61  # n-grams collide with a chance of one in millions


class CaptionMemory(nn.Module):
    """Training captions, and the regression that recalls them.

    N captions of at most L tokens, G n-grams that occur in the captions of several clips, vectors of size P.

    Attributes:
        captions: `(N, L)`, token ids with EOS, then padding.
        keys: `(N, P)`, their vectors.
        mean: `(P,)`, mean of the vectors of the training clips' captions.
        gram_hashes: `(G,)`, ascending.
        gram_weights: `(G,)`, inverse document frequencies.
        gram_vectors: `(G, P)`.
        rare_weight: Inverse document frequency of all other n-grams, which lengthen a vector before it is scaled.
        weight, bias: `(P, S)` and `(P,)`, the regression from summaries of size S, see [`summarise_clip`].
    """

    captions: torch.Tensor
    keys: torch.Tensor
    mean: torch.Tensor
    gram_hashes: torch.Tensor
    gram_weights: torch.Tensor
    gram_vectors: torch.Tensor
    rare_weight: torch.Tensor
    weight: torch.Tensor
    bias: torch.Tensor

    def __init__(self, config: "VideoCaptionConfig"):
        super().__init__()
        self.pad_token_id = config.pad_token_id
        self.channels = config.feature_size
        shape: Any = config.memory_shape
        count, length, grams, size = shape
        self.register_buffer("captions", torch.zeros(count, length, dtype=torch.long))
        self.register_buffer("keys", torch.zeros(count, size))
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("gram_hashes", torch.zeros(grams, dtype=torch.long))
        self.register_buffer("gram_weights", torch.zeros(grams))
        self.register_buffer("gram_vectors", torch.zeros(grams, size))
        self.register_buffer("rare_weight", torch.zeros(()))
        self.register_buffer("weight", torch.zeros(size, summary_size(config)))
        self.register_buffer("bias", torch.zeros(size))

    def predict(self, video_features: torch.Tensor, video_mask: torch.Tensor | None) -> torch.Tensor:
        """Backbone features `(B, T', N, D)` and the mask of frames `(B, T)` -> predicted caption vectors `(B, P)`."""
        summaries = summarise_clip(video_features, video_mask, channels=self.channels)
        return nn.functional.linear(summaries, self.weight.float(), self.bias.float())

    def normalise(self, predicted: torch.Tensor) -> torch.Tensor:
        """Predictions `(B, P)` without their mean, scaled to values of about 1."""
        offsets = predicted.float() - self.mean.float()
        return nn.functional.normalize(offsets, dim=-1) * offsets.shape[-1] ** 0.5

    def embed(self, captions: torch.Tensor, ends: Sequence[int]) -> torch.Tensor:
        """Vectors `(M, P)` of captions `(M, L)` of token ids, each read up to the first of the tokens `ends`."""
        vectors = [self._vector(words_of(ids, ends, self.pad_token_id)) for ids in captions.tolist()]
        return torch.stack(vectors) if vectors else self.keys.new_zeros(0, self.keys.shape[1]).float()

    def recall(
        self,
        predicted: torch.Tensor,
        *,
        max_length: int,
        banned: Sequence[Sequence[int]] = (),
        count: int = RECALLED,
    ) -> torch.Tensor:
        """The remembered captions of the highest expected CIDEr: `(B, M, L)`, M at most `count`.

        Args:
            predicted: `(B, P)`, from [`predict`][CaptionMemory.predict].
            max_length: Longest caption in tokens, EOS included.
            banned: Sequences of tokens that no caption may contain.
        """
        lengths = self.captions.ne(self.pad_token_id).sum(dim=1)
        allowed = lengths <= max_length
        if banned:
            rows = self.captions.tolist()
            has = [any(contains_phrase(row, phrase) for phrase in banned) for row in rows]
            allowed &= ~torch.tensor(has, device=allowed.device)
        captions, keys = self.captions[allowed], self.keys[allowed].float()
        best = (predicted.float() @ keys.T).topk(min(count, len(keys)))[1]  # (B, M)
        return captions[best][..., :max_length]

    def _vector(self, words: Sequence[int]) -> torch.Tensor:
        counts = count_grams(words)
        hashes = torch.tensor(list(counts), dtype=torch.long, device=self.gram_hashes.device)
        places = torch.searchsorted(self.gram_hashes, hashes).clamp(max=len(self.gram_hashes) - 1)
        known = self.gram_hashes[places] == hashes
        weights = torch.where(known, self.gram_weights[places].float(), self.rare_weight.float())
        values = scale_orders(weights, counts)
        return (values * known) @ self.gram_vectors[places].float()


def summarise_clip(video_features: torch.Tensor, video_mask: torch.Tensor | None, *, channels: int) -> torch.Tensor:
    """Backbone features `(B, T', N, D)`, mask of frames `(B, T)` -> `(B, (3 + N) * channels)`.

    Parts of the first `channels` of the D features, those of the network: the mean of all cells of the real frames;
    their mean weighted by how much a cell changes between frames, since a caption is about what moves; the last frames
    minus the first; the mean of each cell over time.
    """
    features = video_features[..., :channels].float()
    batch, steps, cells, _ = features.shape
    if video_mask is None:
        video_mask = torch.ones(batch, steps, device=features.device)
    real = video_mask.unflatten(1, (steps, -1)).amax(dim=-1).float()  # (B, T')
    of_cells = torch.einsum("btnd,bt->bnd", features, real / real.sum(dim=1, keepdim=True))
    changes = features.new_zeros(batch, steps, cells)
    if steps > 1:
        changes[:, 1:] = (features[:, 1:] - features[:, :-1]).abs().mean(dim=-1)
        changes[:, 0] = changes[:, 1]
    weights = (changes + 1e-6) * real[..., None]  # a still clip is weighted evenly
    moving = torch.einsum("btnd,btn->bd", features, weights / weights.sum(dim=(1, 2), keepdim=True))
    place = real.cumsum(dim=1)
    first = real * (place <= EDGE)
    last = real * (place > place[:, -1:] - EDGE)
    frames = features.mean(dim=2)  # (B, T', channels)
    end, start = (torch.einsum("btd,bt->bd", frames, edge / edge.sum(dim=1, keepdim=True)) for edge in (last, first))
    return torch.cat([of_cells.mean(dim=1), moving, end - start, of_cells.flatten(1)], dim=1)


def summary_size(config: "VideoCaptionConfig") -> int:
    """Size of the summary of a clip by [`summarise_clip`]."""
    return (3 + config.feature_grid**2) * config.feature_size


def words_of(ids: Sequence[int], ends: Sequence[int], padding: int) -> list[int]:
    """The tokens of a caption before its end."""
    words = []
    for token in ids:
        if token in ends or token == padding:
            break
        words.append(token)
    return words


def count_grams(words: Sequence[int]) -> Counter[int]:
    """Counts of a caption's n-grams, by hashes of their token ids; the two lowest bits hold the order minus 1."""
    counts: Counter[int] = Counter()
    for start in range(len(words)):
        value = 0
        for order, token in enumerate(words[start : start + ORDERS]):
            value = (value * HASH_FACTOR + token + 1) % (HASH_SIZE - 1)
            counts[4 * value + order] += 1
    return counts


def scale_orders(weights: torch.Tensor, counts: Counter[int]) -> torch.Tensor:
    """tf-idf of a caption's n-grams `(M,)`, each order scaled so that the whole vector has at most length 1.

    Args:
        weights: `(M,)`, their inverse document frequencies, in the order of `counts`.
    """
    values = weights * torch.tensor(list(counts.values()), dtype=weights.dtype, device=weights.device)
    orders = torch.tensor([gram % 4 for gram in counts], dtype=torch.long, device=weights.device)
    squares = values.new_zeros(ORDERS).index_add_(0, orders, values**2)
    return values / (squares.sqrt()[orders].clamp(min=1e-6) * ORDERS**0.5)
