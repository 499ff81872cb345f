// The lens: one view at a time, chosen by the address, for the model chosen above.

import {json} from "./api.js";
import {make, problem} from "./dom.js";
import {compareView} from "./compare.js";
import {dataView} from "./data.js";
import {explainView} from "./explain.js";
import {generateView} from "./generate.js";
import {guessView} from "./guess.js";
import {learnView} from "./learn.js";
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
const state = {models: [], leave: null, said: {}};
const LONGEST_ADDRESS = 4000;

// What the address says: the name of a view and its values.
function here() {
  const name = location.pathname.split("/")[1] || "explain";
  return {name: name in VIEWS ? name : "explain", values: Object.fromEntries(new URLSearchParams(location.search))};
}

// The address that shows the same again; texts that are too long for one are left out.
export function address(name, values) {
  const kept = new URLSearchParams(Object.entries(values).filter(([, value]) => value !== undefined && value !== null && value !== ""));
  const path = `/${name}?${kept}`;
  return path.length <= LONGEST_ADDRESS ? path : `/${name}?model=${encodeURIComponent(values.model ?? "")}`;
}
export function remember(name, values) {
  state.said = values;  // all of it: an address has no room for long texts
  history.replaceState(null, "", address(name, values));
}
export function go(name, values, focus = true) {
  history.pushState(null, "", address(name, values));
  open(focus, values);
}

export const model = () => state.models.find(each => each.name === picker.value);
export const models = () => state.models;

function open(focus, given = null) {
  const {name, values: written} = here(), values = {...written, ...given};
  state.said = values;
  state.leave?.();
  state.leave = null;
  if (state.models.some(each => each.name === values.model)) picker.value = values.model;
  document.title = `${VIEWS[name].name} · lucidlm`;
  nav.replaceChildren(...Object.entries(VIEWS).map(([each, {name: label}]) => make("li", {}, make("a", {href: address(each, {model: picker.value}), "aria-current": each === name ? "page" : undefined, onclick: event => {
    if (event.metaKey || event.ctrlKey || event.shiftKey) return;
    event.preventDefault();
    go(each, {model: picker.value});
  }}, label))));
  main.replaceChildren();
  if (values.model && !state.models.some(each => each.name === values.model)) main.append(make("p", {class: "card problem", role: "alert"}, make("b", {}, `${values.model} is not served now. `), state.models.length ? `This is ${picker.value}. ` : "", "A run is served again by “explain with it” in the view Train."));
  const {view, alone} = VIEWS[name];
  if (!alone && !state.models.length) main.append(make("h1", {}, VIEWS[name].name), make("p", {class: "card"}, "No model is served yet. Train one: ", make("a", {href: "/train"}, "three minutes on a text of yours"), ", or start the server with one: ", make("code", {}, "lucidlm serve gpt2"), ". A run that is there already is served by “explain with it” in the view Train."));
  else state.leave = view(main, values) ?? null;
  if (focus) main.focus({preventScroll: true});
}

// The models that are served now; the chosen one stays chosen.
export async function readModels() {
  const before = picker.value;
  state.models = (await json("/api/models")).models;
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
    go(here().name, {...state.said, ...(box?.value ? {[box.id]: box.value} : {}), model: picker.value, at: ""}, false);
  });
  document.querySelector(".skip").addEventListener("click", event => {
    event.preventDefault();
    main.focus();
  });
  addEventListener("popstate", () => open(true));
  open(false);
}
start();
