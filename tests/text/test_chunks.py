"""A part comes in, chunks of it go out: all of it, once and in order."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from lucidlm.text.chunks import chunks
from lucidlm.text.split import Pieces


@settings(max_examples=80, deadline=None)
@given(lengths=st.lists(st.integers(1, 60), min_size=1, max_size=30), size=st.integers(1, 50))
def test_chunks_cover_a_part_once_in_order_and_cut_only_what_is_long(lengths, size):
    ends = np.cumsum(lengths).astype(np.uint64)
    part = Pieces(np.arange(len(lengths)), ends - np.array(lengths, np.uint64), ends, 0)
    found = list(chunks(part, size, lambda start, end: iter(range(start + 3, end, 3))))
    rows = [row for chunk in found for row in zip(*(values.tolist() for values in chunk.stretches))]
    assert [start for _, start, _ in rows] == [0, *(end for *_, end in rows[:-1])]
    assert rows[-1][2] == sum(lengths)
    cut = {document for chunk in found if not chunk.begins for document in chunk.stretches.documents.tolist()}
    assert all(lengths[document] > size for document in cut)
    assert all(chunk.bytes < 2 * size + 3 + max(lengths) * (chunk.bytes > size + 3) for chunk in found)
    before = [-1, *(int(chunk.stretches.documents[-1]) for chunk in found[:-1])]
    assert [chunk.before for chunk in found] == before
