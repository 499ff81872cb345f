"""llama.cpp opens what a training run was exported to, and says what we say: needs llama-cpp-python."""

import functools
import importlib.util
import random
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from crash import crash_of

from lucidlm.model.config import GPTConfig
from lucidlm.model.decoding import Decoding
from lucidlm.model.generation import Generation, generate
from lucidlm.model.gpt import GPT
from lucidlm.model.presets import PLAIN
from lucidlm.runs.settings import Plan, TrainConfig
from lucidlm.text.tokenizer import Tokenizer
from lucidlm.training.loop import train
from lucidlm.training.schedule import trapezoid
from lucidlm.weights.gguf import export_gguf
from lucidlm.weights.load import load

pytestmark = [
    pytest.mark.interop,
    pytest.mark.timeout(600),
    pytest.mark.skipif(
        importlib.util.find_spec("llama_cpp") is None,
        reason="pip install llama-cpp-python; it compiles for some minutes",
    ),
]

PROMPT = "The harbour's lamps, it seemed"
SIZES = {"context_length": 256, "emb_dim": 64, "n_layers": 2, "n_heads": 2}
FAMILIES = {
    "gpt2": {"qkv_bias": True, "tied_head": True, "init": "scaled"},
    "modern": {"family": "modern", "n_kv_heads": 1, "head_dim": 64},
}
# llama.cpp looks GPT-2's GELU up in a table of float16 numbers. Trained weights were seen to differ by 0.0003
# for it, random ones ten times as large by 0.0025. All else is computed in float32: 0.00001 was seen.
CLOSE = {"gpt2": 1e-3, "modern": 1e-4}
# Where splits differ: letters, marks, digits and blanks of many kinds, contractions, control text.
ALPHABET = " \n\t\r'sdtlmve.,!?09aAéßжλ中日🙂́\u200d\u00a0\u3000\u2028\u0085\x1c\x00½²Ⅷ٣ʼ’`_-—<|>endoftx"


def a_plan(config: GPTConfig) -> Plan:
    """Some seconds of training, the same on every machine."""
    batch, steps = (8, 250) if config.vocab_size < 1000 else (2, 60)
    recipe = replace(
        PLAIN, name="adamw", lr=4e-3, matrix_lr=0.02, weight_decay=0.05, warmup_steps=5, clip=1.0
    )
    return Plan(
        model=config, optim=recipe, batch_size=batch, micro_batch=batch, steps=steps,
        schedule=trapezoid(steps, warmup_steps=5, decay_fraction=0.3), validate_every=steps,
        validation_tokens=256, dtype="float32", threads=1, early_stop=False,
    )  # fmt: skip


@pytest.fixture(
    scope="module",
    params=[(family, spec) for spec in ("bytes", "bpe:512", "gpt2") for family in FAMILIES],
    ids="-".join,
)
def exported(request, tmp_path_factory) -> tuple[str, GPT, Tokenizer, Path]:
    """A run on the bundled story, and its GGUF in float32."""
    family, spec = request.param
    folder = tmp_path_factory.mktemp("run")
    size = {"bytes": 257, "bpe:512": 512, "gpt2": 50257}[spec]
    train(
        TrainConfig(out=str(folder / "run"), tokenizer=spec, device="cpu", threads=1, dtype="float32"),
        plan=a_plan(GPTConfig(vocab_size=size, **SIZES, **FAMILIES[family])),
    )
    model, tokenizer = load(folder / "run")
    assert model.config.vocab_size == tokenizer.vocab_size == size
    export_gguf(model, tokenizer, folder / "model.gguf", kind="f32")
    return family, model, tokenizer, folder / "model.gguf"


@functools.cache
def library(path: Path):
    """llama_cpp, once a child has seen that it computes here: compiled for another machine it crashes."""
    program = "import sys, llama_cpp as l; l.Llama(sys.argv[1], n_ctx=64, verbose=False).eval([1, 2])"
    if fault := crash_of([sys.executable, "-c", program, str(path)]):
        pytest.exit(
            f"llama.cpp cannot compute on this machine ({fault}); build it again: "
            "CMAKE_ARGS='-DGGML_NATIVE=OFF -DGGML_AVX512=OFF' "
            "pip install --force-reinstall --no-cache-dir --no-deps llama-cpp-python",
            returncode=1,
        )
    import llama_cpp

    return llama_cpp


def opened(path: Path, **options):
    """The file in llama.cpp, with keys and values in float32 and every position's logits kept."""
    llama_cpp = library(path)
    exact = {"type_k": 0, "type_v": 0, "flash_attn": False}
    return llama_cpp.Llama(
        str(path), n_ctx=256, n_threads=1, logits_all=True, verbose=False, **exact, **options
    )


def log_probabilities(llama, ids: list[int]) -> np.ndarray:
    llama.reset()
    llama.eval(ids)
    return torch.from_numpy(np.array(llama.scores[: len(ids)])).log_softmax(-1).numpy()


