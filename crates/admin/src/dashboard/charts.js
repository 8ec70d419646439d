// Lines over time, as SVG. All charts of a page have the same times and the same cursor, by pointer and by keyboard.

import { h, svg } from "./dom.js";
import { clock } from "./words.js";

const [HEIGHT, LEFT, RIGHT, BOTTOM, TOP] = [176, 58, 8, 20, 10];

/** Distances of the lines across, in seconds. */
const MARKS = [15, 30, 60, 120, 300, 600, 900, 1800, 3600];

/** The times that are shown, and the one that is pointed at. */
export class Span {
  constructor(seconds) {
    this.seconds = seconds;
    this.at = undefined;
    this.charts = [];
  }

  point(time) {
    this.at = time;
    for (const chart of this.charts) chart.draw();
  }

  show(seconds) {
    this.seconds = seconds;
    this.point(undefined);
  }
}

/** Where the lines of an axis from 0 to `most` are: some four round numbers. */
export function ticks(most, { whole, base }) {
  const raw = most / 4;
  const power = base ? base ** Math.max(0, Math.floor(Math.log(raw) / Math.log(base))) : 1;
  const ten = 10 ** Math.floor(Math.log10(raw / power));
  let step = [1, 2, 5, 10].map((one) => one * ten).find((one) => one >= (raw / power) * 0.999) * power;
  if (whole) step = Math.max(1, Math.round(step));
  const all = [];
  for (let n = 0; n === 0 || (n - 1) * step < most * 0.999; n += 1) all.push(n * step);
  return all;
}

export class Chart {
  /** `series`: [[key, label], ...]; `unit`: one of `units`; `least`: below this a value is not known exactly. */
  constructor(span, title, series, unit, id) {
    this.span = span;
    this.title = title;
    this.series = series;
    this.unit = unit;
    this.points = [];
    this.step = 10;
    this.floor = 0;
    this.drawing = svg("svg", { role: "slider", tabindex: "0", "aria-label": `${title}, by time`, "aria-orientation": "horizontal" });
    this.legend = h("div", { class: "legend" });
    this.element = h("section", { class: "panel chart half", id: `chart-${id}` },
      h("div", { class: "head" }, h("h2", {}, title), this.legend), this.drawing);
    this.drawing.addEventListener("pointermove", (event) => this.pointed(event));
    this.drawing.addEventListener("pointerdown", (event) => this.pointed(event));
    this.drawing.addEventListener("pointerleave", () => span.point(undefined));
    this.drawing.addEventListener("keydown", (event) => this.key(event));
    this.drawing.addEventListener("blur", () => span.point(undefined));
    new ResizeObserver(() => this.draw()).observe(this.drawing);
    span.charts.push(this);
  }

  update({ points, step, floor }) {
    Object.assign(this, { points, step, floor });
    this.draw();
  }

  /** The first and the last time that is shown: the right end is now, or the last that is known. */
  range() {
    const end = this.points.at(-1)?.time ?? Date.now() / 1000;
    return [end - this.span.seconds, end];
  }

  shown() {
    const [start] = this.range();
    return this.points.filter((point) => point.time >= start);
  }

  pointed(event) {
    const box = this.drawing.getBoundingClientRect();
    const share = (event.clientX - box.left - LEFT) / Math.max(box.width - LEFT - RIGHT, 1);
    const [start, end] = this.range();
    this.span.point(start + Math.min(Math.max(share, 0), 1) * (end - start));
  }

  key(event) {
    const all = this.shown();
    if (all.length === 0) return;
    const now = this.nearest();
    const index = now ? all.indexOf(now) : all.length;
    const to = { ArrowLeft: index - 1, ArrowDown: index - 1, ArrowRight: index + 1, ArrowUp: index + 1, PageUp: index - 6, PageDown: index + 6, Home: 0, End: all.length - 1 }[event.key];
    if (event.key === "Escape") this.span.point(undefined);
    if (to === undefined) return;
    event.preventDefault();
    this.span.point(all[Math.min(Math.max(to, 0), all.length - 1)].time);
  }

  /** The point that is pointed at; none in a gap. */
  nearest() {
    const at = this.span.at;
    if (at === undefined) return undefined;
    let best;
    for (const point of this.shown()) {
      if (best === undefined || Math.abs(point.time - at) < Math.abs(best.time - at)) best = point;
    }
    return best && Math.abs(best.time - at) <= this.step * 1.5 ? best : undefined;
  }

  value(point, key) {
    const value = point?.[key];
    if (value === undefined || value === null) return "–";
    return (this.floor > 0 && value <= this.floor * 1.0001 ? "< " : "") + this.unit.show(value);
  }

