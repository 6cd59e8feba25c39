// Draws the charts, with what is chosen above them.
const text = { labelColor: "currentColor", titleColor: "currentColor" };
const config = {
  background: null,
  font: "system-ui, -apple-system, 'Segoe UI', Roboto, Arial, sans-serif",
  view: { stroke: null },
  axis: {
    ...text, domainColor: "currentColor", tickColor: "currentColor", gridColor: "currentColor",
    gridOpacity: 0.13, labelFontSize: 11, titleFontSize: 12, titleFontWeight: 500,
    domainOpacity: 0.5, tickOpacity: 0.5, labelLimit: 190,
  },
  legend: {
    ...text, labelFontSize: 11, titleFontSize: 12, titleFontWeight: 500, labelLimit: 170,
    titleLimit: 320,
  },
  header: { labelColor: "currentColor", titleColor: "currentColor" },
  title: { color: "currentColor", fontSize: 13, fontWeight: 600, anchor: "start" },
};

function patch(spec, changes) {
  for (const [path, value] of changes) {
    let place = spec;
    for (const step of path.slice(0, -1)) place = place[step] ??= {};
    const last = path[path.length - 1];
    if (value === null) delete place[last];
    else place[last] = value;
  }
}

// Charts of cells take their size from the width of their place; others fill it.
function sized(spec, steps, width) {
  const meta = spec.usermeta || {};
  if (!steps) {
    spec.width = width;
    spec.autosize = { type: "fit-x", contains: "padding" };
    return;
  }
  const [across, down] = steps;
  const named = Boolean(meta.cells);
  const free = width - (named ? 26 : 62);
  const labels = named && (free - 150) / across >= 9 ? 150 : 0;
  const fitting = (free - labels) / across;
  const step = fitting >= 5 ? Math.min(named ? 24 : 30, Math.floor(fitting)) : fitting;
  spec.width = step * across;
  spec.height = step * down;
  const axes = spec.encoding || {};
  if (named) {
    if (!labels) for (const name of ["x", "y"]) axes[name].axis = { ...axes[name].axis, labels: false };
    return;
  }
  const every = Math.ceil(15 / step);
  for (const name of ["x", "y"]) {
    axes[name].axis.values = axes[name].scale.domain.filter((_, place) => place % every === 0);
  }
}

function withLegendColumns(spec, width) {
  const stacked = Boolean((spec.usermeta || {}).stacked); // its legend begins right of long names
  const fitting = Math.floor((width - 40) / 150);
  const most = stacked ? 5 : 4; // what fits on paper
  const columns = stacked && width < 480 ? 1 : Math.max(1, Math.min(most, fitting));
  const bar = Math.max(120, Math.min(220, width - 90));
  const title = { ...config.title, limit: Math.max(120, width - 110) };
  return { ...config, title, legend: { ...config.legend, columns, gradientLength: bar } };
}

async function draw(key) {
  const place = document.getElementById(`chart-${key}`);
  if (!place) return;
  const turn = (turns.get(key) || 0) + 1;
  turns.set(key, turn);
  const { spec: plain, alt, steps } = page.charts[key];
  const spec = structuredClone(plain);
  for (const [choice, options] of Object.entries(page.choices)) {
    const patches = options[chosen[choice] || 0];
    if (!(key in patches)) {
      if (options.some((option) => key in option)) {
        place.replaceChildren(make("p", "This channel lacks the measure.", "note"));
        return;
      }
      continue;
    }
    patch(spec, patches[key]);
  }
  const width = place.clientWidth;
  sized(spec, steps, width);
  const tips = (spec.usermeta || {}).tips;
  spec.$schema = "https://vega.github.io/schema/vega-lite/v6.json";
  spec.description = alt;
  spec.datasets = page.data;
  const holder = make("div");
  place.append(holder); // beside the former drawing, which stays until this one is there
  const many = steps && steps[0] * steps[1] > 8000; // beyond it one canvas is quicker
  const result = await vegaEmbed(holder, spec, {
    mode: "vega-lite", renderer: many ? "canvas" : "svg", tooltip: tooltip(tips),
    config: withLegendColumns(spec, width),
    actions: { export: true, source: false, compiled: false, editor: false },
  });
  if (turns.get(key) !== turn) {
    result.finalize();
    holder.remove();
    return;
  }
  result.view.addEventListener("click", (_, item) => {
    const datum = item && item.datum;
    if (datum && datum.w && !datum.absent) openWell(datum.w);
  });
  const before = views.get(key);
  if (before) before.finalize();
  views.set(key, result);
  place.replaceChildren(holder);
  if (plain.usermeta && plain.usermeta.map) reachable(key, holder, spec);
}
