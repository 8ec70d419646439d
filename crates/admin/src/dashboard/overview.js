// How the gateway does: what is wrong, numbers, lines, and what came of what. Each leads to the page that says more.

import { get } from "./api.js";
import { Chart, Span } from "./charts.js";
import { concerns } from "./concerns.js";
import { h, refill } from "./dom.js";
import { History } from "./history.js";
import { by, sum } from "./metrics.js";
import { state } from "./state.js";
import { age, bytes, count, rate, seconds, several, units, words } from "./words.js";

/** Read on by whichever page is shown, so that the lines are there at once. */
export const history = new History();

const RANGES = [[300, "5 min"], [900, "15 min"], [3600, "1 h"]];
let range = 900;

function tile(label, value, small, place, kind) {
  return h("a", { class: "tile", href: place, "data-key": label },
    h("span", { class: "label" }, label), h("b", { class: kind, title: value }, value), h("small", {}, small || "\u00a0"));
}

function tiles(status, metrics) {
  const now = history.points.at(-1);
  const { broker, sessions } = status;
  const spool = broker.spool;
  const latency = (value) => (value <= history.floor ? "< " : "") + seconds(value);
  const p95 = now?.latency_p95_seconds ?? undefined;
  const pressure = sum(metrics, "portcullis_overload_pressure_ratio");
  const kinds = [pressure >= 0.75 && "bad", pressure >= 0.6 && "warn"];
  return [
    tile("DTLS sessions", count(sessions.dtls), `${count(sessions.dtls_cid)} with Connection ID`, "#clients?transport=dtls"),
    tile("UDP peers", count(sessions.udp), "addresses", "#clients?transport=udp"),
    tile("Connections", count(status.connections), status.connection_required ? "connection mode" : "connectionless", "#clients"),
    tile("Observations", count(status.subscriptions), several(broker.filters, "filter"), "#clients?sort=subscriptions&order=desc"),
    tile("Requests", now ? `${rate(now.requests_per_second)}/s` : "–", now ? `${rate(now.drops_per_second)} dropped/s` : "the first numbers come", "#listeners"),
    tile("Latency p95", p95 === undefined ? "–" : latency(p95), p95 === undefined ? "no requests" : `median ${latency(now.latency_p50_seconds)}`, "#overview/latency"),
    tile("Broker", broker.connected ? "connected" : "away", broker.fault ?? broker.state, "#topics", broker.connected ? "good" : "bad"),
    tile("Spool", spool.failed ? "failed" : spool.capacity_bytes > 0 ? count(spool.messages) : "off",
      spool.capacity_bytes > 0 ? `${bytes(spool.bytes)} of ${bytes(spool.capacity_bytes)}` : "", "#settings/broker.spool",
      spool.failed || spool.dropped > 0 ? "bad" : undefined),
    tile("Pressure", `${Math.round(pressure * 100)} %`, "of the nearest cap", "#settings/limits", kinds.find(Boolean) || undefined),
  ];
}

function table(title, rows, none, place, more) {
  const shown = rows.filter(([, value]) => value > 0);
  return h("section", { class: "panel third" },
    h("div", { class: "head" }, h("h2", {}, title), h("span", { class: "grow" }), h("a", { href: place, "data-key": `more ${title}` }, more)),
    shown.length === 0
      ? h("p", { class: "empty" }, none)
      : h("table", { class: "plain" }, h("tbody", {}, shown.slice(0, 10).map(([label, value, kind]) =>
        h("tr", {}, h("th", { scope: "row", class: kind }, label), h("td", { class: "num" }, count(value)))))));
}

function tables(status, metrics) {
  const { broker } = status;
  const drops = [...by(metrics, "portcullis_datagrams_dropped_total", "reason"), ...by(metrics, "portcullis_dtls_records_dropped_total", "reason")];
  const named = (name, label) => by(metrics, name, label).map(([key, n]) => [words(key), n]);
  const publishes = by(metrics, "portcullis_publishes_total", "result").map(([result, n]) => [words(result), n, result === "accepted" ? undefined : "warn"]);
  return [
    table("Handshakes by result", named("portcullis_dtls_handshakes_total", "result"), "No handshake yet.", "#events/handshake_failed", "Failures"),
    table("Publishes by result", publishes, "Nothing published yet.", "#topics", "Topics"),
    table("Notifications by result", named("portcullis_notifications_total", "result"), "No notifications yet.", "#clients?sort=subscriptions&order=desc", "Observers"),
    table("Dropped, by reason", drops.sort((a, b) => b[1] - a[1]).map(([reason, n]) => [words(reason), n]), "Nothing dropped.", "#listeners", "By listener"),
    table("Refused, by limit", named("portcullis_limits_rejected_total", "limit"), "No limit was hit.", "#settings/limits", "Limits"),
    table("Broker and spool", [
      ["messages to the broker", broker.sent],
      ["messages from the broker", broker.received],
      ["retained messages", broker.retained_messages],
      ["waiting in the spool", broker.spool.messages],
      ["lost from the spool", broker.spool.dropped, "bad"],
    ], "Nothing went to or from the broker yet.", "#topics", "Topics"),
  ];
}

