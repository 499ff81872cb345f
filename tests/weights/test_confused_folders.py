"""Folders as transformers writes them, with a value that no field expects: answered, or refused in a line."""

import contextlib
import io
import json
import os
import random
from collections import Counter
from pathlib import Path

import pytest
from damage import CONFUSING, places_in, with_odd

from lucidlm.cli import main

TEXT = "A tide-table, a clock: nobody knew why. The river ran past a house.\n"
SIZES = {"vocab_size": 300, "bos_token_id": 0, "eos_token_id": 0}


def tokenizer():
    """A small one in transformers' words."""
    import transformers
    from tokenizers import ByteLevelBPETokenizer

    made = ByteLevelBPETokenizer()
    made.train_from_iterator([TEXT], vocab_size=280, min_frequency=1, special_tokens=["<|endoftext|>"])
    made.save_model(".")  # vocab.json and merges.txt, as folders of 2020 have them
    end = "<|endoftext|>"
    return transformers.PreTrainedTokenizerFast(tokenizer_object=made, bos_token=end, eos_token=end)


def write_llama(folder: Path) -> None:
    """Several files with an index, tokenizer.json."""
    import transformers

    config = transformers.LlamaConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=32, **SIZES,
    )  # fmt: skip
    transformers.LlamaForCausalLM(config).save_pretrained(folder, max_shard_size="16KB")
    tokenizer().save_pretrained(folder)


def write_gpt2(folder: Path) -> None:
    """One file, and vocab.json and merges.txt beside what transformers wrote of them in 2022."""
    import transformers

    config = transformers.GPT2Config(n_embd=16, n_layer=2, n_head=2, n_positions=32, **SIZES)
    transformers.GPT2LMHeadModel(config).save_pretrained(folder)
    tokenizer()
    for name in ("vocab.json", "merges.txt"):
        os.replace(name, folder / name)
    end = {"content": "<|endoftext|>", "lstrip": False, "normalized": True, "rstrip": False}
    settings = {"tokenizer_class": "GPT2Tokenizer", "eos_token": end, "unk_token": end}
    settings |= {"add_prefix_space": False, "model_max_length": 32}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    (folder / "special_tokens_map.json").write_text(
        json.dumps({"eos_token": end, "unk_token": "<|endoftext|>"})
    )
    (folder / "added_tokens.json").write_text(
        json.dumps({"<|user|>": len(json.loads((folder / "vocab.json").read_text()))})
    )


WRITERS = {"llama": write_llama, "gpt2": write_gpt2}


def said(*words: str | Path) -> tuple[int, str, str]:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main([str(word) for word in words])
    return code, out.getvalue(), err.getvalue()


def confuse(folder: Path, *, every: int, seed: int) -> Counter:
    """Of each file how many confusions were tried and refused, one in `every` of them; or it fails."""
    Path("short.txt").write_text(TEXT)
    verbs = {
        "info": ("info", folder, "--json"),
        "evaluate": ("evaluate", folder, "short.txt", "--threads", "1", "--device", "cpu", "--json"),
    }
    draw, found, wrong = random.Random(seed), Counter(), []
    for words in verbs.values():
        assert said(*words)[0] == 0, said(*words)
    for path in sorted(folder.glob("*.json")):
        right = path.read_bytes()
        for place in places_in(json.loads(right)):
            for odd in CONFUSING:
                if draw.randrange(every):
                    continue
                path.write_text(json.dumps(with_odd(json.loads(right), place, odd)))
                for verb, words in verbs.items():
                    code, out, err = said(*words)
                    lines = err.splitlines()
                    refused = code == 2 and out == "" and lines[-1].startswith(f"lucidlm: {folder}")
                    if code != 0 and not refused:
                        wrong.append(f"{path.name} {place} {odd!r:.20} {verb}: {code} {out:.200} {err:.500}")
                    found[path.name, verb] += code == 2
                found[path.name, "tried"] += 1
        path.write_bytes(right)
    assert not wrong, f"{len(wrong)} of {found.total()}, seed {seed}:\n" + "\n".join(wrong)
    return found


@pytest.fixture(params=WRITERS)
def folder(request, tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("model").mkdir()
    WRITERS[request.param](Path("model"))
    return Path("model")


def test_a_sample_of_confused_folders_is_answered_or_refused(folder):
    assert confuse(folder, every=100, seed=1).total() > 5


@pytest.mark.torture
def test_every_confused_folder_is_answered_or_refused(folder, capsys):
    found = confuse(folder, every=1, seed=1)
    with capsys.disabled():
        for name in sorted({name for name, _ in found}):
            print(
                f"{name:<32}" + "".join(f"{found[name, each]:>10}" for each in ("tried", "info", "evaluate"))
            )
