import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from compressed_files import HEADER, PAIRS, as_version_1, changed, elsewhere, sealed
from models import BYTES, END_OF_TEXT, STORY, lively, shape
from recorded import Recorded

from lucidlm.errors import DataError, WeightsError
from lucidlm.measure import compression
from lucidlm.measure.coder import encode
from lucidlm.measure.compression import compress, decompress, predictions
from lucidlm.measure.scoring import evaluating
from lucidlm.runtime.process import Arithmetic


def flipped(file: bytes, place: int, bit: int = 0) -> bytes:
    return file[:place] + bytes([file[place] ^ 1 << bit]) + file[place + 1 :]


def refused_or_right(model, tokenizer, file, data) -> bool:
    """Whether it was refused; other bytes than these are never returned."""
    try:
        found = decompress(model, tokenizer, file)
    except (DataError, WeightsError):
        return True
    assert found == data
    return False


def test_the_arithmetic_in_a_header_is_this_process_s(byte_gpt, file):
    found, here = compression.arithmetic_of(file), Arithmetic.here(torch.device("cpu"))
    assert found == replace(here, capability=here.capability[:7], torch_version=here.torch_version[:13])
    assert found.torch_version in str(torch.__version__)
    assert found.device == "cpu"


def test_a_file_of_the_first_release_is_still_read(byte_gpt, file, monkeypatch):
    old = as_version_1(file)
    assert len(old) == len(file) - 24
    assert compression.arithmetic_of(old) is None
    assert decompress(byte_gpt, BYTES, old) == STORY.encode()[:40]
    elsewhere(monkeypatch)
    with pytest.raises(DataError, match=r"version 1 does not record its threads.*--threads 1, 2"):
        decompress(byte_gpt, BYTES, old)


# Damage.


def test_a_flipped_bit_anywhere_is_told_before_anything_is_decoded(byte_gpt, file, monkeypatch):
    monkeypatch.setattr(compression, "predictions", None)
    for place in range(len(file)):
        with pytest.raises(DataError):
            decompress(byte_gpt, BYTES, flipped(file, place, place % 8))


def test_a_file_that_was_cut_off_is_told_at_every_length(byte_gpt, file, monkeypatch):
    monkeypatch.setattr(compression, "predictions", None)
    for length in range(len(file)):
        with pytest.raises(DataError):
            decompress(byte_gpt, BYTES, file[:length])


def test_a_header_changed_with_its_checksum_never_gives_other_bytes(byte_gpt, file):
    data = STORY.encode()[:40]
    for place in range(HEADER.size - 4):
        refused_or_right(byte_gpt, BYTES, sealed(flipped(file, place, place % 8)), data)
    for field, value in (("stride", 4), ("context", 9), ("tokens", 39), ("bytes", 41), ("prefix", -1)):
        assert refused_or_right(byte_gpt, BYTES, changed(file, **{field: value}), data), field
    assert refused_or_right(byte_gpt, BYTES, changed(file, data=bytes(16)), data)


def test_words_changed_with_their_checksum_never_give_other_bytes(byte_gpt, file):
    data = STORY.encode()[:40]
    for place in range(HEADER.size, len(file)):
        refused_or_right(byte_gpt, BYTES, sealed(flipped(file, place, place % 8)), data)
    for length in range(HEADER.size, len(file)):
        assert refused_or_right(byte_gpt, BYTES, sealed(file[:length]), data)
    refused_or_right(byte_gpt, BYTES, sealed(file + b"more"), data)


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("magic", b"RIFF", "no file of"),
        ("version", 3, "version 3"),
        ("threads", 0, "number of threads is 0, it can be 1 to 1024"),
        ("threads", 1025, "number of threads is 1025"),
        ("context", 0, "context length is 0"),
        ("context", 17, "context length is 17, it can be 1 to 16"),
        ("stride", 0, "stride is 0"),
        ("stride", 17, "stride is 17"),
        ("prefix", 257, "prefix id is 257"),
        ("prefix", -2, "prefix id is -2"),
        ("tokens", 0, "number of tokens is 0"),
        ("tokens", 41, "number of tokens is 41, it can be 1 to 40"),
        ("tokens", 2**64 - 1, "number of tokens"),
    ],
)
def test_a_number_that_cannot_be_is_named(byte_gpt, file, field, value, says):
    with pytest.raises(DataError, match=says):
        decompress(byte_gpt, BYTES, changed(file, **{field: value}))


def test_a_huge_count_of_tokens_ends_with_the_first_that_cannot_be(byte_gpt, file):
    # Of random words some spell nothing: the decoder goes no further.
    words = np.random.default_rng(0).integers(1 << 32, size=2000, dtype=np.uint32)
    forged = changed(file[: HEADER.size] + words.tobytes(), tokens=2**62, bytes=2**63)
    done = Recorded()
    with pytest.raises(DataError):
        decompress(byte_gpt, BYTES, forged, progress=done)
    assert done.steps < 5000


def test_more_bytes_than_there_can_be_end_the_decoding():
    model = lively(shape(vocab_size=300))
    result = compress(model, PAIRS, STORY.encode())
    assert result.tokens < result.bytes - 10
    done = Recorded()
    with pytest.raises(DataError, match="not what was compressed"):
        decompress(
            model,
            PAIRS,
            changed(result.file, bytes=result.tokens),
            progress=done,
        )
    assert done.steps < result.tokens / 2


@pytest.mark.parametrize("id", [END_OF_TEXT, 258], ids=["control token", "padding"])
def test_a_token_that_spells_nothing_is_an_error_at_once(id):
    model = lively(shape(vocab_size=260, document_prefix_id=END_OF_TEXT))
    file = compress(model, BYTES, b"abcde").file
    ids = [97, id, 97, 97, 97]
    with evaluating(model, torch.float32):
        steps = predictions(model, 5, context_length=16, stride=8, prefix_id=END_OF_TEXT)
        words = encode(ids, steps)
    done = Recorded()
    with pytest.raises(DataError):
        decompress(
            model,
            BYTES,
            sealed(file[: HEADER.size] + words.astype("<u4").tobytes()),
            progress=done,
        )
    assert done.steps == 2


def test_garbage_is_no_file_of_ours(byte_gpt, file):
    draw = random.Random(0)
    for length in (0, 1, 3, 4, 69, 70, 71, 93, 94, 95, 500):
        for start in (b"", b"lucz", file[:6]):
            with pytest.raises(DataError):
                decompress(byte_gpt, BYTES, (start + draw.randbytes(length))[: max(length, 1)])
    for _ in range(20):
        noise = draw.randbytes(4 * draw.randrange(30))
        refused_or_right(byte_gpt, BYTES, sealed(file[: HEADER.size] + noise), STORY.encode()[:40])
