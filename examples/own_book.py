"""A model of one's own text from Python: train, load, evaluate, explain, generate.

python examples/own_book.py BOOK RUN [MINUTES]
"""

import sys

import torch

import lucidlm as lm
from lucidlm.display import Display

book, run, minutes = sys.argv[1], sys.argv[2], float(sys.argv[3]) if len(sys.argv) > 3 else 3.0

with Display() as display:
    config = lm.TrainConfig(text=book, out=run, minutes=minutes)
    result = lm.train(config, progress=display, watch=display.watch)
print(result.verdict)

model, tokenizer = lm.load(run)  # the best weights by validation loss
ids = torch.tensor([tokenizer.encode("Every effort moves you")])
inputs, targets = lm.inputs_and_targets(ids)
with torch.no_grad():
    loss = lm.cross_entropy(model(inputs), targets).mean()  # nats per token
print(f"perplexity of four words: {lm.perplexity(loss):,.1f}")

print(lm.explain(model, tokenizer, "Every effort moves you"))
print(lm.evaluate(model, tokenizer, text="It was the best of times, it was the worst of times."))
print(lm.generate(model, tokenizer, "Every effort moves you", lm.Decoding(max_new_tokens=40), seed=0))
