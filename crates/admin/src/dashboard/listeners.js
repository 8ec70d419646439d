// What serves: sessions, traffic, cipher suites, certificates with their end, and the switch.

import { call, get, name } from "./api.js";
import { busy, confirmed, h, refill, toast } from "./dom.js";
import { place, setting } from "./form.js";
import { by, sum } from "./metrics.js";
import { readWaiting, state } from "./state.js";
import { age, bytes, count, rate, words } from "./words.js";

const DAY = 86400;

/** When a certificate or a list ends, in words, with how bad that is. */
function ending(label, at, now) {
  const left = at - now;
  const kind = left < 0 ? "bad" : left < 14 * DAY ? "warn" : undefined;
  const text = left < 0 ? `ran out ${age(-left)} ago` : `until ${new Date(at * 1000).toLocaleDateString()} (${age(left)})`;
  return h("li", { class: kind }, `${label}: ${text}`);
}

function ends(metrics, one) {
  const key = `listeners.${one.kind}.${one.name}.`;
  const files = (metrics.samples.portcullis_certificate_not_after_seconds ?? []).filter(({ labels }) => labels.use.startsWith(key));
  const lists = (metrics.samples.portcullis_crl_next_update_timestamp_seconds ?? []).filter(({ labels }) => one.kind === "dtls" && labels.listener === one.name);
  return [
    ...files.map(({ labels, value }) => ending(labels.use.slice(key.length), value, metrics.time)),
    ...lists.map(({ value }) => ending("revocation list", value, metrics.time)),
  ];
}

function breakdown(title, rows) {
  return rows.length === 0 ? "" : h("section", {}, h("h3", {}, title),
    h("table", { class: "plain" }, h("tbody", {}, rows.slice(0, 8).map(([label, value]) =>
      h("tr", {}, h("th", { scope: "row" }, label), h("td", { class: "num" }, count(value)))))));
}

/** Numbers of one listener beside its name. */
function details(one, metrics) {
  const own = { listener: one.name };
  const both = { ...own, transport: one.kind };
  const plain = (list) => list.map(([label, value]) => [words(label), value]);
  const suites = one.kind === "dtls" ? by(metrics, "portcullis_dtls_negotiated_total", "cipher", own).map(([suite, value]) => [suite.replace(/^TLS_/, "").replace("_WITH_", " ").replaceAll("_", "-"), value]) : [];
  const handshakes = one.kind === "dtls" ? by(metrics, "portcullis_dtls_handshakes_total", "result", own) : [];
  return h("div", { class: "columns" },
    breakdown("Cipher suites", suites),
    breakdown("Handshakes", plain(handshakes)),
    breakdown("Dropped, by reason", plain(by(metrics, "portcullis_datagrams_dropped_total", "reason", both))));
}

async function act(work, done) {
  try {
    await work();
    toast(done);
  } catch (error) {
    toast(error.message);
  }
}

async function set(one, enabled) {
  const label = `${one.kind}:${one.name}`;
  const text = `Nothing that arrives at ${one.bind} is served until it is switched on again, and what is connected through it ends.`;
  if (!enabled && !await confirmed(`Switch ${label} off?`, text, "Switch off")) return;
  await act(() => call("PUT", `listeners/${name(one.kind)}/${name(one.name)}/enable/${enabled}`), `${label} is ${enabled ? "on" : "off"}.`);
}

async function remove(one) {
  const label = `${one.kind}:${one.name}`;
  const text = `Its table leaves the configuration file, its sockets at ${one.bind} are closed, and what is connected through it ends.`;
  if (!await confirmed(`Remove ${label}?`, text, "Remove")) return;
  await act(() => call("DELETE", `listeners/${name(one.kind)}/${name(one.name)}`), `${label} is gone.`);
}

