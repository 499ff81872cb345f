// The form that starts a training: the settings that matter, each with its default.

import * as api from "./api.js";
import {make, problem, waiting} from "./dom.js";

export function startForm(started, chosen) {
  const said = make("div", {"aria-live": "polite"}), button = make("button", {class: "primary", type: "submit"}, "Start"), text = make("select", {name: "text"}, make("option", {value: "story"}, "the bundled story"));
  const field = (label, name, attributes, hint) => make("label", {class: "field"}, make("span", {}, label), make("input", {name, ...attributes}), hint ? make("small", {}, hint) : null);
  const form = make("form", {class: "card", id: "start", onsubmit: event => { event.preventDefault(); start(); }},
    make("label", {class: "field"}, make("span", {}, "text"), text, make("small", {}, "Drop a book in the view Data to train on it.")),
    field("minutes", "minutes", {inputmode: "decimal", value: "3", size: "6", "data-kind": "number"}, "for everything, from start to saved model"),
    field("name", "name", {size: "14", pattern: "[A-Za-z0-9_][A-Za-z0-9_\\-]{0,59}", placeholder: "chosen for you"}),
    make("details", {}, make("summary", {}, "more settings"),
      field("dropout", "drop_rate", {inputmode: "decimal", size: "6", "data-kind": "number", placeholder: "by epochs"}),
      field("tokenizer", "tokenizer", {size: "10", placeholder: "by the text"}, "gpt2, bytes, or bpe:1024"),
      field("model", "preset", {size: "10", placeholder: "by text and time"}, "modern-1m, modern-3m, lecture …"),
      field("seed", "seed", {inputmode: "numeric", size: "6", "data-kind": "number", placeholder: "123"})),
    make("p", {class: "controls"}, button, make("button", {type: "button", onclick: plan}, "Predict")), said);

  api.json("/api/documents").then(found => { text.append(...found.documents.map(each => make("option", {value: each.id}, each.name))); if (!chosen) return; text.value = chosen; if (text.value !== chosen) { text.value = ""; said.replaceChildren(problem(new Error("The text of this address is not on the server any more: drop it again in the view Data, or choose another one."))); } }).catch(() => {});

  // The fields that are filled in, numbers as numbers.
  function body() {
    const given = Object.fromEntries([...new FormData(form)].filter(([, value]) => value !== ""));
    for (const [key, value] of Object.entries(given)) if (form.elements[key].dataset.kind === "number") {
      if (!Number.isFinite(given[key] = Number(value))) throw new Error(`${key} “${value}” is no number: write it like 2.5.`);
    }
    if (!given.text) throw new Error("Choose a text.");
    return given;
  }
  async function start() {
    said.replaceChildren(waiting("Starting…"));
    button.disabled = true;
    last.abort();
    try {
      const {id} = await api.json("/api/runs", body());
      said.replaceChildren(make("p", {class: "dim"}, "Started. The curve begins in a few seconds."));
      started(id);
    } catch (error) {
      said.replaceChildren(problem(error));
    } finally {
      button.disabled = false;
    }
  }
  // Asked for by the button, and by each setting that changes; the last one counts.
  let last = new AbortController();
  form.addEventListener("change", () => plan());
  async function plan() {
    last.abort();
    const mine = last = new AbortController();
    said.replaceChildren(waiting("Planning takes about ten seconds…"));
    try {
      const {name, ...settings} = body();  // a plan has no folder
      const found = await api.json("/api/plan", settings, mine.signal);
      said.replaceChildren(make("ul", {class: "dim plan"}, ...found.lines.map(line => make("li", {}, line))));
    } catch (error) {
      if (error.name !== "AbortError") said.replaceChildren(problem(error));
    }
  }
  return make("section", {}, make("h2", {}, "Train"), form);
}
