import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lucidlm.errors import DataError
from lucidlm.text.token_file import TokenFile, TokenShards, write_tokens
from lucidlm.text.windows import Windows


@pytest.mark.parametrize(("vocab_size", "dtype"), [(257, np.uint16), (65536, np.uint16), (65537, np.uint32)])
def test_tokens_written_in_parts_are_what_numpy_reads_and_16_bits_only_where_they_fit(
    tmp_path, vocab_size, dtype
):
    parts = [np.array([0, 1, vocab_size - 1]), np.array([], int), [5, 6], np.arange(200, dtype=np.uint8)]
    assert write_tokens(tmp_path / "t.npy", parts, vocab_size) == 205
    read = np.load(tmp_path / "t.npy", allow_pickle=False)
    assert read.dtype == dtype
    np.testing.assert_array_equal(read, np.concatenate(parts))
    file = TokenFile(tmp_path / "t.npy", vocab_size)
    assert len(file) == 205
    np.testing.assert_array_equal(file[1:5], [1, vocab_size - 1, 5, 6])


def test_no_tokens_are_a_file_of_none(tmp_path):
    assert write_tokens(tmp_path / "t.npy", [], 300) == 0
    assert len(TokenFile(tmp_path / "t.npy", 300)) == 0


@pytest.mark.parametrize(
    ("id", "vocab_size"), [(65536, 65536), (70000, 65536), (-1, 300), (300, 300), (2**40, 10**6)]
)
def test_an_id_that_does_not_fit_raises(tmp_path, id, vocab_size):
    with pytest.raises(DataError, match=f"token id {id} is outside the vocabulary of {vocab_size}"):
        write_tokens(tmp_path / "t.npy", [np.array([1, id, 2])], vocab_size)
    with pytest.raises(DataError, match="float64"):
        write_tokens(tmp_path / "t.npy", [np.array([1.5])], vocab_size)


def test_a_file_with_an_id_outside_the_vocabulary_is_an_error_when_opened(tmp_path):
    write_tokens(tmp_path / "t.npy", [np.array([1, 999, 2])], 1000)
    TokenFile(tmp_path / "t.npy", 1000)
    with pytest.raises(DataError, match="token id 999 in a vocabulary of 999"):
        TokenFile(tmp_path / "t.npy", 999)


@pytest.mark.parametrize(
    "array",
    [np.zeros(3), np.zeros(3, np.int64), np.zeros(3, np.uint8), np.zeros((2, 2), np.uint16), np.array(["a"])],
)
def test_an_array_that_holds_no_row_of_ids_is_refused(tmp_path, array):
    np.save(tmp_path / "t.npy", array)
    with pytest.raises(DataError, match=r"t\.npy"):
        TokenFile(tmp_path / "t.npy")


@pytest.mark.parametrize(
    "content", [b"", b"\x93NUMPY\x01\x00", b"text", b"\x93NUMPY\x01\x00\x10\x00" + b"[" * 16]
)
def test_a_file_that_is_no_npy_is_refused(tmp_path, content):
    (tmp_path / "t.npy").write_bytes(content)
    with pytest.raises(DataError, match=r"t\.npy"):
        TokenFile(tmp_path / "t.npy")


def test_a_file_cut_short_is_an_error_when_opened_and_when_read_later(tmp_path):
    path = tmp_path / "t.npy"
    write_tokens(path, [np.arange(1000)], 1000)
    file = TokenFile(path)
    cut = Windows(file, 8)
    with open(path, "rb+") as opened:
        opened.truncate(500)
    with pytest.raises(DataError, match="500 bytes where 1,000 tokens need 2,128"):
        cut.batch_at(seed=0, step=0, batch_size=2)
    with pytest.raises(DataError, match="500 bytes"):
        TokenFile(path)
    path.unlink()
    with pytest.raises(DataError, match="No such file"):
        file[0:1]