export function listeners() {
  const cards = h("div", { class: "cards" });
  const before = new Map();

  /** Per second since the last look; nothing before the second one. */
  function per(one, key, time) {
    const old = before.get(`${one.kind}:${one.name}`);
    const span = old && time - old.time;
    return old && span > 0 && one[key] >= old[key] ? (one[key] - old[key]) / span : undefined;
  }

  function traffic(one, way, time) {
    const [datagrams, octets] = [per(one, `datagrams_${way}`, time), per(one, `bytes_${way}`, time)];
    const total = `${count(one[`datagrams_${way}`])} datagrams, ${bytes(one[`bytes_${way}`])}`;
    return datagrams === undefined ? total : [h("b", {}, `${rate(datagrams)}/s`), `, ${bytes(octets)}/s`, h("small", { class: "soft" }, ` ${total}`)];
  }

  function card(one, metrics) {
    const label = `${one.kind}:${one.name}`;
    const toggle = h("input", {
      type: "checkbox", class: "switch", role: "switch", checked: one.enabled, changes: true, "aria-label": `${label} serves`, "data-key": `switch ${label}`,
      onchange: async () => { await set(one, toggle.checked); await update(); },
    });
    const certificates = ends(metrics, one);
    const drops = sum(metrics, "portcullis_udp_socket_drops_total", { listener: one.name, transport: one.kind });
    const fact = (term, value) => [h("dt", {}, term), h("dd", {}, value)];
    return h("section", { class: "panel" },
      h("div", { class: "head" }, h("h2", {}, one.name), h("span", { class: "tag" }, one.kind.toUpperCase()), h("span", { class: "mono wrap" }, one.bind),
        h("span", { class: "grow" }), h("label", { class: "check" }, one.enabled ? "serves" : "is off", toggle)),
      h("dl", { class: "facts" },
        fact(one.kind === "dtls" ? "Sessions" : "Peers", h("a", { href: `#clients?listener=${name(one.name)}&transport=${one.kind}`, "data-key": `clients ${label}` }, count(one.sessions))),
        fact("Received", traffic(one, "received", metrics.time)), fact("Sent", traffic(one, "sent", metrics.time)),
        drops > 0 && fact("Lost before us", h("span", { class: "warn" }, `${count(drops)} datagrams that the kernel dropped`)),
        certificates.length > 0 && fact("Runs out", h("ul", { class: "bare" }, certificates))),
      details(one, metrics),
      h("div", { class: "row" }, h("a", { href: `#settings/listeners.${one.kind}.${one.name}`, "data-key": `settings ${label}` }, "Settings"), h("a", { href: `#events?listener=${name(one.name)}`, "data-key": `events ${label}` }, "Events"), h("span", { class: "grow" }),
        h("button", { class: "small quiet", changes: true, "data-key": `remove ${label}`, "aria-label": `Remove ${label}`, onclick: async () => { await remove(one); await update(); } }, "Remove")));
  }

  async function update() {
    const [all, metrics] = await Promise.all([get("listeners"), get("metrics")]);
    refill(cards, all.map((one) => card(one, metrics)));
    for (const one of all) before.set(`${one.kind}:${one.name}`, { ...one, time: metrics.time });
  }

  return {
    element: h("div", {}, h("div", { class: "head" }, h("h1", {}, "Listeners"),
      h("span", { class: "soft" }, "A switch holds until the process is started again.")),
    cards, state.mayChange && state.status?.config_file && adding(update)),
    every: 2,
    async update() {
      if (!busy(cards)) await update();
    },
  };
}

/** The form for one more listener, with the keys of its kind. */
function adding(done) {
  const box = h("div", { class: "fields" });
  const kind = h("select", { id: "new-kind" }, ["udp", "dtls", "tcp", "tls"].map((value) => h("option", { value }, value.toUpperCase())));
  const called = setting({ name: "name", kind: "text", type: "text", choices: [], default: null, about: "1 to 64 letters, digits, - or _; the label of its metrics." }, undefined);
  const said = h("div", { role: "status" });
  const more = h("div", { class: "fields" });
  const rest = h("details", {}, h("summary", {}, "More settings"), more);
  const element = h("form", { class: "form", novalidate: true },
    h("div", { class: "fields" }, h("div", { class: "field" }, h("label", { for: "new-kind" }, "Kind"), kind), called.element),
    box, rest, said, h("div", { class: "row" }, h("button", { class: "primary", changes: true }, "Add listener")));
  let keys;
  let fields = new Map();
  async function show() {
    keys ??= (await get("config/schema")).keys;
    const first = ["bind", "psk_file", "cert_file", "key_file", "identity"];
    const own = keys.filter((key) => key.section === `listeners.${kind.value}.*`).map((key) => setting(key, undefined));
    fields = new Map(own.map((field) => [field.name, field]));
    box.replaceChildren(...own.filter((field) => first.includes(field.name)).map((field) => field.element));
    more.replaceChildren(...own.filter((field) => !first.includes(field.name)).map((field) => field.element));
  }
  kind.addEventListener("change", show);
  element.addEventListener("submit", async (event) => {
    event.preventDefault();
    const settings = {};
    for (const [key, field] of fields) if (field.changed()) settings[key] = field.value();
    const title = called.input.value.trim();
    const prefix = `listeners.${kind.value}.${title}`;
    const named = new Map([...fields].map(([key, field]) => [`${prefix}.${key}`, field]));
    const wrong = (problems, message) => {
      const left = place(problems, named);
      called.tell(left.map((problem) => problem.message).join(" "));
      said.replaceChildren(...(problems.length === 0 && message ? [h("div", { class: "note bad-note" }, message)] : []));
    };
    if (title === "") {
      wrong([], "");
      called.tell("A listener has a name.");
      called.input.focus();
      return;
    }
    try {
      const report = await call("POST", "listeners", { json: { kind: kind.value, name: title, settings } });
      wrong([], "");
      called.input.value = "";
      await show();
      const waits = report.restart_required.length > 0;
      said.replaceChildren(...(waits ? [h("div", { class: "note warn-note" }, `Saved; takes effect after a restart: ${report.restart_required.join(", ")}`)] : []));
      toast(report.enabled && !waits ? `${kind.value}:${report.name} serves at ${report.bind}.` : `${kind.value}:${report.name} is saved.`);
      await readWaiting();
      await done();
    } catch (error) {
      wrong(error.problems ?? [], error.message);
    }
  });
  const whole = h("details", { class: "panel adding" }, h("summary", {}, "Add a listener"), element);
  whole.addEventListener("toggle", () => { if (whole.open && !keys) show(); });
  return whole;
}
