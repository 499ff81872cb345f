import bz2
import gzip
import lzma
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from written_files import accounted, reason_of, written

from lucidlm.errors import DataError
from lucidlm.text import reasons
from lucidlm.text.account import Account
from lucidlm.text.formats import packed
from lucidlm.text.formats.packed import decompressed


def zstandard(data: bytes) -> bytes:
    """As the command line writes it: with a checksum."""
    return packed.zstd.compress(data, options={packed.zstd.CompressionParameter.checksum_flag: 1})


PACK = {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress, "zst": zstandard}


def unpack(data: bytes, packing: str, block: int = 1 << 20) -> tuple[bytes, int]:
    """The unpacked bytes, and how many behind them were passed over."""
    account = Account()
    blocks = (data[start : start + block] for start in range(0, len(data), block))
    return b"".join(decompressed(blocks, packing, "a", account)), account.seen["bytes_behind_packed_files"]


@settings(max_examples=40)
@given(
    parts=st.lists(st.binary(max_size=40), min_size=1, max_size=3),
    packing=st.sampled_from(sorted(PACK)),
    block=st.integers(1, 50),
    zeros=st.integers(0, 9),
    garbage=st.sampled_from([b"", b"\r\n", b"x", b"\r\n\0\0", b"some text"]),
)
def test_members_zeros_and_what_stands_behind_them(parts, packing, block, zeros, garbage):
    data = b"".join(map(PACK[packing], parts)) + b"\0" * zeros + garbage
    assert unpack(data, packing, block) == (b"".join(parts), len(garbage))


@pytest.mark.parametrize("packing", PACK)
def test_a_file_that_is_cut_off_or_damaged_is_refused(packing):
    data = PACK[packing](b"all of it " * 1000)
    for cut in (len(data) // 2, len(data) - 1):
        with pytest.raises(DataError, match=r"^a: .* after \d") as caught:
            unpack(data[:cut], packing)
        assert caught.value.reason == reasons.DAMAGED
    for damaged in (data[:20] + bytes([data[20] ^ 0xFF]) + data[21:], data + data[: len(data) // 2]):
        with pytest.raises(DataError) as caught:
            unpack(damaged, packing)
        assert caught.value.reason == reasons.DAMAGED


@pytest.mark.parametrize("packing", PACK)
def test_no_block_is_longer_than_its_share_whatever_is_packed(packing, monkeypatch):
    monkeypatch.setattr(packed, "_BLOCK", 1000)
    blocks = list(decompressed([PACK[packing](b"a" * 100_000)], packing, "a", Account()))
    assert b"".join(blocks) == b"a" * 100_000
    assert max(map(len, blocks)) <= 1000


@pytest.mark.parametrize(("packing", "name"), list(product(PACK, ("a.txt.{}", "a.txt", "a.md.gz"))))
def test_a_packed_text_is_read_under_any_name(tmp_path, packing, name):
    path = written(tmp_path / name.format(packing), PACK[packing]("Käse\r\n".encode()) + b"\r\n")
    text, counts = accounted(path)
    assert text == "Käse\n"
    assert counts == {reasons.TRAILING: 2} | ({} if path.name.endswith(packing) else {reasons.BY_CONTENT: 1})


def test_a_text_that_is_named_like_a_packed_one_is_read_and_that_is_said(tmp_path):
    assert accounted(written(tmp_path / "a.txt.gz", "plain text")) == ("plain text", {reasons.NOT_PACKED: 1})


def test_a_damaged_packed_file_is_one_line(tmp_path):
    for packing, pack in PACK.items():
        data = pack(b"all of it " * 1000)
        assert reason_of(written(tmp_path / f"a.txt.{packing}", data[:-4])) == reasons.DAMAGED


def test_frames_of_zstandard_that_are_to_be_skipped_are_skipped_also_at_the_start(tmp_path):
    skipped = b"\x52\x2a\x4d\x18\x04\0\0\0abcd"
    data = skipped + PACK["zst"](b"one ") + skipped + PACK["zst"](b"two") + skipped
    assert unpack(data, "zst") == (b"one two", 0)
    for name in ("a.txt.zst", "a.txt"):
        assert accounted(written(tmp_path / name, data))[0] == "one two"


def test_a_window_of_zstandard_beyond_the_limit_on_memory_is_refused(tmp_path):
    parameters = packed.zstd.CompressionParameter
    long = {parameters.window_log: 28, parameters.enable_long_distance_matching: 1}
    packer = packed.zstd.ZstdCompressor(options=long)
    data = packer.compress(b"many words " * 2000) + packer.flush()
    with pytest.raises(DataError, match=r"memory"):
        unpack(data, "zst")
