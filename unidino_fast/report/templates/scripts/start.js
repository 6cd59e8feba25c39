// Ties it to the page, and draws.
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
for (const place of document.querySelectorAll(".thumbs")) thumbnails(place);
for (const place of document.querySelectorAll("[data-brightness]")) if (page.pictures) place.append(brightness());
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
// On paper charts that fill their place are as wide as the page, so that their text stays legible.
const PAPER = 680; // CSS pixels of A4 between margins
const refit = (width) => {
  for (const [key, { view }] of views) {
    if (!page.charts[key].steps) view.width(width(key)).run();
  }
};
addEventListener("beforeprint", () => refit(() => PAPER));
addEventListener("afterprint", () => refit((key) => document.getElementById(`chart-${key}`).clientWidth));
Promise.all(Object.keys(page.charts).map(draw)).then(() => {
  document.documentElement.dataset.ready = "yes";
});
