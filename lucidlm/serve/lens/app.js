// The lens: one view at a time, chosen by the address, for the model chosen above.

import {json} from "./api.js";
import {make, problem} from "./dom.js";
import {compareView} from "./compare.js";
import {dataView} from "./data.js";
import {explainView} from "./explain.js";
import {generateView} from "./generate.js";
import {guessView} from "./guess.js";
import {learnView} from "./learn.js";
import {LESSONS} from "./lessons.js";
import {trainView} from "./train.js";

const VIEWS = {
  explain: {name: "Explain", view: explainView},
  train: {name: "Train", view: trainView, alone: true},
  generate: {name: "Generate", view: generateView},
  compare: {name: "Compare", view: compareView},
  data: {name: "Data", view: dataView, alone: true},
  learn: {name: "Learn", view: learnView},
  guess: {name: "Guess", view: guessView},
};
const main = document.getElementById("view"), nav = document.getElementById("nav"), picker = document.getElementById("model");
const state = {models: [], runs: false, leave: null, said: {}, lesson: null};
const LONGEST_ADDRESS = 4000, LONGEST_PACKED = 400000;

const viewOf = path => { const name = path.split("/")[1]; return name in VIEWS ? name : "explain"; };

// What the address says: the name of a view and its values. A long text is packed behind its #, which is not sent.
async function here() {
  const values = Object.fromEntries(new URLSearchParams(location.search)), packed = location.hash.match(/^#z=([\w-]+)$/)?.[1];
  try {
    return {name: viewOf(location.pathname), values: packed ? {...values, ...await unpacked(packed)} : values};
  } catch {
    return {name: viewOf(location.pathname), values, damaged: true};
  }
}

const through = (bytes, stream) => new Response(new Blob([bytes]).stream().pipeThrough(stream));
async function packedOf(values) {
  const bytes = new Uint8Array(await through(JSON.stringify(values), new CompressionStream("deflate-raw")).arrayBuffer());
  return btoa(Array.from(bytes, each => String.fromCharCode(each)).join("")).replace(/\+/g, "-").replace(/\//g, "_").replace(/=+$/, "");
}
async function unpacked(packed) {
  const bytes = Uint8Array.from(atob(packed.replace(/-/g, "+").replace(/_/g, "/")), each => each.charCodeAt(0));
  return JSON.parse(await through(bytes, new DecompressionStream("deflate-raw")).text());
}

// The address that shows the same again, without the texts that are too long for it.
export function address(name, values) {
  const kept = new URLSearchParams(Object.entries(values).filter(([, value]) => value !== undefined && value !== null && value !== ""));
  const path = `/${name}?${kept}`;
  return path.length <= LONGEST_ADDRESS ? path : `/${name}?model=${encodeURIComponent(values.model ?? "")}`;
}
// Writes the address; what is too long for it follows in a moment, packed.
function write(name, values, how) {
  state.said = values;
  const mine = address(name, values);
  history[how](null, "", mine);
  if (new URLSearchParams(mine.split("?")[1]).size >= Object.values(values).filter(value => value !== undefined && value !== null && value !== "").length) return;
  packedOf(values).then(packed => {
    if (state.said === values && packed.length <= LONGEST_PACKED) history.replaceState(null, "", `${mine}#z=${packed}`);
  });
}
export const remember = (name, values) => write(name, {...values, lesson: state.lesson}, "replaceState");
export function go(name, values, focus = true) {
  write(name, values, "pushState");
  draw({name, values}, focus);
}
// A link to a view, which takes long texts along.
export const link = (name, values, label, attributes = {}) => make("a", {...attributes, href: address(name, values), onclick: event => {
  if (event.metaKey || event.ctrlKey || event.shiftKey) return;
  event.preventDefault();
  go(name, values);
}}, label);

export const model = () => state.models.find(each => each.name === picker.value);
export const models = () => state.models;
export const hasRuns = () => state.runs;  // a folder of runs, and texts that can be uploaded

const open = async focus => draw(await here(), focus);

function draw({name, values, damaged}, focus) {
  state.said = values;
  state.leave?.();
  state.leave = null;
  state.lesson = name !== "learn" && LESSONS[Number(values.lesson) - 1] ? Number(values.lesson) : null;
  if (state.models.some(each => each.name === values.model)) picker.value = values.model;
  document.title = `${VIEWS[name].name} · lucidlm`;
  nav.replaceChildren(...Object.entries(VIEWS).map(([each, {name: label}]) => make("li", {}, link(each, {model: picker.value}, label, {"aria-current": each === name ? "page" : undefined}))));
  main.replaceChildren();
  if (damaged) main.append(make("p", {class: "card problem", role: "alert"}, make("b", {}, "The text of this address is damaged. "), "Copy the whole address, or type the text again."));
  if (values.model && !state.models.some(each => each.name === values.model)) main.append(make("p", {class: "card problem", role: "alert"}, make("b", {}, `${values.model} is not served now. `), state.models.length ? `This is ${picker.value}. ` : "", "A run is served again by “explain with it” in the view Train."));
  if (state.lesson) main.append(make("p", {class: "back"}, link("learn", {model: picker.value, lesson: state.lesson}, `← back to lesson ${state.lesson}: ${LESSONS[state.lesson - 1].title}`), make("br"), make("span", {class: "dim"}, LESSONS[state.lesson - 1].task)));
  const {view, alone} = VIEWS[name];
  if (!alone && !state.models.length) main.append(make("h1", {}, VIEWS[name].name), make("p", {class: "card"}, "No model is served yet. Train one: ", make("a", {href: "/train"}, "three minutes on a text of yours"), ", or start the server with one: ", make("code", {}, "lucidlm serve gpt2"), ". A run that is there already is served by “explain with it” in the view Train."));
  else state.leave = view(main, values) ?? null;
  if (focus) main.focus({preventScroll: true});
}

// The models that are served now; the chosen one stays chosen.
export async function readModels() {
  const before = picker.value;
  ({models: state.models, runs: state.runs} = await json("/api/models"));
  picker.replaceChildren(...state.models.map(each => make("option", {value: each.name}, each.name)));
  if (state.models.some(each => each.name === before)) picker.value = before;
  picker.disabled = state.models.length < 2;
}

async function start() {
  try {
    await readModels();
  } catch (error) {
    main.replaceChildren(problem(error), make("button", {type: "button", onclick: start}, "Try again"));
    return;
  }
  picker.addEventListener("change", () => {
    const box = main.querySelector("textarea");  // what was typed, submitted or not
    go(viewOf(location.pathname), {...state.said, ...(box?.value ? {[box.id]: box.value} : {}), model: picker.value, at: ""}, false);
  });
  document.querySelector(".skip").addEventListener("click", event => {
    event.preventDefault();
    main.focus();
  });
  addEventListener("popstate", () => open(true));
  open(false);
}
start();
