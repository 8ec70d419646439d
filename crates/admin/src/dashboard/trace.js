// What one device sends and gets, line by line while it happens, and as a file to keep.

import { follow } from "./api.js";
import { h, save, visible } from "./dom.js";
import { seconds } from "./words.js";

/** Lines that are shown; all of them are saved. */
const SHOWN = 300;
const KEPT = 20000;

function message({ type, code, mid, token, path, query, options, payload_length: length, payload, payload_hex: hex, payload_secret: secret }) {
  const uri = path + (query.length > 0 ? `?${query.join("&")}` : "");
  const parts = [type.toUpperCase(), code, `mid=${mid}`, token && `token=${token}`, uri, ...options.map((option) => (option.value ? `${option.name}=${option.value}` : option.name))];
  const bytes = secret ? `, ${length} bytes, not shown` : `, ${length} bytes ${payload !== undefined ? JSON.stringify(payload) : hex ?? ""}`;
  return parts.filter(Boolean).join(" ") + (length > 0 ? bytes : "");
}

/** What goes over the MQTT side. */
function carried({ topic, qos, retain, bytes }) {
  return `${topic} QoS ${qos}${retain ? ", retained" : ""}${bytes > 0 ? `, ${bytes} bytes` : ""}`;
}

/** An event in words, and which way it went. */
export function told(event) {
  const reason = event.reason?.replaceAll("_", " ");
  switch (event.event) {
    case "received": return ["in", message(event.message) + (reason ? `  dropped: ${reason}` : ""), reason && "bad"];
    case "sent": return ["out", message(event.message) + (reason ? `  ${reason}` : ""), reason && "bad"];
    case "datagram": return ["in", `datagram of ${event.bytes} bytes, dropped: ${reason}`, "bad"];
    case "hello": return ["", "a handshake begins"];
    case "established": return ["", `handshake done: ${event.session.cipher}${event.session.cid ? ", Connection ID" : ""}${event.session.resumed ? ", resumed" : ""}`, "good"];
    case "handshake_failed": return ["", `handshake failed: ${reason} after ${seconds(event.seconds)}`, "bad"];
    case "alert_sent": return ["out", `alert ${reason}`, "warn"];
    case "alert_received": return ["in", `alert ${reason}`, "warn"];
    case "record_dropped": return ["in", `record dropped: ${reason}`, "bad"];
    case "moved": return ["", `the session moved to ${event.address}`];
    case "closed": return ["", `the session ended: ${reason}`];
    case "acl": return ["", `ACL: ${event.action} ${event.topic} ${event.rule}`, event.allowed ? undefined : "bad"];
    case "broker_asked": return ["out", `MQTT ${event.action} ${carried(event)}`];
    case "broker_answered": return ["in", `MQTT ${event.action} ${event.topic}: ${reason} after ${seconds(event.seconds)}`, reason === "ok" ? "good" : "bad"];
    case "broker_message": return ["in", `MQTT message ${carried(event)}`];
    case "lost": return ["", `${event.count} events were left out`, "warn"];
    // Of a newer gateway: all that it says.
    default: return ["", [event.event, reason, event.detail ?? event.topic].filter(Boolean).join(" "), undefined];
  }
}

export function tracing(target) {
  const lines = h("ol", { class: "trace", tabindex: "0", "aria-label": `Trace of ${visible(target)}` });
  const said = h("span", { class: "soft", role: "status" });
  const start = h("button", { changes: true, type: "button", onclick: () => (running ? stop() : begin()) }, "Start");
  const keep = h("button", { type: "button", hidden: true, onclick: () => save(`trace-${target.replace(/[^\w.-]+/g, "_")}.jsonl`, "application/x-ndjson", kept.join("\n") + "\n") }, "Save");
  let running;
  let kept = [];

  function show(event) {
    const [way, text, kind] = told(event);
    const sign = { in: "→", out: "←" }[way] ?? "·";
    const spoken = { in: "received", out: "sent" }[way] ?? "";
    const isAtEnd = lines.scrollTop + lines.clientHeight > lines.scrollHeight - 24;
    lines.append(h("li", { class: kind }, h("time", { title: `${event.time} ${event.address ?? ""}` }, event.time.slice(11, 23)), " ",
      h("span", { class: `way ${way}`, title: spoken }, sign), " ", visible(text)));
    while (lines.childElementCount > SHOWN) lines.firstChild.remove();
    if (isAtEnd) lines.scrollTop = lines.scrollHeight;
  }

  async function begin() {
    const mine = new AbortController();
    running = mine;
    kept = [];
    lines.replaceChildren();
    keep.hidden = false;
    start.textContent = "Stop";
    said.textContent = "Waiting for what it does…";
    try {
      await follow("POST", "trace", { json: { target, seconds: 3600 }, signal: mine.signal, line: (line) => {
        if (line === "") return;
        if (kept.length < KEPT) kept.push(line);
        show(JSON.parse(line));
        said.textContent = `${kept.length} lines`;
      } });
      if (running === mine) said.textContent = "It ended.";
    } catch (error) {
      said.textContent = error.message;
    }
    if (running === mine) ended();
  }

  function ended() {
    running = undefined;
    start.textContent = "Start";
  }

  function stop() {
    running?.abort();
    ended();
  }

  return {
    element: h("section", {}, h("div", { class: "head" }, h("h2", {}, "Live trace"), said, h("span", { class: "grow" }), keep, start), lines),
    stop,
  };
}
