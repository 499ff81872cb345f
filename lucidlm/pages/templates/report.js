// The report's charts: the numbers stand in #charts, the compressed chart library in #library.
(async () => {
  const data = JSON.parse(document.getElementById("charts").textContent);
  const packed = Uint8Array.from(atob(document.getElementById("library").textContent.trim()), letter => letter.charCodeAt(0));
  const unpacked = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  const script = document.createElement("script");
  script.textContent = await new Response(unpacked).text();
  document.head.append(script);

  const colour = name => getComputedStyle(document.body).getPropertyValue(name).trim();
  const units = {
    nats: {of: x => x, title: "loss, nats per token", type: "linear"},
    perplexity: {of: Math.exp, title: "perplexity", type: "log"},
    bits: {of: x => x * data.bits_per_nat, title: "bits per byte", type: "linear"},
  };
  const unit = document.getElementById("unit");

  function layout(more) {
    const axis = {gridcolor: colour("--line"), zerolinecolor: colour("--line"), linecolor: colour("--line"), automargin: true};
    return {
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", margin: {l: 56, r: 16, t: 12, b: 46},
      font: {color: colour("--ink"), family: "system-ui, sans-serif", size: 13}, hovermode: "closest",
      legend: {orientation: "h", y: 1.1, x: 0}, ...more,
      xaxis: {...axis, ...(more.xaxis || {})}, yaxis: {...axis, ...(more.yaxis || {})},
    };
  }
  const draw = (id, traces, more) =>
    Plotly.newPlot(id, traces, layout(more), {responsive: true, displayModeBar: false});

  function curves() {
    const {of, title, type} = units[unit.value], c = data.curves;
    const values = list => list.map(x => x === null ? null : of(x));
    const worst = Math.max(...c.validation.filter(x => x !== null)), least = Math.min(...c.training.filter(x => x !== null), ...c.validation.filter(x => x !== null));
    // Baselines far above the first validation would squeeze the curves: those are left to the table.
    const lines = (data.lines || []).filter(([, y]) => y <= worst * 1.05 && y >= least * 0.6);
    const last = c.steps[c.steps.length - 1], at = c.steps.indexOf(c.best);
    const traces = [
      {x: c.batch[0], y: values(c.batch[1]), name: "batch", mode: "lines", line: {color: colour("--dim"), width: 1}},
      {x: c.steps, y: values(c.training), name: "training text", mode: "lines+markers", line: {color: colour("--other"), width: 2, dash: "dash"}, marker: {size: 5, symbol: "square"}},
      {x: c.steps, y: values(c.validation), name: "validation text", mode: "lines+markers", line: {color: colour("--ours"), width: 2.5}, marker: {size: 6}, fill: "tonexty", fillcolor: "rgba(150, 150, 150, .13)"},
    ];
    if (at >= 0) traces.push({x: [c.best], y: [of(c.validation[at])], name: "best step", mode: "markers", marker: {size: 14, symbol: "star", color: colour("--ours"), line: {width: 1, color: colour("--ink")}}});
    const shapes = lines.map(([, y]) => ({type: "line", xref: "paper", x0: 0, x1: 1, y0: of(y), y1: of(y), line: {color: colour("--dim"), width: 1, dash: "dot"}}));
    const seen = [...c.training, ...c.validation, ...lines.map(([, y]) => y)].filter(x => x !== null);
    const low = of(Math.min(...seen)), high = of(Math.max(...seen));
    const range = type === "log" ? [Math.log10(low) - .06, Math.log10(high) + .06] : [low - .06 * (high - low), high + .08 * (high - low)];
    const position = y => type === "log" ? Math.log10(y) : y;
    // Names of lines that lie close would cover each other: each stands in the first column that has room at its
    // height, and where none has, beside the name below it.
    const wide = document.getElementById("curves").clientWidth - 80, tall = 440 - 60;
    const columns = Math.max(1, Math.floor(wide / 190)), tops = Array(columns).fill(-Infinity), names = [];
    for (const [name, y] of [...lines].sort((p, q) => p[1] - q[1])) {
      const at = (position(of(y)) - range[0]) / (range[1] - range[0]) * tall;
      const column = tops.findIndex(top => at - top >= 16);
      if (column < 0) { names[names.length - 1].text += ", " + name; continue; }
      tops[column] = at;
      names.push({y: position(of(y)), text: name, x: (column + 1) / columns});
    }
    const annotations = names.map(each => ({
      ...each, xref: "paper", bgcolor: colour("--paper"), showarrow: false, yanchor: "bottom", xanchor: "right", font: {size: 11, color: colour("--dim")},
    }));
    draw("curves", traces, {shapes, annotations, xaxis: {title: {text: "step"}, range: [-.02 * last, 1.02 * last]}, yaxis: {title: {text: title}, type, range}, height: 440});
  }

  function all() {
    if (data.curves) curves();
    const r = data.reliability, most = Math.max(...r.map(bin => bin[2]));
    // Thin evidence: n stands at each point and bar, and few tokens are drawn hollow.
    const narrow = document.body.clientWidth < 560;
    const counted = (tokens, few) => (narrow ? "" : "n = ") + tokens.toLocaleString("en") + (few && !narrow ? ", few" : "");
    const shares = {tickvals: [0, .2, .4, .6, .8, 1], zeroline: false};
    // Labels lie beside the rising line, in turn above and below it; the last, at the right edge, above.
    draw("reliability", [
      {x: [0, 1], y: [0, 1], mode: "lines", line: {color: colour("--dim"), width: 1, dash: "dot"}, hoverinfo: "skip", showlegend: false},
      {x: r.map(bin => bin[0]), y: r.map(bin => bin[1]), mode: "lines+markers+text", showlegend: false, line: {color: colour("--ours"), width: 2},
       marker: {size: r.map(bin => 6 + 16 * Math.sqrt(bin[2] / most)), symbol: r.map(bin => bin[5] ? "circle-open" : "circle")},
       text: r.map(bin => counted(bin[2], bin[5])), textposition: r.map((bin, place) => (r.length - place) % 2 ? "top left" : "bottom right"), textfont: {size: 10, color: colour("--dim")},
       hovertemplate: "confidence %{x:.3f}<br>accuracy %{y:.3f}<br>%{text}<extra></extra>"},
    ], {xaxis: {title: {text: "confidence in its first choice"}, range: [-.15, 1.15], ...shares}, yaxis: {title: {text: "how often it was right"}, range: [-.08, 1.08], ...shares}, height: 440});
    for (const [id, what] of [["position", "tokens before, the prefix included"], ["frequency", "times in " + data.frequency_of]]) {
      const groups = data[id];
      draw(id, [{type: "bar", x: groups.map(g => g[0]), y: groups.map(g => g[1]), marker: {color: groups.map(g => g[3] ? "rgba(0, 0, 0, 0)" : colour("--other")), line: {color: colour("--other"), width: 1.5}},
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
  if (unit) unit.addEventListener("change", curves);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", all);
  document.body.dataset.drawn = "yes";
})();
