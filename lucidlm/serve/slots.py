"""Rows of a cache for texts that grow together: one token each comes in, logits of the next go out.

A row's logits must not depend on the rows beside it, or a seeded text would change with the load. Matmuls of
1 and of 8 rows differ in their last bits: so there are always ROWS rows, idle ones included. Attention over
40 and over 64 keys differs too, and on several threads from row to row: so it goes row by row, over a row's
own keys. In float32 on a CPU a row then has the same bits in any place and whatever the others hold;
tests/serve compares them.
"""

import torch
from torch import Tensor

from lucidlm.model.attention import KVCache
from lucidlm.model.gpt import GPT

ROWS = 8
"""Rows of a group: with 8, a CPU reads each weight once for 8 tokens; one text alone takes as long."""
SMALLEST, GROWTH = 256, 4
"""Places of a row: 256, 1,024, 4,096, ... Which one depends on a request alone, and so do its numbers."""


def capacity_for(tokens: int, context_length: int) -> int:
    """Places of the row for a text of at most so many tokens.

    >>> capacity_for(20, 1024), capacity_for(257, 2048), capacity_for(1025, 2048)
    (256, 1024, 2048)
    """
    capacity = SMALLEST
    while capacity < tokens:
        capacity *= GROWTH
    return min(capacity, context_length)


def row_bytes(model: GPT) -> int:
    """Memory of a row with the whole context: keys and values of all layers."""
    config, dtype = model.config, model.new_cache(1, 1).keys[0].dtype
    return 2 * config.n_layers * config.n_kv_heads * config.head_dim * config.context_length * dtype.itemsize


class SlotCache(KVCache):
    """A KVCache whose rows know nothing of each other; all of them have at most one new token at a time."""

    row_by_row = True

    def append(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Stores new keys and values (B, G, 1, D) of a layer; returns all places, (B, G, capacity, D)."""
        keys, values = self.keys[layer], self.values[layer]
        rows = torch.arange(len(self.lengths), device=k.device)
        places = torch.tensor(self.lengths, device=k.device)
        keys[rows, :, places] = k[:, :, 0].to(keys.dtype)
        values[rows, :, places] = v[:, :, 0].to(values.dtype)
        return keys, values

    def mask(self, count: int) -> None:
        """None: each row sees its own keys alone."""
        assert count == 1, "rows grow by one token at a time"


class Slots:
    """ROWS rows of one capacity, each free or taken by a text."""

    def __init__(self, model: GPT, capacity: int) -> None:
        like = model.new_cache(1, 1).keys[0]
        self.model, self.capacity = model, capacity
        self.cache = SlotCache(model.config, ROWS, device=model.device, dtype=like.dtype, capacity=capacity)
        self.taken = [False] * ROWS

    @property
    def free(self) -> int:
        """How many rows are free."""
        return self.taken.count(False)

    def take(self, single: KVCache) -> int:
        """The row that the only row of another cache of this capacity has been copied to."""
        row = self.taken.index(False)
        self.cache.replace_row(row, single)  # all its places: nothing of an earlier text is left
        self.taken[row] = True
        return row

    def single(self, row: int) -> KVCache:
        """A copy of a row, which `take` takes back."""
        copy = self.model.new_cache(1, self.capacity)
        mine = self.cache.keys + self.cache.values
        for kept, rows in zip(copy.keys + copy.values, mine, strict=True):
            kept[0] = rows[row]
        copy.lengths[0] = self.cache.lengths[row]
        return copy

    def leave(self, row: int) -> None:
        """Frees a row."""
        self.taken[row] = False
        self.cache.lengths[row] = 0

    def step(self, last: dict[int, int]) -> Tensor:
        """Logits (ROWS, V) after one more token in each row that has one: {row: id}."""
        ids = torch.tensor([[last.get(row, 0)] for row in range(ROWS)], device=self.model.device)
        before = self.cache.lengths
        logits = self.model.head(self.model.hidden(ids, self.cache)[:, -1])
        self.cache.lengths = [length + (row in last) for row, length in enumerate(before)]
        return logits
