// Train: the curves of one run or several, live while they train; a training can be started and stopped here.

import * as api from "./api.js";
import {go, model, readModels, remember} from "./app.js";
import {copyButton, fixed, make, percent, problem, quoted, shown, waiting, whole} from "./dom.js";
import {startForm} from "./start.js";
import {wordsOf} from "./words.js";

const UNITS = {nats: "nats per token", bits: "bits per byte", perplexity: "perplexity"};
const AXES = {step: "steps", tokens: "tokens", time: "time"};
const SPANS = {settled: "after the first tenth", all: "all", log: "all, logarithmic"};
const REFRESH_MS = 5000;

// The chart library is large: it is fetched from this server when the first chart is drawn.
let library = null;
const charts = () => library ??= Promise.all(["plotly.js", "losses.js"].map(name => new Promise((done, failed) => document.head.append(make("script", {src: "/lens/" + name, onload: done, onerror: () => failed(new Error(`/lens/${name} could not be read. Reload the page.`))})))));

const minutes = seconds => seconds === null || seconds === undefined ? "" : seconds < 90 ? `${Math.round(seconds)} s` : seconds < 5400 ? `${Math.round(seconds / 60)} min` : `${(seconds / 3600).toFixed(1)} h`;
const name = run => run.name ?? run.run;
const LIVE = ["starting", "training", "stopping"];
const STATUS = {starting: "starting", stopping: "stopping", training: "training now", finished: "finished", interrupted: "interrupted", broken: "cannot be read", failed: "failed"};

