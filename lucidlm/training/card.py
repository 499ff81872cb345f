"""The model card of a run: a README.md that says what the model is, how good it is and how to open it."""

from typing import TYPE_CHECKING

from lucidlm.measure.judgement import Judgement
from lucidlm.runtime.files import write_atomically
from lucidlm.runtime.wording import fixed, plural

if TYPE_CHECKING:
    from lucidlm.training.state import TrainingRun


def write_card(run: "TrainingRun", judgement: Judgement) -> None:
    """README.md in the run's folder, from its plan, its corpus and the judgement of its best weights."""
    write_atomically(run.folder / "README.md", card(run, judgement))


def card(run: "TrainingRun", judgement: Judgement) -> str:
    """The text of the card, in the form that model hubs read."""
    evaluation = judgement.evaluation
    plan, corpus, name = run.plan, run.corpus, run.folder.name
    shape, best = plan.model, run.best
    mark = f" ({evaluation.caution})" if evaluation.caution else ""
    sources = ", ".join(f"`{text}`" for text in run.config.text) or "the story that comes with lucidlm"
    return f"""---
library_name: transformers
pipeline_tag: text-generation
tags: [lucidlm]
---
# {name}

A language model of {shape.n_parameters:,} parameters ({shape.family}, {plural(shape.n_layers, "layer")}, \
{shape.emb_dim} wide, {plural(shape.n_heads, "head")}, context {shape.context_length:,}), \
trained from {run.config.from_ or "random weights"} by lucidlm on {sources}.

| on its validation text | |
|---|---|
| loss | {fixed(evaluation.loss_nats, 4)} nats per token{mark} |
| perplexity | {fixed(evaluation.perplexity, 2)}{mark} |
| bits per byte | {fixed(evaluation.bits_per_byte, 4)}{mark} |
| scored | {evaluation.tokens_scored:,} tokens, {evaluation.bytes_scored:,} bytes |
| counted | {evaluation.protocol} |

{judgement.verdict}

```text
{judgement.ladder}
```
The baselines were given the same training text; `report.html` has the curves.

## Text and training
{corpus.train_tokens:,} training tokens and {corpus.validation_tokens:,} held-out ones by the tokenizer \
`{corpus.tokenizer.name}` ({corpus.tokenizer.vocab_size:,} tokens). {plural(run.step, "step")} of \
{plan.batch_tokens:,} tokens, {run.windows.epoch_at(run.step, plan.batch_size):.1f} epochs, \
optimizer {plan.optim.name}, products in {plan.dtype}. \
These weights are of step {best.step if best else run.step:,}, the best by validation loss. \
`run.toml` repeats the run, \
`env.json` says where it was made.

## Open it
```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model, tokenizer = AutoModelForCausalLM.from_pretrained("{name}"), AutoTokenizer.from_pretrained("{name}")
```
or `lucidlm generate {name} "..."`, `lucidlm evaluate {name}`.

It knows its training text and little else: do not rely on what it says.
"""
