// The words of the lens: each is explained once, on the views that use it and at the end of Learn.

import {make} from "./dom.js";

const WORDS = {
  token: "A piece of text that the model reads or predicts at once: a word, a part of a word, or one byte.",
  vocabulary: "All the tokens that a model knows.",
  target: "The token that really comes next. At each place of a text the target is the token one place later.",
  logit: "The number that the model gives to each token of its vocabulary, before softmax. Only differences of logits count.",
  softmax: "Makes probabilities of logits: e to the power of each, divided by the sum of all of them.",
  "probability p": "What the model gave to a token before it came: 1 is certain, 0 is impossible.",
  surprisal: "−ln p, the loss of one token: 0 for a token that was certain, and the larger the less likely it was. A token with p = 1/4 costs ln 4 = 1.386 nats.",
  nat: "The unit of a loss with the natural logarithm. A token costs 1 nat where p = 1/e = 0.37. 1 nat is 1.443 bits.",
  bit: "The unit of a loss with the logarithm to base 2: a token costs 1 bit where p = 1/2, and 2 bits where p = 1/4. 1 bit is ln 2 = 0.693 nats.",
  loss: "The mean surprisal of the tokens of a text, also called cross entropy. The smaller, the better the model predicts the text.",
  "cross entropy": "The negative mean of ln p over all targets: the loss.",
  perplexity: "e to the power of the loss in nats, or 2 to the power of the loss in bits: the model is as unsure as in a fair choice among so many tokens.",
  entropy: "How unsure the model was before the token came: the mean surprisal of all tokens at this place, each weighted with its probability. It does not depend on which token came; the surprisal does.",
  rank: "The place of a token among all tokens, the likeliest first. Rank 1: no token was likelier.",
  "bits per byte": "The loss of a whole text in bits, divided by the bytes of the text. It does not depend on what a token is, so models with different tokenizers can be compared by it.",
  "end-of-text": "The token <|endoftext|>: it says that a text ends and another one begins.",
  context: "How many tokens a model can read at once. A longer text is read in windows.",
  stride: "How far the window moves from one reading to the next. A short stride leaves each token more text before it, so the loss is lower; losses with different strides cannot be compared.",
  step: "One change of the weights in a training, by one batch.",
  batch: "The passages of text that one step learns from.",
  epoch: "One pass over the whole training text.",
  weights: "The numbers of which a model consists. Training changes them.",
  "held-out text": "A part of the text that is never trained on. Its loss, the validation loss, says how well the model predicts text that is new to it. While it trains, a fixed sample of it is used; at the end all of it, as far as there is time.",
  overfitting: "The training loss still falls, but the validation loss rises: the model learns the training text by heart. The weights with the lowest validation loss are kept as the best.",
  baseline: "The loss of something simpler than a model, as a mark to compare with: all tokens alike, the tokens counted (unigram), or a program that compresses (gzip).",
  dropout: "The share of the model that is switched off at random in each step, against overfitting.",
  temperature: "The logits are divided by it before softmax. Below 1 the likely tokens become likelier, above 1 all become more alike; 0 always takes the likeliest.",
  "top-k": "Only the k likeliest tokens may be drawn.",
  "top-p": "Only the likeliest tokens may be drawn that together have probability p: few where the model is sure, many where it is not.",
  "min-p": "Only tokens may be drawn that are at least p times as likely as the likeliest one.",
  seed: "The number that the random draws begin with: the same seed gives the same text.",
  interval: "Where the true difference lies with a certainty of 95 %. If 0 is inside, the text is too short to tell the models apart.",
  leak: "Held-out text that the training text also has: predicting it is memory.",
};

function list(names) {
  return make("dl", {}, ...names.flatMap(name => [make("dt", {}, name), make("dd", {}, WORDS[name])]));
}

// The words that a view uses, behind a line that opens them.
export const wordsOf = (...names) => make("details", {class: "words"}, make("summary", {}, "Words on this page: " + names.join(", ")), list(names));

export const allWords = () => make("section", {class: "words", "aria-labelledby": "words"}, make("h2", {id: "words"}, "All words"), list(Object.keys(WORDS)));
