// The frame: which page is shown, how the gateway is, signing in, and the beat by which all of it is read again.

import { access } from "./access.js";
import { get, hasToken, setToken, whenSignInIsNeeded } from "./api.js";
import { clients } from "./clients.js";
import { h, toast } from "./dom.js";
import { events } from "./events.js";
import { listeners } from "./listeners.js";
import { history, overview } from "./overview.js";
import { settings } from "./settings.js";
import { readSelf, readWaiting, state, waitingWords } from "./state.js";
import { topics } from "./topics.js";
import { age } from "./words.js";

const BEAT = 2000;

/** What waits for a restart and the history are read every so many beats. */
const SELDOM = 5;
const pages = { overview, listeners, clients, events, topics, access, settings };
const main = document.getElementById("page");
const health = document.getElementById("state");
const badges = document.getElementById("badges");
const signOut = document.getElementById("sign-out");
let current;
let signingIn = false;
let known = false;
let beats = 0;

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
  window.history.replaceState(null, "", location.pathname + location.search);
  if (!/^[!-~]+$/.test(given)) return;
  setToken(given);
  signingIn = known = false;
}

/** `#page/argument?wishes` */
function asked() {
  const [path, wishes] = location.hash.slice(1).split("?", 2);
  const at = path.indexOf("/");
  const page = at < 0 ? path : path.slice(0, at);
  return { page: page in pages ? page : "overview", argument: decoded(at < 0 ? undefined : path.slice(at + 1)), wishes: new URLSearchParams(wishes) };
}

async function show() {
  takeToken();
  if (signingIn) return;
  if (!known) {
    try {
      await readSelf();
      known = true;
      await readWaiting();
    } catch {
      // The beat says what is wrong, and shows the page when it is not any more.
      return;
    }
  }
  const { page, argument, wishes } = asked();
  current?.close?.();
  current = { ...pages[page](argument, wishes), beats: 0 };
  main.replaceChildren(current.element);
  for (const link of document.querySelectorAll("#nav a")) {
    if (link.hash.slice(1) === page) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  const made = current;
  await refresh(made);
  if (made === current) made.shown?.();
}

async function refresh(page) {
  try {
    await page.update?.();
  } catch (error) {
    if (error.status !== 401) toast(error.message);
  }
}

/** Children in place of the old ones only where they differ: they are read out to who does not see them. */
function say(place, parts) {
  const same = parts.length === place.childNodes.length && parts.every((part, index) => part.isEqualNode(place.childNodes[index]));
  if (!same) place.replaceChildren(...parts);
}

function header(status) {
  const parts = [h("span", { class: status.ready ? "good" : "bad" }, h("span", { class: "dot" }), status.ready ? "serving" : status.not_ready)];
  if (!status.broker.connected) parts.push(h("a", { class: "bad wide", href: "#settings/broker" }, "broker away"));
  say(health, parts);
  const marks = [];
  if (!state.mayChange) marks.push(h("span", { class: "badge", title: `The token “${state.token}” may change nothing.` }, "read only"));
  if (state.waiting.length > 0) marks.push(h("a", { class: "badge warn", href: "#settings", title: `Not in force yet: ${waitingWords()}` }, "restart needed"));
  say(badges, marks);
  document.getElementById("node").textContent = status.node;
  document.getElementById("up").textContent = `up ${age(status.uptime_seconds)}`;
  signOut.hidden = !hasToken();
  document.title = `${status.node} – Portcullis`;
}

function signIn() {
  if (signingIn) return;
  signingIn = true;
  known = false;
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
    beats = 0;
    beat();
  });
  current?.close?.();
  current = undefined;
  say(health, []);
  say(badges, []);
  signOut.hidden = true;
  main.classList.remove("stale");
  main.replaceChildren(form);
  token.focus();
}

async function beat() {
  if (signingIn || document.hidden) return;
  try {
    const seldom = beats % SELDOM === 0;
    // The first of them says whether a token is needed.
    state.status = await get("status");
    if (seldom) await Promise.all([history.read(), known && readWaiting()]);
    beats += 1;
    header(state.status);
    main.classList.remove("stale");
  } catch (error) {
    main.classList.add("stale");
    if (error.status !== 401) say(health, [h("span", { class: "bad" }, h("span", { class: "dot" }), error.message)]);
    return;
  }
  if (signingIn) return;
  if (!known || !current) {
    await show();
    header(state.status);
    return;
  }
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
document.getElementById("skip").addEventListener("click", () => main.focus());
document.addEventListener("visibilitychange", () => { if (!document.hidden) { beats = 0; beat(); } });
whenSignInIsNeeded(signIn);
window.addEventListener("hashchange", show);
takeToken();
run();
