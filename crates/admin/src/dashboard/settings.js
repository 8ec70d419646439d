// Listeners, the settings as fields, and the configuration file with each error at its line.

import { call, get, name } from "./api.js";
import { confirmed, h, toast } from "./dom.js";
import { form, place, setting } from "./form.js";

function listeners(changed) {
  const rows = h("tbody");
  async function act(work, done) {
    try {
      const report = await work();
      toast(done);
      changed(report);
    } catch (error) {
      toast(error.message);
    }
  }
  async function set(one, enabled) {
    const label = `${one.kind}:${one.name}`;
    if (!enabled && !await confirmed(`Switch ${label} off?`, `Nothing that arrives at ${one.bind} is served until it is switched on again.`, "Switch off")) return;
    await act(() => call("PUT", `listeners/${name(one.kind)}/${name(one.name)}/enable/${enabled}`), `${label} is ${enabled ? "on" : "off"}.`);
  }
  async function remove(one) {
    const label = `${one.kind}:${one.name}`;
    if (!await confirmed(`Remove ${label}?`, `Its table leaves the configuration file, its sockets at ${one.bind} are closed, and what is connected through it ends.`, "Remove")) return;
    await act(() => call("DELETE", `listeners/${name(one.kind)}/${name(one.name)}`), `${label} is gone.`);
  }
  async function update() {
    const all = await get("listeners");
    rows.replaceChildren(...all.map((one) => {
      const label = `${one.kind}:${one.name}`;
      const toggle = h("input", {
        type: "checkbox", class: "switch", role: "switch", checked: one.enabled, "aria-label": `${label} serves`,
        onchange: async () => { await set(one, toggle.checked); await update(); },
      });
      return h("tr", {},
        h("td", {}, one.name), h("td", {}, h("span", { class: "tag" }, one.kind.toUpperCase())), h("td", { class: "mono wrap" }, one.bind),
        h("td", { class: "num" }, toggle),
        h("td", { class: "num" }, h("button", { class: "small danger", "aria-label": `Remove ${label}`, onclick: async () => { await remove(one); await update(); } }, "Remove")));
    }));
  }
  return {
    element: h("section", { class: "panel" }, h("div", { class: "head" }, h("h1", {}, "Listeners"),
      h("span", { class: "soft" }, "A switch holds until the process is started again.")),
    h("div", { class: "scroll" }, h("table", {}, h("thead", {}, h("tr", {}, h("th", {}, "Name"), h("th", {}, "Kind"), h("th", {}, "Address"), h("th", { class: "num" }, "Serves"), h("th", {}))), rows)),
    adding(async (report) => { changed(report); await update(); })),
    update,
  };
}

/** The form for one more listener, with the keys of its kind. */
function adding(done) {
  const box = h("div", { class: "fields" });
  const kind = h("select", { id: "new-kind" }, h("option", { value: "udp" }, "UDP"), h("option", { value: "dtls" }, "DTLS"));
  const called = setting({ name: "name", kind: "text", type: "text", choices: [], default: null, about: "1 to 64 letters, digits, - or _; the label of its metrics." }, undefined);
  const said = h("div", { role: "status" });
  const more = h("div", { class: "fields" });
  const rest = h("details", {}, h("summary", {}, "More settings"), more);
  const element = h("form", { class: "form", novalidate: true },
    h("div", { class: "fields" }, h("div", { class: "field" }, h("label", { for: "new-kind" }, "Kind"), kind), called.element),
    box, rest, said, h("div", { class: "row" }, h("button", { class: "primary" }, "Add listener")));
  let keys;
  let fields = new Map();
  async function show() {
    keys ??= (await get("config/schema")).keys;
    const first = ["bind", "psk_file", "cert_file", "key_file", "identity"];
    const own = keys.filter((key) => key.section === `listeners.${kind.value}.*`).map((key) => setting(key, undefined));
    fields = new Map(own.map((field) => [field.name, field]));
    box.replaceChildren(...own.filter((field) => first.includes(field.name)).map((field) => field.element));
    more.replaceChildren(...own.filter((field) => !first.includes(field.name)).map((field) => field.element));
  }
  kind.addEventListener("change", show);
  element.addEventListener("submit", async (event) => {
    event.preventDefault();
    const settings = {};
    for (const [key, field] of fields) if (field.changed()) settings[key] = field.value();
    const title = called.input.value.trim();
    const prefix = `listeners.${kind.value}.${title}`;
    const named = new Map([...fields].map(([key, field]) => [`${prefix}.${key}`, field]));
    const wrong = (problems, message) => {
      const left = place(problems, named);
      called.tell(left.map((problem) => problem.message).join(" "));
      said.replaceChildren(...(problems.length === 0 && message ? [h("div", { class: "note bad-note" }, message)] : []));
    };
    if (title === "") {
      wrong([], "");
      called.tell("A listener has a name.");
      called.input.focus();
      return;
    }
    try {
      const report = await call("POST", "listeners", { json: { kind: kind.value, name: title, settings } });
      wrong([], "");
      called.input.value = "";
      await show();
      toast(report.enabled ? `${kind.value}:${report.name} serves at ${report.bind}.` : `${kind.value}:${report.name} is saved.`);
      await done(report);
    } catch (error) {
      wrong(error.problems ?? [], error.message);
    }
  });
  const whole = h("details", {}, h("summary", {}, "Add a listener"), element);
  whole.addEventListener("toggle", () => { if (whole.open && !keys) show(); });
  return whole;
}

function gateway(changed) {
  const said = h("div", { role: "status" });
  const fields = form(changed);
  return {
    element: h("section", { class: "panel" }, h("div", { class: "head" }, h("h1", {}, "Settings")), fields.element, said),
    async update() {
      if (fields.changed()) return;
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
      tell(await call("POST", "reload"));
      changed(undefined);
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
      changed(undefined);
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
    h("div", { class: "head" }, h("h1", {}, "Configuration file"), file, h("span", { class: "grow" }), reload),
    said, missing,
    h("details", { class: "body" }, h("summary", {}, "Advanced: the file as text"),
      h("div", { class: "editor" }, lines, text), problems, h("div", { class: "row actions" }, h("span", { class: "grow" }), revert, save)));
  return {
    element,
    tell,
    async update() {
      const status = await get("status");
      file.textContent = status.config_file ?? "";
      if (text.value === saved) await load();
    },
  };
}

export function settings() {
  const parts = [];
  // What one part changed the others show.
  const changed = (report) => {
    if (report?.restart_required) parts[2].tell(report);
    for (const part of parts) part.update();
  };
  parts.push(listeners(changed), gateway(changed), configuration(changed));
  return {
    element: h("div", { class: "grid" }, parts.map((part) => part.element)),
    every: 0,
    update: () => Promise.all(parts.map((part) => part.update())),
  };
}
