"""TensorFlow's checkpoint format against its own files and a textbook writer; damaged indexes."""

import json

import google_crc32c
import numpy as np
import pytest
from damage import refusal
from releases import (
    FIXTURE,
    arrays,
    assert_bitwise,
    block_of,
    blocks_of,
    entries_of,
    entry,
    field,
    header,
    random_tensors,
    table_of,
    textbook_crc32c,
    varint,
    write_index,
    write_release,
)

from lucidlm.weights import openai, tf_bundle
from lucidlm.weights.openai import load_openai
from lucidlm.weights.tf_bundle import read_index


def test_the_writer_of_these_tests_writes_what_tensorflow_wrote():
    entries, data = entries_of(arrays())
    # TensorFlow shortens the key of the last block to the next greater letter: m -> n.
    assert table_of([(b"n", block_of(sorted(entries.items())))]) == (FIXTURE / openai.INDEX).read_bytes()
    assert b"".join(data) == (FIXTURE / openai.DATA).read_bytes()


@pytest.mark.parametrize("blocks", [2, 7, 41])
def test_an_index_of_several_blocks_is_read(folder, blocks):
    write_release(folder, arrays(), blocks=blocks)
    model, _ = load_openai(folder)
    assert_bitwise(model, arrays(), 3)


@pytest.mark.parametrize("count", [4, 400, 100_000])
def test_reading_in_pieces_gives_the_same(monkeypatch, count):
    monkeypatch.setattr(tf_bundle, "READ_BYTES", count)
    model, _ = load_openai(FIXTURE)
    assert_bitwise(model, arrays(), 3)


def test_the_names_of_the_release_are_known(folder):
    stored = read_index(folder / openai.INDEX)
    assert {name: tensor.shape for name, tensor in stored.items()} == {
        name: array.shape for name, array in arrays().items()
    }
    assert random_tensors(json.loads((folder / "hparams.json").read_text())).keys() == stored.keys()


@pytest.mark.parametrize(
    ("data", "crc"),
    [  # RFC 3720, B.4, and the check value of the catalogues
        (b"", 0),
        (b"123456789", 0xE3069283),
        (bytes(32), 0x8A9136AA),
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
        (bytes(range(31, -1, -1)), 0x113FDB5C),
    ],
)
def test_crc32c_of_known_bytes(data, crc):
    assert google_crc32c.value(data) == textbook_crc32c(data) == crc


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_weights_that_are_no_numbers_are_refused(folder, value):
    tensors = dict(arrays())
    tensors["model/h2/ln_2/b"] = tensors["model/h2/ln_2/b"].copy()
    tensors["model/h2/ln_2/b"][47] = value
    write_release(folder, tensors)
    assert f"{folder / openai.DATA}: model/h2/ln_2/b holds NaN or infinity" in refusal(folder)


def test_one_bit_of_the_data_is_noticed_and_its_tensor_named(folder):
    path = folder / openai.DATA
    data = bytearray(path.read_bytes())
    for name, tensor in read_index(folder / openai.INDEX).items():
        data[tensor.offset + tensor.size - 1] ^= 1
        path.write_bytes(data)
        assert f"{path}: the checksum of {name} is wrong" in refusal(folder)
        data[tensor.offset + tensor.size - 1] ^= 1


