// Making elements, and words for numbers. Text always goes in as text, never as markup.

export function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "value" || name === "checked" || name === "selected") element[name] = value;
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child !== undefined && child !== null && child !== false));
  return element;
}

export function svg(tag, attributes = {}, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

/**
 * The text with what cannot be seen, or turns the direction of writing, written out: what a device says must not look like
 * something else.
 */
export function visible(text) {
  return text.replace(/[\p{Cc}\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]/gu, (sign) => `\\u{${sign.codePointAt(0).toString(16)}}`);
}

/** Puts children in place of the old ones. What has the focus and comes again, by its `data-key`, keeps the focus. */
export function refill(parent, children) {
  const focused = document.activeElement;
  const key = parent.contains(focused) ? focused.dataset.key : undefined;
  parent.replaceChildren(...children);
  if (key === undefined) return;
  for (const element of parent.querySelectorAll("[data-key]")) {
    if (element.dataset.key === key) element.focus({ preventScroll: true });
  }
}

/** Whether someone presses a button in it now, or marks text to copy it: then it must not be made anew underneath. */
export function busy(element) {
  const marked = getSelection();
  return element.matches(":active") || (!marked.isCollapsed && element.contains(marked.anchorNode));
}

export function toast(text) {
  const element = h("div", { class: "toast" }, text);
  document.getElementById("toasts").append(element);
  setTimeout(() => element.remove(), 4500);
}

/** Asks before something that cannot be undone. */
export function confirmed(title, text, verb) {
  return new Promise((resolve) => {
    const dialog = h("dialog", {},
      h("h1", {}, title),
      h("p", {}, text),
      h("div", { class: "row" },
        h("span", { class: "grow" }),
        h("button", { onclick: () => dialog.close() }, "Cancel"),
        h("button", { class: "danger", "data-confirm": true, onclick: () => dialog.close("yes") }, verb)));
    dialog.addEventListener("close", () => {
      dialog.remove();
      resolve(dialog.returnValue === "yes");
    });
    document.body.append(dialog);
    dialog.showModal();
  });
}

const whole = new Intl.NumberFormat("en");
const short = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 });

export function count(number) {
  return Math.abs(number) < 100000 ? whole.format(Math.round(number)) : short.format(number);
}

export function rate(number) {
  if (number === 0) return "0";
  return number < 10 ? number.toFixed(1) : count(number);
}

export function seconds(value) {
  if (value === undefined || value === null) return "–";
  if (value < 0.001) return `${Math.round(value * 1e6)} µs`;
  if (value < 1) return `${(value * 1000).toPrecision(value < 0.1 ? 2 : 3)} ms`;
  return `${value.toPrecision(3)} s`;
}

export function age(value) {
  if (value < 60) return `${Math.floor(value)} s`;
  if (value < 3600) return `${Math.floor(value / 60)} min`;
  if (value < 86400) return `${Math.floor(value / 3600)} h ${Math.floor((value % 3600) / 60)} min`;
  return `${Math.floor(value / 86400)} d ${Math.floor((value % 86400) / 3600)} h`;
}

export function bytes(value) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  while (value >= 1024 && unit < units.length - 1) {
    value /= 1024;
    unit += 1;
  }
  return `${unit === 0 || value >= 100 ? Math.round(value) : value.toFixed(1)} ${units[unit]}`;
}

/** A labelled field with room for what is wrong with it. */
export function field(label, input, hint) {
  const wrong = h("span", { class: "wrong", role: "alert" });
  const element = h("label", { class: "field" }, h("span", {}, label), input, hint && h("small", { class: "soft" }, hint), wrong);
  element.wrong = (text) => { wrong.textContent = text; };
  return element;
}

/**
 * Shows an error of the API at the field that it names ("identity: ..."), else in `rest`.
 * `fields` maps the names of the API to fields.
 */
export function showError(error, fields, rest) {
  for (const one of Object.values(fields)) one.wrong("");
  rest.textContent = "";
  if (!error) return;
  const named = Object.keys(fields).find((name) => error.message.startsWith(`${name}: `) || error.message.startsWith(`the body: ${name}`));
  if (named) fields[named].wrong(error.message.replace(`${named}: `, ""));
  else rest.textContent = error.message;
}
