"""The model card of a run: a README.md that says what the model is, how good it is and how to open it."""

import json
import re
import shlex
from dataclasses import dataclass
from pathlib import Path

from lucidlm.report.assessment import Assessment
from lucidlm.runs.history import Validation
from lucidlm.runs.settings import Plan, TrainConfig
from lucidlm.runtime.files import write_atomically
from lucidlm.runtime.wording import fixed, one_line, plural, printable
from lucidlm.text.corpus import Corpus


@dataclass(frozen=True, slots=True)
class Trained:
    """What was trained, on what, and for how long."""

    folder: Path
    config: TrainConfig
    plan: Plan
    corpus: Corpus
    step: int
    epochs: float
    best: Validation | None


def write_card(run: Trained, assessment: Assessment) -> None:
    """README.md in the run's folder, from its plan, its corpus and the assessment of its best weights."""
    write_atomically(run.folder / "README.md", card(run, assessment))


def card(run: Trained, assessment: Assessment) -> str:
    """The text of the card, in the form that model hubs read."""
    evaluation = assessment.evaluation
    plan, corpus, name = run.plan, run.corpus, run.folder.name
    quoted, argument = printable(json.dumps(name, ensure_ascii=False)), shlex.quote(one_line(name))
    shape, best = plan.model, run.best
    mark = f" ({evaluation.caution})" if evaluation.caution else ""
    sources = ", ".join(in_code(text) for text in run.config.text) or "the story that comes with lucidlm"
    return f"""---
library_name: transformers
pipeline_tag: text-generation
tags: [lucidlm]
---
# {in_prose(name)}

A language model of {shape.n_parameters:,} parameters ({shape.family}, {plural(shape.n_layers, "layer")}, \
{shape.emb_dim} wide, {plural(shape.n_heads, "head")}, context {shape.context_length:,}), \
trained from {in_code(run.config.from_) if run.config.from_ else "random weights"} by lucidlm on {sources}.

| on its validation text | |
|---|---|
| loss | {fixed(evaluation.loss_nats, 4)} nats per token{mark} |
| perplexity | {fixed(evaluation.perplexity, 2)}{mark} |
| bits per byte | {fixed(evaluation.bits_per_byte, 4)}{mark} |
| scored | {plural(evaluation.tokens_scored, "token")}, {plural(evaluation.bytes_scored, "byte")} |
| counted | {evaluation.protocol} |

{assessment.verdict}

{_ladder(assessment)}

## Text and training
{corpus.train_tokens:,} training tokens and {corpus.validation_tokens:,} held-out ones by the tokenizer \
`{corpus.tokenizer.name}` ({plural(corpus.tokenizer.vocab_size, "token")}). {plural(run.step, "step")} of \
{plural(plan.batch_tokens, "token")}, {run.epochs:.1f} epochs, \
optimizer {plan.optim.name}, products in {plan.dtype}. \
These weights are of step {best.step if best else run.step:,}, the best by validation loss. \
`run.toml` repeats the run, \
`env.json` says where it was made.

## Open it
```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model, tokenizer = AutoModelForCausalLM.from_pretrained({quoted}), AutoTokenizer.from_pretrained({quoted})
```
or {in_code(f'lucidlm generate {argument} "..."')}, {in_code(f"lucidlm evaluate {argument}")}.

It knows its training text and little else: do not rely on what it says.
"""


def in_prose(text: str) -> str:
    """A name in Markdown: none of its letters is markup, and none a terminal's command."""
    return re.sub(r"[\\`*\[\]<>&~|$#]", r"\\\g<0>", one_line(text))


def in_code(text: str) -> str:
    """A name as code in a line of Markdown: between more backticks than it has itself."""
    text = one_line(text)
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", text)), default=0))
    space = " " * (text[:1] in ("`", "") or text[-1:] == "`")
    return f"{fence}{space}{text}{space}{fence}"


def _ladder(assessment: Assessment) -> str:
    """The comparison with the baselines, where there is text enough for one."""
    if assessment.ladder is None:
        return ""
    return (
        f"```text\n{assessment.ladder}\n```\n"
        "The baselines were given the same training text; `report.html` has the curves.\n"
    )
