"""Numbers beside the loss: logits and targets in, accuracy, ranks, calibration and losses by group out.

N scored tokens of a piece, V vocabulary, T context length.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

BINS = 15
"""Bins of confidence, equally wide, as in Guo 2017."""
FEW = 30
"""A mean over fewer tokens is marked wherever it is shown: its error is a fifth of their spread or more."""


@dataclass(frozen=True, slots=True)
class Bin:
    """Tokens whose most likely alternative has a probability in the same range."""

    low: float
    high: float
    tokens: int
    confidence: float
    """Mean probability of the most likely alternative."""
    accuracy: float
    """How often that alternative was the next token."""


@dataclass(frozen=True, slots=True)
class Group:
    """Tokens that have something in common, from `low` to `high`, and their mean loss."""

    low: int
    high: int
    tokens: int
    loss_nats: float


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """Accuracy, ranks and calibration of a model on a text, and its losses by group."""

    accuracy_at_1: float
    """Share of the tokens that the model gave the largest probability (top-1 accuracy)."""
    accuracy_at_5: float
    mean_rank: float
    """Mean rank of the next token; 1 if the most likely token is always right."""
    median_rank: float
    calibration_error: float
    """Expected calibration error: mean difference between confidence and accuracy, over the tokens."""
    reliability: tuple[Bin, ...]
    by_position: tuple[Group, ...]
    """By the number of tokens that the model saw before the scored one, the prefix included."""
    by_frequency: tuple[Group, ...]
    """By how often the token occurs in a text: `frequency_of` says which."""
    frequency_of: str
    padding_mass: float
    """Mean probability of ids beyond the tokenizer's vocabulary, which never occur in a text."""


def ranks_of(logits: Tensor, targets: Tensor) -> Tensor:
    """Place of each target in the order of the logits, 1 for the first: (N, V), (N,) -> (N,).

    Of equal logits the lower id comes first, as in argmax: a model that gives all tokens the same probability
    must not be right each time.
    """
    of_target = logits.gather(1, targets[:, None])  # (N, 1)
    # Written as numbers, not as truth values: adding those up takes ten times as long.
    larger = torch.gt(logits, of_target, out=torch.empty_like(logits, dtype=torch.float32))
    ranks = larger.sum(1).long() + 1  # exact up to 2^24
    tied = torch.eq(logits, of_target, out=larger).sum(1) > 1
    if tied.any():
        ids = torch.arange(logits.shape[1], device=logits.device)
        ranks[tied] += (larger[tied].bool() & (ids < targets[tied, None])).sum(1)
    return ranks


def best_of(logits: Tensor, count: int) -> Tensor:
    """Ids of the `count` largest logits of each row in the order of `ranks_of`: (N, V) -> (N, count)."""
    values, ids = logits.topk(min(count + 1, logits.shape[1]), dim=1)
    tied = (values[:, 1:] == values[:, :-1]).any(1)
    if tied.any():  # topk leaves open which of equal logits it takes
        ids[tied] = logits[tied].sort(dim=1, descending=True, stable=True).indices[:, : ids.shape[1]]
    return ids[:, :count]


