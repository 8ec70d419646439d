// Lines over time, as SVG. One chart is one element that is drawn again when there are new points.

import { h, svg } from "./dom.js";

const [WIDTH, HEIGHT, LEFT, BOTTOM, TOP] = [560, 168, 46, 18, 8];

/** A round number at or above `value`. */
function ceiling(value) {
  if (value <= 0) return 1;
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 2.5, 5, 10].map((step) => step * power).find((step) => step >= value * 0.999);
}

export class Chart {
  /** `series`: [[key, label], ...]; `show` makes words of a value; `least` is the lowest top of the scale. */
  constructor(title, series, show, least) {
    this.series = series;
    this.show = show;
    this.least = least;
    this.points = [];
    this.at = undefined;
    this.drawing = svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img", "aria-label": title });
    this.legend = h("div", { class: "legend" });
    this.element = h("section", { class: "panel chart half" },
      h("div", { class: "head" }, h("h2", {}, title), this.legend), this.drawing);
    this.drawing.addEventListener("pointermove", (event) => this.point(event));
    this.drawing.addEventListener("pointerleave", () => { this.at = undefined; this.draw(); });
    new ResizeObserver(() => this.draw()).observe(this.drawing);
  }

  update(points) {
    this.points = points;
    this.draw();
  }

  point(event) {
    const box = this.drawing.getBoundingClientRect();
    const x = event.clientX - box.left;
    const share = (x - LEFT) / Math.max(box.width - LEFT, 1);
    this.at = Math.round(Math.min(Math.max(share, 0), 1) * (this.points.length - 1));
    this.draw();
  }

  draw() {
    const width = this.drawing.clientWidth || WIDTH;
    this.drawing.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
    const { points, series } = this;
    const values = points.flatMap((point) => series.map(([key]) => point[key] ?? 0));
    const top = ceiling(Math.max(this.least, ...values));
    const y = (value) => TOP + (HEIGHT - TOP - BOTTOM) * (1 - value / top);
    const x = (index) => LEFT + (width - LEFT - 2) * (points.length < 2 ? 1 : index / (points.length - 1));
    const parts = [];
    for (const share of [0, 0.5, 1]) {
      const at = y(top * share);
      parts.push(svg("line", { class: "rule", x1: LEFT, x2: width, y1: at, y2: at }));
      const label = svg("text", { class: "axis", x: LEFT - 6, y: at + 3.5, "text-anchor": "end" });
      label.textContent = this.show(top * share);
      parts.push(label);
    }
    if (points.length > 1) {
      for (const [index, anchor] of [[0, "start"], [points.length - 1, "end"]]) {
        const label = svg("text", { class: "axis", x: x(index), y: HEIGHT - 4, "text-anchor": anchor });
        label.textContent = new Date(points[index].time * 1000).toLocaleTimeString([], { hour12: false });
        parts.push(label);
      }
    }
    series.forEach(([key], number) => {
      let path = "";
      let open = false;
      points.forEach((point, index) => {
        const value = point[key];
        if (value === undefined) { open = false; return; }
        path += `${open ? "L" : "M"}${x(index).toFixed(1)} ${y(value).toFixed(1)}`;
        // A point alone is drawn as a short stroke.
        if (!open && points[index + 1]?.[key] === undefined) path += "h2";
        open = true;
      });
      parts.push(svg("path", { class: `s${number + 1}`, d: path }));
    });
    if (this.at !== undefined && points[this.at]) {
      parts.push(svg("line", { class: "cursor", x1: x(this.at), x2: x(this.at), y1: TOP, y2: HEIGHT - BOTTOM }));
    }
    this.drawing.replaceChildren(...parts);
    const shown = points[this.at ?? points.length - 1];
    this.legend.replaceChildren(
      ...series.map(([key, label], number) =>
        h("span", { class: `s${number + 1}` }, `${label} `, h("b", {}, shown?.[key] === undefined ? "–" : this.show(shown[key])))),
      this.at !== undefined && shown ? new Date(shown.time * 1000).toLocaleTimeString([], { hour12: false }) : "");
  }
}
