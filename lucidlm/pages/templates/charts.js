// The charts of a page: the numbers are in #charts, the compressed chart library in #library.
(async () => {
  const data = JSON.parse(document.getElementById("charts").textContent);
  const packed = Uint8Array.from(atob(document.getElementById("library").textContent.trim()), letter => letter.charCodeAt(0));
  const unpacked = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  const script = document.createElement("script");
  script.textContent = await new Response(unpacked).text();
  document.head.append(script);

  const {colour, draw, narrow} = lucidCharts;
  const unit = document.getElementById("unit"), shown = document.querySelectorAll("[data-steps]");
  let steps = "settled";
  const losses = () => lucidCharts.curves("curves", data, {unit: unit.value, steps});

  function all() {
    if (data.curves) losses();
    if (!data.reliability) return;
    const r = data.reliability, most = Math.max(...r.map(bin => bin[2]));
    // Thin evidence: n is beside each point and bar, and few tokens are drawn hollow.
    const counted = (tokens, few) => (narrow() ? "" : "n = ") + tokens.toLocaleString("en") + (few && !narrow() ? ", few" : "");
    const shares = {tickvals: [0, .2, .4, .6, .8, 1], zeroline: false};
    // Labels are beside the rising line, in turn above and below it; the last, at the right edge, above.
    draw("reliability", [
      {x: [0, 1], y: [0, 1], mode: "lines", line: {color: colour("--dim"), width: 1, dash: "dot"}, hoverinfo: "skip", showlegend: false},
      {x: r.map(bin => bin[0]), y: r.map(bin => bin[1]), name: "accuracy", mode: "lines+markers+text", showlegend: false, line: {color: colour("--ours"), width: 2},
       marker: {size: r.map(bin => 6 + 16 * Math.sqrt(bin[2] / most)), symbol: r.map(bin => bin[5] ? "circle-open" : "circle")},
       text: r.map(bin => counted(bin[2], bin[5])), textposition: r.map((bin, place) => (r.length - place) % 2 ? "top left" : "bottom right"), textfont: {size: 10, color: colour("--dim")},
       hovertemplate: "confidence %{x:.3f}<br>accuracy %{y:.3f}<br>%{text}<extra></extra>"},
    ], {xaxis: {title: {text: "confidence in the top-1 token"}, range: [-.15, 1.15], ...shares}, yaxis: {title: {text: "top-1 accuracy"}, range: [-.08, 1.08], ...shares}, height: 440});
    for (const [id, what] of [["position", "tokens before, the prefix included"], ["frequency", "times in " + data.frequency_of]]) {
      const groups = data[id];
      draw(id, [{type: "bar", x: groups.map(g => g[0]), y: groups.map(g => g[1]), name: "loss", marker: {color: groups.map(g => g[3] ? "rgba(0, 0, 0, 0)" : colour("--other")), line: {color: colour("--other"), width: 1.5}},
        text: groups.map(g => counted(g[2], g[3])), textposition: "outside", cliponaxis: false, hovertemplate: "%{x}: %{y:.4f} nats<br>%{text}<extra></extra>"}],
        {xaxis: {title: {text: what}, type: "category"}, yaxis: {title: {text: "nats per token"}, rangemode: "tozero"}, height: 300, bargap: .25,
         shapes: [{type: "line", xref: "paper", x0: 0, x1: 1, y0: data.loss, y1: data.loss, line: {color: colour("--ours"), width: 1, dash: "dot"}}]});
    }
  }
  // Drawn again for each width: labels make room for each other by it.
  let width = document.body.clientWidth;
  all();
  new ResizeObserver(() => {
    if (document.body.clientWidth === width) return;
    width = document.body.clientWidth;
    all();
  }).observe(document.body);
  if (unit) unit.addEventListener("change", losses);
  for (const button of shown) button.addEventListener("click", () => {
    steps = button.dataset.steps;
    for (const each of shown) each.setAttribute("aria-pressed", each === button);
    losses();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", all);
  document.body.dataset.drawn = "yes";
})();
