"use strict";
const rows = JSON.parse(document.getElementById("data").textContent);
const table = document.getElementById("board");
const body = table.tBodies[0];
const lines = [...body.rows];
const heads = [...table.tHead.rows[0].cells];
const selects = [...document.querySelectorAll("#filters select")];
const search = document.getElementById("search");
const percent = (value) => (value === null ? "–" : (100 * value).toFixed(1));
const shown = (value) => (value === null ? "–" : value === "inf" ? "unbounded" :
  Number(value.toPrecision(3)).toString());

function element(name, text, attributes = {}) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

function drawn(name, attributes, text) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

/* Accuracy under each attack, the worst on top: a dot, and its interval as a line. */
function chart(row, width) {
  const narrow = width < 560, left = narrow ? 8 : 260, step = narrow ? 34 : 20, top = 22;
  const height = top + step * row.points.length + 6, right = width - 52;
  const x = (value) => left + (right - left) * value;
  const svg = drawn("svg", { viewBox: `0 0 ${width} ${height}`, width, height, role: "img" });
  const worst = row.points[0];
  svg.setAttribute("aria-label", `Accuracy of ${row.defence} under ${row.points.length} attacks; ` +
    `the lowest is ${percent(worst.mean)} per cent, under ${worst.attack}.`);
  for (const tick of [0, 0.25, 0.5, 0.75, 1]) {
    svg.append(drawn("line", { x1: x(tick), x2: x(tick), y1: top - 6, y2: height }));
    svg.append(drawn("text", { x: x(tick), y: 11, "text-anchor": "middle", class: "soft" },
      String(100 * tick)));
  }
  if (row.without !== null)
    svg.append(drawn("line",
      { x1: x(row.without), x2: x(row.without), y1: top - 6, y2: height, class: "quiet" }));
  row.points.forEach((point, i) => {
    const y = top + step * i + (narrow ? 22 : 10);
    const name = point.attack.length > 38 ? point.attack.slice(0, 36) + "…" : point.attack;
    svg.append(narrow ? drawn("text", { x: left, y: y - 9 }, name)
      : drawn("text", { x: left - 12, y: y + 4, "text-anchor": "end" }, name));
    if (point.low !== null)
      svg.append(drawn("line",
        { x1: x(point.low), x2: x(point.high), y1: y, y2: y, class: "interval" }));
    svg.append(drawn("circle",
      { cx: x(point.mean), cy: y, r: 4, class: point.short ? "short" : "whole" }));
    svg.append(drawn("text", { x: width - 4, y: y + 4, "text-anchor": "end" }, percent(point.mean)));
  });
  return svg;
}

function details(row) {
  const line = element("tr", undefined, { class: "details" });
  const cell = element("td", undefined, { colspan: heads.length });
  const list = element("dl");
  const interval = row.low === null ? "" : ` (${percent(row.low)} to ${percent(row.high)})`;
  const facts = {
    "Worst": `${percent(row.worst)}${interval}, under ${row.attack} (${row.family})`,
    "Without attackers": percent(row.without), "Gap": percent(row.gap),
    "Scene": row.scene, "n": row.n, "f": row.f, "Momentum": row.momentum, "Steps": row.steps,
    "Seeds": row.seeds, "Mixing": row.mixing, "κ": shown(row.kappa), "Damage": shown(row.damage),
    "ms": shown(row.ms),
    "Attack success": row.attack_success === null ? "–" : percent(row.attack_success),
    "Name": row.rule, "Version": row.version || "–",
  };
  for (const [name, value] of Object.entries(facts)) {
    const pair = element("div");
    pair.append(element("dt", name), element("dd", String(value)));
    list.append(pair);
  }
  const figure = element("figure");
  figure.append(element("figcaption",
    "Accuracy in per cent under each attack; the dashed line is without attackers. Lines are " +
    "intervals; hollow dots are of the few steps, with one seed, in which attacks are thinned."));
  const room = document.querySelector(".scroll").clientWidth - 32;
  figure.append(chart(row, Math.max(260, Math.min(room, 736))));
  const link = element("a", "Permanent address of this row", { href: `#${row.id}` });
  const last = element("p");
  last.append(link);
  cell.append(list, figure, last);
  line.append(cell);
  return line;
}

