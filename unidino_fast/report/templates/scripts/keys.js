// Plate maps by keyboard: one stop a map, arrows from well to well, Enter opens the well.
const lastWell = new Map(); // chart -> the well that the keyboard was at
const cells = new WeakMap(); // element of a well -> its tips, and where the arrows lead
const STEPS = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };

function reachable(key, holder, spec) {
  const tips = (spec.usermeta || {}).tips;
  const rows = spec.encoding.y.scale.domain;
  const columns = spec.encoding.x.scale.domain;
  const nodes = new Map();
  for (const node of holder.querySelectorAll("path[aria-roledescription='rect mark']")) {
    const datum = node.__data__ && node.__data__.datum; // Vega's own link from a mark to its data
    if (!datum || !datum.w || datum.absent) continue;
    const [row, column] = [rows.indexOf(datum.r), columns.indexOf(datum.c)];
    node.setAttribute("role", "button");
    node.setAttribute("aria-label", spoken(datum, tips));
    node.removeAttribute("aria-roledescription");
    node.setAttribute("tabindex", "-1");
    nodes.set(`${row},${column}`, node);
    cells.set(node, { key, datum, tips, row, column, nodes, size: [rows.length, columns.length] });
  }
  const all = [...nodes.values()];
  const stop = all.find((node) => cells.get(node).datum.w === lastWell.get(key)) || all[0];
  if (stop) stop.setAttribute("tabindex", "0");
}

function spoken(datum, tips) {
  const parts = [`Well ${datum.w}`];
  for (const [field, label, unit] of tips || []) {
    if (field in datum) parts.push(`${label} ${shown(datum[field])} ${unit || ""}`.trim());
  }
  for (const [field, label] of page.labels || []) {
    if (!(tips || []).some((entry) => entry[1] === label)) parts.push(`${label} ${shown(datum[field])}`);
  }
  if (datum.q) parts.push(`flags ${datum.q}`);
  return parts.join("; ");
}

// The next well in a direction; gaps are passed over, and the rim is the end.
function neighbour({ row, column, nodes, size }, [down, right]) {
  for (let y = row + down, x = column + right; ; y += down, x += right) {
    if (y < 0 || x < 0 || y >= size[0] || x >= size[1]) return null;
    const node = nodes.get(`${y},${x}`);
    if (node) return node;
  }
}

function tellCell(node) {
  const { datum, tips } = cells.get(node);
  const box = node.getBoundingClientRect();
  fillTip(datum, tips);
  tip.hidden = false;
  placeTip(box.right - 8, box.bottom - 12);
}

addEventListener("focusin", (event) => {
  const cell = cells.get(event.target);
  if (!cell) return;
  for (const node of cell.nodes.values()) node.setAttribute("tabindex", node === event.target ? "0" : "-1");
  lastWell.set(cell.key, cell.datum.w);
  if (event.target.matches(":focus-visible")) tellCell(event.target);
});
addEventListener("focusout", (event) => cells.has(event.target) && (tip.hidden = true));
addEventListener("scroll", () => {
  const node = document.activeElement;
  if (cells.has(node) && node.matches(":focus-visible")) tellCell(node);
  else tip.hidden = true;
}, { passive: true });
addEventListener("keydown", (event) => {
  const cell = cells.get(event.target);
  if (!cell || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "Enter" || event.key === " ") openWell(cell.datum.w);
  else if (event.key in STEPS) neighbour(cell, STEPS[event.key])?.focus();
  else return;
  event.preventDefault();
});
