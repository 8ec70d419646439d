// The gateway's settings as fields, made of what the gateway says about its keys. Each error stands at its field.

import { call, get } from "./api.js";
import { h, toast } from "./dom.js";
import { readWaiting, state, waitingWords } from "./state.js";

const TITLES = {
  node: "Node", coap: "CoAP", "coap.blockwise": "Block-wise transfer", "coap.transmission": "Transmission",
  authentication: "Authentication", "authentication.http": "Authentication by HTTP", "authentication.jwt": "Authentication by JSON Web Token",
  authorization: "Authorization", broker: "Broker", "broker.spool": "Store and forward", metrics: "Metrics", admin: "Management",
  state: "Kept state", limits: "Limits", "limits.per_identity": "Limits of one identity", log: "Log",
};

let made = 0;

/** A value as it stands in a field: nothing is the default, "" an empty text. */
function shown(value) {
  if (value === undefined || value === null) return "";
  if (value === "") return '""';
  if (Array.isArray(value)) return value.map((one) => (typeof one === "object" ? JSON.stringify(one) : one)).join("\n");
  if (typeof value === "object") return Object.entries(value).map(([key, one]) => `${key} = ${one}`).join("\n");
  return String(value);
}

/** A line of a list: a table is written as JSON. */
function item(line) {
  if (!line.startsWith("{")) return line;
  try { return JSON.parse(line); } catch { return line; }
}

/** What a field says, as JSON; null takes the key out of the file. */
function meant(type, text) {
  const said = text.trim();
  if (said === "") return null;
  switch (type) {
    case "boolean": return said === "true";
    case "number": return /^[0-9]+$/.test(said) ? Number(said) : said;
    case "list": return said === '""' ? [] : said.split("\n").map((line) => line.trim()).filter(Boolean).map(item);
    case "table": return Object.fromEntries(said.split("\n").filter((line) => line.trim()).map((line) => {
      const at = line.indexOf("=");
      return at < 0 ? [line.trim(), ""] : [line.slice(0, at).trim(), line.slice(at + 1).trim()];
    }));
    default: return said === '""' ? "" : said;
  }
}

function control(key, id, describedBy) {
  const common = { id, "aria-describedby": describedBy };
  const fallback = shown(key.default);
  if (key.type === "boolean" || key.choices.length > 0) {
    const choices = key.type === "boolean" ? ["true", "false"] : key.choices;
    return h("select", common,
      h("option", { value: "" }, fallback === "" ? "not set" : `default: ${fallback.replace('""', "empty")}`),
      choices.map((choice) => h("option", { value: choice }, choice)));
  }
  const placeholder = fallback === "" ? "not set" : fallback.replaceAll("\n", ", ");
  if (key.type === "list" || key.type === "table") {
    return h("textarea", { ...common, rows: 2, spellcheck: "false", placeholder });
  }
  const mode = key.type === "number" ? "numeric" : "text";
  return h("input", { ...common, inputmode: mode, placeholder, autocomplete: "off", autocapitalize: "off", spellcheck: "false", class: "mono" });
}

/** One key: label, control, meaning, and room for what is wrong with it. */
export function setting(key, value) {
  made += 1;
  const id = `setting-${made}`;
  const hint = `${id}-hint`;
  const input = control(key, id, `${hint} ${id}-wrong`);
  const wrong = h("span", { class: "wrong", role: "alert", id: `${id}-wrong` });
  const before = shown(value);
  input.value = before;
  // A value that the list does not have, such as one of a newer version, is shown all the same.
  if (input.value !== before) {
    input.append(h("option", { value: before }, before));
    input.value = before;
  }
  return {
    name: key.name,
    element: h("div", { class: "field" }, h("label", { for: id }, h("code", {}, key.name), " ", h("span", { class: "soft" }, key.choices.length > 0 ? "choice" : key.kind.replaceAll("`", ""))),
      input, h("small", { class: "soft", id: hint }, key.about.replaceAll("`", "")), wrong),
    input,
    changed: () => input.value !== before,
    value: () => meant(key.type, input.value),
    revert() { input.value = before; this.tell(""); },
    tell(text) {
      wrong.textContent = text;
      if (text) input.setAttribute("aria-invalid", "true");
      else input.removeAttribute("aria-invalid");
    },
  };
}

/** Whether a problem with the key `found` belongs to the field `own`: lists and tables have problems of their parts. */
export function belongs(found, own) {
  return found === own || found.startsWith(`${own}.`) || found.startsWith(`${own}[`);
}

/** Puts each problem to its field; those without one are returned. */
export function place(problems, fields) {
  for (const field of fields.values()) field.tell("");
  const rest = [];
  const wrong = new Set();
  for (const problem of problems) {
    const own = [...fields.keys()].find((key) => belongs(problem.key, key));
    if (own === undefined) {
      rest.push(problem);
      continue;
    }
    const field = fields.get(own);
    field.tell(problem.message);
    field.element.closest("details")?.setAttribute("open", "");
    wrong.add(field);
  }
  // The first on the page, whatever the order in the file.
  [...fields.values()].find((field) => wrong.has(field))?.input.focus();
  return rest;
}

function at(values, path) {
  return path.split(".").reduce((table, part) => table?.[part], values);
}

function put(patch, path, value) {
  const parts = path.split(".");
  const last = parts.pop();
  let table = patch;
  for (const part of parts) table = table[part] ??= {};
  table[last] = value;
}

function titleOf(section) {
  if (section.startsWith("listeners.")) return `Listener ${section.split(".").slice(1).join(":")}`;
  return TITLES[section] ?? section.split(".").map((part) => part[0].toUpperCase() + part.slice(1).replaceAll("_", " ")).join(": ");
}

