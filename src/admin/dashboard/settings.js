// Listeners, and the configuration file with each error at its line.

import { call, get, name } from "./api.js";
import { confirmed, h, toast } from "./dom.js";

function listeners() {
  const rows = h("tbody");
  async function set(one, enabled) {
    const label = `${one.kind}:${one.name}`;
    if (!enabled && !await confirmed(`Switch ${label} off?`, `Nothing that arrives at ${one.bind} is served until it is switched on again.`, "Switch off")) return;
    try {
      await call("PUT", `listeners/${name(one.kind)}/${name(one.name)}/enable/${enabled}`);
      toast(`${label} is ${enabled ? "on" : "off"}.`);
    } catch (error) {
      toast(error.message);
    }
  }
  async function update() {
    const all = await get("listeners");
    rows.replaceChildren(...all.map((one) => {
      const toggle = h("input", {
        type: "checkbox", class: "switch", role: "switch", checked: one.enabled, "aria-label": `${one.kind}:${one.name} serves`,
        onchange: async () => { await set(one, toggle.checked); await update(); },
      });
      return h("tr", {},
        h("td", {}, one.name), h("td", {}, h("span", { class: "tag" }, one.kind.toUpperCase())), h("td", { class: "mono" }, one.bind),
        h("td", { class: "num" }, toggle));
    }));
  }
  return {
    element: h("section", { class: "panel" }, h("div", { class: "head" }, h("h1", {}, "Listeners"),
      h("span", { class: "soft" }, "A switch holds until the process is started again.")),
    h("div", { class: "scroll" }, h("table", {}, h("thead", {}, h("tr", {}, h("th", {}, "Name"), h("th", {}, "Kind"), h("th", {}, "Address"), h("th", { class: "num" }, "Serves"))), rows))),
    update,
  };
}

function configuration() {
  const lines = h("div", { class: "lines", "aria-hidden": "true" });
  const text = h("textarea", { spellcheck: "false", autocapitalize: "off", "aria-label": "Configuration file" });
  const problems = h("ul", { class: "problems" });
  const said = h("div", { role: "status" });
  const file = h("span", { class: "soft mono wrap" });
  const save = h("button", { class: "primary", disabled: true }, "Check and save");
  const revert = h("button", { disabled: true, onclick: () => load() }, "Revert");
  const reload = h("button", { onclick: () => again() }, "Reload files");
  let saved = "";
  let tag;
  let wrong = new Set();

  function number() {
    const total = text.value.split("\n").length;
    lines.replaceChildren(...Array.from({ length: total }, (_, index) => h("div", { class: wrong.has(index + 1) ? "wrong" : undefined }, String(index + 1))));
    lines.scrollTop = text.scrollTop;
    save.disabled = revert.disabled = text.value === saved;
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
    if (report.restart_required.length > 0) notes.push(h("div", { class: "note warn-note" }, "In force after a restart of the process: ", h("code", {}, report.restart_required.join(", "))));
    for (const warning of report.warnings) notes.push(h("div", { class: "note warn-note" }, warning.message));
    said.replaceChildren(...notes);
  }

  async function load() {
    try {
      const got = await call("GET", "config", { accept: "application/toml" });
      saved = text.value = got.text;
      tag = got.tag;
      said.replaceChildren();
      show([]);
      element.querySelector(".body").hidden = false;
    } catch (error) {
      element.querySelector(".body").hidden = true;
      said.replaceChildren(h("p", { class: "empty" }, error.message));
    }
  }

  async function again() {
    try {
      tell(await call("POST", "reload"));
      toast("Reloaded.");
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
      toast("Saved and in force.");
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
    h("div", { class: "head" }, h("h1", {}, "Configuration"), file, h("span", { class: "grow" }), h("div", { class: "row" }, reload, revert, save)),
    h("div", { class: "body" }, h("div", { class: "editor" }, lines, text), problems), said);
  return {
    element,
    async update() {
      const status = await get("status");
      file.textContent = status.config_file ?? "";
      if (text.value === saved) await load();
    },
  };
}

export function settings() {
  const parts = [listeners(), configuration()];
  return {
    element: h("div", { class: "grid" }, parts.map((part) => part.element)),
    every: 0,
    update: () => Promise.all(parts.map((part) => part.update())),
  };
}
