// From the logits of one place to its loss, step by step, with the numbers of that place.

import {floats, json} from "./api.js";
import {bar, fixed, make, percent, problem, share, shown, slider, waiting, whole} from "./dom.js";

const BARS = 10;

// softmax of logits / temperature, in float64: the largest is subtracted first, and cancels out.
export function softmax(logits, temperature = 1) {
  const largest = logits.reduce((a, b) => Math.max(a, b), -Infinity);
  const powers = Float64Array.from(logits, each => Math.exp((each - largest) / temperature));
  const sum = powers.reduce((a, b) => a + b, 0);
  return {probabilities: powers.map(each => each / sum), largest, sum};
}

// A loss in the unit that is chosen.
const amount = (nats, unit) => unit === "bits" ? `${fixed(nats / Math.LN2)} bits` : `${fixed(nats)} nats`;

// Fills `into` with the steps of target `place` of `text`; `facts` are what the explanation says of it.
export async function stepsOf(into, {model, text, place, facts, signal}) {
  into.replaceChildren(waiting("Reading the logits of this place…"));
  let found;
  try {
    found = await json("/api/logits", {model, text, place}, signal);
  } catch (error) {
    if (error.name !== "AbortError") into.replaceChildren(problem(error));
    return;
  }
  const logits = floats(found.logits), names = new Map(found.names), target = found.id;
  const plain = softmax(logits), p = plain.probabilities[target];
  const order = found.names.map(([id]) => id).sort((a, b) => logits[b] - logits[a] || a - b);
  const best = order.slice(0, BARS);
  if (!best.includes(target)) best.push(target);

  const chart = make("table", {class: "softmax"}), said = make("p", {class: "dim"});
  const draw = temperature => {
    const {probabilities} = softmax(logits, temperature), most = Math.max(...best.map(id => probabilities[id]));
    chart.replaceChildren(
      make("caption", {}, "The likeliest tokens at this place"),
      make("thead", {}, make("tr", {}, ...["token", "logit", "probability"].map((head, n) => make("th", {scope: "col", class: n ? "n" : undefined}, head)), make("td"))),
      make("tbody", {}, ...best.map(id => make("tr", {class: id === target ? "ours" : undefined},
        make("td", {}, shown(names.get(id)) + (id === target ? " ✓ the target" : "")), make("td", {class: "n"}, fixed(logits[id], 3)),
        make("td", {class: "n"}, percent(probabilities[id])), make("td", {class: "wide"}, bar(probabilities[id] / most, id === target ? "" : "other"))))),
    );
    said.textContent = temperature === 1 ? "Temperature 1: the model itself. Its loss is always measured at temperature 1."
      : `Temperature ${temperature}: the logits are divided by ${temperature} before softmax. The target would have probability ${percent(probabilities[target])}, and would cost ${fixed(-Math.log(probabilities[target]))} nats. The loss is still that of temperature 1: the steps below stay as they are.`;
  };
  draw(1);
  const step = (title, ...what) => make("li", {}, make("h3", {}, title), ...what);
  into.replaceChildren(
    make("h2", {id: "steps-heading"}, `Step by step: after ${shown(facts.given)} comes ${shown(facts.token)}`),
    make("ol", {class: "chain", "aria-labelledby": "steps-heading"},
      step("The target", make("p", {}, `The token that really comes next is ${shown(facts.token)}, id ${whole(target)} of ${whole(logits.length)}.`)),
      step("Logits", make("p", {}, `The model gives each of its ${whole(logits.length)} tokens a number, its logit. The target's is ${fixed(logits[target], 4)}; the largest is ${fixed(plain.largest, 4)}.`)),
      step("Softmax", make("p", {}, `e to the power of each logit less the largest, divided by the sum of all of them, ${fixed(plain.sum, 4)}: these are probabilities, and add up to 1.`),
        slider({label: "temperature", id: "temperature", min: 0.1, max: 3, step: 0.1, value: 1, change: draw, text: x => x.toFixed(1)}), make("div", {class: "scroll", tabindex: "0", role: "region", "aria-label": "The likeliest tokens at this place"}, chart), said),
      step("The target's probability", make("p", {}, `p = e^(${fixed(logits[target], 4)} − ${fixed(plain.largest, 4)}) / ${fixed(plain.sum, 4)} = `, make("b", {class: "p"}, share(p)), `. ${facts.rank === 1 ? "No token was likelier" : facts.rank === 2 ? "One token was likelier" : `${whole(facts.rank - 1)} tokens were likelier`}.`)),
      step("Its logarithm, and the negative", make("p", {}, `ln p = ${fixed(Math.log(p))}. The loss of this token is −ln p = `, make("b", {class: "nats"}, fixed(-Math.log(p))), ` nats = ${fixed(-Math.log2(p), 3)} bits: how often a probability of 1 has to be halved to get p.`)),
      step("The mean up to here", make("p", {}, `Over the ${whole(place + 1)} target${place ? "s" : ""} so far the mean is ${amount(facts.running, facts.unit)}: the cross entropy of this part of the text.`)),
      step("Perplexity", make("p", {}, `${facts.unit === "bits" ? `2^${fixed(facts.running / Math.LN2)}` : `e^${fixed(facts.running)}`} = ${fixed(Math.exp(facts.running), 1)}: on average the model was as unsure as in a fair choice among so many tokens.`)),
    ),
  );
}