def test_a_file_of_more_than_4_gib_is_read_right(tmp_path):
    path = tmp_path / "t.npy"
    tokens = 2**31 + 2**29 + 5
    write_tokens(path, [], 50257)
    with open(path, "rb+") as file:  # sparse: it takes a few pages on the disk
        header = {"descr": "<u2", "fortran_order": False, "shape": (tokens,)}
        np.lib.format.write_array_header_1_0(file, header)
        file.seek(128 + 2 * (tokens - 3))
        file.write(np.array([7, 8, 9], "<u2").tobytes())
    assert os.path.getsize(path) > 2**32
    opened = TokenFile(path)
    assert len(opened) == tokens
    assert opened[tokens - 3 : tokens].tolist() == [7, 8, 9]
    # A batch reads from anywhere in it.
    assert Windows(opened, 1024).batch_at(seed=1, step=10**6, batch_size=2)[0].shape == (2, 1024)


# Shards


@settings(max_examples=40, deadline=None)
@given(
    sizes=st.lists(st.integers(0, 9), min_size=1, max_size=6).filter(sum),
    places=st.lists(st.integers(-30, 30), min_size=2, max_size=2),
    step=st.sampled_from([None, 1, 2, -1]),
)
def test_shards_give_what_the_joined_array_gives(tmp_path_factory, sizes, places, step):
    folder = tmp_path_factory.mktemp("shards")
    ids = np.arange(sum(sizes), dtype=np.uint16)
    parts = np.split(ids, np.cumsum(sizes)[:-1])
    for number, part in enumerate(parts):
        write_tokens(folder / f"{number}.npy", [part], 100)
    shards = TokenShards([folder / f"{number}.npy" for number in range(len(parts))], 100)
    assert len(shards) == len(ids)
    where = slice(*places, step)
    assert np.array_equal(shards[where], ids[where])
    inside = [place for place in places if -len(ids) <= place < len(ids)]
    assert np.array_equal(shards[inside], ids[inside])
    assert shards[-1] == ids[-1]
    for wrong in (len(ids), -len(ids) - 1, [0, len(ids)]):
        with pytest.raises(
            IndexError, match=rf"/shards\S*: place -?\d+ of {len(ids)} tokens?; give -{len(ids)} to"
        ):
            shards[wrong]
    for wrong in ([True] * len(ids), [0.5]):
        with pytest.raises(DataError, match=r"of type (bool|float64); give whole numbers"):
            shards[wrong]


def test_a_shard_is_checked_like_a_file(tmp_path):
    write_tokens(tmp_path / "0.npy", [np.arange(5)], 100)
    write_tokens(tmp_path / "1.npy", [np.arange(5)], 1 << 17)
    with pytest.raises(DataError, match=r"1\.npy: holds uint32, the shard before it uint16"):
        TokenShards([tmp_path / "0.npy", tmp_path / "1.npy"])
    with pytest.raises(DataError, match=r"0\.npy: token id 4"):
        TokenShards([tmp_path / "0.npy"], 3)
    shards = TokenShards([tmp_path / "0.npy"])
    os.truncate(tmp_path / "0.npy", 130)
    with pytest.raises(DataError, match=r"0\.npy: 130 bytes"):
        shards[2]


@pytest.mark.parametrize(
    ("array", "said"),
    [
        (np.zeros(5, np.int64), "holds int64, but files of its kind hold uint16 or uint32;"),
        (np.zeros((2, 2), np.uint16), "not an .npy file with one row of numbers;"),
    ],
)
def test_a_file_of_other_numbers_is_an_error_with_what_it_has(tmp_path, array, said):
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(DataError) as caught:
        TokenFile(tmp_path / "a.npy")
    assert str(caught.value) == f"{tmp_path / 'a.npy'}: {said} prepare the text again"


def test_a_file_that_says_a_number_of_tokens_that_is_none_is_an_error_with_it(tmp_path):
    write_tokens(tmp_path / "a.npy", [[1, 2]], 100)
    data = (tmp_path / "a.npy").read_bytes()
    for said in (b"-2", b"2."):
        (tmp_path / "a.npy").write_bytes(data.replace(b"(2,)", b"(%b,)" % said).replace(b" \n", b"\n"))
        with pytest.raises(DataError, match=rf"a\.npy: says that it has {said.decode()}0? numbers; prepare"):
            TokenFile(tmp_path / "a.npy")
