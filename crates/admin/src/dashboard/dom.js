// Making elements. Text always goes in as text, never as markup.

import { state } from "./state.js";

/** What changes something cannot be used with a token that may not. */
function forbid(element) {
  if (state.mayChange) return;
  element.disabled = true;
  element.title = "This token is for reading only.";
}

/** An element; `changes` says that it changes something at the gateway. */
export function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue;
    if (name === "changes") forbid(element);
    else if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
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

/** A button that asks before it acts. `act` throws an error of the API. */
export function asking({ label, title, text, verb, done, act, name }) {
  return h("button", {
    class: "small quiet", changes: true, "aria-label": name, "data-key": name, type: "button",
    onclick: async () => {
      if (!await confirmed(title, text, verb)) return;
      try {
        await act();
        toast(done);
      } catch (error) {
        toast(error.message);
      }
    },
  }, label);
}

/** A text to take away, which the browser may not allow. */
export function copied(text) {
  const copy = h("button", { class: "small", type: "button", onclick: async () => {
    try { await navigator.clipboard.writeText(text); copy.textContent = "Copied"; } catch { toast("The browser does not allow it."); }
  } }, "Copy");
  return [h("code", { class: "wrap" }, text), " ", copy];
}

/** Hands a text to the browser as a file. */
export function save(name, type, text) {
  const url = URL.createObjectURL(new Blob([text], { type }));
  const link = h("a", { href: url, download: name, hidden: true });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(url), 1000);
}
