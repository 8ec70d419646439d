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
const signOut = document.getElementById("sign-out");
let current;
let signingIn = false;

function decoded(argument) {
  try {
    return argument === undefined ? undefined : decodeURIComponent(argument);
  } catch {
    // Someone typed it.
    return argument;
  }
}

/** Takes a token out of the address, which people copy and browsers remember, and signs in with it. */
function takeToken() {
  const given = new URLSearchParams(location.hash.slice(1)).get("token");
  if (given === null) return;
  history.replaceState(null, "", location.pathname + location.search);
  if (!/^[!-~]+$/.test(given)) return;
  setToken(given);
  signingIn = false;
}

function show() {
  takeToken();
  if (signingIn) return;
  const [page, argument] = location.hash.slice(1).split("/", 2);
  const make = pages[page] ?? overview;
  current = { ...make(decoded(argument)), beats: 0 };
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

/** How the gateway is, only when it changed: it is read out to who does not see it. */
function say(parts) {
  const same = parts.length === state.childNodes.length && parts.every((part, index) => part.isEqualNode(state.childNodes[index]));
  if (!same) state.replaceChildren(...parts);
}

function header(status) {
  const parts = [h("span", { class: status.ready ? "good" : "bad" }, h("span", { class: "dot" }), status.ready ? "serving" : status.not_ready)];
  parts.push(h("span", { class: status.broker.connected ? undefined : "bad wide" }, status.broker.connected ? "" : "broker away"));
  say(parts);
  document.getElementById("node").textContent = status.node;
  document.getElementById("up").textContent = `up ${age(status.uptime_seconds)}`;
  signOut.hidden = !hasToken();
  document.title = `${status.node} – Portcullis`;
}

function signIn() {
  if (signingIn) return;
  signingIn = true;
  const refused = hasToken();
  setToken(undefined);
  const token = h("input", { type: "password", autocomplete: "current-password", required: true, "aria-label": "Token" });
  const wrong = h("p", { class: "bad", role: "alert" });
  const form = h("form", { class: "panel form sign-in" },
    h("h1", {}, "Sign in"),
    h("p", { class: refused ? "bad" : "soft" }, refused ? "This token is not valid (any more)." : "A token is needed: that of admin.token in the state directory, or one of portcullis token add. It is kept until this tab is closed."),
    token, wrong, h("button", { class: "primary" }, "Sign in"));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const value = token.value.trim().replace(/^(admin|readonly):/, "");
    if (!/^[!-~]+$/.test(value)) {
      wrong.textContent = "A token has visible ASCII characters only.";
      return;
    }
    setToken(value);
    signingIn = false;
    beat();
    show();
  });
  say([]);
  signOut.hidden = true;
  main.classList.remove("stale");
  main.replaceChildren(form);
  token.focus();
}

async function beat() {
  if (signingIn || document.hidden) return;
  try {
    header(await poll());
    main.classList.remove("stale");
  } catch (error) {
    main.classList.add("stale");
    if (error.status !== 401) say([h("span", { class: "bad" }, h("span", { class: "dot" }), error.message)]);
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

signOut.addEventListener("click", () => {
  setToken(undefined);
  location.reload();
});
whenSignInIsNeeded(signIn);
window.addEventListener("hashchange", show);
show();
run();