def check_greedy_text(model: GPT, tokenizer: Tokenizer, path: Path, *, atol: float) -> Generation:
    """50 likeliest tokens, one after the other, by llama.cpp and by us."""
    ours = generate(model, tokenizer, PROMPT, Decoding(max_new_tokens=50, temperature=0))
    llama = opened(path)
    try:
        ids = llama.tokenize(PROMPT.encode(), add_bos=True, special=False)
        assert ids == tokenizer.encode(PROMPT)
        llama.eval(ids)
        for token in ours.tokens:
            row = torch.from_numpy(np.array(llama.scores[llama.n_tokens - 1])).log_softmax(-1)
            assert row.argmax() == token.id
            assert row[token.id].item() == pytest.approx(token.log_probability, abs=atol)
            llama.eval([token.id])
        assert len(ours.tokens) == 50 or ours.tokens[-1].id == llama.token_eos()
        written = llama.detokenize([token.id for token in ours.tokens]).decode("utf-8", errors="replace")
        assert written == ours.text
    finally:
        llama.close()
    return ours


def test_llama_cpp_writes_the_same_50_tokens_with_the_same_log_probabilities(exported):
    family, model, tokenizer, path = exported
    check_greedy_text(model, tokenizer, path, atol=CLOSE[family])


def a_lively_model(architecture: str, vocab_size: int) -> GPT:
    """Random weights so large that each one shows; "llama" is the modern family without its norms."""
    torch.manual_seed(1)
    shape = FAMILIES["gpt2" if architecture == "gpt2" else "modern"] | {"head_dim": 32, "tied_head": False}
    shape |= {"qk_norm": architecture == "qwen3"}
    model = GPT(GPTConfig(vocab_size=vocab_size, **SIZES, **shape)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.15 * torch.randn_like(parameter))
    return model


@pytest.mark.parametrize("architecture", ["gpt2", "qwen3", "llama"])
def test_random_weights_go_on_alike(tmp_path, architecture):
    model = a_lively_model(architecture, vocab_size=257)
    export_gguf(model, Tokenizer.bytes(), tmp_path / "model.gguf", kind="f32")
    atol = 5e-3 if architecture == "gpt2" else 1e-4
    ours = check_greedy_text(model, Tokenizer.bytes(), tmp_path / "model.gguf", atol=atol)
    assert len({token.id for token in ours.tokens}) > 10


def test_padding_ids_have_their_logits_too(tmp_path):
    model = a_lively_model("qwen3", vocab_size=300)
    export_gguf(model, Tokenizer.bytes(), tmp_path / "model.gguf", kind="f32")
    ids = Tokenizer.bytes().encode(PROMPT)
    llama = opened(tmp_path / "model.gguf")
    try:
        assert llama.n_vocab() == 300
        theirs = log_probabilities(llama, ids)
    finally:
        llama.close()
    with torch.no_grad():
        ours = model(torch.tensor([ids])).log_softmax(-1)[0].numpy()
    np.testing.assert_allclose(theirs, ours, atol=1e-4, rtol=0)


def test_every_log_probability_of_a_text_is_ours(exported):
    family, model, tokenizer, path = exported
    ids = tokenizer.encode("Nobody had lit them since the tide took the old keeper's boat. " * 5)[:200]
    with torch.no_grad():
        ours = model(torch.tensor([ids])).log_softmax(-1)[0].numpy()
    llama = opened(path)
    try:
        theirs = log_probabilities(llama, ids)
    finally:
        llama.close()
    here, next_ids = np.arange(len(ids) - 1), np.array(ids[1:])
    np.testing.assert_allclose(theirs[here, next_ids], ours[here, next_ids], atol=CLOSE[family], rtol=0)


def test_llama_cpp_splits_every_text_into_our_ids_and_back(exported):
    _, _, tokenizer, path = exported
    draw = random.Random(0)
    texts = ["".join(draw.choices(ALPHABET, k=draw.randint(1, 30))) for _ in range(1000)]
    texts += ["<|endoftext|>", "don't they'll WE'LL", "  lead", "trail   ", "a  b   c", "\n\n\n x", "\0\0"]
    llama = opened(path, vocab_only=True)
    try:
        for text in texts:
            ids = llama.tokenize(text.encode(), add_bos=True, special=False)
            assert ids == tokenizer.encode(text), text
            assert llama.detokenize(ids) == text.encode()
        assert llama.token_eos() == llama.token_bos() == tokenizer.end_of_text
    finally:
        llama.close()


@pytest.mark.parametrize(("kind", "atol"), [("f16", 0.005), ("bf16", 0.03), ("q8_0", 0.1)])
def test_smaller_kinds_are_opened_and_stay_close(exported, tmp_path, kind, atol):
    _, model, tokenizer, _ = exported
    export_gguf(model, tokenizer, tmp_path / "small.gguf", kind=kind)
    ids = tokenizer.encode("Nobody had lit them since the tide took the old keeper's boat. ")
    with torch.no_grad():
        ours = model(torch.tensor([ids])).log_softmax(-1)[0].numpy()
    llama = opened(tmp_path / "small.gguf")
    try:
        theirs = log_probabilities(llama, ids)
    finally:
        llama.close()
    here, next_ids = np.arange(len(ids) - 1), np.array(ids[1:])
    np.testing.assert_allclose(theirs[here, next_ids], ours[here, next_ids], atol=atol, rtol=0)
