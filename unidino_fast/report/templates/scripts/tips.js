// What the page holds, and what a tip says. All foreign text is set as text, never as HTML.
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

function placeTip(x, y) {
  const box = tip.getBoundingClientRect();
  const left = Math.min(x + 14, innerWidth - box.width - 8);
  const below = y + 16 + box.height < innerHeight;
  tip.style.left = `${Math.max(4, left)}px`;
  tip.style.top = `${below ? y + 16 : Math.max(4, y - box.height - 12)}px`;
}

const tooltip = (tips) => (handler, event, item, value) => {
  if (!value || !item || !item.datum) {
    tip.hidden = true;
    return;
  }
  fillTip(item.datum, tips);
  tip.hidden = false;
  placeTip(event.clientX, event.clientY);
};
