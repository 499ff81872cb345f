// Generate: a prompt in, a text out token by token, each with the distribution that it was drawn from.

import * as api from "./api.js";
import {model, remember} from "./app.js";
import {bar, characters, copyButton, make, percent, problem, quoted, shown, slider, waiting, whole} from "./dom.js";
import {wordsOf} from "./words.js";

const LEVELS = 8, SHOWN = 12;
const plain = text => characters([text])[0];
const counted = n => `${whole(n)} token${n === 1 ? "" : "s"}`;
const SETTINGS = {temperature: 0.8, top_k: 0, top_p: 1, min_p: 0, length: 60};
const off = x => x ? x.toFixed(2) : "off";
const KNOBS = {
  temperature: ["temperature", {min: 0, max: 2, step: 0.05, text: x => x ? x.toFixed(2) : "0: the likeliest token"}],
  top_k: ["top-k", {min: 0, max: 100, step: 1, text: x => x ? whole(x) : "off"}],
  top_p: ["top-p", {min: 0.05, max: 1, step: 0.05, text: x => x < 1 ? x.toFixed(2) : "off"}],
  min_p: ["min-p", {min: 0, max: 0.5, step: 0.01, text: off}],
  length: ["tokens", {min: 1, max: 200, step: 1, text: whole}],
};

// The same text on the command line; with the seed that was drawn, if none was given.
function commandOf(prompt, chosen, seed) {
  const flags = [`--temperature ${chosen.temperature}`, `--max-new-tokens ${chosen.length}`];
  if (chosen.top_k) flags.push(`--top-k ${chosen.top_k}`);
  if (chosen.top_p < 1) flags.push(`--top-p ${chosen.top_p}`);
  if (chosen.min_p) flags.push(`--min-p ${chosen.min_p}`);
  if (seed) flags.push(`--seed ${seed}`);
  return `lucidlm generate ${quoted(model().source)} ${quoted(prompt)} ${flags.join(" ")}`;
}

// What is asked for: `count` tokens after those of the text, {prompt: ids, tokens}.
function bodyOf(text, count, chosen, seed) {
  const body = {model: model().name, prompt: [...text.prompt, ...text.tokens.map(token => token.id)], max_new_tokens: count, temperature: chosen.temperature, top_p: chosen.top_p, min_p: chosen.min_p};
  // Without a prompt a text begins as a document does; so does one that goes on from another token of it.
  if (!text.prompt.length && model().document_prefix_id !== null) body.prompt.unshift(model().document_prefix_id);
  if (!body.prompt.length) body.prompt = "";
  if (chosen.top_k) body.top_k = chosen.top_k;
  if (seed) body.seed = Number(seed);
  return body;
}

// The model's own probability of a token, at temperature 1 and without filters.
const probability = token => token.log_probability !== null && token.log_probability !== undefined ? Math.exp(token.log_probability) : token.distribution.find(each => each.id === token.id)?.model ?? 0;
const level = p => p === null || p === undefined ? 0 : Math.min(LEVELS - 1, Math.floor(LEVELS * Math.log1p(-Math.log(Math.max(p, 1e-9))) / Math.log1p(Math.log(model().vocab_size))));

// A span for each token of a text; `at` is the chosen one.
function spansOf(tokens, at, choose) {
  const texts = characters(tokens.map(token => token.text));
  return tokens.map((token, n) => make("i", {
    class: "k" + level(probability(token)) + (token.picked ? " picked" : "") + (n === at ? " at" : ""), title: percent(probability(token)), onclick: () => choose(n),
  }, texts[n].replace(/\n/g, "↵\n")));
}

// The distribution of one token before and after the filters; `branch` is called with another token of it.
function stepOf(token, before, branch) {
  const rows = token.distribution.slice(0, SHOWN), most = Math.max(...rows.map(row => Math.max(row.before, row.after)), 1e-9);
  const head = make("tr", {}, make("th", {scope: "col"}, "go on with"), make("th", {scope: "col", class: "n"}, "with temperature"), make("td"), make("th", {scope: "col", class: "n"}, "after the filters"), make("td"));
  const rowOf = row => make("tr", {class: row.id === token.id ? "ours" : undefined},
    make("td", {}, make("button", {type: "button", class: "alternative", disabled: row.id === token.id, onclick: () => branch(row)}, shown(plain(row.text)) + (row.id === token.id ? " ✓" : ""))),
    make("td", {class: "n"}, percent(row.before)), make("td", {class: "wide"}, bar(row.before / most, "other")),
    make("td", {class: "n"}, row.after ? percent(row.after) : "cut off"), make("td", {class: "wide"}, bar(row.after / most)));
  return [
    make("h2", {}, `After ${before === null ? "the prompt" : shown(plain(before))} came ${shown(plain(token.text))}`),
    make("p", {}, `The model's own probability was ${percent(probability(token))}. `, token.kept === null ? "" : `The filters kept ${counted(token.kept)} and cut off ${percent(token.cut_off)} of the probability.`),
    make("div", {class: "scroll", tabindex: "0", role: "region", "aria-label": "distribution of this step"}, make("table", {class: "softmax"}, make("thead", {}, head), make("tbody", {}, ...rows.map(rowOf)))),
  ];
}

