// Data: a file in; what was read and removed, how it is split, and what a tokenizer makes of it.

import * as api from "./api.js";
import {go, hasRuns, model, remember} from "./app.js";
import {characters, make, percent, problem, shown, waiting, whole} from "./dom.js";
import {wordsOf} from "./words.js";

const LARGEST = 64 * 2 ** 20;

export function dataView(main, values) {
  const running = new AbortController(), result = make("div", {id: "result"}, make("p", {class: "dim"}, "No file has been read yet.")), kept = make("div", {id: "kept"});
  let reading = new AbortController(), cutting = new AbortController();
  const file = make("input", {type: "file", id: "file", onchange: () => file.files[0] && read(file.files[0])});
  const drop = make("label", {class: "drop card", for: "file"}, make("b", {}, "Drop a book here"), make("br"), make("span", {class: "dim"}, "or choose a file: text, HTML, EPUB, PDF, Word, JSON lines, also compressed; up to 64 MiB. It stays on this machine."), make("br"), file);
  for (const kind of ["dragover", "dragleave", "drop"]) drop.addEventListener(kind, event => {
    event.preventDefault();
    drop.classList.toggle("over", kind === "dragover");
    if (kind === "drop" && event.dataTransfer.files[0]) read(event.dataTransfer.files[0]);
  });
  const text = make("textarea", {id: "text", rows: "2", spellcheck: "false"}), tokens = make("div", {id: "tokens", "aria-live": "polite"});
  text.value = values.text ?? "An old lamp, naïve café, 1234567 🙂";
  let soon = null;
  text.addEventListener("input", () => { clearTimeout(soon); soon = setTimeout(tokenize, 200); });
  main.append(make("h1", {}, "What will it read?"), make("p", {}, "Before a model learns from a text, the text is read, cleaned, cut into tokens and split. See what remains of yours."), drop, wordsOf("token", "vocabulary", "target", "held-out text", "leak"), result,
    make("h2", {}, "A tokenizer at work"), make("p", {}, `The tokenizer of ${model()?.name ?? "the model"} cuts a text into the pieces that the model predicts.`), make("label", {for: "text"}, "Text"), text, tokens, kept);

  async function tokenize() {
    if (!model()) return;
    cutting.abort();
    cutting = new AbortController();
    try {
      const found = await api.json("/api/tokenize", {model: model().name, text: text.value}, cutting.signal);
      const parts = found.tokens.map(each => each.text), joined = characters(parts), bytes = found.tokens.reduce((sum, each) => sum + each.bytes, 0), letters = [...text.value].length;
      // A character of several tokens is shown on its first one, and its bytes on each.
      const shownAs = (each, n) => each.text.startsWith("bytes:") ? (joined[n] && !joined[n].startsWith("\\x") ? `${joined[n]} ${each.text.slice(6)}` : each.text.slice(6)) : each.text.replace(/\n/g, "↵\n");
      tokens.replaceChildren(make("p", {class: "tokens cut"}, ...found.tokens.map((each, n) => make("i", {class: n % 2 ? "k2" : "k4", title: `id ${each.id}, ${each.bytes} byte${each.bytes === 1 ? "" : "s"}`}, shownAs(each, n)))),
        make("p", {class: "dim", id: "counts"}, `${whole(letters)} characters, ${whole(bytes)} bytes, ${whole(found.count)} tokens of ${found.tokenizer}.`, bytes > letters ? " A character beyond plain English letters has two to four bytes (\\x…), which may be tokens of their own." : ""),
        make("p", {class: "dim"}, "ids ", found.tokens.slice(0, 40).map(each => each.id).join(" "), found.count > 40 ? " …" : ""));
    } catch (error) {
      if (error.name !== "AbortError") tokens.replaceChildren(problem(error));
    }
  }

  async function read(chosen) {
    if (chosen.size > LARGEST) {
      result.replaceChildren(problem(new Error(`${chosen.name} has ${whole(chosen.size)} bytes, more than 64 MiB: train on it with lucidlm train, which reads files of any size.`)));
      return;
    }
    result.replaceChildren(waiting(`Reading ${chosen.name}…`));
    reading.abort();
    reading = new AbortController();
    try {
      draw(await api.upload(`/api/documents?name=${encodeURIComponent(chosen.name)}`, chosen, reading.signal));
      list();
    } catch (error) {
      if (error.name !== "AbortError") result.replaceChildren(problem(error));
    }
  }

  function draw(found) {
    remember("data", {model: model()?.name, document: found.id});
    const fact = (value, label) => make("div", {}, make("b", {}, value), make("span", {}, label));
    const {inputs, targets} = found.window;
    result.replaceChildren(
      make("h2", {}, found.name),
      make("div", {class: "figures"}, fact(whole(found.characters), "characters"), fact(whole(found.words), "words"), fact(whole(found.tokens), `tokens of ${found.tokenizer}`), fact(whole(found.documents), found.documents === 1 ? "document" : "documents")),
      make("h3", {}, "How it was read"), make("ul", {id: "read"}, ...found.read.map(line => make("li", {}, line))),
      make("h3", {}, "What is held out"), make("ul", {id: "split"}, ...found.split.map(line => make("li", {}, line))),
      make("h3", {}, "What the held-out text shares with the rest"), make("p", {id: "leaks"}, found.leaks.share > 0 ? `${percent(found.leaks.share)} of its letters are in copied passages or lines.` : "No copies were found."),
      ...(found.leaks.examples.length ? [make("ul", {}, ...found.leaks.examples.slice(0, 5).map(each => make("li", {}, make("code", {class: "passage"}, shown(each.text)))))] : []),
      make("h3", {}, "How it begins"), make("blockquote", {class: "tokens sample"}, found.beginning),
      make("h3", {}, "Inputs and targets"), make("p", {}, "The targets are the inputs, shifted by one place: each token is predicted from those before it."),
      make("div", {class: "scroll", tabindex: "0", role: "region", "aria-label": "Inputs and targets"}, make("table", {class: "shifted"}, make("tbody", {},
        make("tr", {}, make("th", {scope: "row"}, "inputs"), ...inputs.map(each => make("td", {}, make("code", {}, shown(each))))),
        make("tr", {}, make("th", {scope: "row"}, "targets"), ...targets.map(each => make("td", {}, make("code", {}, shown(each)))))))),
      make("p", {class: "controls"}, make("button", {class: "primary", type: "button", onclick: () => go("train", {text: found.id})}, "Train on it"), make("button", {type: "button", onclick: () => { text.value = found.beginning.slice(0, 300); tokenize(); text.focus(); }}, "see its tokens")));
  }
  // The texts that the server keeps until it ends; it keeps a limited number of them.
  async function list() {
    if (!hasRuns()) return;
    const {documents} = await api.json("/api/documents", undefined, running.signal).catch(() => ({documents: []}));
    kept.replaceChildren(...(documents.length ? [make("h2", {}, "Texts on the server"), make("ul", {class: "runs"}, ...documents.map(each => make("li", {}, make("b", {}, each.name), make("small", {}, ` ${whole(each.bytes)} bytes `),
      make("button", {type: "button", class: "quiet", onclick: () => draw(each)}, "show"), make("button", {type: "button", class: "quiet", onclick: () => forget(each)}, "forget"))))] : []));
  }
  async function forget(document) {
    try {
      await api.remove(`/api/documents/${document.id}`);
    } catch (error) {
      result.replaceChildren(problem(error));
    }
    list();
  }
  async function again(id) {
    result.replaceChildren(waiting("Reading it again…"));
    try {
      draw(await api.json(`/api/documents/${id}`, undefined, reading.signal));
    } catch (error) {
      if (error.name !== "AbortError") result.replaceChildren(problem(error));
    }
  }
  tokenize();
  list();
  if (values.document) again(values.document);
  return () => { for (const each of [running, reading, cutting]) each.abort(); };
}
