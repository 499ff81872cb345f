// Explained tokens: their colours and the legend, the panel of the chosen one, words, the most surprising places.
// Pages that stand alone hold this script; the lens imports it. The root gets an event "chosen" for each choice.
async function lucidExplained(root) {
  root.classList.add("ready");
  const LEVELS = 8, LONG = 200, PLACES = 12, LONGEST_WORD = 32;
  const find = name => root.querySelector(name), panel = find(".panel"), by = find(".by"), parts = find(".parts"), unit = find(".unit");
  // As Python writes them in the table: a power of ten has two digits at least.
  const digits = JSON.parse(root.dataset.digits);
  const power = (x, count) => Number.isFinite(x)
    ? x.toExponential(count).replace(/e([+-])(\d)$/, (all, sign, digit) => "e" + sign + "0" + digit) : x < 0 ? "-inf" : "inf";
  const fixed = (quantity, x) => Math.abs(x) < 1e9
    ? x.toLocaleString("en", {minimumFractionDigits: digits[quantity], maximumFractionDigits: digits[quantity]}) : power(x, 2);
  // A probability as the table has it: 0.00011487, and 1.1487 × 10⁻⁹ where there would be many zeros.
  const share = (p, count) => {
    if (p === 0 || p >= 1e-6) return p.toLocaleString("en", {maximumSignificantDigits: count, minimumSignificantDigits: count});
    const [number, tens] = p.toExponential(count - 1).split("e-");
    return number + " × 10⁻" + tens.replace(/\d/g, digit => "⁰¹²³⁴⁵⁶⁷⁸⁹"[digit]);
  };
  const written = {
    probability: p => share(p, digits.probability + 1),
    nats: x => fixed("nats", x), bits: x => fixed("bits", x), perplexity: x => fixed("perplexity", x),
  };
  // A loss in the unit that is chosen, and in the other one.
  const other = {nats: "bits", bits: "nats"}, inUnit = (x, name) => name === "bits" ? x / Math.LN2 : x;
  const amount = x => written[unit.value](inUnit(x, unit.value)) + " " + unit.value;
  // Elements: text content, class, children.
  const make = (tag, text, kind, ...children) => {
    const element = document.createElement(tag);
    element.textContent = text;
    if (kind) element.className = kind;
    element.append(...children);
    return element;
  };
  const row = (...cells) => make("tr", "", "", ...cells);
  const cell = (text, kind) => make("td", text, kind);
  // Characters that do not print, as Python's repr writes them.
  const escaped = letter => {
    const code = letter.codePointAt(0).toString(16);
    return code.length < 3 ? "\\x" + code.padStart(2, "0") : code.length < 5 ? "\\u" + code.padStart(4, "0") : "\\U" + code.padStart(8, "0");
  };
  const printable = text => text.replace(/[^\P{C}\n\t]|[^\P{Z} ]/gu, escaped);
  const quoted = text => "“" + printable(text).replace(/\n/g, "↵").replace(/\t/g, "→") + "”";

  async function read(section) {
    const data = JSON.parse(section.querySelector("script").textContent), n = data.tokens;
    const bytes = Uint8Array.from(atob(data.packed), letter => letter.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    const planes = new Uint8Array(await new Response(stream).arrayBuffer());
    let at = 0;
    const column = (Type, count) => {  // first bytes of all numbers, then second ones, ...
      const size = Type.BYTES_PER_ELEMENT, out = new Uint8Array(count * size);
      for (let b = 0; b < size; b++) for (let i = 0; i < count; i++) out[i * size + b] = planes[at++];
      return new Type(out.buffer);
    };
    const text = {section, n, edges: data.edges, spell: data.spell, paragraph: section.querySelector(".tokens")};
    for (const [name, Type] of [["id", Int32Array], ["rank", Int32Array], ["p", Float32Array], ["logp", Float32Array], ["entropy", Float32Array]])
      text[name] = column(Type, n);
    text.k = n ? (planes.length - at) / 6 / n : 0;
    text.others = column(Int32Array, n * text.k);
    text.shares = Float64Array.from(column(Uint16Array, n * text.k), code => code === 65535 ? 0 : (100 + code % 900) / 100 * 10 ** -Math.floor(code / 900));
    text.running = new Float64Array(n);
    for (let i = 0, sum = 0; i < n; i++) text.running[i] = (sum -= text.logp[i]) / (i + 1);
    text.given = i => data.spell[i ? text.id[i - 1] : data.given];
    text.word = words(text);
    return text;
  }
  const texts = [];
  for (const section of root.querySelectorAll("section")) texts.push(await read(section));

  // Words: white space begins one, as in " lamp". Text without any is cut, so that no word fills the page.
  function words(text) {
    const found = [];
    let begun = false, from = 0;
    for (let i = 0; i < text.n; i++) {
      const spelled = text.spell[text.id[i]];
      if (i > from && ((begun && /^\s/.test(spelled)) || i - from >= LONGEST_WORD)) { found.push([from, i]); from = i; begun = false; }
      begun = begun || /\S/.test(spelled);
    }
    if (text.n) found.push([from, text.n]);
    return found;
  }
  const nats = (text, from, to) => { let sum = 0; for (let i = from; i < to; i++) sum -= text.logp[i]; return sum; };
  // Tokens that are parts of a character spell its bytes, \xc3 and \xa9: together they are it again.
  const spelled = (text, from, to) => {
    let all = "";
    for (let i = from; i < to; i++) all += text.spell[text.id[i]];
    return to - from === 1 ? all : all.replace(/(\\x[0-9a-f]{2}){2,}/g, run => {
      try { return new TextDecoder("utf-8", {fatal: true}).decode(Uint8Array.from(run.match(/[0-9a-f]{2}/g), byte => parseInt(byte, 16))); }
      catch { return run; }
    });
  };
  const ranges = text => parts.value === "words" ? text.word : Array.from({length: text.n}, (_, i) => [i, i + 1]);

  // What colours: its value for a part of the text, and the least value of each level but the first.
  const rankEdges = [2, 2, 11, 11, 101, 101, 1001];
  const wordEdges = () => {
    const sums = texts.flatMap(text => text.word.map(([from, to]) => nats(text, from, to))).sort((a, b) => a - b);
    const most = sums[Math.floor(.98 * (sums.length - 1))] || 1;
    return Array.from({length: LEVELS - 1}, (_, k) => Math.expm1((k + 1) / LEVELS * Math.log1p(most)));
  };
  const colouring = () => {
    if (parts.value === "words") return {value: nats, edges: wordEdges()};
    const edges = texts.length ? texts[0].edges : {};
    return {
      nats: {value: (text, i) => -text.logp[i], edges: edges.nats},
      entropy: {value: (text, i) => text.entropy[i], edges: edges.entropy},
      rank: {value: (text, i) => text.rank[i], edges: rankEdges},
    }[by.value];
  };
  const level = (x, edges) => edges.filter(edge => edge !== null && x >= edge).length;

  let chosen = null;  // {text, n}: the n-th part
  function draw() {
    by.disabled = parts.value === "words";
    if (by.disabled) by.value = "nats";
    const {value, edges} = colouring();
    for (const text of texts) {
      const drawn = document.createDocumentFragment();
      text.ranges = ranges(text);
      text.ranges.forEach(([from, to], n) => {
        const element = make("i", "", "k" + level(value(text, from, to), edges));
        for (const piece of printable(spelled(text, from, to)).split(/(?=[\n\t])|(?<=[\n\t])/)) {
          if (piece === "\n" || piece === "\t") element.append(make("span", piece === "\n" ? "↵" : "→", "w"));
          element.append(piece);
        }
        element.n = n;
        drawn.append(element);
      });
      text.paragraph.replaceChildren(drawn);
    }
    legend(edges);
  }

  function legend(edges) {
    const known = edges.filter(edge => edge !== null);
    let more = 0;  // digits, until no two levels have one number
    const number = x => x.toLocaleString("en", {maximumFractionDigits: (x < 1 ? 2 : 1) + more});
    const rank = by.value === "rank" && !by.disabled, swatches = [], mine = x => number(rank ? x : inUnit(x, unit.value));
    while (more < 3 && new Set(known.map(number)).size < new Set(known).size) more++;
    for (let k = 0, low = rank ? 1 : 0; k < LEVELS; k++) {
      const end = k < LEVELS - 1 ? edges[k] : Infinity;
      if (end !== null && end <= low) continue;
      const last = end === null || end === Infinity;
      const bounds = rank ? (last ? "over " + number(low - 1) : low === end - 1 ? number(low) : number(low) + " to " + number(end - 1)) : (last || low ? "from " + mine(low) : "under " + mine(end));
      const kind = "k" + Math.max(k, edges.filter(edge => edge !== null && edge <= low).length);
      swatches.push(make("i", bounds, kind, ...(rank ? [] : [make("small", number(inUnit(low || end, other[unit.value])))])));
      low = end;
      if (last) break;
    }
    find(".key").replaceChildren(make("span", rank ? "rank of the token" : (by.value === "entropy" ? "entropy" : parts.value === "words" ? "surprisal of the word" : "surprisal") + " in " + unit.value + ", below in " + other[unit.value], ""), ...swatches);
  }

  function show(text, n, scroll) {
    if (!text.ranges || n < 0 || n >= text.ranges.length) return;
    if (chosen && chosen.text.paragraph.children[chosen.n]) chosen.text.paragraph.children[chosen.n].classList.remove("at");
    chosen = {text, n};
    const element = text.paragraph.children[n], [from, to] = text.ranges[n];
    element.classList.add("at");
    if (scroll) element.scrollIntoView({block: "start"});
    panel.replaceChildren(...(to - from === 1 ? token(text, from) : word(text, from, to)));
    const close = make("button", "×", "close");
    close.setAttribute("aria-label", "close");
    close.addEventListener("click", () => { panel.hidden = true; });
    panel.append(close);
    panel.hidden = false;
    root.dataset.at = texts.indexOf(text) + ":" + n;
    root.dispatchEvent(new CustomEvent("chosen", {detail: {text, from, to, unit: unit.value}}));
  }
  function token(text, i) {
    const id = text.id[i], cost = -text.logp[i], facts = make("table"), others = make("table");
    for (const [name, value] of [
      ["probability p", written.probability(text.p[i])], ["ln p", written.nats(text.logp[i])],
      ["nats, bits", written.nats(cost) + ", " + written.bits(cost / Math.LN2)],
      ["rank", text.rank[i].toLocaleString("en")], ["entropy", amount(text.entropy[i])],
      ["running loss", amount(text.running[i])],
      ["running perplexity", written.perplexity(Math.exp(text.running[i]))],
    ]) facts.append(row(make("th", name), cell(value, "n")));
    const ids = [...text.others.subarray(i * text.k, (i + 1) * text.k)], shares = text.shares.subarray(i * text.k, (i + 1) * text.k);
    const largest = Math.max(...shares, 1e-9);
    ids.forEach((other, place) => {
      const bar = make("span", "", "bar"), came = other === id;
      bar.style.width = (8 * shares[place] / largest).toFixed(2) + "em";
      others.append(row(cell(quoted(text.spell[other]) + (came ? " ✓" : ""), came ? "came" : ""), cell(share(shares[place], 3), "n"), make("td", "", "", bar)));
    });
    if (!ids.includes(id)) others.append(row(cell(quoted(text.spell[id]) + " ✓", "came"), cell(share(text.p[i], 3), "n"), cell("")));
    return [make("h3", "after " + quoted(text.given(i)) + " came " + quoted(text.spell[id]) + " (id " + id + ")"), facts, others];
  }
  function word(text, from, to) {
    const cost = nats(text, from, to), table = make("table", "", "", row(make("th", "token"), make("th", "probability", "n"), make("th", "nats", "n")));
    for (let i = from; i < to; i++) table.append(row(cell(quoted(text.spell[text.id[i]])), cell(written.probability(text.p[i]), "n"), cell(written.nats(-text.logp[i]), "n")));
    return [make("h3", quoted(spelled(text, from, to)) + ": " + written.nats(cost) + " nats, " + written.bits(cost / Math.LN2) + " bits, the sum of its " + (to - from) + " tokens"), table];
  }

  // An index of a long text: its words that cost most, each with the text around it.
  function places(text) {
    if (text.n < LONG) return;
    const most = text.word.map(([from, to]) => [nats(text, from, to), from, to]).sort((a, b) => b[0] - a[0]).slice(0, PLACES);
    const list = text.section.querySelector(".places ol");
    list.replaceChildren();
    for (const [cost, from, to] of most) {
      const go = make("button", "", "", printable(spelled(text, Math.max(0, from - 30), from)).slice(-25), make("b", printable(spelled(text, from, to))), printable(spelled(text, to, Math.min(text.n, to + 30))).slice(0, 25));
      go.addEventListener("click", () => show(text, text.ranges.findIndex(range => range[1] > from + (parts.value === "words" ? 0 : worst(text, from, to))), true));
      list.append(make("li", "", "", go, make("small", " " + amount(cost))));
    }
    text.section.querySelector(".places").hidden = false;
  }
  const worst = (text, from, to) => text.logp.subarray(from, to).indexOf(Math.min(...text.logp.subarray(from, to)));

  for (const text of texts) {
    const of = event => event.target.closest(".tokens > i")?.n;
    for (const kind of ["click", "mouseover"]) text.paragraph.addEventListener(kind, event => { if (of(event) !== undefined) show(text, of(event)); });
    text.paragraph.addEventListener("keydown", event => {
      const step = {ArrowRight: 1, ArrowLeft: -1, ArrowDown: 10, ArrowUp: -10}[event.key];
      if (!step) return;
      event.preventDefault();
      show(text, chosen && chosen.text === text ? Math.min(Math.max(chosen.n + step, 0), text.ranges.length - 1) : 0);
    });
    places(text);
  }
  // Opens with the most surprising of the first tokens chosen.
  function open() {
    if (!texts.length) return;
    const text = texts[0], first = text.ranges.slice(0, 60).map(([from, to]) => nats(text, from, to));
    show(text, first.indexOf(Math.max(...first)));
  }
  for (const box of [by, unit]) box.addEventListener("change", () => { draw(); if (chosen) show(chosen.text, chosen.n); });
  unit.addEventListener("change", () => texts.forEach(places));
  parts.addEventListener("change", () => { chosen = null; draw(); open(); });
  draw();
  open();
  root.dataset.drawn = "yes";
}
for (const root of document.querySelectorAll(".lucid-explained:not(.ready)")) lucidExplained(root);
