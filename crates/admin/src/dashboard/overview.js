// How the gateway does: numbers, lines, and what came of what.

import { get } from "./api.js";
import { Chart } from "./charts.js";
import { age, bytes, count, h, rate, seconds } from "./dom.js";
import { History, by, finest, quantile, sum } from "./history.js";

const history = new History();
let last;

function derive(before, after, time) {
  const per = (name, labels) => Math.max(0, sum(after, name, labels) - sum(before, name, labels)) / time;
  const handshakes = per("portcullis_dtls_handshakes_total", { result: "ok" });
  return {
    requests: per("portcullis_request_seconds_count"),
    published: per("portcullis_publishes_total", { result: "accepted" }),
    notified: per("portcullis_notifications_total", { result: "acked" }) + per("portcullis_notifications_total", { type: "non", result: "sent" }),
    p50: quantile(before, after, "portcullis_request_seconds", 0.5),
    p95: quantile(before, after, "portcullis_request_seconds", 0.95),
    p99: quantile(before, after, "portcullis_request_seconds", 0.99),
    handshakes,
    failed: Math.max(0, per("portcullis_dtls_handshakes_total") - handshakes),
    resumed: per("portcullis_dtls_resumed_total"),
    dtls: sum(after, "portcullis_sessions", { transport: "dtls" }),
    udp: sum(after, "portcullis_sessions", { transport: "udp" }),
    sent: per("portcullis_broker_messages_total", { direction: "sent" }),
    received: per("portcullis_broker_messages_total", { direction: "received" }),
    dropped: per("portcullis_datagrams_dropped_total") + per("portcullis_dtls_records_dropped_total"),
    retransmitted: per("portcullis_coap_retransmissions_total"),
    limited: per("portcullis_limits_rejected_total"),
  };
}

/** Reads the numbers; goes on while other pages are shown, so that the lines have no gaps. */
export async function poll() {
  const [status, metrics] = await Promise.all([get("status"), get("metrics")]);
  history.add(metrics, derive);
  last = { status, metrics };
  return status;
}

function tile(label, value, small, kind) {
  return h("div", { class: "tile" }, h("dt", {}, label), h("dd", { class: kind, title: value }, value, h("small", {}, small || "\u00a0")));
}

function tiles({ status, metrics }) {
  const now = history.points.at(-1);
  const { broker, sessions } = status;
  const spool = broker.spool;
  const share = spool.capacity_bytes > 0 ? ` of ${bytes(spool.capacity_bytes)}` : "";
  const first = finest(metrics, "portcullis_request_seconds");
  const latency = (value) => (value !== undefined && value <= first ? "< " : "") + seconds(value);
  const pressure = sum(metrics, "portcullis_overload_pressure_ratio");
  return [
    tile("DTLS sessions", count(sessions.dtls), `${count(sessions.dtls_cid)} CID, ${count(sessions.dtls_half_open)} half-open`),
    tile("UDP peers", count(sessions.udp)),
    tile("Connections", count(status.connections), status.connection_required ? "connection mode" : "connectionless"),
    tile("Observations", count(status.subscriptions), `${count(broker.filters)} filters`),
    tile("Requests", now ? `${rate(now.requests)}/s` : "–", now ? `${rate(now.dropped)} dropped/s` : ""),
    tile("Latency p95", latency(now?.p95), now?.p50 === undefined ? "no requests" : `median ${latency(now.p50)}`),
    tile("Broker", broker.connected ? "connected" : "away", broker.fault ?? broker.state, broker.connected ? "good" : "bad"),
    tile("Spool", spool.failed ? "failed" : spool.capacity_bytes > 0 ? count(spool.messages) : "off", spool.capacity_bytes > 0 ? bytes(spool.bytes) + share : "",
      spool.failed || spool.dropped > 0 ? "bad" : undefined),
    tile("Pressure", `${Math.round(pressure * 100)} %`, "of the nearest cap", pressure >= 0.75 ? "bad" : pressure >= 0.6 ? "warn" : undefined),
  ];
}