function open(line, wanted) {
  const button = line.querySelector("button.open");
  const after = line.nextElementSibling;
  const there = after !== null && after.classList.contains("details");
  if (wanted && !there) line.after(details(rows[line.dataset.place]));
  if (!wanted && there) after.remove();
  button.setAttribute("aria-expanded", String(wanted));
}

function value(row, name) {
  const of = row[name];
  return of === "inf" ? Infinity : of;
}

/* Rows without a number come last in both orders; equal ones keep the order of the page. */
function sort(name, down) {
  const compare = (a, b) => {
    const [x, y] = [value(rows[a.dataset.place], name), value(rows[b.dataset.place], name)];
    if (x === null || y === null) return (x === null) - (y === null);
    const order = typeof x === "string" && typeof y === "string" ? x.localeCompare(y) : x - y;
    return (down ? -order : order) || a.dataset.place - b.dataset.place;
  };
  const opened = lines.filter((line) => line.querySelector("[aria-expanded=true]"));
  opened.forEach((line) => open(line, false));
  lines.sort(compare);
  body.append(...lines);
  opened.forEach((line) => open(line, !line.hidden));
}

function visible() {
  return lines.filter((line) => !line.hidden).map((line) => rows[line.dataset.place]);
}

function filter() {
  const text = search.value.toLowerCase();
  for (const line of lines) {
    const row = rows[line.dataset.place];
    const wanted = row.defence.toLowerCase().includes(text) &&
      selects.every((s) => s.value === "" || s.value === String(row[s.dataset.name]) ||
        Number(s.value) === row[s.dataset.name]);
    if (!wanted) open(line, false);
    line.hidden = !wanted;
  }
  document.getElementById("count").textContent = `${visible().length} of ${rows.length} rows`;
}

function csv() {
  const names = Object.keys(rows[0]).filter((name) => !["points", "id", "scene"].includes(name));
  const quoted = (cell) => (cell === null ? "" : /[",\n]/.test(cell)
    ? `"${String(cell).replaceAll('"', '""')}"` : String(cell));
  const out = [names, ...visible().map((row) => names.map((name) => row[name]))];
  return out.map((line) => line.map(quoted).join(",")).join("\n") + "\n";
}

heads.forEach((head) => head.querySelector("button").addEventListener("click", () => {
  const down = head.getAttribute("aria-sort") === "ascending";
  heads.forEach((other) => other.setAttribute("aria-sort", "none"));
  head.setAttribute("aria-sort", down ? "descending" : "ascending");
  sort(head.dataset.name, down);
}));
body.addEventListener("click", (event) => {
  const button = event.target.closest("button.open");
  if (button) open(button.closest("tr"), button.getAttribute("aria-expanded") === "false");
});
search.addEventListener("input", filter);
selects.forEach((select) => select.addEventListener("change", filter));
document.getElementById("filters").addEventListener("submit", (event) => event.preventDefault());
document.getElementById("save").addEventListener("click", () => {
  const address = URL.createObjectURL(new Blob([csv()], { type: "text/csv" }));
  element("a", "", { href: address, download: "leaderboard-rows.csv" }).click();
  URL.revokeObjectURL(address);
});

/* Ranks are within one scene, so the page starts with the first; an address shows its own row. */
function start() {
  const line = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  const row = line && lines.includes(line) ? rows[line.dataset.place] : rows[0];
  for (const select of selects)
    if (["scene", "f", "momentum"].includes(select.dataset.name)) {
      const chosen = [...select.options].find((o) => o.value === String(row[select.dataset.name]) ||
        (o.value !== "" && Number(o.value) === row[select.dataset.name]));
      if (chosen) select.value = chosen.value;
    }
  filter();
  if (line && lines.includes(line)) {
    open(line, true);
    line.scrollIntoView();
  }
}
window.addEventListener("hashchange", start);
start();
