// What happens to clients, as it happens.

import { eventLines, follow, get, name } from "./api.js";
import { h, visible } from "./dom.js";
import { several, words } from "./words.js";

/** Rows that are shown. */
const SHOWN = 500;

const KINDS = {
  connected: ["connected", "good"], disconnected: ["disconnected"], session_started: ["DTLS session began"], session_ended: ["DTLS session ended"],
  taken_over: ["taken over by a newer connection", "warn"], moved: ["has a new address"], handshake_failed: ["handshake failed", "bad"],
  login_refused: ["login refused", "bad"], token_refused: ["wrong token", "warn"], denied: ["denied", "warn"], left_out: ["left out"],
};

/** Why and what, in words. */
function detail(event) {
  const parts = [];
  if (event.action) parts.push(`${event.action} ${visible(event.topic ?? "")}`);
  if (event.detail) parts.push(event.detail);
  else if (event.reason) parts.push(words(event.reason));
  if (event.from) parts.push(`from ${event.from}`);
  if (event.count) parts.push(several(event.count, "event"));
  if (event.seconds !== undefined) parts.push(`after ${event.seconds.toFixed(1)} s`);
  return parts.join(", ");
}

function row(event) {
  const [label, kind] = KINDS[event.kind] ?? [words(event.kind)];
  const who = event.clientid ?? event.identity;
  return h("tr", {},
    h("td", { title: event.time }, h("time", { datetime: event.time }, new Date(event.time).toLocaleTimeString([], { hourCycle: "h23" }))),
    h("td", { class: kind }, label),
    h("td", { class: "id" }, who ? h("a", { class: "link", href: `#clients/${name(who)}` }, visible(who)) : h("span", { class: "soft" }, event.address ?? "–")),
    h("td", { class: "wrap" }, detail(event)),
    h("td", { class: "optional" }, event.username ? visible(event.username) : "–"),
    h("td", { class: "optional" }, `${event.transport}:${event.listener}`),
    h("td", { class: "mono optional" }, event.address ?? "–"));
}

export function events(kind, wishes) {
  const asked = { kind: kind ?? "", client: wishes.get("client") ?? "", listener: wishes.get("listener") ?? "" };
  const rows = h("tbody");
  const said = h("span", { class: "soft", role: "status" });
  const kinds = h("select", { "aria-label": "Kind of event", onchange: () => { asked.kind = kinds.value; begin(); } },
    [["", "All events"], ...Object.entries(KINDS).map(([value, [label]]) => [value, label])].map(([value, label]) => h("option", { value, selected: value === asked.kind }, label)));
  const client = h("input", { type: "search", placeholder: "Client id or identity", "aria-label": "Client id or identity", value: asked.client,
    onchange: () => { asked.client = client.value.trim(); begin(); } });
  const listener = h("select", { "aria-label": "Listener", onchange: () => { asked.listener = listener.value; begin(); } });
  const hold = h("button", { "aria-pressed": "false", onclick: () => { held = !held; hold.setAttribute("aria-pressed", String(held)); if (!held) flush(); tell(); } }, "Hold");
  let held = false;
  let waiting = [];
  let reading;
  let last;

  function tell(text) {
    said.textContent = text ?? (held ? `${several(waiting.length, "event")} waiting` : rows.childElementCount === 0 ? "Nothing yet." : "live");
  }

  function flush() {
    rows.prepend(...waiting.reverse().map(row));
    waiting = [];
    while (rows.childElementCount > SHOWN) rows.lastChild.remove();
  }

  function take(event) {
    if (event.kind === "lost") return;
    last = event.id;
    waiting.push(event);
    if (waiting.length > SHOWN) waiting.shift();
  }

  async function read(mine) {
    const parameters = new URLSearchParams({ last: SHOWN });
    for (const [key, value] of Object.entries(asked)) if (value) parameters.set(key, value);
    while (!mine.signal.aborted) {
      try {
        const each = eventLines(take);
        await follow("GET", `events?${parameters}`, { signal: mine.signal, last, line: (line) => {
          each(line);
          // The end of one event: what came together is shown together.
          if (line === "" && !held) requestAnimationFrame(() => { flush(); tell(); });
        } });
      } catch (error) {
        tell(error.message);
        if (error.status === 400 || error.status === 401) return;
      }
      await new Promise((done) => { setTimeout(done, 2000); });
    }
  }

  function begin() {
    reading?.abort();
    reading = new AbortController();
    [waiting, last] = [[], undefined];
    rows.replaceChildren();
    tell("Reading…");
    read(reading);
  }

  const headings = [["Time", ""], ["Event", ""], ["Client", ""], ["Detail", ""], ["User name", "optional"], ["Listener", "optional"], ["Address", "optional"]];
  return {
    element: h("section", { class: "panel" },
      h("div", { class: "head" }, h("h1", {}, "Events"), said, h("span", { class: "grow" }), h("div", { class: "row" }, client, kinds, listener, hold)),
      h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Table of events" },
        h("table", {}, h("thead", {}, h("tr", {}, headings.map(([label, classes]) => h("th", { class: classes, scope: "col" }, label)))), rows))),
    every: 0,
    async update() {
      const names = [...new Set((await get("listeners")).map((one) => one.name))];
      listener.replaceChildren(...[["", "All listeners"], ...names.map((one) => [one, one])].map(([value, label]) => h("option", { value, selected: value === asked.listener }, label)));
      begin();
    },
    close: () => reading?.abort(),
  };
}
