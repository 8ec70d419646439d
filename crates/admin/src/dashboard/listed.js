// A list of names with a filter, pages, and a form to add one above it.

import { get } from "./api.js";
import { h, refill } from "./dom.js";

const PAGE = 50;

/**
 * `load`: the path of the list; `nameOf`: what is filtered by; `headings`: those of `cells`; `form`: makes what adds one, and is
 * handed what reads the list again.
 */
export function listed({ title, none, load, nameOf, cells, headings, form, more }) {
  const rows = h("tbody");
  const note = h("p", { class: "empty" });
  const total = h("span", { class: "soft" });
  const filter = h("input", { type: "search", placeholder: "Filter…", "aria-label": `Filter ${title}`, oninput: () => { page = 0; show(); } });
  const back = h("button", { class: "small", onclick: () => { page -= 1; show(); } }, "Previous");
  const on = h("button", { class: "small", onclick: () => { page += 1; show(); } }, "Next");
  const turning = h("div", { class: "row" }, h("span", { class: "grow" }), back, on);
  let all = [];
  let page = 0;

  function show() {
    const part = filter.value.toLowerCase();
    const fitting = all.filter((one) => nameOf(one).toLowerCase().includes(part));
    page = Math.max(0, Math.min(page, Math.ceil(fitting.length / PAGE) - 1));
    refill(rows, fitting.slice(page * PAGE, (page + 1) * PAGE).map((one) => h("tr", {}, cells(one, update))));
    total.textContent = all.length === 0 ? "" : fitting.length === all.length ? String(all.length) : `${fitting.length} of ${all.length}`;
    note.textContent = all.length === 0 ? none : fitting.length === 0 ? "Nothing fits." : "";
    back.disabled = page === 0;
    on.disabled = (page + 1) * PAGE >= fitting.length;
    turning.hidden = fitting.length <= PAGE;
    table.hidden = all.length === 0;
    filter.hidden = all.length <= 10;
  }

  async function update() {
    try {
      all = await get(load);
      adding.hidden = false;
      show();
    } catch (error) {
      rows.replaceChildren();
      table.hidden = adding.hidden = filter.hidden = turning.hidden = true;
      total.textContent = "";
      note.textContent = error.message;
    }
  }

  const table = h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": title }, h("table", {}, h("thead", {}, h("tr", {}, headings.map((word) => h("th", { scope: "col" }, word)),
    h("th", { scope: "col" }, h("span", { class: "unseen" }, "Actions")))), rows));
  const adding = form(() => update());
  return {
    element: h("section", { class: "panel half" }, h("div", { class: "head" }, h("h2", {}, title), total, h("span", { class: "grow" }), filter), adding, more, table, note, turning),
    update,
  };
}

/** A form that opens on demand. */
export function opened(label, form, after) {
  return h("details", { class: "adding" }, h("summary", {}, label), h("fieldset", { class: "bare", changes: true }, form), after);
}
