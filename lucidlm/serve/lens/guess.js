// Guess first: Shannon's game. The next token is guessed before it is shown; guesses are scored in bits.

import * as api from "./api.js";
import {link, model, remember} from "./app.js";
import {fixed, make, percent, problem, shown, slider, waiting, whole} from "./dom.js";
import {wordsOf} from "./words.js";

const GIVEN = 6;  // tokens that are shown before the first guess

// Bits of a guess: the share of certainty it put on what came. The rest is spread over all other tokens.
export function bitsOfGuess(right, certainty, vocabulary) {
  return right ? -Math.log2(certainty) : -Math.log2((1 - certainty) / Math.max(1, vocabulary - 1));
}

// Bits of the tokens counted so far, each begun with one in the whole vocabulary (Laplace).
export function bitsByCounts(seen, id, vocabulary) {
  const times = seen.filter(each => each === id).length;
  return -Math.log2((times + 1) / (seen.length + vocabulary));
}

export function guessView(main, values) {
  const running = new AbortController(), input = make("textarea", {id: "text", rows: "3", spellcheck: "false", placeholder: "A text that you do not know by heart: a page of your own book, for example"});
  input.value = values.text ?? "";
  const game = make("section", {id: "game", "aria-live": "polite"});
  main.append(make("h1", {}, "Guess what comes next"),
    make("p", {}, "Shannon's game of 1951. Name the next token and say how sure you are. A guess costs −log2 of the probability that you gave to what really came, as it does for the model: the fewer bits, the better. What you are not sure of is shared by all other tokens, so a wrong guess at 50 % costs more than knowing nothing."),
    make("form", {class: "card", onsubmit: event => { event.preventDefault(); begin(); }},
      make("label", {for: "text"}, "Text"), input,
      make("p", {class: "controls"}, make("button", {class: "primary", type: "submit"}, "Play"), make("span", {class: "dim"}, " The text is hidden as soon as you play."))),
    wordsOf("bit", "nat", "perplexity", "rank", "baseline"), game);
  game.append(make("p", {class: "dim"}, "No game is running: give a text of a few sentences."));

  let tokens = [], at = 0, first = 0, given = null, original = "", marks = [];  // marks: {name, bits of each token} by the run's own text
  const score = [];  // {you, model, uniform, counts, and each mark by its name}: bits of each round

  async function begin() {
    const name = model().name, text = input.value;
    remember("guess", {model: name, text});
    game.replaceChildren(waiting("The model reads the text…"));
    try {
      const explained = await api.json("/api/explain", {model: name, texts: [text], top_k: 5}, running.signal);
      tokens = explained.texts[0].tokens;
      original = explained.texts[0].text;
      given = explained.texts[0].left_out;
      const {baselines} = await api.json("/api/baselines", {model: name, text}, running.signal);
      // The first token has no guess where nothing comes before it: the last ones are the same.
      marks = baselines.map(each => ({name: each.name, bits: each.nats.slice(each.nats.length - tokens.length).map(nats => nats / Math.LN2)}));
    } catch (error) {
      if (error.name !== "AbortError") game.replaceChildren(problem(error));
      return;
    }
    if (tokens.length < 2) {
      game.replaceChildren(problem(new Error("This text has too few tokens for a game. Give a longer one.")));
      return;
    }
    input.value = "";
    score.length = 0;
    first = at = Math.min(GIVEN, tokens.length - 1);
    ask();
  }

  const told = () => make("p", {class: "tokens told"}, given ?? "", ...tokens.slice(0, at).map((token, n) => make("i", {class: n >= first ? "guessed" : ""}, token.text)), make("span", {class: "cursor"}, "▁"));
  function ask() {
    let certainty = 0.5;
    const answer = make("input", {id: "answer", autocomplete: "off", autocapitalize: "off", spellcheck: "false", size: "14"});
    const form = make("form", {class: "card", onsubmit: event => { event.preventDefault(); reveal(answer.value, certainty); }},
      make("p", {class: "knobs"}, make("label", {for: "answer"}, "The next token is ", answer),
        slider({label: "How sure I am:", id: "certainty", min: 0.01, max: 0.99, step: 0.01, value: certainty, change: x => { certainty = x; }, text: percent})),
      make("p", {class: "controls"}, make("button", {class: "primary", type: "submit"}, "Reveal"), make("span", {class: "dim"}, ` Round ${whole(score.length + 1)} of ${whole(tokens.length - first)}. A token may be a part of a word, one letter, or a space; spaces around a guess do not count, ↵ is a new line.`)));
    game.replaceChildren(...[told(), form, table()].filter(Boolean));
    answer.focus({preventScroll: true});
  }

  function reveal(answer, certainty) {
    const token = tokens[at], typed = answer.replace(/↵/g, "\n"), right = typed === token.text || (answer.trim() !== "" && answer.trim() === token.text.trim());
    const vocabulary = model().vocab_size, ids = tokens.slice(0, at).map(each => each.id);
    const round = {you: bitsOfGuess(right, certainty, vocabulary), model: -token.log_probability / Math.LN2, uniform: Math.log2(vocabulary), counts: bitsByCounts(ids, token.id, vocabulary)};
    for (const mark of marks) round[mark.name] = mark.bits[at];
    score.push(round);
    at += 1;
    const more = at < tokens.length;
    const next = make("button", {class: "primary", type: "button", onclick: ask}, "Next");
    game.replaceChildren(told(),
      make("div", {class: "card verdict"},
        make("p", {id: "round"}, right ? "Right: " : "It was ", make("b", {}, shown(token.text)), right ? "." : ` and not ${shown(answer)}.`, ` You: ${fixed(round.you, 2)} bits. The model, which gave it ${percent(token.probability)} (rank ${whole(token.rank)}): ${fixed(round.model, 2)} bits.`),
        make("p", {class: "dim"}, "The model's likeliest: ", token.alternatives.slice(0, 5).map(each => `${shown(each.text)} ${percent(each.probability)}`).join(", "), "."),
        make("p", {class: "controls"}, more ? next : make("b", {}, "The text has ended. "), link("explain", {model: model().name, text: original}, "see the whole text explained", {class: "button"}))),
      table());
    if (more) next.focus({preventScroll: true});
  }

  function table() {
    if (!score.length) return null;
    const mean = name => score.reduce((sum, round) => sum + round[name], 0) / score.length;
    const rows = [["you", "you"], ["the model", "model"], ["counting: tokens so far, each once more", "counts"], ...marks.map(mark => [`counting the run's own text: ${mark.name}`, mark.name]), ["knowing nothing: all tokens alike", "uniform"]].map(([label, name]) => [label, mean(name), name]).sort((x, y) => x[1] - y[1]);
    return make("table", {class: "score"}, make("caption", {}, `Mean over ${whole(score.length)} round${score.length === 1 ? "" : "s"}`),
      make("thead", {}, make("tr", {}, make("th", {scope: "col"}, "who"), make("th", {scope: "col", class: "n"}, "bits per token"), make("th", {scope: "col", class: "n"}, "perplexity"))),
      make("tbody", {}, ...rows.map(([label, bits, name]) => make("tr", {class: name === "you" ? "ours" : undefined, "data-who": name}, make("td", {}, label), make("td", {class: "n"}, fixed(bits, 2)), make("td", {class: "n"}, fixed(2 ** bits, 1))))));
  }
  if (values.text) begin();
  return () => running.abort();
}
