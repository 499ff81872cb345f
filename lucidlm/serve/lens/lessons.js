// The lessons: what is said, what to try in which view, and a question with its answer.

const CAT = "The cat sat on the mat.", EFFORT = "every effort moves you forward";

export const LESSONS = [
  {
    title: "Inputs and targets",
    text: ["A text is cut into tokens: words, parts of words, or single letters (bytes), depending on the model. All the tokens that a model knows are its vocabulary.",
      "A language model reads tokens and predicts the next one: after the first token comes the second, after the first two comes the third, and so on. So the targets are the inputs, shifted by one place. Nobody has to write answers: every text brings its own.",
      "Most models put a token <|endoftext|> before a text, which says that one begins. After it, the first token of the text is a target too."],
    view: "explain", values: {text: EFFORT}, task: "Go to the table “From the targets to the perplexity” at the end of the page. Its first row is what the model had read last, its second row what came next.",
    question: "What is the target after the last token of a text?", answer: "There is none: nothing follows that could be compared. Where a document's end is marked by a token of its own, that token is the target.",
  },
  {
    title: "Logits",
    text: ["For each place the model gives one number to each token of its vocabulary: the logits. GPT-2 gives 50,257 of them, a model of bytes 257: one for each of the 256 values of a byte, and one for <|endoftext|>.",
      "A logit alone means nothing. Only differences count: if one logit is larger than another by ln 10 = 2.303, its token is ten times as likely."],
    view: "explain", values: {text: CAT}, task: "Choose a token and read step 2: the logit of the target and the largest logit.",
    question: "If 5 is added to all logits of a place, what changes?", answer: "Nothing. Softmax divides by the sum, and the factor e^5 cancels out.",
  },
  {
    title: "Softmax",
    text: ["Softmax turns logits into probabilities: e to the power of each logit, divided by the sum of all of them. All are positive, and they add up to 1.",
      "The largest logit is subtracted first, so that e^x cannot become too large for the computer. It changes nothing in the result."],
    formula: "p(token) = e^logit / Σ e^logit",
    view: "explain", values: {text: CAT}, task: "Move the temperature in step 3. Dividing the logits by a small number makes the likeliest token likelier still; by a large one, all alike.",
    question: "What happens as the temperature goes to 0?", answer: "The likeliest token gets probability 1. Always taking it is called greedy decoding.",
  },
  {
    title: "The probability of the target",
    text: ["Of all those probabilities only one counts for the loss: that of the token that really came. A model is good if it gave this token much probability beforehand."],
    view: "explain", values: {text: CAT}, task: "The stronger a token is coloured, the more it surprised the model. Compare the p of a strong and of a weak one.",
    question: "Before training, what is p of a target in a vocabulary of 50,257?", answer: "About 1 / 50,257 = 0.00002: all tokens are about equally likely.",
  },
  {
    title: "The logarithm",
    text: ["The probability of a whole text is the product of the probabilities of its tokens: soon a number too small to write. Logarithms turn the product into a sum.",
      "ln p is 0 where the model was certain and right, and falls without end as p goes to 0."],
    formula: "ln(p1 · p2 · p3) = ln p1 + ln p2 + ln p3",
    view: "explain", values: {text: CAT}, task: "Go from token to token and read step 6: each −ln p is added to a sum, which is divided by the number of targets so far.",
    question: "Why not use the probabilities themselves?", answer: "A product of a few hundred small numbers is 0 for a computer, which then cannot tell a better model from a worse one.",
  },
  {
    title: "The mean, and its negative",
    text: ["Losses of texts of different length should be comparable, so the logarithms are averaged over the tokens. And because one minimizes a loss, the sign is turned: small is good."],
    view: "explain", values: {text: EFFORT}, task: "At the end of the page, follow the rows mean and negative mean.",
    question: "One text has 100 tokens and loss 3, another 300 tokens and loss 4. What is the loss of both?", answer: "(100 · 3 + 300 · 4) / 400 = 3.75. The mean of the means, 3.5, would be wrong: sums are divided once.",
  },
  {
    title: "Cross entropy",
    text: ["That negative mean is the cross entropy of the text under the model. One token costs −ln p. The unit is the nat, as the logarithm is the natural one; with base 2 it is the bit, and a nat is 1.443 bits. Shannon called it the surprisal: what one learns from seeing the token."],
    formula: "loss = −(ln p1 + ln p2 + … + ln pN) / N",
    view: "explain", values: {text: EFFORT}, task: "At the end of the page, compare the row cross entropy with that of torch, the library that most models are built with: other code, the same number.",
    question: "What is the loss of a model that knows nothing, with 50,257 tokens?", answer: "ln 50,257 = 10.82 nats; with 1,024 tokens ln 1,024 = 6.93. A model before its training is close to that.",
  },
  {
    title: "Perplexity",
    text: ["e to the power of the loss is the perplexity: the model is as unsure as in a fair choice among so many tokens. It is the same information on another scale."],
    formula: "perplexity = e^loss",
    view: "explain", values: {text: CAT}, task: "Watch the running perplexity in the panel as you move through the text.",
    question: "The loss falls from 3.0 to 2.3. What does the perplexity do?", answer: "It falls from 20 to 10: each ln 2 = 0.69 nats halve it.",
  },
  {
    title: "Bits per byte",
    text: ["A loss per token depends on what a token is: a model of bytes has more and easier tasks than one of words. So sum the loss of a text, and divide it by its bytes.",
      "In bits (nats / ln 2), that is the size to which the model could compress the text: 8 bits for each byte is no compression, gzip needs about 3 for English, and good models less than 1."],
    formula: "bits per byte = nats of the text / (ln 2 · bytes of the text)",
    view: "compare", values: {}, task: "With two models served, compare them on one text: the table has both numbers.",
    question: "Model A has 3.3 nats per token and model B 1.4. Which is better?", answer: "Nobody can say: if A's tokens are four letters long and B's are letters, A is the better one. Compare bits per byte.",
  },
  {
    title: "Training and validation loss",
    text: ["Training lowers the loss of the training text, and a large model can learn it by heart. What counts is a text that it never saw: the validation loss.",
      "While both fall, the model learns the language. Where the training loss falls and the validation loss does not, it learns the text."],
    view: "train", values: {}, task: "Look at the curves of a run: solid is the validation loss (on held-out text), dashed the training loss.",
    question: "Which step of a training should be kept?", answer: "The one with the lowest validation loss. As it was chosen on the validation text, that text flatters it a little: a third text gives the number to report.",
  },
  {
    title: "Why it overfits",
    text: ["A small book has few tokens, and a model has many weights: the numbers that training changes. After some passes over the book it is cheaper to remember passages than to find rules. The validation loss then rises while the training loss still falls: the model overfits.",
      "More text helps most. With the text that there is, it helps to stop early, to shrink the weights a little at each step (weight decay), and to switch off a random part of the model at each step (dropout)."],
    view: "train", values: {}, task: "Move the slider below the curves from the first step to the last, and read what the model wrote, and how it predicted a sentence that it never trained on.",
    question: "The training loss is 1.5 and the validation loss 6.5. What now?", answer: "The model knows the text by heart. Take the best earlier step, a smaller model, or more text.",
  },
  {
    title: "Two classes: binary cross entropy",
    text: ["If there are just two answers, yes and no, one logit x is enough: p(yes) = 1 / (1 + e^−x). The loss is −ln p(yes) if the answer is yes, and −ln(1 − p(yes)) if it is no.",
      "It is the same cross entropy, with the logits 0 and x."],
    formula: "loss = −(y ln p + (1 − y) ln(1 − p))",
    view: "generate", values: {top_k: 2, length: 20}, task: "With top-k 2, each token is drawn from two: below the text stand the two probabilities, which add up to 1.",
    question: "p(yes) = 0.5. What does either answer cost?", answer: "ln 2 = 0.693 nats, one bit: a coin's toss.",
  },
];
