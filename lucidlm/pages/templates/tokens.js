// Explained tokens: the panel of the chosen one, the arrow keys, and what the colour stands for.
for (const root of document.querySelectorAll(".lucid-explained:not(.ready)")) {
  root.classList.add("ready");
  const panel = root.querySelector(".panel"), most = Number(root.dataset.nats);
  // As Python writes them in the table: a power of ten has two digits at least.
  const digits = JSON.parse(root.dataset.digits);
  const power = (x, count) => x.toExponential(count).replace(/e([+-])(\d)$/, (all, sign, digit) => "e" + sign + "0" + digit);
  const fixed = (quantity, x) => Math.abs(x) < 1e9
    ? x.toLocaleString("en", {minimumFractionDigits: digits[quantity], maximumFractionDigits: digits[quantity]}) : power(x, 2);
  const written = {
    probability: p => power(p, digits.probability),
    nats: x => fixed("nats", x), bits: x => fixed("bits", x), perplexity: x => fixed("perplexity", x),
  };
  const texts = [...root.querySelectorAll("section")].map(section => ({
    tokens: section.querySelector(".tokens"),
    spans: section.querySelectorAll(".tokens > i"),
    data: JSON.parse(section.querySelector("script").textContent),
  }));
  let chosen = null;

  const cell = (tag, text, kind) => {
    const element = document.createElement(tag);
    element.textContent = text;
    if (kind) element.className = kind;
    return element;
  };
  const row = (...cells) => {
    const element = document.createElement("tr");
    element.append(...cells);
    return element;
  };
  const visible = text => "“" + text.replace(/\n/g, "↵").replace(/\t/g, "→") + "”";

  function show(text, place) {
    if (place < 0 || place >= text.spans.length) return;
    if (chosen) chosen.classList.remove("at");
    chosen = text.spans[place];
    chosen.classList.add("at");
    const d = text.data, nats = -d.log_probability[place];
    const facts = document.createElement("table"), others = document.createElement("table");
    for (const [name, value] of [
      ["probability p", written.probability(d.probability[place])], ["ln p", written.nats(d.log_probability[place])],
      ["nats, bits", written.nats(nats) + ", " + written.bits(nats / Math.LN2)],
      ["rank", d.rank[place].toLocaleString("en")], ["entropy", written.nats(d.entropy[place]) + " nats"],
      ["running loss", written.nats(d.running_loss_nats[place])],
      ["running perplexity", written.perplexity(Math.exp(d.running_loss_nats[place]))],
    ]) facts.append(row(cell("th", name), cell("td", value, "n")));
    const largest = Math.max(...d.alternative_probabilities[place], 1e-9);
    d.alternative_ids[place].forEach((id, index) => {
      const p = d.alternative_probabilities[place][index], bar = cell("span", "", "bar");
      bar.style.width = (8 * p / largest).toFixed(2) + "em";
      const drawn = cell("td", "");
      drawn.append(bar);
      const came = id === d.id[place];
      others.append(row(cell("td", visible(d.spell[id]) + (came ? " ✓" : ""), came ? "came" : ""), cell("td", written.probability(p), "n"), drawn));
    });
    if (!d.alternative_ids[place].includes(d.id[place]))
      others.append(row(cell("td", visible(d.spell[d.id[place]]) + " ✓", "came"), cell("td", written.probability(d.probability[place]), "n"), cell("td", "")));
    panel.replaceChildren(cell("h4", "after " + visible(d.spell[d.given_id[place]]) + " came " + visible(d.spell[d.id[place]]) + " (id " + d.id[place] + ")"), facts, others);
    panel.hidden = false;
    root.dataset.at = texts.indexOf(text) + ":" + place;
  }
  for (const text of texts) {
    const number = new Map();
    text.spans.forEach((span, index) => number.set(span, index));
    const of = event => number.get(event.target.closest(".tokens > i"));
    text.tokens.addEventListener("click", event => { if (of(event) !== undefined) show(text, of(event)); });
    text.tokens.addEventListener("mouseover", event => { if (of(event) !== undefined) show(text, of(event)); });
    text.tokens.addEventListener("keydown", event => {
      const step = {ArrowRight: 1, ArrowLeft: -1, ArrowDown: 10, ArrowUp: -10}[event.key];
      if (!step) return;
      event.preventDefault();
      show(text, chosen && number.has(chosen) ? Math.min(Math.max(number.get(chosen) + step, 0), text.spans.length - 1) : 0);
    });
  }
  // What the colours stand for, by level, for each way to colour.
  const keys = {
    nats: [[0, "expected"], [2, "likely"], [4, "surprising"], [7, "as if drawn at random"]],
    rank: [[0, "rank 1"], [2, "2 to 10"], [4, "11 to 100"], [6, "101 to 1,000"], [7, "over 1,000"]],
    entropy: [[0, "sure of the next token"], [2, "a few likely ones"], [4, "many"], [7, "any of the vocabulary"]],
  };
  root.querySelector("select").addEventListener("change", event => {
    root.querySelector(".key").replaceChildren(...keys[event.target.value].map(([level, name]) => cell("i", name, "k" + level)));
    const how = event.target.value, scale = Math.log1p(most);
    const share = {
      nats: (d, i) => Math.log1p(-d.log_probability[i]) / scale,
      entropy: (d, i) => Math.log1p(d.entropy[i]) / scale,
      rank: (d, i) => [1, 10, 100, 1000].filter(limit => d.rank[i] > limit).length / 4,
    }[how];
    for (const text of texts) text.spans.forEach((span, i) => {
      span.className = "k" + Math.min(7, Math.floor(8 * share(text.data, i))) + (span === chosen ? " at" : "");
    });
  });
}