function table(title, rows, none) {
  const shown = rows.filter(([, value]) => value > 0);
  return h("section", { class: "panel third" },
    h("div", { class: "head" }, h("h2", {}, title)),
    shown.length === 0
      ? h("p", { class: "empty" }, none)
      : h("table", { class: "plain" }, h("tbody", {}, shown.slice(0, 10).map(([label, value, kind]) =>
        h("tr", {}, h("td", { class: kind }, label), h("td", { class: "num" }, count(value)))))));
}

const words = (label) => label.replaceAll("_", " ");

function tables({ status, metrics }) {
  const handshakes = by(metrics, "portcullis_dtls_handshakes_total", "result").map(([result, n]) => [words(result), n, result === "ok" ? "good" : undefined]);
  const drops = new Map(by(metrics, "portcullis_datagrams_dropped_total", "reason"));
  drops.delete("dtls");
  for (const [reason, n] of by(metrics, "portcullis_dtls_records_dropped_total", "reason")) drops.set(`DTLS: ${reason}`, n);
  const { broker } = status;
  const publishes = by(metrics, "portcullis_publishes_total", "result").map(([result, n]) => [words(result), n, result === "accepted" ? "good" : undefined]);
  return [
    table("Handshakes by result", handshakes, "No handshakes yet."),
    table("Publishes by result", publishes, "Nothing published yet."),
    table("Notifications by result", by(metrics, "portcullis_notifications_total", "result").map(([result, n]) => [words(result), n]), "No notifications yet."),
    table("Dropped, by reason", [...drops].sort((a, b) => b[1] - a[1]).map(([reason, n]) => [words(reason), n]), "Nothing dropped."),
    table("Refused, by limit", by(metrics, "portcullis_limits_rejected_total", "limit").map(([limit, n]) => [words(limit), n]), "No limit was hit."),
    table("Broker and spool", [
      ["messages to the broker", broker.sent],
      ["messages from the broker", broker.received],
      ["retained messages", broker.retained_messages],
      ["waiting in the spool", broker.spool.messages],
      ["lost from the spool", broker.spool.dropped, "bad"],
    ], "Nothing went to or from the broker yet."),
  ];
}

export function overview() {
  const charts = [
    new Chart("Messages per second", [["requests", "requests"], ["published", "published"], ["notified", "notified"]], rate, 1),
    new Chart("Time to the answer", [["p50", "median"], ["p95", "p95"], ["p99", "p99"]], seconds, 0.001),
    new Chart("Sessions", [["dtls", "DTLS"], ["udp", "UDP"]], count, 4),
    new Chart("DTLS handshakes per second", [["handshakes", "done"], ["resumed", "resumed"], ["failed", "failed"]], rate, 1),
    new Chart("Broker messages per second", [["sent", "to"], ["received", "from"]], rate, 1),
    new Chart("Trouble per second", [["dropped", "dropped"], ["retransmitted", "retransmitted"], ["limited", "refused by a limit"]], rate, 1),
  ];
  const numbers = h("dl", { class: "panel tiles" });
  numbers.style.margin = "0";
  const lower = h("div", { class: "grid" });
  const facts = h("p", { class: "soft" });
  const element = h("div", {},
    h("div", { class: "grid" }, numbers, charts.map((chart) => chart.element), lower), facts);
  return {
    element,
    update() {
      if (!last) return;
      numbers.replaceChildren(...tiles(last));
      for (const chart of charts) chart.update(history.points);
      lower.replaceChildren(...tables(last));
      const { status } = last;
      facts.textContent = `Version ${status.version}, ${status.openssl}, ${status.workers} workers, ${status.listeners} listeners, up ${age(status.uptime_seconds)}`
        + (status.config_file ? `, configured by ${status.config_file}` : ", quick start without a configuration file");
    },
  };
}