// Prompt, knobs and buttons; `actions` has begin, stop and command.
function formOf(values, chosen, actions) {
  const prompt = make("textarea", {id: "prompt", rows: "2", spellcheck: "false"}), seed = make("input", {id: "seed", inputmode: "numeric", pattern: "[0-9]*", size: "8", placeholder: "any"});
  prompt.value = values.prompt ?? "Once upon a time";
  seed.value = values.seed ?? "";
  const go = make("button", {class: "primary", type: "submit"}, "Generate"), stop = make("button", {type: "button", disabled: true, onclick: actions.stop}, "Stop");
  const form = make("form", {class: "card", onsubmit: event => { event.preventDefault(); actions.begin(); }},
    make("label", {for: "prompt"}, "Prompt"), prompt,
    make("div", {class: "knobs"},
      ...Object.entries(KNOBS).map(([id, [label, more]]) => slider({label, id, value: chosen[id], change: value => { chosen[id] = value; }, ...more})),
      make("label", {class: "slider"}, make("span", {}, "seed "), seed)),
    make("p", {class: "controls"}, go, " ", stop, " ", copyButton("copy as command", actions.command)));
  const busy = now => { go.disabled = now; stop.disabled = !now; };
  return {form, prompt, seed, busy};
}

export function generateView(main, values) {
  const chosen = Object.fromEntries(Object.entries(SETTINGS).map(([name, value]) => [name, Number(values[name] ?? value)]));
  const left = new AbortController();
  let running = null, at = -1, used = null;
  let text = null;  // {prompt: ids, tokens}
  const kept = [];  // texts that were left for a branch
  const {form, prompt, seed, busy} = formOf(values, chosen, {begin, stop: () => running?.abort(), command: () => commandOf(prompt.value, chosen, seed.value || used)});
  const output = make("p", {class: "tokens written", tabindex: "0", role: "group", "aria-label": "the text; arrow keys move from token to token"});
  const panel = make("section", {class: "card", id: "step", "aria-live": "polite"}), state = make("p", {class: "dim", role: "status", id: "said"}, "Nothing is generated yet: press Generate."), branches = make("ol", {class: "branches"});
  main.append(make("h1", {}, "What does it say next?"),
    make("p", {}, "Each token is drawn from a distribution. Choose a token to see it before and after the filters; choose an alternative, and the text goes on from there."),
    form, wordsOf("logit", "softmax", "temperature", "top-k", "top-p", "min-p", "seed"), state, output, branches, panel);
  const keep = seed => remember("generate", {model: model().name, prompt: prompt.value, seed, ...chosen});

  async function begin() {
    try {
      const {tokens} = await api.json("/api/tokenize", {model: model().name, text: prompt.value}, left.signal);
      text = {prompt: tokens.map(token => token.id), tokens: []};
    } catch (error) {
      if (error.name !== "AbortError") state.replaceChildren(problem(error));
      return;
    }
    if (left.signal.aborted) return;
    kept.length = 0;
    keep(seed.value);
    await more(chosen.length);
  }

  // Draws `count` tokens after those that are there.
  async function more(count) {
    running?.abort();
    const target = text, context = model().context_length, room = context - target.prompt.length - target.tokens.length;
    if (room < 1) {
      state.replaceChildren(problem(new Error(`The model reads at most ${whole(context)} tokens, and prompt and text have as many: give a shorter prompt.`)));
      return;
    }
    const mine = running = new AbortController();
    busy(true);
    state.replaceChildren(waiting("Generating…"));
    draw();
    let reason = "";
    used = null;
    try {
      for await (const event of api.events("/api/generate", bodyOf(target, Math.min(count, room), chosen, seed.value), mine.signal)) {
        target.tokens.push(...event.tokens);
        used = event.seed ?? used;
        reason = event.finish_reason || reason;
        if (target === text) draw(true);
      }
      if (running !== mine) return;
      if (!kept.length) keep(used);
      state.textContent = `${counted(target.tokens.length)}${reason === "stop" ? "; the model ended the text" : count > room ? `; the context of ${whole(context)} is full` : ""}. Seed ${used}.`;
    } catch (error) {
      if (running !== mine) return;
      if (error.name === "AbortError") state.textContent = `Stopped after ${counted(target.tokens.length)}.`;
      else state.replaceChildren(problem(error));
    } finally {
      if (running === mine) busy(false);
    }
    if (target.tokens.length && at < 0) choose(0);
  }

  function draw(streaming = false) {
    if (!streaming) at = -1, panel.replaceChildren();
    output.replaceChildren(make("span", {class: "dim"}, prompt.value), ...spansOf(text.tokens, at, choose));
    branches.replaceChildren(...kept.map((branch, n) => make("li", {}, make("button", {type: "button", class: "quiet", onclick: () => back(n)}, `to the other text ${n + 1}: ${shown(characters(branch.tokens.map(token => token.text)).join("").slice(0, 40))}`))));
  }
  function choose(n) {
    const elements = output.querySelectorAll("i");
    elements[at]?.classList.remove("at");
    at = Math.max(0, Math.min(n, text.tokens.length - 1));
    elements[at]?.classList.add("at");
    panel.replaceChildren(...stepOf(text.tokens[at], at ? text.tokens[at - 1].text : null, row => branch(at, row)));
  }
  // The text goes on from another token; the old one is kept.
  function branch(n, row) {
    kept.push(text);
    const other = {...text.tokens[n], id: row.id, text: row.text, log_probability: Math.log(row.model), picked: true};
    text = {prompt: text.prompt, tokens: [...text.tokens.slice(0, n), other]};
    more(Math.max(1, chosen.length - n - 1));
  }
  function back(n) {
    running?.abort();
    [text, kept[n]] = [kept[n], text];  // the branch that is left can be gone back to, too
    draw();
    choose(0);
    state.textContent = `${counted(text.tokens.length)}.`;
  }
  output.addEventListener("keydown", event => {
    const step = {ArrowRight: 1, ArrowLeft: -1, ArrowDown: 10, ArrowUp: -10}[event.key];
    if (!step || !text?.tokens.length) return;
    event.preventDefault();
    choose(at + step);
  });
  if (values.seed && values.prompt !== undefined) begin();
  return () => {
    left.abort();
    running?.abort();
  };
}
