"""Tokenizers that others could have made, drawn at random: the library's ids, every byte kept, or refused."""

import json
import random

import pytest
import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, processors, trainers

from lucidlm.errors import WeightsError
from lucidlm.text.tokenizer import Tokenizer

STORY = (
    "The ferry left at nine, as it always did; nobody's watch agreed. \"We'll see,\" she said.\n\n"
    "  In 1874 the lighthouse burned 1,200 litres of oil a year\tand  gave, on clear nights, 19 miles.\r\n"
) * 4
TEXTS = [
    "",
    " ",
    "  a  b\n\n c\t\r\n",
    "I'll can't 12345 <x> <x>  <y>y <|endoftext|> the other the",
    "Größe 🙂🙂 e\u0301 ﬁ Å",
    "\u3000日本 語\u2028x\x00\x7f",
    "a" * 50 + " " * 40,
    " <x>  <y>  <x>",
    "word<y>word<x>",
    STORY,
]
LLAMA = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def drawn(draw: random.Random) -> tokenizers.Tokenizer:
    """A byte-level BPE with steps, normalizers and added tokens of all kinds, sensible or not."""

    def maybe() -> bool:
        return draw.random() < 0.3

    def split() -> pre_tokenizers.PreTokenizer:
        behaviors = ["isolated", "removed", "merged_with_previous", "merged_with_next", "contiguous"]
        return pre_tokenizers.Split(Regex(LLAMA), draw.choice(behaviors), invert=maybe())

    steps = [
        split,
        split,
        lambda: pre_tokenizers.Digits(individual_digits=maybe()),
        lambda: pre_tokenizers.Punctuation(draw.choice(["isolated", "removed", "contiguous"])),
        draw.choice([
            pre_tokenizers.Whitespace, pre_tokenizers.WhitespaceSplit, pre_tokenizers.Metaspace,
            pre_tokenizers.UnicodeScripts, pre_tokenizers.BertPreTokenizer,
        ]),
    ]  # fmt: skip
    split_by = [draw.choice(steps)() for _ in range(draw.choice([0, 0, 1, 1, 2]))]
    plain = pre_tokenizers.ByteLevel(add_prefix_space=draw.random() < 0.2, use_regex=draw.random() < 0.6)
    split_by.insert(draw.randint(0, len(split_by)) if draw.random() < 0.2 else len(split_by), plain)
    made = tokenizers.Tokenizer(models.BPE(ignore_merges=maybe()))
    made.pre_tokenizer = pre_tokenizers.Sequence(split_by) if len(split_by) > 1 else plain
    others = [normalizers.NFKC(), normalizers.Lowercase(), normalizers.Replace(" ", "_"), normalizers.Strip()]
    kept = [normalizers.NFC(), normalizers.Sequence([normalizers.NFD(), normalizers.NFC()])]
    if maybe():
        made.normalizer = draw.choice([*kept, *kept, *others])
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False,
        special_tokens=draw.choice([[], ["<|endoftext|>"], ["<s>", "</s>"]]),
    )  # fmt: skip
    made.train_from_iterator([STORY], trainer)
    for name, add in (("<x>", made.add_tokens), ("<y>", made.add_special_tokens), ("the", made.add_tokens)):
        if maybe():
            add([AddedToken(name, single_word=maybe(), lstrip=maybe(), rstrip=maybe(), normalized=maybe())])
    if maybe() and (id := made.token_to_id("<y>")) is not None:
        made.post_processor = processors.TemplateProcessing(single="<y> $A", special_tokens=[("<y>", id)])
    return made


@pytest.mark.parametrize(
    "count", [pytest.param(60), pytest.param(2000, marks=[pytest.mark.torture, pytest.mark.slow])]
)
def test_random_tokenizers_give_the_librarys_ids_and_spell_the_text_or_are_refused(count, tmp_path):
    draw = random.Random(count)
    path, reasons = tmp_path / "tokenizer.json", set()
    kept = changing = 0
    for _ in range(count):
        library = drawn(draw)
        path.write_text(library.to_str(), encoding="utf-8")
        try:
            ours = Tokenizer.load(path)
        except WeightsError as refused:
            reasons.add(str(refused))
            continue
        oracle = tokenizers.Tokenizer.from_str(library.to_str())
        oracle.encode_special_tokens = True
        described = {key: value for key, value in json.loads(library.to_str()).items() if key != "model"}
        for text in TEXTS:
            ids = ours.encode(text)
            assert ids == oracle.encode(text, add_special_tokens=False).ids, (text, described)
            pieces = [text[start : start + 7] for start in range(0, len(text), 7)]
            streamed = [id for piece in ours.encode_pieces(pieces) for id in piece.tolist()]
            assert streamed == ids, (text, described)
            assert not ours.lossless or ours.decode(ids) == text, (text, described)
        kept, changing = kept + ours.lossless, changing + (not ours.lossless)
    assert all(reason.startswith(f"{path}: ") for reason in reasons), reasons
    assert min(kept, changing, count - kept - changing) > count / 12
