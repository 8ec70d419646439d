// The settings as fields, and the configuration file with each error at its line.

import { call, get } from "./api.js";
import { h, toast } from "./dom.js";
import { form, outcome, pending } from "./form.js";
import { readWaiting, state } from "./state.js";

function gateway(changed) {
  const said = h("div", { role: "status" });
  const fields = form(changed);
  return {
    element: h("section", { class: "panel" }, h("div", { class: "head" }, h("h2", {}, "Keys by table")), fields.element, said),
    open: fields.open,
    async update() {
      try {
        await fields.load();
        fields.element.hidden = false;
        said.replaceChildren();
      } catch (error) {
        fields.element.hidden = true;
        said.replaceChildren(h("p", { class: "empty" }, error.message));
      }
    },
  };
}

function configuration(changed) {
  const lines = h("div", { class: "lines", "aria-hidden": "true" });
  const text = h("textarea", { spellcheck: "false", autocapitalize: "off", "aria-label": "Configuration file" });
  const problems = h("ul", { class: "problems" });
  // What the last change came to stays there until the next one; that the file cannot be read, until it can.
  const said = h("div", { role: "status" });
  const missing = h("div", { role: "status" });
  const file = h("span", { class: "soft mono wrap" });
  const save = h("button", { class: "primary", disabled: true }, "Check and save");
  const revert = h("button", { disabled: true, onclick: () => load() }, "Revert");
  const reload = h("button", { changes: true, onclick: () => again() }, "Reload files");
  const waits = pending();
  let saved = "";
  let tag;
  let wrong = new Set();

  function number() {
    const total = text.value.split("\n").length;
    lines.replaceChildren(...Array.from({ length: total }, (_, index) => h("div", { class: wrong.has(index + 1) ? "wrong" : undefined }, String(index + 1))));
    lines.scrollTop = text.scrollTop;
    save.disabled = revert.disabled = !state.mayChange || text.value === saved;
  }

  function goTo(problem) {
    const before = text.value.split("\n").slice(0, problem.line - 1);
    const start = before.reduce((total, line) => total + line.length + 1, 0) + (problem.column ?? 1) - 1;
    text.focus();
    text.setSelectionRange(start, start + (problem.width ?? 1));
    text.scrollTop = Math.max(0, (problem.line - 6) * parseFloat(getComputedStyle(text).lineHeight));
  }

  function show(found) {
    wrong = new Set(found.map((problem) => problem.line).filter(Boolean));
    problems.replaceChildren(...found.map((problem) => h("li", {},
      h("button", { type: "button", onclick: () => problem.line && goTo(problem) },
        problem.line ? h("b", {}, `Line ${problem.line}, column ${problem.column}: `) : "", problem.message))));
    number();
  }

  function tell(report) {
    const notes = [];
    for (const warning of report.warnings) notes.push(h("div", { class: "note warn-note" }, warning.message));
    said.replaceChildren(...notes);
  }

  async function load() {
    try {
      const got = await call("GET", "config", { accept: "application/toml" });
      saved = text.value = got.text;
      tag = got.tag;
      missing.replaceChildren();
      show([]);
      element.querySelector(".body").hidden = false;
    } catch (error) {
      element.querySelector(".body").hidden = true;
      missing.replaceChildren(h("p", { class: "empty" }, error.message));
    }
  }

  async function again() {
    try {
      const report = await call("POST", "reload");
      tell(report);
      changed(undefined);
      toast(report.restart_required.length > 0 ? `Reloaded; takes effect after a restart: ${report.restart_required.join(", ")}` : "Reloaded.");
      if (text.value === saved) await load();
    } catch (error) {
      said.replaceChildren(h("div", { class: "note bad-note" }, error.message));
    }
  }

  save.addEventListener("click", async () => {
    save.disabled = true;
    try {
      const report = await call("PUT", "config", { toml: text.value, match: tag });
      await load();
      tell(report);
      changed(undefined);
      toast(outcome(report));
    } catch (error) {
      if (error.problems.length > 0 && error.code === "invalid_config") {
        show(error.problems);
        if (error.problems[0].line) goTo(error.problems[0]);
        said.replaceChildren();
      } else {
        said.replaceChildren(h("div", { class: "note bad-note" }, error.message));
      }
      number();
    }
  });
  text.addEventListener("input", number);
  text.addEventListener("scroll", () => { lines.scrollTop = text.scrollTop; });
  const element = h("section", { class: "panel" },
    h("div", { class: "head" }, h("h2", {}, "Configuration file"), file, h("span", { class: "grow" }), reload),
    said, missing,
    h("details", { class: "body" }, h("summary", {}, "Advanced: the file as text"),
      h("div", { class: "editor" }, lines, text), problems, h("div", { class: "row actions" }, h("div", { class: "grow" }, waits.element), revert, save)));
  text.readOnly = !state.mayChange;
  return {
    element,
    tell,
    open() {
      element.querySelector("details").open = true;
      element.scrollIntoView();
    },
    async update() {
      const status = await get("status");
      file.textContent = status.config_file ?? "";
      reload.hidden = !status.config_file;
      await readWaiting();
      waits.show();
      if (text.value === saved) await load();
    },
  };
}

export function settings(section) {
  const parts = [];
  // What one part changed the others show.
  const changed = (report) => {
    if (report) parts[1].tell(report);
    for (const part of parts) part.update();
  };
  parts.push(gateway(changed), configuration(changed));
  return {
    element: h("div", {}, h("div", { class: "head" }, h("h1", {}, "Settings")), h("div", { class: "grid" }, parts.map((part) => part.element))),
    every: 0,
    update: () => Promise.all(parts.map((part) => part.update())),
    shown() {
      if (section === "file") parts[1].open();
      else if (section) parts[0].open(section);
    },
  };
}
