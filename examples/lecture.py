"""The lecture on the loss, step by step: two sentences in, cross entropy 10.7940, perplexity 48,726 out."""

import torch

import lucidlm as lm

model, tokenizer = lm.load("lecture")  # the course's model, random weights from seed 123

texts = ["every effort moves you", "I really like chocolate"]
batch = torch.tensor([tokenizer.encode(text) for text in texts])
inputs, targets = lm.inputs_and_targets(batch)  # the targets are the inputs one token later
print("inputs ", [tokenizer.decode(row) for row in inputs])
print("targets", [tokenizer.decode(row) for row in targets])

with torch.no_grad():
    logits = model(inputs)  # (2, 3, 50257): a number for each token of the vocabulary at each place
print("logits ", tuple(logits.shape))

probabilities = logits.softmax(-1)
print("the model would say", [tokenizer.decode(row) for row in probabilities.argmax(-1)])

of_targets = probabilities.gather(-1, targets[..., None])[..., 0]
print("probabilities of the targets", [f"{p:.4e}" for p in of_targets.flatten().tolist()])
print("their logarithms            ", [f"{p:.4f}" for p in of_targets.log().flatten().tolist()])
print(f"negative mean               {-of_targets.log().mean():.4f}")

loss = lm.cross_entropy(logits, targets).mean()  # the same in one step, and safe for any logits
print(f"cross entropy               {loss:.4f} nats per token")
torchs = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())
print(f"torch's own                 {torchs:.4f}")
print(f"perplexity                  {lm.perplexity(loss):,.1f}")

print()
print(lm.explain(model, tokenizer, texts))
