// The form that starts a training: the settings that matter, each with its default.

import * as api from "./api.js";
import {make, problem, waiting} from "./dom.js";

export function startForm(started, chosen) {
  const said = make("div", {"aria-live": "polite"}), text = make("select", {name: "text"}, make("option", {value: "story"}, "the bundled story"));
  const field = (label, name, attributes, hint) => make("label", {class: "field"}, make("span", {}, label), make("input", {name, ...attributes}), hint ? make("small", {}, hint) : null);
  const form = make("form", {class: "card", id: "start", onsubmit: event => { event.preventDefault(); start(); }},
    make("label", {class: "field"}, make("span", {}, "text"), text, make("small", {}, "Drop a book in the view Data to train on it.")),
    field("minutes", "minutes", {inputmode: "decimal", value: "3", size: "6", "data-kind": "number"}, "for everything, from start to saved model"),
    field("name", "name", {size: "14", pattern: "[A-Za-z0-9_\\-]{1,60}", placeholder: "chosen for you"}),
    make("details", {}, make("summary", {}, "more settings"),
      field("dropout", "drop_rate", {inputmode: "decimal", size: "6", "data-kind": "number", placeholder: "by epochs"}),
      field("tokenizer", "tokenizer", {size: "10", placeholder: "by the text"}, "gpt2, bytes, or bpe:1024"),
      field("model", "preset", {size: "10", placeholder: "by text and time"}, "modern-1m, modern-3m, lecture …"),
      field("seed", "seed", {inputmode: "numeric", size: "6", "data-kind": "number", placeholder: "123"})),
    make("p", {class: "controls"}, make("button", {class: "primary", type: "submit"}, "Start"), make("button", {type: "button", onclick: plan}, "Predict")), said);

  api.json("/api/documents").then(found => { text.append(...found.documents.map(each => make("option", {value: each.id}, each.name))); if (chosen) text.value = chosen; }).catch(() => {});

  // The fields that are filled in, numbers as numbers.
  function body() {
    return Object.fromEntries([...new FormData(form)].filter(([, value]) => value !== "").map(([key, value]) => [key, form.elements[key].dataset.kind === "number" ? Number(value) : value]));
  }
  async function start() {
    said.replaceChildren(waiting("Starting…"));
    try {
      const {id} = await api.json("/api/runs", body());
      said.replaceChildren(make("p", {class: "dim"}, "Started. The curve begins in some seconds."));
      started(id);
    } catch (error) {
      said.replaceChildren(problem(error));
    }
  }
  async function plan() {
    said.replaceChildren(waiting("Planning takes some seconds…"));
    try {
      const found = await api.json("/api/plan", body());
      said.replaceChildren(make("ul", {class: "dim plan"}, ...found.lines.map(line => make("li", {}, line))));
    } catch (error) {
      said.replaceChildren(problem(error));
    }
  }
  return make("section", {}, make("h2", {}, "Train"), form);
}
