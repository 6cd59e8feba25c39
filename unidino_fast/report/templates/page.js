"use strict";
// Draws the charts and answers to the reader. All foreign text is set as text, never as HTML.
(() => {
  const page = JSON.parse(document.getElementById("document").textContent);
  const wells = new Map((page.data.wells || []).map((row) => [row.w, row]));
  const views = new Map(); // chart -> what vegaEmbed gave
  const turns = new Map(); // chart -> number of its latest drawing
  const chosen = {};

  const make = (tag, text, name) => {
    const node = document.createElement(tag);
    if (text !== undefined && text !== null) node.textContent = text;
    if (name) node.className = name;
    return node;
  };

  // --- tooltips -----------------------------------------------------------
  const tip = make("div");
  tip.id = "tip";
  tip.setAttribute("role", "tooltip");
  tip.hidden = true;
  document.body.append(tip);

  const shown = (value) => {
    if (value === null || value === undefined || value === "") return "–";
    return typeof value === "number" ? String(value) : value;
  };

  function line(label, value, unit) {
    const row = make("div");
    row.append(make("span", `${label}: `), make("bdi", shown(value)));
    if (unit && value !== null && value !== undefined) row.append(make("span", ` ${unit}`));
    return row;
  }

  function fillTip(datum, tips) {
    tip.replaceChildren();
    if (datum.w) {
      tip.append(make("b", datum.absent ? `${datum.w}: not embedded` : `Well ${datum.w}`));
      if (datum.absent) return;
    } else if (datum.name) tip.append(make("b", datum.name));
    for (const [field, label, unit] of tips || []) {
      if (field in datum) tip.append(line(label, datum[field], unit));
    }
    if (!datum.w) return;
    const said = new Set((tips || []).map((entry) => entry[1]));
    for (const [field, label] of page.labels || []) {
      if (!said.has(label)) tip.append(line(label, datum[field]));
    }
    if (datum.q) tip.append(line("Flags", datum.q));
  }

  const tooltip = (tips) => (handler, event, item, value) => {
    if (!value || !item || !item.datum) {
      tip.hidden = true;
      return;
    }
    fillTip(item.datum, tips);
    tip.hidden = false;
    const box = tip.getBoundingClientRect();
    const x = Math.min(event.clientX + 14, innerWidth - box.width - 8);
    const below = event.clientY + 16 + box.height < innerHeight;
    tip.style.left = `${Math.max(4, x)}px`;
    tip.style.top = `${below ? event.clientY + 16 : Math.max(4, event.clientY - box.height - 12)}px`;
  };
  addEventListener("scroll", () => (tip.hidden = true), { passive: true });

  // --- charts -------------------------------------------------------------
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
    const columns = Math.max(1, Math.floor((width - 40) / 150));
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
  }

  // --- a well -------------------------------------------------------------
  const panel = document.getElementById("well");
  const body = document.getElementById("well-body");
  const heading = document.getElementById("well-title");
  let cameFrom = null;

  function openWell(name) {
    const datum = wells.get(name);
    if (!datum) return;
    if (panel.hidden) cameFrom = document.activeElement;
    heading.textContent = `Well ${name}`;
    const facts = make("dl");
    for (const [field, label] of page.labels || []) {
      facts.append(make("dt", label));
      const value = make("dd");
      value.append(make("bdi", shown(datum[field])));
      facts.append(value);
    }
    for (const [field, label, unit] of page.facts || []) {
      if (datum[field] === null || datum[field] === undefined) continue;
      facts.append(make("dt", label), make("dd", `${datum[field]} ${unit}`.trim()));
    }
    if (datum.q) facts.append(make("dt", "Flags"), make("dd", datum.q));
    body.replaceChildren(facts, ...pictures(name));
    panel.hidden = false;
    panel.scrollTop = 0;
    for (const select of document.querySelectorAll("select[data-well]")) select.value = name;
    heading.focus({ preventScroll: true });
  }

  function closeWell() {
    panel.hidden = true;
    if (cameFrom && cameFrom.focus) cameFrom.focus({ preventScroll: true });
  }

  const NS = "http://www.w3.org/2000/svg";
  function grid({ height, width, tile, stride }) {
    const drawing = document.createElementNS(NS, "svg");
    drawing.setAttribute("viewBox", `0 0 ${width} ${height}`);
    drawing.setAttribute("aria-hidden", "true");
    for (let y = 0; y + tile <= height; y += stride) {
      for (let x = 0; x + tile <= width; x += stride) {
        const cell = document.createElementNS(NS, "rect");
        for (const [key, value] of Object.entries({ x, y, width: tile, height: tile })) {
          cell.setAttribute(key, value);
        }
        cell.setAttribute("fill", "none");
        cell.setAttribute("stroke", "#fff");
        cell.setAttribute("stroke-opacity", "0.35");
        cell.setAttribute("stroke-width", "1");
        cell.setAttribute("vector-effect", "non-scaling-stroke");
        drawing.append(cell);
      }
    }
    return drawing;
  }

  function pictures(name) {
    const held = page.pictures;
    if (!held || !held.wells[name]) return [make("p", held ? "No picture of this well." : page.no_pictures, "note")];
    const nodes = [];
    const label = make("label", "Brightness of the pictures");
    const gain = make("select");
    for (const times of [1, 2, 4, 8, 16]) {
      const option = make("option", times === 1 ? "as embedded" : `${times} times brighter`);
      option.value = times;
      gain.append(option);
    }
    gain.value = openWell.gain || "1";
    label.append(gain);
    nodes.push(label);
    const boxes = [];
    for (const field of held.wells[name]) {
      nodes.push(make("h3", `Field ${field.site}`));
      const shots = make("div", null, "shots");
      for (const [channel, source] of field.shots) {
        const cell = make("div");
        const box = make("div", null, "shot");
        const image = make("img");
        image.alt = `Well ${name}, field ${field.site}, channel ${held.channels[channel]}`;
        image.src = `data:image/webp;base64,${source}`;
        box.append(image, grid({ ...held.grid, height: field.height, width: field.width }));
        boxes.push(image);
        cell.append(box, make("div", held.channels[channel], "shot-name"));
        shots.append(cell);
      }
      nodes.push(shots);
    }
    const brighten = () => {
      openWell.gain = gain.value;
      for (const image of boxes) image.style.filter = `brightness(${gain.value})`;
    };
    gain.addEventListener("change", brighten);
    brighten();
    nodes.push(make("p", held.note, "note"));
    return nodes;
  }

  // --- start --------------------------------------------------------------
  for (const select of document.querySelectorAll("select[data-choice]")) {
    const key = select.dataset.choice;
    chosen[key] = Number(select.value);
    select.addEventListener("change", () => {
      chosen[key] = Number(select.value);
      const touched = new Set(page.choices[key].flatMap((option) => Object.keys(option)));
      for (const chart of touched) draw(chart);
    });
  }
  for (const select of document.querySelectorAll("select[data-well]")) {
    select.addEventListener("change", () => select.value && openWell(select.value));
  }
  document.getElementById("well-close")?.addEventListener("click", closeWell);
  addEventListener("keydown", (event) => {
    if (event.key === "Escape" && panel && !panel.hidden) closeWell();
  });

  const redraw = () => Object.keys(page.charts).forEach(draw);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
  let width = innerWidth;
  let waiting = null;
  addEventListener("resize", () => {
    if (innerWidth === width) return;
    width = innerWidth;
    clearTimeout(waiting);
    waiting = setTimeout(redraw, 150);
  });
  Promise.all(Object.keys(page.charts).map(draw)).then(() => {
    document.documentElement.dataset.ready = "yes";
  });
})();
