// Compare: one text and two models in, where each of them needs fewer bits out.

import * as api from "./api.js";
import {go, hasRuns, model, models, readModels, remember} from "./app.js";
import {copyButton, make, problem, quoted, waiting} from "./dom.js";
import {wordsOf} from "./words.js";

export function compareView(main, values) {
  let last = new AbortController();
  const viewing = new AbortController(), names = models().map(each => each.name);
  main.append(make("h1", {}, "Which one predicts this text better?"));
  const more = moreModels(values, viewing.signal);
  if (names.length < 2) {
    main.append(make("p", {class: "card"}, "One model is served, and a comparison needs two. Start the server with both: ", make("code", {}, `lucidlm serve ${quoted(names[0])} OTHER`), ". Or take a run or one of its checkpoints:"), more);
    return () => viewing.abort();
  }
  const pick = (id, chosen) => {
    const select = make("select", {id}, ...names.map(name => make("option", {value: name}, name)));
    select.value = names.includes(chosen) ? chosen : names[0];
    return select;
  };
  const a = pick("a", values.model ?? model().name), b = pick("b", values.b ?? names.find(name => name !== a.value));
  const input = make("textarea", {id: "text", rows: "5", spellcheck: "false", placeholder: "Type or paste a text: some sentences at least, for an interval"});
  input.value = values.text ?? "";
  const result = make("div", {id: "result"}, make("p", {class: "dim"}, "Nothing is compared yet: give a text that neither model was trained on."));
  main.append(make("p", {}, "Both models read the same text. Bits per byte do not depend on the tokenizer, so any two models can be compared."),
    make("form", {class: "card", onsubmit: event => { event.preventDefault(); compare(); }},
      make("div", {class: "knobs"}, make("label", {}, "model A ", a), make("label", {}, "model B ", b)),
      make("label", {for: "text"}, "Text"), input,
      make("p", {class: "controls"}, make("button", {class: "primary", type: "submit"}, "Compare"), " ", copyButton("copy as command", () => `lucidlm compare ${[a, b].map(each => quoted(models().find(one => one.name === each.value).source)).join(" ")} ${quoted(input.value)}`))),
    wordsOf("bits per byte", "interval", "nat", "context", "stride"), more, result);

  async function compare() {
    const body = {a: a.value, b: b.value, text: input.value};
    if (!body.text) {
      result.replaceChildren(problem(new Error("There is no text. Type one above.")));
      return;
    }
    remember("compare", {model: a.value, b: b.value, text: body.text});
    result.replaceChildren(waiting("Both models read the text…"));
    last.abort();
    last = new AbortController();
    try {
      const part = make("div");
      part.innerHTML = await api.text("/api/compare/part", body, last.signal);  // the server's template escapes the text
      for (const box of part.querySelectorAll(".scroll")) box.tabIndex = 0;
      result.replaceChildren(part);
    } catch (error) {
      if (error.name !== "AbortError") result.replaceChildren(problem(error));
    }
  }
  if (values.text && values.b) compare();
  return () => {
    last.abort();
    viewing.abort();
  };
}

// Runs and their checkpoints, which become models of this server when they are chosen.
function moreModels(values, signal) {
  const box = make("select", {id: "more"}), said = make("span", {role: "status"}), add = make("button", {type: "button", onclick: serve}, "Add"), part = make("p", {class: "controls", hidden: true}, make("label", {}, "another run or checkpoint ", box), " ", add, said);
  async function fill() {
    const {runs} = await api.json("/api/runs", undefined, signal);
    for (const run of runs.filter(each => each.best_step !== null)) {
      const option = (text, step) => make("option", {value: JSON.stringify({run: run.id, ...(step === null ? {} : {step})})}, text);
      box.append(option(`${run.name}: best weights`, null), ...run.checkpoints.map(step => option(`${run.name}: step ${step}`, step)));
    }
    part.hidden = !box.options.length;
  }
  async function serve() {
    add.disabled = true;
    said.replaceChildren(waiting("Loading…"));
    try {
      const {name} = await api.json("/api/models", JSON.parse(box.value), signal);
      await readModels();
      go("compare", {...values, text: document.getElementById("text")?.value ?? values.text, b: name});
    } catch (error) {
      add.disabled = false;
      if (error.name !== "AbortError") said.replaceChildren(problem(error));
    }
  }
  if (hasRuns()) fill().catch(error => { if (error.name !== "AbortError") said.replaceChildren(problem(error)); });
  return part;
}