  draw() {
    const width = this.drawing.clientWidth || 560;
    this.drawing.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
    const points = this.shown();
    const [start, end] = this.range();
    const values = points.flatMap((point) => this.series.map(([key]) => point[key] ?? 0));
    const lines = ticks(Math.max(this.unit.least, ...values), this.unit);
    const top = lines.at(-1);
    const x = (time) => LEFT + (width - LEFT - RIGHT) * ((time - start) / (end - start));
    const y = (value) => TOP + (HEIGHT - TOP - BOTTOM) * (1 - value / top);
    const parts = [...this.gaps(points, start, end, x), ...this.axes(lines, start, end, width, x, y)];
    this.series.forEach(([key], number) => parts.push(svg("path", { class: `s${number + 1}`, d: this.line(points, key, x, y) })));
    const at = this.nearest();
    if (this.span.at !== undefined) {
      const place = x(at?.time ?? this.span.at);
      parts.push(svg("line", { class: "cursor", x1: place, x2: place, y1: TOP, y2: HEIGHT - BOTTOM }));
    }
    this.drawing.replaceChildren(...parts);
    this.tell(points, at);
  }

  /** What is shown in words: under the pointer, else the last. */
  tell(points, at) {
    const last = points.at(-1);
    const shown = this.span.at === undefined ? last : at;
    const time = this.span.at === undefined ? "" : clock(at?.time ?? this.span.at);
    this.legend.replaceChildren(
      h("time", {}, time),
      ...this.series.map(([key, label], number) => h("span", { class: `s${number + 1}` }, `${label} `, h("b", {}, this.value(shown, key)))));
    const text = shown ? `${clock(shown.time)}: ${this.series.map(([key, label]) => `${label} ${this.value(shown, key)}`).join(", ")}` : "no values";
    for (const [name, value] of [["aria-valuemin", 0], ["aria-valuemax", Math.max(points.length - 1, 0)], ["aria-valuenow", Math.max(points.indexOf(shown), 0)], ["aria-valuetext", text]]) {
      this.drawing.setAttribute(name, value);
    }
  }

  line(points, key, x, y) {
    let path = "";
    let before;
    points.forEach((point, index) => {
      const value = point[key];
      if (value === undefined || value === null) { before = undefined; return; }
      const joined = before !== undefined && !this.isGap(before, point);
      path += `${joined ? "L" : "M"}${x(point.time).toFixed(1)} ${y(value).toFixed(1)}`;
      const next = points[index + 1];
      // A point alone is drawn as a short stroke.
      if (!joined && (next?.[key] === undefined || next[key] === null || this.isGap(point, next))) path += "h2";
      before = point;
    });
    return path;
  }

  isGap(before, after) {
    return after.time - before.time > this.step * 2.5;
  }

  /** The times of which nothing is known. */
  gaps(points, start, end, x) {
    const ends = [{ time: start - this.step }, ...points, { time: end }];
    return ends.slice(1).flatMap((point, index) => {
      const before = ends[index];
      if (!this.isGap(before, point)) return [];
      const from = Math.max(x(before.time), LEFT);
      const gap = svg("rect", { class: "gap", x: from, y: TOP, width: Math.max(x(point.time) - from, 0), height: HEIGHT - TOP - BOTTOM });
      gap.append(svg("title", {}, "nothing is known of this time"));
      return [gap];
    });
  }

  axes(lines, start, end, width, x, y) {
    const parts = [];
    const label = (text, place) => {
      const element = svg("text", { class: "axis", ...place });
      element.textContent = text;
      parts.push(element);
    };
    for (const value of lines) {
      parts.push(svg("line", { class: "rule", x1: LEFT, x2: width - RIGHT, y1: y(value), y2: y(value) }));
      label(this.unit.tick(value), { x: LEFT - 6, y: y(value) + 3.5, "text-anchor": "end" });
    }
    const room = Math.max(1, Math.floor((width - LEFT) / 80));
    const step = MARKS.find((one) => (end - start) / one <= room) ?? MARKS.at(-1);
    const zone = new Date(end * 1000).getTimezoneOffset() * 60;
    for (let time = Math.ceil((start - zone) / step) * step + zone; time <= end; time += step) {
      parts.push(svg("line", { class: "rule", x1: x(time), x2: x(time), y1: HEIGHT - BOTTOM, y2: HEIGHT - BOTTOM + 4 }));
      const edge = x(time) > width - 24 ? "end" : x(time) < LEFT + 12 ? "start" : "middle";
      label(clock(time, step < 60), { x: x(time), y: HEIGHT - 4, "text-anchor": edge });
    }
    return parts;
  }
}
