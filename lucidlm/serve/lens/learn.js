// Learn: the lecture's path from inputs and targets to the perplexity, each step on the model that is served.

import {link, model, remember} from "./app.js";
import {make} from "./dom.js";
import {LESSONS} from "./lessons.js";
import {allWords} from "./words.js";

export function learnView(main, values) {
  let at = Math.max(0, Math.min(LESSONS.length - 1, Number(values.lesson ?? sessionStorage.getItem("lesson") ?? 1) - 1 || 0));
  const list = make("ol", {class: "lessons"}), page = make("article", {class: "card lesson", "aria-live": "polite"});
  main.append(make("h1", {}, "What is a loss?"), make("p", {}, "Short lessons in the order in which a loss is computed. Each opens a view on the model that is served here, with numbers of its own: read, try, come back."),
    make("div", {class: "course"}, make("nav", {"aria-label": "Lessons"}, list), page), allWords());
  function draw() {
    const lesson = LESSONS[at];
    sessionStorage.setItem("lesson", String(at + 1));  // the menu leads back to it
    list.replaceChildren(...LESSONS.map((each, n) => make("li", {}, make("button", {type: "button", class: "quiet", "aria-current": n === at ? "step" : undefined, onclick: () => move(n)}, each.title))));
    page.replaceChildren(make("h2", {tabindex: "-1"}, `${at + 1}. ${lesson.title}`), ...lesson.text.map(text => make("p", {}, text)),
      ...(lesson.formula ? [make("p", {class: "formula"}, lesson.formula)] : []),
      make("p", {class: "try"}, make("b", {}, "Try it. "), lesson.task + " ", link(lesson.view, {model: model().name, ...lesson.values, lesson: at + 1}, "open the view", {class: "button"})),
      make("details", {}, make("summary", {}, "Question: " + lesson.question), make("p", {}, lesson.answer)),
      make("p", {class: "controls"}, make("button", {type: "button", disabled: at === 0, onclick: () => move(at - 1)}, "back"), " ", make("button", {type: "button", class: "primary", disabled: at === LESSONS.length - 1, onclick: () => move(at + 1)}, "next")));
  }
  function move(n) {
    at = n;
    queueMicrotask(() => page.querySelector("h2").focus());  // the button that was pressed is drawn again
    remember("learn", {model: model().name, lesson: at + 1});
    draw();
  }
  draw();
  return null;
}
