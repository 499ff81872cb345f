"""The seal of a weights file: every bit of it is vouched for, and other tools read it as before."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from lucidlm.errors import WeightsError
from lucidlm.weights.header import Origin, check_seal, origin_of
from lucidlm.weights.tensor_files import find_tensors, write_tensors

TENSORS = {"a": torch.arange(12, dtype=torch.float32).view(3, 4).T, "b": torch.ones(5, dtype=torch.bfloat16)}
ORIGIN = Origin("0123456789abcdef", 40, {"step": 40, "validation_loss_nats": 1.25})


@pytest.fixture
def sealed(tmp_path: Path) -> Path:
    write_tensors(tmp_path / "model.safetensors", TENSORS, origin=ORIGIN)
    return tmp_path / "model.safetensors"


def test_a_sealed_file_is_read_by_the_library_and_says_whose_weights_it_holds(sealed):
    assert all(torch.equal(tensor, TENSORS[name]) for name, tensor in load_file(sealed).items())
    with safe_open(sealed, framework="pt") as file:
        assert file.metadata()["format"] == "pt"
    assert origin_of(sealed) == ORIGIN
    assert check_seal(sealed)


def test_the_same_tensors_make_the_same_file(sealed, tmp_path):
    write_tensors(tmp_path / "again", TENSORS, origin=ORIGIN)
    assert (tmp_path / "again").read_bytes() == sealed.read_bytes()


def test_one_turned_bit_anywhere_is_found(sealed):
    whole = sealed.read_bytes()
    for place in range(0, 8 * len(whole), 13):
        data = bytearray(whole)
        data[place // 8] ^= 1 << place % 8
        sealed.write_bytes(data)
        with pytest.raises(WeightsError, match=r"model\.safetensors: "):
            find_tensors(sealed.parent)


def test_a_file_that_is_cut_off_or_longer_is_found(sealed):
    whole = sealed.read_bytes()
    for data in (*(whole[:end] for end in range(0, len(whole), 7)), whole + b"\0"):
        sealed.write_bytes(data)
        with pytest.raises(WeightsError, match=r"model\.safetensors: "):
            find_tensors(sealed.parent)


def test_a_file_of_others_has_no_seal_and_no_origin(tmp_path):
    save_file({"a": torch.ones(3)}, tmp_path / "model.safetensors", {"format": "pt", "made": "elsewhere"})
    assert not check_seal(tmp_path / "model.safetensors")
    assert origin_of(tmp_path / "model.safetensors") is None
    assert list(find_tensors(tmp_path)) == ["a"]


def test_a_seal_is_looked_at_again_when_the_file_has_changed(sealed):
    os.utime(sealed, (1e9, 1e9))
    assert check_seal(sealed)
    data = bytearray(sealed.read_bytes())
    data[-1] ^= 1
    sealed.write_bytes(data)
    os.utime(sealed, (1e9, 1e9))  # a copy may keep its time
    with pytest.raises(WeightsError, match="damaged"):
        check_seal(sealed)


def test_an_origin_that_was_changed_is_refused_before_the_tensors_are_read(sealed):
    whole = sealed.read_bytes()
    begin, end = whole.index(b"lucidlm.run"), whole.index(b"lucidlm.sha256")
    for place in range(8 * begin, 8 * end, 5):
        data = bytearray(whole)
        data[place // 8] ^= 1 << place % 8
        sealed.write_bytes(data)
        with pytest.raises(WeightsError, match=r"model\.safetensors: .*header"):
            origin_of(sealed)


def test_a_header_of_ours_without_its_seal_is_damaged(tmp_path):
    path = tmp_path / "model.safetensors"
    save_file({"a": torch.ones(3)}, path, {"lucidlm.step": "1"})
    with pytest.raises(WeightsError, match="no seal"):
        check_seal(path)


def test_header_and_data_are_where_the_format_says(sealed):
    data = sealed.read_bytes()
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    first, last = header["a"]["data_offsets"]
    stored = np.frombuffer(data[8 + size + first : 8 + size + last], "<f4")
    assert stored.tolist() == TENSORS["a"].flatten().tolist()
    assert size % 8 == 0
