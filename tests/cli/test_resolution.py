"""Every verb means the same by MODEL: a preset's name is the preset, also beside a folder of that name."""

import pytest
from models import BYTES, SMALLEST, lively

from lucidlm.weights.huggingface import save_model

COMMANDS = [
    "evaluate modern-1m text.txt --context-length 8",
    "explain modern-1m house",
    "generate modern-1m A --seed 1 --max-new-tokens 2",
    "compare modern-1m modern-1m text.txt --context-length 8",
    "compress modern-1m text.txt --context-length 8 --out a.lucz --json",
    "decompress modern-1m text.lucz --out back.txt",
    "info modern-1m",
    "import modern-1m --out imported",
    "export modern-1m --out exported",
]


@pytest.fixture
def here(call, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.txt").write_text("Nobody knew the house.")
    call("compress", "modern-1m", "text.txt", "--context-length", "8", "--out", "text.lucz")
    return tmp_path


@pytest.mark.parametrize("command", COMMANDS)
def test_a_presets_name_means_the_preset_beside_a_folder_of_that_name_and_one_note_says_so(
    call, here, command
):
    alone = call(*command.split())
    for name in ("a.lucz", "back.txt"):
        (here / name).unlink(missing_ok=True)
    for name in ("imported", "exported"):
        if (here / name).exists():
            (here / name).rename(here / f"{name}-before")
    save_model(lively(SMALLEST), BYTES, here / "modern-1m")
    (here / "modern-1m" / "run.toml").touch()  # nor is the folder's state told, were it a run
    beside = call(*command.split())
    assert (alone.code, beside.code) == (0, 0), beside.err
    assert beside.out == alone.out
    more = [line for line in beside.lines if line not in alone.lines]
    assert more
    assert set(more) == {"modern-1m is the preset; ./modern-1m is the folder"}


def test_a_path_means_the_folder(call, here):
    save_model(lively(SMALLEST), BYTES, here / "modern-1m")
    assert call("info", "./modern-1m").out != call("info", "modern-1m").out