/** The tables of the configuration with their keys: those of each listener for itself. */
function tables(keys, values, listeners) {
  const all = new Map();
  for (const key of keys) {
    // An array of tables is changed as a whole: in the file.
    if (key.section.startsWith("[")) continue;
    const kind = /^listeners\.(udp|dtls|tcp|tls)\.\*$/.exec(key.section)?.[1];
    const sections = kind === undefined ? [key.section]
      : listeners.filter((one) => one.kind === kind).map((one) => `listeners.${kind}.${one.name}`);
    for (const section of sections) {
      if (!all.has(section)) all.set(section, { title: titleOf(section), keys: [] });
      all.get(section).keys.push({ key, value: at(values, section)?.[key.name] });
    }
  }
  return all;
}

/** What came of a change, in words that say when it is in force. */
export function outcome(report) {
  return report.restart_required.length > 0 ? `Saved; takes effect after a restart: ${report.restart_required.join(", ")}` : "Saved and in force.";
}

/** That something waits for a restart: said for as long as it does, whoever changed it. */
export function pending() {
  const element = h("div", { role: "status" });
  return {
    element,
    show() {
      const words = waitingWords();
      element.replaceChildren(...(words ? [h("div", { class: "note warn-note" }, "Takes effect after a restart: ", h("code", {}, words))] : []));
    },
  };
}

/** Shows the fields with this in their name or their meaning only, each table with some of them opened. */
function narrow(groups, text) {
  const part = text.trim().toLowerCase();
  for (const group of groups.querySelectorAll("details")) {
    let some = false;
    const all = group.dataset.section.includes(part) && part !== "";
    for (const field of group.querySelectorAll(".field")) {
      field.hidden = part !== "" && !all && !field.textContent.toLowerCase().includes(part);
      some ||= !field.hidden;
    }
    group.hidden = part !== "" && !some;
    if (part !== "") group.open = some;
  }
}

export function form(saved) {
  const groups = h("div", { class: "settings" });
  const said = h("div", { role: "status" });
  const waits = pending();
  const save = h("button", { class: "primary", disabled: true }, "Save");
  const revert = h("button", { type: "button", disabled: true }, "Undo changes");
  const search = h("input", { type: "search", placeholder: "Search settings…", "aria-label": "Search settings", oninput: () => look() });
  const nothing = h("p", { class: "empty", role: "status" });
  const element = h("form", { novalidate: true },
    h("div", { class: "row" }, h("p", { class: "soft grow" }, "An empty field has the default. Two quotes (\"\") are an empty text. Comments in the file stay."), search),
    nothing, groups, said, h("div", { class: "row actions" }, h("div", { class: "grow" }, waits.element), revert, save));
  let fields = new Map();
  let tag;
  let keys;

  function look() {
    narrow(groups, search.value);
    nothing.textContent = search.value !== "" && !groups.querySelector("details:not([hidden])") ? "No setting has that in its name or meaning." : "";
  }

  const changed = () => [...fields.values()].some((field) => field.changed());

  function touched() {
    save.disabled = revert.disabled = !state.mayChange || !changed();
  }

  function tell(problems, message) {
    if (problems.length > 0) { search.value = ""; look(); }
    const rest = place(problems, fields);
    const notes = rest.map((problem) => h("div", { class: "note bad-note" }, `${problem.key ? `${problem.key}: ` : ""}${problem.message}`));
    if (problems.length === 0 && message) notes.push(h("div", { class: "note bad-note" }, message));
    said.replaceChildren(...notes);
  }

  /** Reads everything again; what somebody typed stays, unless it was saved. */
  async function load(wasSaved = false) {
    keys ??= (await get("config/schema")).keys;
    const [got, listeners] = await Promise.all([call("GET", "config", { accept: "application/json" }), get("listeners"), readWaiting()]);
    if (!wasSaved && changed()) return;
    tag = got.tag;
    fields = new Map();
    const open = new Set([...groups.querySelectorAll("details[open]")].map((one) => one.dataset.section));
    groups.replaceChildren(...[...tables(keys, JSON.parse(got.text), listeners)].map(([section, table]) => {
      const own = table.keys.map(({ key, value }) => {
        const field = setting(key, value);
        fields.set(`${section}.${key.name}`, field);
        return field.element;
      });
      const given = table.keys.filter(({ value }) => value !== undefined).length;
      return h("details", { "data-section": section, open: open.has(section) },
        h("summary", {}, h("b", {}, table.title), " ", h("code", { class: "soft" }, `[${section}]`), given > 0 && h("span", { class: "tag" }, `${given} set`)),
        h("fieldset", { class: "fields bare", changes: true }, own));
    }));
    waits.show();
    look();
    touched();
  }

  element.addEventListener("input", touched);
  revert.addEventListener("click", () => {
    for (const field of fields.values()) field.revert();
    said.replaceChildren();
    touched();
  });
  element.addEventListener("submit", async (event) => {
    event.preventDefault();
    const patch = {};
    for (const [key, field] of fields) if (field.changed()) put(patch, key, field.value());
    save.disabled = true;
    try {
      const report = await call("PUT", "config", { json: patch, match: tag });
      await load(true);
      tell([], "");
      saved(report);
      toast(outcome(report));
    } catch (error) {
      tell(error.problems ?? [], error.message);
      touched();
    }
  });
  return {
    element,
    load,
    /** Opens a table and goes there. */
    open(section) {
      const group = [...groups.children].find((one) => one.dataset.section === section);
      if (!group) return;
      group.open = true;
      group.scrollIntoView({ block: "start" });
      group.querySelector("summary").focus({ preventScroll: true });
    },
  };
}
