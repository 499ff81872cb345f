// Explain: a text in, its tokens coloured by what they cost, and the steps from logits to loss for one of them.

import * as api from "./api.js";
import {link, model, remember} from "./app.js";
import {copyButton, download, make, problem, quoted, waiting} from "./dom.js";
import {stepsOf} from "./steps.js";
import {lucidExplained} from "./tokens.js";
import {wordsOf} from "./words.js";

const ALTERNATIVES = 10;
const EXAMPLES = ["The cat sat on the mat.", "Once upon a time there was a", "every effort moves you forward"];

export function explainView(main, values) {
  const running = new AbortController();
  const input = make("textarea", {id: "text", rows: "3", spellcheck: "false", placeholder: "Type or paste a text"});
  input.value = values.text ?? "";
  const form = make("form", {class: "card", onsubmit: event => { event.preventDefault(); explain(input.value); }},
    make("label", {for: "text"}, "Text to explain"), input,
    make("p", {class: "controls"}, make("button", {class: "primary", type: "submit"}, "Explain"), make("span", {class: "dim"}, " or try: "),
      ...EXAMPLES.map(text => make("button", {type: "button", class: "quiet", onclick: () => { input.value = text; explain(text); }}, text))));
  input.addEventListener("keydown", event => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit();
  });
  const result = make("div", {id: "result"});
  main.append(...[make("h1", {}, "Why did it say that?"), make("p", {}, "Type a text. Each token is coloured by how much it surprised the model; choose one to see how its loss comes about. Arrow keys move from token to token."),
    values.text ? null : make("p", {class: "first"}, "New to this? ", link("learn", {model: model().name}, "Learn"), " has twelve short lessons on the loss, each with a view of this model."), form, wordsOf("token", "surprisal", "nat", "bit", "entropy", "rank", "cross entropy", "perplexity", "end-of-text", "context", "stride"), result].filter(Boolean));
  result.append(make("p", {class: "dim"}, "Nothing is explained yet: type a text above, or take one of the examples."));

  let last = null, unit = values.unit === "bits" ? "bits" : "nats";
  async function explain(text, at) {
    if (!text) {
      result.replaceChildren(problem(new Error("There is no text. Type one above.")));
      input.focus();
      return;
    }
    last?.abort();
    last = new AbortController();
    const signal = AbortSignal.any([last.signal, running.signal]), name = model().name;
    remember("explain", {model: name, text, at, unit});
    result.replaceChildren(waiting("The model reads the text…"));
    let html;
    try {
      html = await api.text("/api/explain/part", {model: name, texts: [text], top_k: ALTERNATIVES}, signal);
    } catch (error) {
      if (error.name !== "AbortError") result.replaceChildren(problem(error));
      return;
    }
    const part = make("div", {class: "explanation"}), steps = make("div", {class: "card chain-card", id: "steps", role: "region", "aria-label": "Step by step"});
    part.innerHTML = html;  // written by the server's template, which escapes every token
    for (const box of part.querySelectorAll(".scroll")) box.tabIndex = 0;
    const root = part.querySelector(".lucid-explained");
    root.querySelector(".tokens").after(root.querySelector(".panel"), steps);
    root.querySelector(".unit").value = unit;
    let moved = null;
    root.addEventListener("chosen", event => {
      const {text: shownText, from} = event.detail;
      unit = event.detail.unit;
      clearTimeout(moved);
      moved = setTimeout(() => {
        if (signal.aborted) return;
        remember("explain", {model: name, text, at: from, unit});
        last.steps?.abort();
        last.steps = new AbortController();
        stepsOf(steps, {model: name, text, place: from, signal: AbortSignal.any([signal, last.steps.signal]),
          facts: {given: shownText.given(from), token: shownText.spell[shownText.id[from]], rank: shownText.rank[from], running: shownText.running[from], unit}});
      }, 120);
    });
    result.replaceChildren(make("h2", {}, "Token by token"), part, make("p", {class: "controls"},
      copyButton("copy as command", () => `lucidlm explain ${quoted(model().source)} ${quoted(text)}`),
      make("button", {type: "button", onclick: async event => {
        try {
          download("explain.json", "application/json", await api.text("/api/explain", {model: name, texts: [text]}));
        } catch (error) {
          event.target.after(problem(error));
        }
      }}, "download JSON"),
      make("button", {type: "button", onclick: async event => {
        try {
          download("explain.html", "text/html", await api.text("/api/explain/page", {model: name, texts: [text], top_k: ALTERNATIVES}));
        } catch (error) {
          event.target.after(problem(error));
        }
      }}, "download HTML"),
      link("guess", {model: name, text}, "guess this text first", {class: "button"})));
    await lucidExplained(root);
    if (at !== undefined && at !== "") choose(root, Number(at));
  }
  function choose(root, at) {
    const tokens = root.querySelectorAll(".tokens > i");
    tokens[Math.min(at, tokens.length - 1)]?.click();
  }
  if (values.text) explain(values.text, values.at);
  else input.focus({preventScroll: true});
  return () => running.abort();
}