function verdict(found, status) {
  if (found.length === 0) {
    return [h("p", { class: "fine" }, h("span", { class: "dot good" }),
      h("b", {}, "All is well."), ` ${several(status.listeners, "listener")} ${status.listeners === 1 ? "serves" : "serve"}, the broker is there, and no alert is in force.`)];
  }
  return [h("ul", { class: "concerns" }, found.map(({ kind, title, detail, place }) =>
    h("li", { class: kind }, h("a", { href: place, "data-key": title + detail }, h("b", {}, title)), " ", h("span", {}, detail ?? ""))))];
}

function ranges(span) {
  const buttons = RANGES.map(([length, label]) => h("button", {
    class: "small", type: "button", "aria-pressed": String(length === range),
    onclick: (event) => {
      range = length;
      span.show(length);
      for (const button of buttons) button.setAttribute("aria-pressed", String(button === event.target));
    },
  }, label));
  return h("div", { class: "row choices", role: "group", "aria-label": "Time range of the charts" }, buttons);
}

function charts(span) {
  const { perSecond, number, percent, bytes: memory } = units;
  return [
    new Chart(span, "Messages", [["requests_per_second", "requests"], ["publishes_per_second", "published"], ["notifications_per_second", "notified"]], perSecond, "messages"),
    new Chart(span, "Time to the answer", [["latency_p50_seconds", "median"], ["latency_p95_seconds", "p95"], ["latency_p99_seconds", "p99"]], units.seconds, "latency"),
    new Chart(span, "Sessions and peers", [["dtls_sessions", "DTLS sessions"], ["udp_peers", "UDP peers"], ["connections", "connections"]], number, "sessions"),
    new Chart(span, "DTLS handshakes", [["handshakes_per_second", "done"], ["resumptions_per_second", "resumed"], ["failed_handshakes_per_second", "failed"]], perSecond, "handshakes"),
    new Chart(span, "Messages of the broker", [["broker_sent_per_second", "to it"], ["broker_received_per_second", "from it"]], perSecond, "broker"),
    new Chart(span, "Trouble", [["drops_per_second", "dropped"], ["retransmissions_per_second", "retransmissions"], ["refusals_per_second", "refused by a limit"]], perSecond, "trouble"),
    new Chart(span, "Processor, of one core", [["cpu_percent", "in use"]], percent, "cpu"),
    new Chart(span, "Memory", [["memory_bytes", "resident"]], memory, "memory"),
  ];
}

export function overview(place) {
  const span = new Span(range);
  const all = charts(span);
  const said = h("div", { class: "verdict", role: "status" });
  const numbers = h("nav", { class: "panel tiles", "aria-label": "Numbers" });
  const lower = h("div", { class: "grid" });
  const facts = h("p", { class: "soft" });
  const element = h("div", {}, h("h1", { class: "unseen" }, "Overview"), said,
    h("div", { class: "grid" }, numbers, h("div", { class: "row" }, h("h2", { class: "grow" }, "Over time"), ranges(span)), all.map((chart) => chart.element), h("h2", {}, "Since the start"), lower), facts);
  let told = "";
  return {
    element,
    shown() {
      if (place) document.getElementById(`chart-${place}`)?.querySelector("svg").focus();
    },
    async update() {
      const { status } = state;
      if (!status) return;
      const metrics = await get("metrics");
      const found = concerns({ status, metrics, history });
      const now = JSON.stringify(found);
      // It is read out to who does not see it, so it is said again only when it is something else.
      if (now !== told || !said.hasChildNodes()) refill(said, verdict(found, status));
      told = now;
      refill(numbers, tiles(status, metrics));
      refill(lower, tables(status, metrics));
      const points = history.points.map((point) => ({ ...point, cpu_percent: point.cpu_ratio * 100 }));
      for (const chart of all) chart.update({ points, step: history.step, floor: chart.unit === units.seconds ? history.floor : 0 });
      facts.textContent = `Version ${status.version}, ${status.openssl}, ${several(status.workers, "worker")}, ${several(status.listeners, "listener")}, up ${age(status.uptime_seconds)}`
        + (status.config_file ? `, configured by ${status.config_file}` : ", quick start without a configuration file");
    },
  };
}
