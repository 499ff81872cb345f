"""The model card of a run: plan, corpus and assessment in; a README.md out, in the form of model hubs."""

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
    """Writes README.md in the run's folder: what the model is, how good it is and how to open it."""
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
| measured by | {evaluation.protocol} |

{assessment.verdict}

{_ladder(assessment)}

## Text and training
{corpus.train_tokens:,} training tokens and {corpus.validation_tokens:,} held-out tokens; tokenizer \
`{corpus.tokenizer.name}` ({plural(corpus.tokenizer.vocab_size, "token")}). {plural(run.step, "step")} of \
{plural(plan.batch_tokens, "token")}, {run.epochs:.1f} epochs, \
optimizer {plan.optim.name}, matmuls in {plan.dtype}. \
The weights are from step {best.step if best else run.step:,}, the best by validation loss. \
`run.toml` repeats the run, \
`env.json` has the versions and the machine.

## Open it
```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model, tokenizer = AutoModelForCausalLM.from_pretrained({quoted}), AutoTokenizer.from_pretrained({quoted})
```
or {in_code(f'lucidlm generate {argument} "..."')}, {in_code(f"lucidlm evaluate {argument}")}.

It knows little beyond its training text: do not rely on what it writes.
"""


def in_prose(text: str) -> str:
    """A name as Markdown text, its markup and control characters escaped."""
    return re.sub(r"[\\`*\[\]<>&~|$#]", r"\\\g<0>", one_line(text))


def in_code(text: str) -> str:
    """A name as Markdown code, between more backticks than it contains."""
    text = one_line(text)
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", text)), default=0))
    space = " " * (text[:1] in ("`", "") or text[-1:] == "`")
    return f"{fence}{space}{text}{space}{fence}"


def _ladder(assessment: Assessment) -> str:
    """The comparison with the baselines; "" if the text is too short for one."""
    if assessment.ladder is None:
        return ""
    return (
        f"```text\n{assessment.ladder}\n```\n"
        "The baselines were given the same training text; `report.html` has the curves.\n"
    )
