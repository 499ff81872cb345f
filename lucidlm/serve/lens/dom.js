// Elements, numbers and small parts that all views use.

// make("p", {class: "dim"}, "text", child): text is always text, never HTML.
export function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name in element && typeof value !== "string") element[name] = value;
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.filter(child => child !== null && child !== undefined));
  return element;
}

// White space and characters that do not print are drawn, as on the pages of `explain`.
export function shown(text) {
  return "“" + text.replace(/\n/g, "↵").replace(/\t/g, "→").replace(/\p{Cc}/gu, each => "\\x" + each.charCodeAt(0).toString(16).padStart(2, "0")) + "”";
}

// Tokens that are parts of a character ("bytes:\\xc3", "bytes:\\xa9") with the character in the first of them.
export function characters(texts) {
  const out = [...texts];
  for (let from = 0; from < out.length; from++) {
    let bytes = [], to = from;
    for (; to < texts.length && texts[to].startsWith("bytes:"); to++) bytes.push(...texts[to].split("\\x").slice(1).map(each => parseInt(each, 16)));
    if (to === from) continue;
    const read = new TextDecoder().decode(Uint8Array.from(bytes));
    if (!read.includes("\ufffd")) for (let n = from; n < to; n++) out[n] = n === from ? read : "";
    else for (let n = from; n < to; n++) out[n] = texts[n].slice("bytes:".length);
    from = to;
  }
  return out;
}

export const fixed = (x, digits = 4) => Number.isFinite(x) ? x.toLocaleString("en", {minimumFractionDigits: digits, maximumFractionDigits: digits}).replace("-", "−") : "infinite";
export const whole = x => x.toLocaleString("en");
// A probability with so many digits: 0.00011487, and 1.1487 × 10⁻⁹ where there would be many zeros.
export function share(p, digits = 5) {
  if (p === 0 || p >= 1e-6) return p.toLocaleString("en", {maximumSignificantDigits: digits, minimumSignificantDigits: digits});
  const [number, power] = p.toExponential(digits - 1).split("e-");
  return `${number} × 10⁻${power.replace(/\d/g, digit => "⁰¹²³⁴⁵⁶⁷⁸⁹"[digit])}`;
}
export const percent = p => p <= 0 ? "0 %" : p >= 0.9995 ? "100 %" : p < 1e-8 ? "under 0.000001 %" : share(100 * p, 3) + " %";

// A bar whose length is a share of its cell.
export function bar(share, kind = "") {
  const element = make("span", {class: "bar " + kind, "aria-hidden": "true"});
  element.style.width = Math.max(0, Math.min(1, share)) * 100 + "%";
  return make("span", {class: "track"}, element);
}

// A labelled slider that shows its value; `change` gets the number.
export function slider({label, min, max, step, value, change, text = x => String(x), id}) {
  const output = make("output", {}, text(value));
  const input = make("input", {type: "range", id, min: String(min), max: String(max), step: String(step), oninput: () => {
    output.textContent = text(Number(input.value));
    input.setAttribute("aria-valuetext", output.textContent);
    change(Number(input.value));
  }});
  input.value = String(value);
  input.setAttribute("aria-valuetext", text(value));
  return make("label", {class: "slider"}, make("span", {}, label, " ", output), input);
}

// What to do is part of every error.
export const problem = error => make("p", {class: "card problem", role: "alert"}, make("b", {}, "This did not work. "), error.message);

export const waiting = text => make("p", {class: "dim waiting", role: "status"}, text);

// A button that copies; where the browser forbids it, the text is selected for copying by hand.
export function copyButton(label, text) {
  const button = make("button", {type: "button", onclick: async () => {
    try {
      await navigator.clipboard.writeText(text());
      button.textContent = "copied";
    } catch {
      const code = make("code", {class: "copied"}, text());
      button.after(" ", code);
      getSelection().selectAllChildren(code);
    }
    setTimeout(() => { button.textContent = label; }, 1500);
  }}, label);
  return button;
}

export function download(name, type, content) {
  const link = make("a", {download: name, href: URL.createObjectURL(new Blob([content], {type}))});
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

// An argument as a shell takes it.
export const quoted = text => "'" + text.replace(/'/g, "'\\''") + "'";