export function trainView(main, values) {
  const state = {runs: [], views: new Map(), shown: (values.runs ?? "").split(",").filter(Boolean), unit: values.unit in UNITS ? values.unit : "nats", x: values.x in AXES ? values.x : "step", steps: values.steps in SPANS ? values.steps : "settled", step: values.moment === undefined ? null : Number(values.moment)};
  const running = new AbortController(), sources = new Map();
  const list = make("div", {id: "runs"}, waiting("Reading the runs…")), facts = make("div", {class: "figures", id: "facts"}), said = make("div", {role: "status", id: "said"});
  const chart = make("div", {class: "chart", id: "curves", role: "img", "aria-label": "training and validation loss"}), detail = make("section", {id: "detail"}), figure = make("div", {hidden: true}), unlike = make("p", {class: "unlike", role: "status"});
  const select = (label, options, chosen, change) => {
    const box = make("select", {onchange: () => { change(box.value); keep(); draw(); }}, ...Object.entries(options).map(([value, text]) => make("option", {value}, text)));
    box.value = chosen;
    return make("label", {}, label, " ", box);
  };
  figure.append(unlike, make("p", {class: "controls dim"}, select("unit", UNITS, state.unit, x => { state.unit = x; }), select("over", AXES, state.x, x => { state.x = x; }), select("show", SPANS, state.steps, x => { state.steps = x; })), chart);
  main.append(make("h1", {}, "How is it learning?"), make("p", {}, "Solid: the loss on held-out text. Dashed: on the training text. Thin and grey: on each batch, the few passages of a step. While both fall, the model learns the language; where the dashed line falls and the solid one does not, it learns the training text by heart. Choose one run, or several to overlay them."),
    wordsOf("loss", "held-out text", "overfitting", "bits per byte", "perplexity", "step", "batch", "epoch", "weights", "baseline", "dropout"),
    make("div", {class: "course"}, make("div", {}, make("h2", {}, "Runs"), list, startForm(async id => { await refresh(); only(id); }, values.text)), make("div", {}, said, facts, figure, detail)));

  const keep = () => remember("train", {model: model()?.name, runs: state.shown.join(","), unit: state.unit, x: state.x, steps: state.steps, moment: state.step});

  async function refresh() {
    try {
      state.runs = (await api.json("/api/runs", undefined, running.signal)).runs;
    } catch (error) {
      if (error.name !== "AbortError") list.replaceChildren(problem(error));
      return;
    }
    state.shown = state.shown.filter(id => state.runs.some(run => run.id === id));
    if (!state.shown.length && state.runs.length) state.shown = [state.runs[0].id];
    drawList();
    await follow();
  }
  function drawList() {
    if (!state.runs.length) {
      list.replaceChildren(make("p", {class: "dim"}, "No run yet. Start one below, or with ", make("code", {}, "lucidlm train book.txt"), "."));
      return;
    }
    const now = JSON.stringify([state.runs.map(run => [run.id, run.status, run.bits_per_byte]), state.shown]);
    if (list.dataset.drawn === now) return;  // the keyboard's focus stays where it is
    list.dataset.drawn = now;
    list.replaceChildren(make("ul", {class: "runs"}, ...state.runs.map(run => make("li", {},
      make("label", {}, make("input", {type: "checkbox", checked: state.shown.includes(run.id), onchange: event => {
        state.step = null;
        state.shown = event.target.checked ? [...state.shown, run.id] : state.shown.filter(id => id !== run.id);
        keep();
        follow();
      }}), " ", make("b", {}, name(run))), make("small", {}, ` ${STATUS[run.status] ?? run.status}${run.bits_per_byte ? `, ${fixed(run.bits_per_byte, 3)} bits per byte` : ""}`)))));
  }
  const only = id => { state.shown = [id]; state.step = null; keep(); drawList(); follow(); };

  // Reads each run that is shown, and listens to those that train.
  async function follow() {
    for (const [id, source] of sources) if (!state.shown.includes(id)) { source.close(); sources.delete(id); state.views.delete(id); }
    const lives = id => LIVE.includes(state.runs.find(run => run.id === id)?.status);
    for (const id of state.shown) if (!sources.has(id) || (sources.get(id).readyState === EventSource.CLOSED && lives(id))) listen(id);
    draw();
  }
  function listen(id) {
    const source = new EventSource(`/api/runs/${id}/events`);
    sources.set(id, source);
    source.onmessage = event => {
      if (event.data === "[DONE]") { source.close(); refreshSoon(); return; }
      const news = JSON.parse(event.data);
      if (news.error) { said.replaceChildren(problem(new Error(news.error.message))); return; }
      said.replaceChildren();
      merge(id, news);
      draw();
    };
    source.onerror = () => { if (source.readyState === EventSource.CLOSED && !state.views.has(id)) said.replaceChildren(problem(new Error("This run cannot be followed. Reload the page."))); };
  }
  let soon = null;
  const refreshSoon = () => { clearTimeout(soon); soon = setTimeout(() => { if (!running.signal.aborted) refresh(); }, 500); };

  // An event has the whole state, or what is new since the last one.
  function merge(id, news) {
    const old = state.views.get(id);
    if (!old || !news.new) { state.views.set(id, news); return; }
    const {new: added, ...head} = news;
    Object.assign(old, head);
    for (const curve of ["batch", "training", "validation"]) old.curves[curve] = [...old.curves[curve], ...(added[curve] ?? [])];
    for (const rows of ["validations", "samples"]) old[rows] = [...old[rows], ...(added[rows] ?? [])];
    if (added.best !== undefined) old.curves.best = added.best;
    if (added.bits_per_nat !== undefined) old.curves.bits_per_nat = added.bits_per_nat;
  }

  const views = () => state.shown.map(id => state.views.get(id)).filter(Boolean);
  async function draw() {
    const drawn = views();
    facts.replaceChildren(...(drawn.length === 1 ? factsOf(drawn[0]) : []));
    if (drawn.length === 1) drawDetail(drawn[0]); else { detail.replaceChildren(); delete detail.dataset.drawn; }
    const some = drawn.filter(run => run.curves.batch.length || run.curves.validation.length);
    figure.hidden = !some.length;
    const mixed = state.unit !== "bits" && new Set(some.map(run => run.vocab_size)).size > 1;
    unlike.textContent = mixed ? "These runs have different tokens: only their bits per byte can be compared. Choose that unit." : "";
    if (!some.length) return;
    try {
      await charts();
      lucidCharts.curves("curves", {curves: some.map(run => run.curves), lines: some.length === 1 ? some[0].lines : []}, {unit: state.unit, steps: state.steps, x: state.x, at: some.length === 1 ? placeOf(some[0]) : null});
      chart.dataset.points = String(some.reduce((sum, run) => sum + run.curves.batch.length, 0));
    } catch (error) {
      said.replaceChildren(problem(error));
    }
  }

  // Where the step that the slider has chosen lies on the axis; null where none is chosen.
  function placeOf(run) {
    const point = state.step === null ? null : run.curves.validation.find(each => each[0] === state.step);
    return point ? point[{step: 0, tokens: 2, time: 3}[state.x]] : null;
  }

  function factsOf(run) {
    const last = run.validations.at(-1), fact = (value, label) => make("div", {}, make("b", {}, value), make("span", {}, label));
    return [
      fact(run.bits_per_byte ? fixed(run.bits_per_byte, 3) : "–", "bits per byte, held-out text"),
      fact(last ? fixed(last.validation_perplexity, 1) : "–", "perplexity at the last validation (a sample)"),
      fact(`${whole(run.steps)}${run.planned_steps && run.planned_steps !== run.steps ? ` / ${whole(run.planned_steps)}` : ""}`, "steps"),
      ...(run.memory_bytes ? [fact(`${(run.memory_bytes / 2 ** 30).toFixed(2)} GiB`, "memory")] : []),
      fact(run.tokens_per_s ? whole(Math.round(run.tokens_per_s)) : "–", "tokens a second"),
      fact(run.status === "training" ? minutes(run.time_left_s) || "–" : STATUS[run.status] ?? run.status, run.status === "training" ? "left" : "status"),
    ];
  }

  function drawDetail(run) {
    const now = JSON.stringify([run.id, run.status, run.own, run.message, run.problems, run.best_step === null, run.samples.length, run.checkpoints]);
    if (detail.dataset.drawn === now) return;  // buttons and slider stay under the pointer
    detail.dataset.drawn = now;
    const buttons = make("p", {class: "controls"});
    const act = (label, path) => make("button", {type: "button", onclick: async event => {
      event.target.disabled = true;
      try {
        await api.json(`/api/runs/${run.id}/${path}`, {});
        await refresh();
      } catch (error) {
        said.replaceChildren(problem(error));
      }
    }}, label);
    if (run.own && run.status === "training") buttons.append(act("Stop and save", "stop"));
    if (run.best_step !== null) buttons.append(make("button", {type: "button", onclick: event => explainRun(run, event.target)}, "explain with it"));
    if (run.checkpoints.length) buttons.append(make("button", {type: "button", onclick: event => compareRun(run, event.target)}, "compare its checkpoints"));
    if (run.status === "interrupted") buttons.append(act("Go on", "resume"), copyButton("copy as command", () => `lucidlm train --resume --out ${quoted(run.run)}`));
    if (run.status === "finished") buttons.append(copyButton("copy as command", () => `lucidlm report ${quoted(run.run)}`));
    const wrong = (run.problems ?? []).map(each => make("p", {class: "card problem"}, each));
    if (run.message && ["failed", "starting"].includes(run.status)) wrong.unshift(make("p", {class: run.status === "failed" ? "card problem" : "dim"}, run.message));
    detail.replaceChildren(buttons, ...wrong, ...samplesOf(run));
  }

  // Weights of the run become models of this server; then another view opens.
  async function served(run, button, asked, open) {
    button.disabled = true;
    said.replaceChildren(waiting(`Loading ${name(run)}…`));
    try {
      const names = [];
      for (const each of asked) names.push((await api.json("/api/models", {run: run.id, ...each})).name);
      await readModels();
      open(names);
    } catch (error) {
      button.disabled = false;
      said.replaceChildren(problem(error));
    }
  }
  const explainRun = (run, button) => served(run, button, [{}], ([best]) => go("explain", {model: best}));
  // The best weights beside the last ones, or the first checkpoint beside the last where there is none.
  const compareRun = (run, button) => {
    const steps = run.checkpoints, others = steps.filter(step => step !== run.best_step), other = others.at(-1) ?? steps.at(-1);
    return served(run, button, [{}, {step: other}], ([best, b]) => go("compare", {model: best, b}));
  };

  // One slider over the validations: the sample and the probe sentence of that step.
  function samplesOf(run) {
    const samples = run.samples;
    if (!samples.length) return [];
    const at = () => { const place = samples.findIndex(each => each.step === state.step); return place < 0 ? samples.length - 1 : place; };
    const body = make("div"), input = make("input", {type: "range", id: "moment", "aria-label": "step of the run", min: "0", max: String(samples.length - 1), step: "1", oninput: () => { state.step = samples[Number(input.value)].step; show(); keep(); draw(); }});
    const output = make("output");
    function show() {
      const sample = samples[at()], validation = run.validations.find(each => each.step === sample.step);
      output.textContent = `step ${whole(sample.step)}${validation ? `: held-out ${fixed(validation.validation_loss_nats, 3)}, training ${fixed(validation.training_loss_nats, 3)} nats per token` : ""}`;
      input.setAttribute("aria-valuetext", output.textContent);
      const most = Math.log(run.vocab_size ?? 257);
      body.replaceChildren(
        make("blockquote", {class: "tokens sample"}, make("span", {class: "dim"}, sample.prompt), sample.text),
        make("h3", {}, "A held-out sentence, as it was predicted then"),
        make("p", {class: "tokens probe"}, ...sample.probe.map(each => {
          const cost = each.log_probability === null ? null : -each.log_probability;
          return make("i", {class: "k" + (cost === null ? 0 : Math.min(7, Math.floor(8 * Math.log1p(cost) / Math.log1p(most)))), title: cost === null ? "not predicted" : `${percent(Math.exp(-cost))}, ${fixed(cost)} nats`}, each.text.replace(/^bytes:/, "").replace(/\n/g, "↵\n"));
        })));
    }
    input.value = String(at());
    show();
    return [make("h2", {}, "What it wrote"), make("label", {class: "slider"}, make("span", {}, output), input), body];
  }

  refresh();
  const timer = setInterval(() => { if (document.visibilityState === "visible") api.json("/api/runs", undefined, running.signal).then(found => { state.runs = found.runs; drawList(); follow(); }).catch(error => { if (error.name !== "AbortError") said.replaceChildren(problem(error)); }); }, REFRESH_MS);
  return () => {
    clearInterval(timer);
    clearTimeout(soon);
    running.abort();
    for (const source of sources.values()) source.close();
  };
}