WPE = {"shape": (64, 48), "offset": 339_648, "size": 12_288}


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        (b"", header(shards=2), "in 2 data files"),
        (b"", header(endianness=1), "big-endian"),
        (b"", header(needs=2), "version 2"),
        (b"", field(9, 1), "field 9"),
        (b"", b"\x08", "does not end"),
        (b"model/wpe", entry((64, 48), dtype=2), "'model/wpe' is float64"),
        (b"model/wpe", entry((64, 48), dtype=19), "'model/wpe' is float16"),
        (b"model/wpe", entry((64, 48), dtype=99), "'model/wpe' is of type 99"),
        (b"model/wpe", entry(**WPE, shard=1), "another data file"),
        (b"model/wpe", entry(**WPE, more=field(7, b"x")), "slices"),
        (b"model/wpe", entry(**WPE, more=field(1, 1)), "twice"),
        (b"model/wpe", entry(**WPE, more=b"\x3d"), "field 7 of kind 5"),
        (b"model/wpe", entry(**WPE)[:-1], "cut short"),
        (b"model/wpe", entry(**WPE)[:-5], "no checksum"),
        (b"model/wpe", entry(**WPE | {"size": 12_287}), "12,287 bytes"),
        (b"model/wpe", entry(**WPE | {"shape": (2**32, 2**32)}), "its shape"),
        (b"model/wpe", entry(**WPE | {"shape": (2**63, 48)}), "its shape"),
        (b"model/wpe", entry(**WPE | {"shape": (1,) * 9}), "9 dimensions"),
        (b"model/wpe", entry(**WPE | {"offset": WPE["offset"] - 4}), "overlaps"),
        (b"model/wpe", entry(**WPE | {"offset": WPE["offset"] + 4}), "leaves a gap"),
        (b"model/wpe", entry(**WPE | {"offset": 2**62}), "leaves a gap"),
        (b"model/wpe", entry(**WPE | {"offset": 0}), "overlaps"),
        (b"model/\xe4", entry(**WPE), "ascii"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_an_entry_of_the_index_that_cannot_be_is_refused_although_its_checksum_holds(
    folder, key, value, reason
):
    entries = write_release(folder, arrays())
    if key == b"model/wpe":
        expected = entry(**WPE, crc=entries[key][-4:])
        assert entries[key] == expected, "the entries above are the fixture's but for one thing"
    write_index(folder, entries | {key: value}, blocks=3)
    message = refusal(folder)
    assert message.startswith(f"{folder / openai.INDEX}: ")
    assert reason in message


def test_an_index_without_its_header_is_refused(folder):
    entries = write_release(folder, arrays())
    del entries[b""]
    write_index(folder, entries)
    assert "header" in refusal(folder)


@pytest.mark.parametrize(("kind", "name"), [(1, "Snappy"), (7, "kind 7")])
def test_a_compressed_block_is_refused_by_name(folder, kind, name):
    blocks = blocks_of(sorted(write_release(folder, arrays()).items()), 2)
    (folder / openai.INDEX).write_bytes(table_of(blocks, kind=kind))
    assert f"compressed ({name})" in refusal(folder)


def test_a_wrong_checksum_of_any_block_is_noticed(folder):
    path = folder / openai.INDEX
    data = bytearray(path.read_bytes())
    for place in (100, 0x4FF, 0x500, 0x505, len(data) - 60):
        data[place] ^= 16
        path.write_bytes(data)
        assert "checksum of its block" in refusal(folder)
        data[place] ^= 16


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda blocks: table_of(blocks[::-1]), "header"),
        (lambda blocks: table_of([blocks[0], blocks[2], blocks[1]]), "not in order"),
        (lambda blocks: table_of(blocks, swapped=True), "is expected"),
        (lambda blocks: table_of([blocks[0], blocks[0], *blocks[1:]]), "not in order"),
        (lambda blocks: table_of([(b"", blocks[0][1]), *blocks[1:]]), "not in order"),
        (lambda blocks: table_of([(b"n", b"")]), "damaged"),
        (lambda blocks: table_of([(b"n", b"\xff\xff\xff\xff")]), "damaged"),
        (lambda blocks: table_of([(b"n", b"\0\0\0\0")]), "damaged"),
        (lambda blocks: table_of([]), "header"),
        (lambda blocks: b"", "0 bytes that do not end"),
        (lambda blocks: table_of(blocks)[:-1], "cut short"),
        (lambda blocks: table_of(blocks)[1:], "not all there"),
        (lambda blocks: b"x" + table_of(blocks), "checksum"),
        (lambda blocks: table_of(blocks)[:-48] + b"x" + table_of(blocks)[-48:], "more in it"),
        (lambda blocks: table_of(blocks)[:-48] + b"\xff" * 40 + table_of(blocks)[-8:], "does not end"),
        (lambda blocks: table_of(blocks)[:-48] + b"\x7f" * 40 + table_of(blocks)[-8:], "checksum"),
        (lambda blocks: table_of(blocks)[:-48] + b"\xff\x7f" * 20 + table_of(blocks)[-8:], "not all there"),
    ],
)
def test_an_index_that_is_no_whole_table_is_refused(folder, damage, reason):
    blocks = blocks_of(sorted(write_release(folder, arrays()).items()), 3)
    (folder / openai.INDEX).write_bytes(damage(blocks))
    message = refusal(folder)
    assert message.startswith(f"{folder / openai.INDEX}: ")
    assert reason in message


def test_keys_that_would_grow_without_end_are_refused(folder):
    """A shared prefix costs a byte or two: 1 MB of such keys would be gigabytes of text."""
    one = entry((), size=4)
    grown = b"\0\0" + varint(len(header())) + header()
    grown += b"".join(varint(n) + b"\x01" + varint(len(one)) + b"a" + one for n in range(50_000))
    (folder / openai.INDEX).write_bytes(table_of([(b"b", grown + b"\0\0\0\0\x01\0\0\0")]))
    assert "the entry after" in refusal(folder)
