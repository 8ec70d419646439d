// Messages at the broker: what is retained, what comes, and publishing one, past the devices and their rights.

import { call, eventLines, follow, get, name } from "./api.js";
import { asking, field, h, refill, showError, toast, visible } from "./dom.js";
import { bytes, count } from "./words.js";

/** Messages that are shown while listening. */
const SHOWN = 200;

/** The beginning of a payload; what is no text, in Base64. */
function payload(message) {
  const text = message.payload === undefined || message.payload === null ? `Base64: ${message.payload_base64}` : visible(message.payload);
  return text.length > 200 ? `${text.slice(0, 200)}…` : text;
}

/** How many bytes Base64 stands for. */
function size({ payload_base64: text }) {
  return (text.length / 4) * 3 - (text.endsWith("==") ? 2 : text.endsWith("=") ? 1 : 0);
}

function retained() {
  const asked = { topic: "#", page: 1 };
  const rows = h("tbody");
  const note = h("p", { class: "empty" });
  const places = h("span", { class: "soft", role: "status" });
  const filter = h("input", { class: "mono", value: asked.topic, "aria-label": "Topic filter", onchange: () => { asked.topic = filter.value.trim() || "#"; asked.page = 1; update(); } });
  const back = h("button", { class: "small", onclick: () => { asked.page -= 1; update(); } }, "Previous");
  const on = h("button", { class: "small", onclick: () => { asked.page += 1; update(); } }, "Next");

  function row(message) {
    return h("tr", {},
      h("td", { class: "mono wrap" }, visible(message.topic)),
      h("td", { class: "wrap mono" }, payload(message)),
      h("td", { class: "num optional" }, bytes(size(message))),
      h("td", { class: "optional" }, message.content_type ?? "–"),
      h("td", { class: "num optional" }, `QoS ${message.qos}`),
      h("td", { class: "num" }, asking({
        label: "Clear", name: `Clear ${visible(message.topic)}`, title: "Clear this message?", verb: "Clear", done: "Cleared.",
        text: `What is retained at “${visible(message.topic)}” is removed. Who observes the topic gets to know.`,
        act: async () => { await call("DELETE", `retained?topic=${name(message.topic)}`); await update(); },
      })));
  }

  async function update() {
    try {
      const { data, meta, cut } = await get(`retained?${new URLSearchParams({ topic: asked.topic, page: asked.page, limit: 50 })}`);
      refill(rows, data.map(row));
      places.textContent = data.length === 0 ? "" : `${(meta.page - 1) * meta.limit + 1}–${(meta.page - 1) * meta.limit + data.length} of ${count(meta.count)}${cut ? " or more: narrow it down" : ""}`;
      note.textContent = data.length === 0 ? "Nothing is retained there." : "";
      back.disabled = meta.page <= 1;
      on.disabled = !meta.hasnext;
      back.hidden = on.hidden = meta.page <= 1 && !meta.hasnext;
    } catch (error) {
      rows.replaceChildren();
      note.textContent = error.message;
    }
  }

  return {
    element: h("section", { class: "panel" },
      h("div", { class: "head" }, h("h2", {}, "Retained messages"), places, h("span", { class: "grow" }), filter, h("button", { class: "small", onclick: () => update() }, "Read again")),
      h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Retained messages" }, h("table", {}, h("thead", {}, h("tr", {}, [["Topic", ""], ["Payload", ""], ["Size", "num optional"], ["Type", "optional"], ["QoS", "num optional"]].map(([label, classes]) => h("th", { scope: "col", class: classes }, label)),
        h("th", { scope: "col" }, h("span", { class: "unseen" }, "Actions")))), rows)),
      note, h("div", { class: "row" }, h("span", { class: "grow" }), back, on)),
    update,
  };
}

function publish(done) {
  const topic = h("input", { class: "mono", required: true, placeholder: "fleet/announcements" });
  const text = h("textarea", { rows: 3 });
  const qos = h("select", {}, ["0", "1", "2"].map((value) => h("option", { value }, value)));
  const type = h("input", { placeholder: "text/plain" });
  const keep = h("input", { type: "checkbox" });
  const fields = { topic: field("Topic", topic), payload: field("Payload", text), qos: field("QoS", qos), content_type: field("Content type", type) };
  const wrong = h("span", { class: "bad" });
  const form = h("form", { class: "form" }, fields.topic, fields.payload, h("div", { class: "fields" }, fields.qos, fields.content_type),
    h("label", { class: "check" }, keep, "retain: who comes later gets it too"),
    h("div", { class: "row" }, h("button", { class: "primary", changes: true }, "Publish"), wrong));
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const json = { topic: topic.value, payload: text.value, qos: Number(qos.value), retain: keep.checked };
    if (type.value) json.content_type = type.value;
    try {
      await call("POST", "publish", { json });
      showError(undefined, fields, wrong);
      toast("Published.");
      await done();
    } catch (error) {
      showError(error, fields, wrong);
    }
  });
  return h("section", { class: "panel half" }, h("div", { class: "head" }, h("h2", {}, "Publish")), form);
}

function listening() {
  const filter = h("input", { class: "mono", placeholder: "sensors/+/temperature", required: true, "aria-label": "Topic filter to observe" });
  const toggle = h("button", {}, "Observe");
  const said = h("p", { class: "soft", role: "status" });
  const lines = h("ol", { class: "trace", tabindex: "0", "aria-label": "Messages as they come" });
  let running;

  function stop() {
    running?.abort();
    running = undefined;
    toggle.textContent = "Observe";
  }

  function show(message) {
    lines.prepend(h("li", {}, h("time", {}, new Date().toLocaleTimeString([], { hourCycle: "h23" })), " ", h("b", {}, visible(message.topic)), " ",
      payload(message), " ", h("span", { class: "soft" }, [message.retain && "retained", message.clientid && `from ${visible(message.clientid)}`].filter(Boolean).join(", "))));
    while (lines.childElementCount > SHOWN) lines.lastChild.remove();
  }

  const form = h("form", { class: "row" }, filter, toggle);
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    if (running) { stop(); return; }
    const mine = new AbortController();
    running = mine;
    toggle.textContent = "Stop";
    lines.replaceChildren();
    said.textContent = "Waiting for messages…";
    let seen = 0;
    const each = eventLines((message) => { seen += 1; show(message); said.textContent = `${count(seen)} so far`; });
    try {
      await follow("GET", `messages?topic=${name(filter.value)}`, { signal: mine.signal, line: each });
    } catch (error) {
      said.textContent = error.message;
    }
    if (running === mine) stop();
  });
  return { element: h("section", { class: "panel half" }, h("div", { class: "head" }, h("h2", {}, "Observe"), h("span", { class: "grow" }), form), said, lines), stop };
}

export function topics() {
  const kept = retained();
  const live = listening();
  return {
    element: h("div", {}, h("div", { class: "head" }, h("h1", {}, "Topics"),
      h("span", { class: "soft" }, "At the broker, past the devices and their rights.")),
    h("div", { class: "grid" }, kept.element, publish(() => kept.update()), live.element)),
    every: 0,
    update: kept.update,
    close: live.stop,
  };
}
