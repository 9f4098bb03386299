/* The charts, the gallery and the view of one case. Data: see page.py. */
"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const cases = data.cases;
const hasTruth = cases.some((c) => c.truth);
const byId = (id) => document.getElementById(id);
const errorOf = (c) => c.errors.translation_error;
const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
const percent = (x) => `${Math.round(100 * x)}%`;
const AXES = ["x", "y", "z", "scale"];
const ERRORS = ["translation_error", "across_image", "along_view", "labelled_error", "relative_scale_error"];

function element(tag, attributes = {}, ...children) {
  const svg = ["svg", "image", "circle", "g"].includes(tag);
  const node = svg ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

// -- pictures ---------------------------------------------------------------------------------

const circle = (mark, name) => element("circle", { cx: mark[0], cy: mark[1], r: Math.max(mark[2], 0.012), class: name });

/* A map over the whole, the more opaque the more the part attends there. */
function drawAttention({ square: [x, y, width], side, weights }) {
  const small = element("canvas", { width: side, height: side });
  const pixels = new ImageData(side, side);
  [...atob(weights)].forEach((letter, i) => pixels.data.set([106, 27, 154, 0.85 * letter.charCodeAt(0)], 4 * i));
  small.getContext("2d").putImageData(pixels, 0, 0);
  return element("image", { href: small.toDataURL(), x, y, width, height: width, class: "attention" });
}

/* The whole, dimmed; the part at its predicted place; rings at the predicted and the true places. */
function drawWhole(c, withHypotheses = false) {
  const svg = element("svg", { viewBox: "0 0 1 1", class: "whole", "aria-hidden": "true" });
  const heat = withHypotheses && c.attention && byId("attention").checked; // then without the part
  svg.append(element("image", { href: data.images[c.images[0]], width: 1, height: 1, opacity: c.mark || heat ? 0.4 : 1 }));
  if (heat) svg.append(drawAttention(c.attention), c.mark && c.hypotheses[0].mark ? circle(c.hypotheses[0].mark, "attending") : "");
  if (!c.mark) return svg;
  const [x, y, radius] = c.mark;
  const side = (4 * radius) / data.camera.image_scale; // of the part's image in that of the whole
  if (!heat) svg.append(element("image", { href: data.images[c.images[1]], x: x - side / 2, y: y - side / 2, width: side, height: side }));
  if (withHypotheses) for (const h of c.hypotheses) svg.append(h.mark ? circle(h.mark, "hypothesis") : "");
  for (const twin of c.twins || []) if (twin.mark) svg.append(circle(twin.mark, "twin"));
  svg.append(circle(c.mark, "predicted"));
  if (c.truth && c.truth.mark) svg.append(circle(c.truth.mark, "true"));
  return svg;
}

// -- gallery ----------------------------------------------------------------------------------

function makeCard(c, index) {
  const picture = element("span", { class: "picture" }, drawWhole(c));
  const marks = [c.mark, c.truth && c.truth.mark].filter(Boolean);
  const corner = marks.some(([x, y, r]) => x + r > 0.74 && y - r < 0.26) ? "thumb left" : "thumb";
  picture.append(element("img", { class: corner, src: data.images[c.images[1]], alt: "", loading: "lazy" }));
  const text = element("p", {}, element("b", {}, c.model), ` ${c.part}`, element("br"));
  if (c.truth) {
    const depth = c.errors.across_image < data.tolerance && errorOf(c) >= data.tolerance;
    const error = element("span", {}, `off by ${errorOf(c).toFixed(3)}${depth ? " in depth" : ""}`);
    if (errorOf(c) >= data.tolerance) error.className = "wrong";
    const twins = c.twins.length ? `, ${c.twins.length + 1} twins` : "";
    text.append(error, `, scale\u00a0${percent(c.errors.relative_scale_error)}${twins}`, element("br"));
  }
  text.append(`confidence ${c.confidence.toFixed(2)}`);
  const bar = element("i");
  bar.style.width = `${100 * c.confidence}%`;
  const button = element("button", { type: "button", class: "card" }, picture, text, element("span", { class: "meter" }, bar));
  button.addEventListener("click", () => openCase(c));
  const item = element("li", { "data-case": index }, button);
  return { c, item };
}

const ORDERS = {
  worst: (a, b) => errorOf(b) - errorOf(a),
  best: (a, b) => errorOf(a) - errorOf(b),
  surest: (a, b) => b.confidence - a.confidence,
  unsure: (a, b) => a.confidence - b.confidence,
  surewrong: (a, b) => (errorOf(b) >= data.tolerance) - (errorOf(a) >= data.tolerance) || b.confidence - a.confidence,
  name: () => 0, // the order of the data
};
const cards = cases.map(makeCard);
const form = byId("filters");
let shown = [];

function matches(c, f) {
  const number = (name, fallback) => (f[name] ? Number(f[name]) : fallback);
  const inside = (value, low, high) => value >= number(low, -Infinity) && value <= number(high, Infinity);
  return (
    (!f.kind || c.kind === f.kind) &&
    (!f.twins || (f.twins === "with") === c.twins.length > 0) &&
    `${c.model} ${c.part}`.toLowerCase().includes(f.name.trim().toLowerCase()) &&
    inside(c.confidence, "cmin", "cmax") &&
    (!hasTruth || inside(errorOf(c), "emin", "emax"))
  );
}

function updateGallery() {
  const f = Object.fromEntries(new FormData(form));
  const sorted = [...cards].sort((a, b) => ORDERS[f.sort](a.c, b.c));
  shown = sorted.filter(({ c }) => matches(c, f)).map(({ c }) => c);
  const visible = new Set(shown);
  for (const { c, item } of sorted) item.hidden = !visible.has(c);
  byId("gallery").replaceChildren(...sorted.map(({ item }) => item));
  byId("count").textContent = `${shown.length} of ${cases.length} parts`;
}

for (const kind of [...new Set(cases.map((c) => c.kind))].sort()) form.elements.kind.append(element("option", { value: kind }, kind));
form.addEventListener("input", updateGallery);
form.addEventListener("submit", (event) => event.preventDefault());
form.addEventListener("reset", () => setTimeout(() => { updateGallery(); drawCharts(); }));

// -- charts -----------------------------------------------------------------------------------

const quantity = (field, title, more = {}) => ({ field, type: "quantitative", title, ...more });
const errorScale = { type: "sqrt" };

function bars(values, horizontal) {
  const [group, value] = horizontal ? ["y", "x"] : ["x", "y"];
  const order = { field: "group", type: "nominal", title: null, sort: null };
  const tooltip = [{ field: "group" }, { field: "count", title: "parts" }, { field: "model", title: "partloc" }, { field: "constant", title: "constant answer" }];
  const layer = (mark, field) => ({ mark, encoding: { [value]: quantity(field, "translation error") } });
  return {
    data: { values },
    height: horizontal ? Math.max(120, 13 * values.length) : 190,
    encoding: { [group]: { ...order, axis: { labelLimit: 140, labelAngle: 0 } }, tooltip },
    layer: [
      layer({ type: "bar", color: color("predicted"), opacity: 0.9 }, "model"),
      layer({ type: "tick", color: color("text"), thickness: 2 }, "constant"),
    ],
  };
}

function chartSpecs() {
  const charts = data.charts;
  const points = cases.map((c, index) => ({ index, part: `${c.model} ${c.part}`, confidence: c.confidence, error: errorOf(c) }));
  return {
    scatter: {
      data: { values: points },
      height: 300,
      params: [{ name: "brush", select: { type: "interval", encodings: ["x", "y"] } }],
      mark: { type: "point", filled: true, size: 28, opacity: 0.65 },
      encoding: {
        x: quantity("confidence", "confidence", { scale: { domain: [0, 1] } }),
        y: quantity("error", "translation error", { scale: errorScale }),
        color: { condition: { param: "brush", value: color("predicted") }, value: color("constant") },
        tooltip: [{ field: "part" }, { field: "confidence" }, { field: "error" }],
      },
    },
    loss: charts.loss && {
      data: { values: charts.loss },
      height: 275,
      mark: { type: "line", point: true },
      encoding: {
        x: quantity("epoch", "epoch", { axis: { grid: false, labelExpr: "datum.value % 1 ? '' : datum.value" } }),
        y: quantity("loss", "loss", { scale: { zero: false } }),
        color: { field: "samples", title: null, scale: { domain: ["validation", "training"], range: [color("predicted"), color("true")] }, legend: { orient: "top", symbolType: "stroke" } },
        strokeDash: { field: "samples", title: null, scale: { domain: ["validation", "training"], range: [[1, 0], [6, 4]] } },
      },
    },
    kind: charts.kind && bars(charts.kind, true),
    scale: charts.scale && bars(charts.scale, false),
    visible: charts.visible && bars(charts.visible, false),
    twins: charts.twins && bars(charts.twins, true),
    reliability: charts.reliability && {
      height: 190,
      layer: [
        { data: { values: [{ x: 0, y: 0 }, { x: 1, y: 1 }] }, mark: { type: "line", color: color("constant"), strokeDash: [5, 4] }, encoding: { x: quantity("x"), y: quantity("y") } },
        { data: { values: charts.reliability }, mark: { type: "line", color: color("predicted"), point: false }, encoding: { x: quantity("confidence"), y: quantity("accuracy") } },
        {
          data: { values: charts.reliability },
          mark: { type: "point", filled: true, color: color("predicted"), opacity: 1 },
          encoding: {
            x: quantity("confidence", "confidence"),
            y: quantity("accuracy", `fraction with an error below ${data.tolerance}`),
            size: { field: "count", type: "quantitative", title: "parts", legend: null },
            tooltip: [{ field: "confidence" }, { field: "accuracy" }, { field: "count", title: "parts" }],
          },
        },
      ],
    },
    sources: charts.sources && charts.sources.length && {
      data: { values: charts.sources },
      height: 120,
      mark: { type: "bar", stroke: color("card"), strokeWidth: 1 },
      encoding: {
        y: { field: "measure", type: "nominal", title: null },
        x: quantity("share", "share", { axis: { format: ".0%" }, scale: { domain: [0, 1] } }),
        color: { field: "source", title: null, sort: null, legend: { orient: "top", columns: 3 }, scale: { domain: ["correct position", "wrong choice", "not proposed"], range: [color("true"), color("predicted"), color("constant")] } },
        order: { field: "order" },
        tooltip: [{ field: "source" }, { field: "measure" }, { field: "share", format: ".1%" }],
      },
      transform: [{ calculate: "indexof(['correct position','wrong choice','not proposed'], datum.source)", as: "order" }],
    },
  };
}

function drawCharts() {
  if (!hasTruth) return;
  const text = { labelColor: color("muted"), titleColor: color("muted"), gridColor: color("line"), domainColor: color("line"), tickColor: color("line"), titlePadding: 8 };
  const config = { background: null, axis: text, legend: text, view: { stroke: color("line") }, font: "system-ui, DejaVu Sans, sans-serif" };
  for (const [name, spec] of Object.entries(chartSpecs())) {
    const node = byId(`chart-${name}`);
    if (!spec || !node) continue;
    node.replaceChildren();
    const full = { description: node.parentNode.querySelector("h2").textContent, width: "container", autosize: { type: "fit-x", contains: "padding" }, config, ...spec };
    const view = new vega.View(vega.parse(vegaLite.compile(full).spec), { renderer: "svg", container: node, hover: true });
    if (name === "scatter") view.addSignalListener("brush", (_, brush) => applyBrush(brush));
    view.runAsync();
  }
}

function applyBrush(brush) {
  const set = (low, high, range) => {
    const round = (value, up) => String((up ? Math.ceil : Math.floor)(value * 1000) / 1000);
    form.elements[low].value = range ? round(Math.min(...range), false) : "";
    form.elements[high].value = range ? round(Math.max(...range), true) : "";
  };
  set("cmin", "cmax", brush.confidence);
  set("emin", "emax", brush.error);
  updateGallery();
}

// -- one case ---------------------------------------------------------------------------------

const dialog = byId("case");
let current = null;

function openCase(c) {
  current = c;
  byId("case-title").textContent = `${c.model} · ${c.part}`;
  byId("attention-label").hidden = !c.attention;
  byId("case-whole").replaceChildren(drawWhole(c, true));
  byId("case-part").replaceChildren(element("img", { src: data.images[c.images[1]], alt: "the part" }));
  fillTable(c);
  if (!dialog.open) dialog.showModal();
  show3d(c);
}

function fillTable(c) {
  const head = ["", ...AXES, "weight", "confidence"];
  const row = (name, pose, ...more) => element("tr", {}, ...[name, ...pose.map((v) => v.toFixed(3)), ...more].map((cell) => element("td", {}, cell)));
  const rows = [element("tr", {}, ...head.map((cell) => element("th", {}, cell)))];
  rows.push(row("predicted", c.pose, "", c.confidence.toFixed(2)));
  if (c.truth) rows.push(row("labelled", c.truth.pose));
  c.hypotheses.forEach((h, number) => {
    const line = row(`hypothesis ${number + 1}`, h.pose, percent(h.weight), h.confidence.toFixed(2));
    line.tabIndex = 0;
    const mark = (chosen) => () => byId("case-whole").querySelectorAll(".hypothesis").forEach((node, i) => node.classList.toggle("chosen", chosen && i === number));
    for (const event of ["mouseenter", "focus"]) line.addEventListener(event, mark(true));
    for (const event of ["mouseleave", "blur"]) line.addEventListener(event, mark(false));
    rows.push(line);
  });
  byId("poses").replaceChildren(...rows);
  const names = ERRORS.filter((name) => c.errors && name in c.errors);
  const errors = names.map((name) => [name.replaceAll("_", " "), c.errors[name].toFixed(3)]);
  errors.push(["confidence", c.confidence.toFixed(2)]);
  byId("errors").replaceChildren(...errors.map((cells) => element("tr", {}, ...cells.map((cell) => element("td", {}, cell)))));
}

function step(offset) {
  const next = shown[shown.indexOf(current) + offset];
  if (next) openCase(next);
}
byId("attention").addEventListener("change", () => byId("case-whole").replaceChildren(drawWhole(current, true)));
byId("close").addEventListener("click", () => dialog.close());
byId("previous").addEventListener("click", () => step(-1));
byId("next").addEventListener("click", () => step(1));
dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
dialog.addEventListener("keydown", (event) => {
  if (event.target === canvas || event.target.closest("tr")) return;
  if (event.key === "ArrowLeft") step(-1);
  if (event.key === "ArrowRight") step(1);
});

updateGallery();
drawCharts();
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { drawCharts(); if (dialog.open) show3d(current); });
