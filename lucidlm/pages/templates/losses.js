// Charts of losses, for pages that stand alone and for the lens; the chart library (plotly) is there when one is drawn.
const lucidCharts = (() => {
  const colour = name => getComputedStyle(document.body).getPropertyValue(name).trim();
  const narrow = () => document.body.clientWidth < 560;
  const known = values => values.filter(x => x !== null);
  // As in pages/charts.py, the y axis leaves out the first tenth of the steps. Labels keep a distance of LINE.
  const EARLY = .1, LINE = 15, LETTER = 6.4, CURVES_HEIGHT = 440;
  const RUN_COLOURS = ["#c2571f", "#2f86b8", "#5b8f2b", "#8a5fc0", "#b0892a", "#3d9b9b", "#c0568a", "#808898"];

  function layout(more) {
    const axis = {gridcolor: colour("--line"), zerolinecolor: colour("--line"), linecolor: colour("--line"), automargin: true};
    return {
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", margin: {l: 56, r: 16, t: 12, b: 46, ...more.margin},
      font: {color: colour("--ink"), family: "system-ui, sans-serif", size: 13}, hovermode: "closest",
      legend: {orientation: "h", y: 1.02, yanchor: "bottom", x: 0}, ...more, ...{margin: {l: 56, r: 16, t: 12, b: 46, ...more.margin}},
      xaxis: {...axis, ...(more.xaxis || {})}, yaxis: {...axis, ...(more.yaxis || {})},
    };
  }
  function draw(id, traces, more) {
    Plotly.react(id, traces, layout(more), {responsive: true, displayModeBar: false});
    savable(document.getElementById(id));
  }

  // Below each chart: what it shows as a picture or as a table. Nothing is fetched or sent.
  function savable(chart) {
    if (chart.nextElementSibling?.classList.contains("save")) return;
    const name = document.title.replace(/[^\w.-]+/g, "-") + "-" + chart.id, buttons = document.createElement("p");
    buttons.className = "controls save";
    const button = (label, act) => {
      const element = document.createElement("button");
      element.textContent = label;
      element.addEventListener("click", act);
      buttons.append(element, " ");
    };
    for (const format of ["svg", "png"]) button("save as " + format.toUpperCase(), () => {
      const {clientWidth: width, clientHeight: height} = chart;
      Plotly.downloadImage({data: chart.data, layout: {...chart.layout, paper_bgcolor: colour("--paper")}}, {format, filename: name, width, height, scale: format === "png" ? 2 : 1});
    });
    button("save as CSV", () => {
      const cell = value => /[",\n]/.test(value ?? "") ? '"' + String(value).replace(/"/g, '""') + '"' : value ?? "";
      const rows = [["curve", chart.layout.xaxis.title.text, chart.layout.yaxis.title.text]];
      for (const trace of chart.data) if (trace.hoverinfo !== "skip") trace.x.forEach((x, i) => rows.push([trace.name, x, trace.y[i]]));
      const link = document.createElement("a");
      link.href = URL.createObjectURL(new Blob([rows.map(row => row.map(cell).join(",")).join("\n") + "\n"], {type: "text/csv"}));
      link.download = name + ".csv";
      link.click();
      URL.revokeObjectURL(link.href);
    });
    chart.after(buttons);
  }

  // Heights `least` apart and within the ends: pushed down in their order, then those over the end back up.
  function spread(heights, least, low, high) {
    const order = heights.map((_, i) => i).sort((a, b) => heights[a] - heights[b]), placed = [];
    let at = low - least, ceiling = high;
    for (const i of order) at = placed[i] = Math.max(heights[i], at + least);
    for (const i of order.reverse()) { placed[i] = Math.min(placed[i], ceiling); ceiling = placed[i] - least; }
    return placed;
  }

  // The losses of runs: data has `curves`, and `lines` of baselines. unit: nats, bits or perplexity; steps: settled,
  // all or log; x: step, or tokens or time where the points have more than a step and a loss; at: a place to mark.
  function curves(id, data, {unit, steps, x = "step", at = null}) {
    const column = {step: 0, tokens: 2, time: 3}[x], across = {step: "step", tokens: "tokens trained on", time: "seconds of training"}[x];
    const several = data.curves.length > 1, logarithmic = unit === "perplexity";
    const of = (loss, run) => loss === null ? null : {nats: loss, perplexity: Math.exp(loss), bits: run.bits_per_nat ? loss * run.bits_per_nat : null}[unit];
    const title = {nats: "loss, nats per token", perplexity: "perplexity", bits: "bits per byte"}[unit];
    const traces = [], losses = [], values = [];
    let last = 1;
    data.curves.forEach((run, place) => {
      const ours = several ? RUN_COLOURS[place % RUN_COLOURS.length] : colour("--ours"), theirs = several ? ours : colour("--other");
      const trace = (name, points, more) => {
        const drawn = points.filter(p => steps !== "log" || p[column] > 0);  // step 0 has no logarithm
        return {x: drawn.map(p => p[column]), y: drawn.map(p => of(p[1], run)), name: several ? run.name + ": " + name : name, ...more};
      };
      if (!several) traces.push(trace("batch", run.batch, {mode: "lines", line: {color: colour("--dim"), width: 1}}));
      traces.push(trace("training text", run.training, {mode: "lines+markers", line: {color: theirs, width: 2, dash: "dash"}, marker: {size: 5, symbol: "square"}}));
      traces.push(trace("validation text", run.validation, {mode: "lines+markers", line: {color: ours, width: 2.5}, marker: {size: 6}, ...(several ? {} : {fill: "tonexty", fillcolor: "rgba(150, 150, 150, .13)"})}));
      const best = run.best && (run.validation.find(p => p[0] === run.best[0]) ?? (x === "step" ? run.best : null));
      if (best && best[1] !== null) traces.push(trace("best step", [best], {mode: "markers", showlegend: !several, marker: {size: 14, symbol: "star", color: ours, line: {width: 1, color: colour("--ink")}}}));
      const end = run.validation.length ? run.validation[run.validation.length - 1][0] : 0;
      for (const points of [run.validation, run.batch]) if (points.length) last = Math.max(last, points[points.length - 1][column]);
      const early = steps === "settled" && run.validation.length > 0;  // before the first validation, batches are all there is
      for (const [step, loss] of [...run.training, ...run.validation, ...(early ? [] : run.batch)])
        if (loss !== null && (steps === "settled" ? step >= EARLY * end : steps === "all" || step > 0)) { losses.push(loss); values.push(of(loss, run)); }
    });
    // Baselines above the curves, or far below them, are left to the table: they would flatten the curves.
    const near = (data.lines || []).filter(([, loss]) => loss >= .6 * Math.min(...losses) && loss <= Math.max(...losses));
    const position = y => logarithmic ? Math.log10(y) : y, lines = near.map(([name, loss]) => [name, position(of(loss, data.curves[0]))]);
    const placed = [...known(values).map(position), ...lines.map(([, y]) => y)];
    const least = Math.min(...placed), most = Math.max(...placed), margin = Math.max(.06 * (most - least), .005 * Math.abs(most));
    const range = [least - margin, most + margin];
    const labels = lines.map(([name]) => narrow() && name.length > 12 ? name.replace(/^(.{4,}?) /, "$1<br>") : name);
    const rows = Math.max(1, ...labels.map(label => label.split("<br>").length)), width = Math.max(0, ...labels.flatMap(label => label.split("<br>").map(part => part.length))) * LETTER;
    const top = several ? 30 + 16 * data.curves.length : narrow() ? 62 : 40, bottom = 46, tall = CURVES_HEIGHT - top - bottom;
    const heights = lines.map(([, y]) => tall * (range[1] - y) / (range[1] - range[0])), beside = spread(heights, LINE * rows, 0, tall);
    draw(id, traces, {
      height: CURVES_HEIGHT, margin: {t: top, b: bottom, r: lines.length ? 24 + width : 16},
      shapes: [...(at === null ? [] : [{type: "line", yref: "paper", y0: 0, y1: 1, x0: at, x1: at, line: {color: colour("--ink"), width: 1}}]), ...lines.map(([, y]) => ({type: "line", xref: "paper", x0: 0, x1: 1, y0: logarithmic ? 10 ** y : y, y1: logarithmic ? 10 ** y : y, line: {color: colour("--dim"), width: 1, dash: "dot"}}))],
      annotations: lines.map(([, y], i) => ({
        text: labels[i], x: 1, xref: "paper", y, ax: 14, ay: beside[i] - heights[i], xanchor: "left", align: "left", showarrow: true, arrowhead: 0, arrowwidth: 1, arrowcolor: colour("--dim"), standoff: 0, font: {size: 11, color: colour("--dim")},
      })),
      xaxis: {title: {text: across}, ...(steps === "log" ? {type: "log", range: [0, Math.log10(1.05 * last)]} : {range: [-.02 * last, 1.02 * last]})},
      yaxis: {title: {text: title}, type: logarithmic ? "log" : "linear", range},
    });
  }

  return {curves, draw, colour, narrow};
})();
