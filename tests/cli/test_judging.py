"""explain and compare on one tiny run: the numbers are those of evaluate."""

import shutil

import pytest
from command_line import shown


def test_comparing_names_the_better_of_two(answer, home):
    short = ("--context-length", "32")  # so that the text has blocks enough for an interval
    printed = answer("compare", "run", "modern-1m", "book.txt", *short, "--html", "pages/compared.html").out
    assert "run predicts this text better than modern-1m" in printed
    assert "modern-1m" in (home / "pages" / "compared.html").read_text(encoding="utf-8")
    values = shown(answer("compare", "run", "run", "book.txt", "--json").out)
    assert values["difference"] == 0
    assert values["same_model"] is True
    printed = answer("compare", "run", "run", "book.txt").out
    assert "run and run are the same model twice" in printed
    assert "0.0000 bits" not in printed


def test_comparing_recipes_takes_several_runs_of_each_and_none_twice(answer, call, home):
    for seed in range(1, 5):
        answer("import", "modern-1m", "--seed", str(seed), "--out", f"seeds/{seed}")
    shutil.copytree(home / "seeds" / "1", home / "seeds" / "copy")
    (home / "seeds" / "link").symlink_to(home / "seeds" / "1")
    command = ("book.txt", "--context-length", "32", "--json")
    several = shown(answer("compare", "seeds/1,seeds/2", "seeds/3,seeds/4", *command).out)
    assert several["recipes"]["clause"].startswith("for these recipes")
    assert [len(several[side]["runs"]) for side in "ab"] == [2, 2]
    for a, b in (
        ("seeds/1,seeds/1", "seeds/3,seeds/3"),
        ("seeds/1,./seeds/../seeds/1", "seeds/3,seeds/4"),
        ("seeds/1,seeds/link", "seeds/3"),
        ("seeds/1,seeds/copy", "seeds/3,seeds/4"),
        ("seeds/1,seeds/2", "seeds/2"),
        ("seeds/1,seeds/2", "seeds/3,seeds/copy"),
        ("run,run/checkpoints/step_000006", "seeds/3,seeds/4"),
    ):
        refused = call("compare", a, b, *command)
        assert (refused.code, refused.out) == (2, "")
        errors = [line for line in refused.lines if line.startswith("lucidlm: ")]
        assert len(errors) == 1
        assert errors == refused.lines[-1:]
        assert "one run is not two seeds; give each run once" in errors[0]


def test_comparing_on_a_runs_own_held_out_text_scores_what_evaluate_scores(answer):
    alone = shown(answer("evaluate", "run", "--no-baselines", "--json").out)
    both = shown(answer("compare", "run", "run", "--json").out)
    assert both["bits_per_byte_a"] == pytest.approx(alone["bits_per_byte"], rel=1e-6)
    assert both["bytes_scored"] == alone["bytes_scored"]


def test_comparing_says_which_model_was_trained_on_the_text(answer, home):
    told = answer("compare", "run", "modern-1m", "book.txt", "--html", "pages/seen.html")
    assert "of this text was trained on" in told.out.splitlines()[0]
    assert "of this text was trained on" in (home / "pages" / "seen.html").read_text(encoding="utf-8")
    seen = shown(answer("compare", "run", "modern-1m", "book.txt", "--json").out)["seen_in_training"]
    assert seen["run"]["share"] > 0.85
    assert seen["modern-1m"] is None


def test_explaining_writes_a_page_and_the_steps(answer, home):
    printed = answer("explain", "run", "--file", "other.txt", "--html", "pages/why.html").out
    assert printed.splitlines()[-2].startswith("torch's cross_entropy")
    assert "Why the loss is" in (home / "pages" / "why.html").read_text(encoding="utf-8")


def test_explaining_gives_a_row_a_token_and_evaluates_loss(answer):
    values = shown(answer("explain", "run", "--file", "other.txt", "--json", "--top-k", "3").out)
    tokens = values["texts"][0]["tokens"]
    assert len(tokens) == 10 * len("Nobody knew the house.\n")
    keys = {"id", "text", "probability", "log_probability", "nats", "bits", "rank", "entropy", "alternatives"}
    assert keys <= tokens[0].keys()
    assert all(len(token["alternatives"]) == 3 for token in tokens)
    mean = sum(token["nats"] for token in tokens) / len(tokens)
    evaluated = shown(answer("evaluate", "run", "other.txt", "--json").out)
    assert mean == pytest.approx(values["loss_nats"], abs=1e-6)
    assert mean == pytest.approx(evaluated["loss_nats"], abs=1e-5)


def test_explain_prints_a_table_of_several_texts(answer):
    printed = answer("explain", "run", "the house", "nobody").out
    assert "the house" in printed
    assert "nobody" in printed
    assert "perplexity" in printed