class Findings:
    """Sums from which a Diagnosis is made, piece by piece; a few numbers an id, a rank and a position."""

    def __init__(self, *, vocab_size: int, known_ids: int, context_length: int) -> None:
        self.vocab_size, self.known_ids = vocab_size, known_ids
        # On the CPU, as not every accelerator has float64.
        self.rank_counts = torch.zeros(vocab_size + 1, dtype=torch.int64)
        self.nats_of_id, self.count_of_id = torch.zeros(2, vocab_size, dtype=torch.float64)
        self.context_length = context_length
        # They grow with the windows that come: a config.json may claim a context that no memory holds.
        self.nats_at, self.count_at = torch.zeros(2, min(context_length, 1024), dtype=torch.float64)
        self.bins = torch.zeros(3, BINS, dtype=torch.float64)  # tokens, confidence, right ones
        self.padding_mass = 0.0

    def add(self, logits: Tensor, targets: Tensor, nats: Tensor, position: int) -> None:
        """Counts a piece: logits (N, V), targets (N,), their losses (N,) in float32, place in the window."""
        of_target = logits.gather(1, targets[:, None])[:, 0]
        # p of the likeliest from p of the target: no second sum over the vocabulary is needed.
        confidence = (logits.amax(1) - of_target - nats).exp().clamp(max=1.0).cpu().double()
        if self.known_ids < self.vocab_size:
            beyond = (logits[:, self.known_ids :].logsumexp(1) - nats - of_target).exp()
            self.padding_mass += beyond.cpu().double().sum().item()
        ranks, targets, exact = ranks_of(logits, targets).cpu(), targets.cpu(), nats.cpu().double()
        ones = torch.ones_like(exact)
        self.rank_counts += torch.bincount(ranks, minlength=self.vocab_size + 1)
        self.nats_of_id.index_add_(0, targets, exact)
        self.count_of_id.index_add_(0, targets, ones)
        self._reach(position + len(targets))
        self.nats_at[position : position + len(targets)] += exact
        self.count_at[position : position + len(targets)] += 1
        bins = (confidence * BINS).long().clamp(max=BINS - 1)
        for row, values in enumerate((ones, confidence, (ranks == 1).double())):
            self.bins[row].index_add_(0, bins, values)

    def _reach(self, positions: int) -> None:
        if (missing := positions - len(self.nats_at)) > 0:
            more = torch.zeros(max(missing, len(self.nats_at)), dtype=torch.float64)
            self.nats_at, self.count_at = (torch.cat((at, more)) for at in (self.nats_at, self.count_at))

    def sums(self) -> dict[str, np.ndarray]:
        """All that `add` has counted, each in float64 or int64."""
        return {
            "ranks": self.rank_counts.numpy(),
            "ids": torch.stack((self.nats_of_id, self.count_of_id)).numpy(),
            "positions": torch.stack((self.nats_at, self.count_at)).numpy(),
            "bins": self.bins.numpy(),
            "padding_mass": np.array([self.padding_mass]),
        }

    def add_sums(self, sums: Mapping[str, np.ndarray]) -> None:
        """Adds what others have counted of other pieces."""
        given = {name: torch.from_numpy(np.array(sums[name])) for name in self.sums()}
        self.rank_counts += given["ranks"]
        self.nats_of_id += given["ids"][0]
        self.count_of_id += given["ids"][1]
        nats_at, count_at = given["positions"]
        self._reach(len(nats_at))
        self.nats_at[: len(nats_at)] += nats_at
        self.count_at[: len(nats_at)] += count_at
        self.bins += given["bins"]
        self.padding_mass += float(given["padding_mass"])

    def diagnosis(self, token_counts: np.ndarray | None) -> Diagnosis:
        """All of it, divided; `token_counts` (V,) says how often each id occurs in the training text."""
        counts = self.rank_counts.numpy()
        tokens = counts.sum()
        ranks = np.arange(len(counts))
        own = self.count_of_id.numpy()
        frequencies = own if token_counts is None else _padded(token_counts, self.vocab_size)
        nats_at, count_at = self.nats_at.numpy(), self.count_at.numpy()
        reliability = _bins(self.bins.numpy())
        apart = sum(each.tokens * abs(each.accuracy - each.confidence) for each in reliability)
        return Diagnosis(
            accuracy_at_1=float(counts[1] / tokens),
            accuracy_at_5=float(counts[:6].sum() / tokens),
            mean_rank=float(counts @ ranks / tokens),
            median_rank=_median(counts),
            calibration_error=float(apart / tokens),
            reliability=reliability,
            by_position=_groups(
                np.arange(1, len(nats_at) + 1), nats_at, count_at, base=2, largest=self.context_length
            ),
            by_frequency=_groups(
                frequencies, self.nats_of_id.numpy(), own, base=10, largest=int(frequencies.max())
            ),
            frequency_of="this text" if token_counts is None else "the training text",
            padding_mass=self.padding_mass / float(tokens),
        )


def _padded(counts: np.ndarray, size: int) -> np.ndarray:
    """Counts of all ids of the model: those beyond the tokenizer's occur in no text."""
    return np.concatenate((counts, np.zeros(max(0, size - len(counts)), counts.dtype)))[:size]


def _median(counts: np.ndarray) -> float:
    """Of ranks of which there are counts[rank]: the middle one, or the mean of the two in the middle."""
    below, tokens = counts.cumsum(), int(counts.sum())
    middle = [int(np.searchsorted(below, place + 1)) for place in ((tokens - 1) // 2, tokens // 2)]
    return sum(middle) / 2


def _bins(sums: np.ndarray) -> tuple[Bin, ...]:
    """The bins that hold a token."""
    return tuple(
        Bin(index / BINS, (index + 1) / BINS, int(tokens), confidence / tokens, right / tokens)
        for index, (tokens, confidence, right) in enumerate(sums.T.tolist())
        if tokens
    )


def _groups(
    keys: np.ndarray, nats: np.ndarray, counts: np.ndarray, *, base: int, largest: int
) -> tuple[Group, ...]:
    """Losses in groups of keys 0, 1 to base - 1, base to base^2 - 1, ...; groups without a token left out.

    No group goes beyond the key `largest`.
    """
    groups = []
    low, high = 0, 0
    while low <= keys.max():
        of_group = (keys >= low) & (keys <= high)
        if tokens := counts[of_group].sum():
            groups.append(Group(low, min(high, largest), int(tokens), float(nats[of_group].sum() / tokens)))
        low, high = high + 1, (high + 1) * base - 1
    return tuple(groups)
