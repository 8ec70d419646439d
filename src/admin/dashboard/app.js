// The frame: which page is shown, how the gateway is, signing in, and the beat by which all of it is read again.

import { hasToken, setToken, whenSignInIsNeeded } from "./api.js";
import { clients } from "./clients.js";
import { credentials } from "./credentials.js";
import { age, h, toast } from "./dom.js";
import { overview, poll } from "./overview.js";
import { settings } from "./settings.js";

const BEAT = 2000;
const pages = { overview, clients, credentials, settings };
const main = document.getElementById("page");
const state = document.getElementById("state");
let current;
let signingIn = false;

function show() {
  if (signingIn) return;
  const [page, argument] = location.hash.slice(1).split("/", 2);
  const make = pages[page] ?? overview;
  current = { ...make(argument === undefined ? undefined : decodeURIComponent(argument)), beats: 0 };
  main.replaceChildren(current.element);
  for (const link of document.querySelectorAll("#nav a")) {
    if (link.hash.slice(1) === (page in pages ? page : "overview")) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  refresh(current);
}

async function refresh(page) {
  try {
    await page.update();
  } catch (error) {
    if (error.status !== 401) toast(error.message);
  }
}

function header(status) {
  const parts = [h("span", { class: status.ready ? "good" : "bad" }, h("span", { class: "dot" }), status.ready ? "serving" : status.not_ready)];
  parts.push(h("span", { class: status.broker.connected ? undefined : "bad wide" }, status.broker.connected ? "" : "broker away"));
  parts.push(h("b", {}, status.node), h("span", { class: "wide" }, `up ${age(status.uptime_seconds)}`));
  if (hasToken()) parts.push(h("button", { class: "small", onclick: () => { setToken(undefined); location.reload(); } }, "Sign out"));
  state.replaceChildren(...parts);
  document.title = `${status.node} – Portcullis`;
}

function signIn() {
  if (signingIn) return;
  signingIn = true;
  const refused = hasToken();
  setToken(undefined);
  const token = h("input", { type: "password", autocomplete: "current-password", required: true, "aria-label": "Token" });
  const form = h("form", { class: "panel form sign-in" },
    h("h1", {}, "Sign in"),
    h("p", { class: refused ? "bad" : "soft" }, refused ? "This token is not valid (any more)." : "A token of admin.token_file is needed. It is kept until this tab is closed."),
    token, h("button", { class: "primary" }, "Sign in"));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    setToken(token.value.trim().replace(/^(admin|readonly):/, ""));
    signingIn = false;
    beat();
    show();
  });
  state.replaceChildren();
  main.replaceChildren(form);
  token.focus();
}

async function beat() {
  if (signingIn || document.hidden) return;
  try {
    header(await poll());
  } catch (error) {
    if (error.status === 0) state.replaceChildren(h("span", { class: "bad" }, h("span", { class: "dot" }), error.message));
    return;
  }
  if (signingIn || !current) return;
  current.beats += 1;
  const every = current.every ?? 1;
  if (every > 0 && current.beats % every === 0) await refresh(current);
}

async function run() {
  await beat();
  setTimeout(run, BEAT);
}

whenSignInIsNeeded(signIn);
window.addEventListener("hashchange", show);
show();
run();
