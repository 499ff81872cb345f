"""Sums over scored tokens: pieces of the Scorer's stream come in, an Evaluation goes out."""

import hashlib
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lucidlm.errors import DataError
from lucidlm.measure.diagnosis import Findings
from lucidlm.measure.evaluated import Evaluation
from lucidlm.measure.intervals import STRATA, Design, NoInterval, interval_of_ratio
from lucidlm.measure.protocol import Counted
from lucidlm.measure.scoring import Document, Scored, Scorer
from lucidlm.runtime.progress import Progress
from lucidlm.runtime.wording import plural
from lucidlm.text.excerpts import Excerpt
from lucidlm.text.repetition import RepetitionCount


class Counts:
    """Tokens, bytes and words of the documents that go by, and of those of their tokens that were scored."""

    def __init__(self, scorer: Scorer, progress: Progress, *, whole: bool = True) -> None:
        """whole: whether an evaluation is made of them, for which the text itself is looked at too."""
        self.scorer, self.progress, self.whole = scorer, progress, whole
        self.lengths = torch.from_numpy(scorer.tokenizer.token_lengths().astype(np.int64))
        self.tokens_total = self.bytes_total = self.bytes_spelled = self.words = self.documents = 0
        self.nats = self.tokens_scored = self.bytes_scored = 0.0
        self.bytes_a_spelled: list[float] = []
        """Per document: text bytes / bytes spelled by its tokens; 1 unless the tokenizer changes the text."""
        self.digest = hashlib.sha256()
        self.weighted = False
        self.repetition = RepetitionCount()
        self.blocks: list[list[float]] = []
        """[document, number in the document, nats, tokens, bytes] of each block of one context length."""
        self.findings = Findings(
            vocab_size=scorer.model.vocab_size,
            known_ids=scorer.tokenizer.vocab_size,
            context_length=scorer.context_length,
        )

    def watch(self, documents: Iterable[Document]) -> Iterator[Excerpt]:
        """The documents as they are read."""
        for document in documents:
            excerpt = self.scorer.encoded(document)
            ids = excerpt.ids
            self.documents += 1
            self.tokens_total += len(ids)
            spelled = size = int(self.lengths[torch.from_numpy(ids.astype(np.int64))].sum())
            if excerpt.text is not None:
                size = len(excerpt.text.encode("utf-8"))
            self.bytes_total += size
            self.bytes_spelled += spelled
            self.bytes_a_spelled.append(size / spelled if spelled else 1.0)
            if self.whole:
                self._look_at(self.scorer.tokenizer.decode(ids) if excerpt.text is None else excerpt.text)
            yield excerpt

    def _look_at(self, text: str) -> None:
        data = text.encode("utf-8", "surrogatepass")
        self.digest.update(b"%d\n" % len(data) + data)
        # The harness splits at white space, so that an empty text is one word.
        self.words += len(re.split(r"\s+", text))
        self.repetition.add(text)

    def add(self, piece: Scored) -> None:
        """Counts the tokens of a piece."""
        exact = piece.exact_nats
        self.findings.add(piece.logits, piece.targets, piece.nats, piece.position)
        self.nats += piece.weight * exact.sum().item()
        self.tokens_scored += piece.weight * len(exact)
        self.weighted = self.weighted or piece.weight != 1.0
        lengths = self.lengths[piece.targets.cpu()] * self.bytes_a_spelled[piece.document]
        self.bytes_scored += float(lengths.double().sum())
        self._add_to_blocks(piece, exact, lengths)
        self.progress.advance(len(exact))

    def _add_to_blocks(self, piece: Scored, nats: Tensor, lengths: Tensor) -> None:
        first = piece.start // self.scorer.context_length
        inside = (torch.arange(len(nats)) + piece.start) // self.scorer.context_length - first
        sums = torch.zeros(int(inside[-1]) + 1, 3, dtype=torch.float64)
        values = torch.stack((nats * piece.weight, torch.full_like(nats, piece.weight), lengths.double()), 1)
        for number, row in enumerate(sums.index_add_(0, inside, values).tolist(), start=first):
            if self.blocks and self.blocks[-1][:2] == [piece.document, number]:
                self.blocks[-1][2:] = [a + b for a, b in zip(self.blocks[-1][2:], row, strict=True)]
            else:
                self.blocks.append([piece.document, number, *row])

    def sums(self) -> dict[str, np.ndarray]:
        """All that `add` has counted: other counts of the same documents can add it to theirs."""
        totals = [self.nats, self.tokens_scored, self.bytes_scored, float(self.weighted)]
        blocks = np.array(self.blocks, np.float64).reshape(-1, 5)
        return {"totals": np.array(totals), "blocks": blocks} | self.findings.sums()

    def add_sums(self, sums: Mapping[str, np.ndarray]) -> None:
        """Adds what other counts have counted of other pieces."""
        nats, tokens, size, weighted = sums["totals"].tolist()
        self.nats += nats
        self.tokens_scored += tokens
        self.bytes_scored += size
        self.weighted = self.weighted or bool(weighted)
        self.blocks = _merged(np.concatenate((np.array(self.blocks).reshape(-1, 5), sums["blocks"])))
        self.findings.add_sums(sums)

    def evaluation(
        self,
        protocol: Counted,
        token_counts: np.ndarray | None,
        design: Design | None,
        fraction: float,
    ) -> Evaluation:
        """All of it; DataError where nothing was scored."""
        if self.tokens_scored == 0:
            # Two tokens without a prefix, one with: under that there is nothing to predict.
            rest = "the prefix is none" if protocol.prefix == "none" else "the text is empty"
            raise DataError(
                f"no token can be scored: {plural(self.tokens_total, 'token')} in "
                f"{plural(self.documents, 'document')} and {rest}; give a longer text"
                + {"batch-mean": " or a shorter context", "hf-guide": " or a longer context"}.get(
                    protocol.name, ""
                )
            )
        units, design = self._units(design)
        nats, tokens, sizes = units.T
        repetition = self.repetition.repetition()
        scored = np.unique(np.array(self.blocks)[:, 0]).astype(np.int64)
        # Pieces are a random sample of a book that repeats itself as much.
        same = np.arange(len(units)) if design in STRATA else repetition.same_units(len(units), scored)
        sample: dict[str, Any] = {"design": design, "fraction": fraction, "same": same}
        loss_interval, no_interval = interval_of_ratio(nats, tokens, **sample)
        if design == "pages" and loss_interval is None and repetition.mostly:
            no_interval = NoInterval("copies", repetition.of_sequences)
        bits_interval = None
        # Windows that weigh less than they score have no bytes of their own: the guide counts none.
        if not self.weighted and self.bytes_scored > 0:
            bits_interval, _ = interval_of_ratio(nats / math.log(2), sizes, **sample)
        return Evaluation(
            nats=self.nats,
            tokens_scored=round(self.tokens_scored),
            tokens_total=self.tokens_total,
            bytes_scored=round(self.bytes_scored) if not self.weighted else 0,
            bytes_total=self.bytes_total,
            bytes_spelled=self.bytes_spelled,
            words=self.words,
            documents=self.documents,
            protocol=protocol,
            design=design,
            fraction=fraction,
            units=units,
            by_document=self._by_document(),
            text_sha256=self.digest.hexdigest(),
            same=same,
            repetition=repetition,
            loss_interval=loss_interval,
            bits_interval=bits_interval,
            no_interval=no_interval,
            diagnosis=self.findings.diagnosis(token_counts),
            vocab_size=self.scorer.model.vocab_size,
        )

    def _by_document(self) -> np.ndarray:
        """Nats, tokens and bytes of every document."""
        sums = np.zeros((self.documents, 3))
        blocks = np.array(self.blocks)
        np.add.at(sums, blocks[:, 0].astype(np.int64), blocks[:, 2:])
        return sums

    def _units(self, design: Design | None) -> tuple[np.ndarray, Design]:
        """Nats, tokens and bytes of each piece or document that was scored, or of each block of one text."""
        blocks = np.array(self.blocks)
        starts = np.flatnonzero(np.diff(blocks[:, 0], prepend=-1))
        design = design or ("documents" if len(starts) > 1 else "pages")
        return (blocks if design == "pages" else np.add.reduceat(blocks, starts))[:, 2:], design


def _merged(blocks: np.ndarray) -> list[list[float]]:
    """Rows of [document, number, nats, tokens, bytes] in the order of the text: one for each block."""
    blocks = blocks[np.lexsort((blocks[:, 1], blocks[:, 0]))]  # stable: equal blocks stay in their order
    is_new = np.ones(len(blocks), bool)
    is_new[1:] = (blocks[1:, :2] != blocks[:-1, :2]).any(1)
    starts = np.flatnonzero(is_new)
    if not len(starts):
        return []
    return np.hstack((blocks[starts, :2], np.add.reduceat(blocks[:, 2:], starts))).tolist()
