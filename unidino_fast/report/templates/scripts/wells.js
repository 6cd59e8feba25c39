// The panel of a well: its labels and pictures; and thumbnails elsewhere on the page.
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

const fieldsOf = (name) =>
  page.pictures && Object.hasOwn(page.pictures.wells, name) ? page.pictures.wells[name] : null;

function picture(name, field, channel, source) {
  const image = make("img", null, "pixels");
  image.alt = `Well ${name}, field ${field.site}, channel ${page.pictures.channels[channel]}`;
  image.src = `data:image/webp;base64,${source}`;
  return image;
}

// How bright all pictures of the page are shown, a choice wherever some are.
function brightness() {
  const label = make("label", "Brightness of the pictures");
  const gain = make("select", null, "gain");
  for (const times of [1, 2, 4, 8, 16]) {
    const option = make("option", times === 1 ? "as embedded" : `${times} times brighter`);
    option.value = times;
    gain.append(option);
  }
  const root = document.documentElement;
  gain.value = root.style.getPropertyValue("--gain") || "1";
  gain.addEventListener("change", () => {
    root.style.setProperty("--gain", gain.value);
    for (const other of document.querySelectorAll("select.gain")) other.value = gain.value;
  });
  label.append(gain);
  return label;
}

function pictures(name) {
  const held = page.pictures;
  const fields = fieldsOf(name);
  if (!fields) return [make("p", held ? "No picture of this well." : page.no_pictures, "note")];
  const nodes = [brightness()];
  for (const field of fields) {
    nodes.push(make("h3", `Field ${field.site}`));
    const shots = make("div", null, "shots");
    for (const [channel, source] of field.shots) {
      const cell = make("div");
      const box = make("div", null, "shot");
      const image = picture(name, field, channel, source);
      box.append(image, grid({ ...held.grid, height: field.height, width: field.width }));
      cell.append(box, make("div", held.channels[channel], "shot-name"));
      shots.append(cell);
    }
    nodes.push(shots);
  }
  nodes.push(make("p", held.note, "note"));
  return nodes;
}

// Rows of thumbnails, a well each: the first field's channels, a click for all there is.
function thumbnails(place) {
  const row = (name, role) => {
    const [field] = fieldsOf(name) || [];
    if (!field) return [];
    const button = make("button", null, "thumb");
    button.type = "button";
    button.dataset.open = name;
    button.setAttribute("aria-label", `Open well ${name}${role ? ` (${role})` : ""}`);
    const caption = make("span", name, "thumb-name");
    if (role) caption.append(make("span", ` ${role}`, "note"));
    const shots = make("span", null, "thumb-shots");
    for (const [channel, source] of field.shots) {
      const image = picture(name, field, channel, source);
      image.style.gridColumn = channel + 1; // a well may lack a channel
      shots.append(image);
    }
    button.append(caption, shots);
    return [button];
  };
  const members = place.dataset.wells.split(" ").filter(Boolean);
  const rows = [...row(place.dataset.control, "control"), ...members.flatMap((name) => row(name))];
  if (rows.length < 2) {
    place.replaceChildren(make("p", page.pictures ? "No pictures of these wells." : page.no_pictures, "note"));
    return;
  }
  const heads = make("div", null, "thumb-heads");
  for (const channel of page.pictures.channels) heads.append(make("span", channel));
  place.replaceChildren(heads, ...rows);
}

addEventListener("click", (event) => {
  const button = event.target instanceof Element && event.target.closest("[data-open]");
  if (button) openWell(button.dataset.open);
});
