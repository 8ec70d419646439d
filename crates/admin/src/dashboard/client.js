// One client: what is known of it, what it exchanges, its observations, a trace, and a request to the device.

import { call, get, name } from "./api.js";
import { kick } from "./clients.js";
import { busy, field, h, refill, showError, toast, visible } from "./dom.js";
import { tracing } from "./trace.js";
import { age, bytes, count, seconds } from "./words.js";

function facts(client) {
  const traffic = client.traffic;
  const way = (messages, octets, publishes, of) => `${count(messages)} messages, ${bytes(octets)}${publishes > 0 ? `, ${count(publishes)} ${of}` : ""}`;
  const list = [
    ["Address", client.address ?? "away"],
    ["Listener", `${client.transport}:${client.listener}`],
    ["Mode", client.connection ? "connection" : "connectionless"],
    ["User name", client.username && visible(client.username)],
    ["Identity", client.identity && `${visible(client.identity.name)} (${client.identity.proof === "psk" ? "pre-shared key" : "certificate"})`],
    ["Cipher", client.dtls?.cipher],
    ["Connection ID", client.dtls && (client.dtls.cid ? "yes (RFC 9146)" : "no")],
    ["Handshake", client.dtls && `${age(client.dtls.age_seconds)} ago${client.dtls.resumed ? ", resumed" : ""}`],
    ["First seen", `${age(client.age_seconds)} ago`],
    ["State", state(client)],
    ["Last seen", `${age(client.idle_seconds)} ago`],
    ["Received", traffic && way(traffic.messages_received, traffic.bytes_received, traffic.publishes_received, "publishes")],
    ["Sent", traffic && way(traffic.messages_sent, traffic.bytes_sent, traffic.publishes_sent, "notifications")],
    ["Last topic", traffic?.last_topic && visible(traffic.last_topic)],
    ["Retransmissions", count(client.retransmissions)],
  ];
  return list.filter(([, value]) => value).flatMap(([label, value]) => [h("dt", {}, label), h("dd", {}, value)]);
}

function state(client) {
  const promise = client.lifetime_seconds !== undefined && `, sleeps up to ${age(client.lifetime_seconds)}`;
  return h("span", { class: client.state === "online" ? "good" : "warn" }, client.state, promise);
}

function subscriptions(id, changed) {
  const rows = h("tbody");
  const topic = h("input", { placeholder: "sensors/+/temperature", required: true });
  const qos = h("select", {}, ["0", "1", "2"].map((value) => h("option", { value }, value)));
  const token = h("input", { placeholder: "random", class: "mono" });
  const fields = { topic: field("Topic filter", topic), qos: field("QoS", qos), token: field("CoAP token (hex)", token) };
  const wrong = h("span", { class: "bad" });
  const uri = `clients/${name(id)}/subscriptions`;
  const form = h("form", { class: "form" },
    h("div", { class: "fields" }, Object.values(fields)),
    h("div", { class: "row" }, h("button", { changes: true }, "Observe for this client"), wrong));
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const wanted = { topic: topic.value, qos: Number(qos.value) };
    if (token.value) wanted.token = token.value;
    try {
      await call("POST", uri, { json: wanted });
      showError(undefined, fields, wrong);
      topic.value = token.value = "";
      changed();
    } catch (error) {
      showError(error, fields, wrong);
    }
  });
  async function remove(filter) {
    try {
      await call("DELETE", `${uri}/${name(filter)}`);
    } catch (error) {
      toast(error.message);
    }
    changed();
  }
  const adding = h("details", {}, h("summary", {}, "Add one"), form);
  return {
    element: h("section", {}, h("div", { class: "head" }, h("h2", {}, "Observations")),
      h("table", { class: "plain" }, rows), adding),
    show({ observations, clientid }) {
      adding.hidden = clientid === null;
      refill(rows, observations.map((one) => h("tr", {},
        h("td", { class: "mono wrap" }, visible(one.topic)),
        h("td", { class: "soft" }, `QoS ${one.qos}`),
        h("td", { class: "soft num", title: `token ${one.token}` }, `#${one.sequence}`),
        h("td", { class: "num" }, clientid !== null && h("button", { class: "small quiet", changes: true, "data-key": one.topic, "aria-label": `End ${visible(one.topic)}`, onclick: () => remove(one.topic) }, "End")))));
      if (observations.length === 0) rows.append(h("tr", {}, h("td", { class: "soft" }, "None.")));
    },
  };
}

function requests(id) {
  const method = h("select", {}, ["get", "put", "post", "delete", "fetch", "patch", "ipatch"].map((word) => h("option", { value: word }, word.toUpperCase())));
  const path = h("input", { placeholder: "/sensors/temperature", class: "mono" });
  const query = h("input", { placeholder: "unit=c", class: "mono" });
  const format = h("input", { placeholder: "application/json" });
  const timeout = h("input", { value: "10s" });
  const wait = h("input", { placeholder: "does not wait" });
  const payload = h("textarea", { rows: 2 });
  const fields = {
    method: field("Method", method),
    path: field("Path", path),
    query: field("Query", query),
    content_format: field("Content-Format", format),
    timeout: field("Give up after", timeout),
    wait: field("Wait for it up to", wait),
    payload: field("Payload", payload),
  };
  const wrong = h("span", { class: "bad" });
  const send = h("button", { class: "primary", changes: true }, "Send");
  const answer = h("div", { role: "status" });
  const form = h("form", { class: "form" },
    h("div", { class: "fields" }, fields.method, fields.path, fields.query, fields.content_format, fields.timeout, fields.wait), fields.payload,
    h("div", { class: "row" }, send, wrong), answer);
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const wanted = { method: method.value, path: path.value, query: query.value, timeout: timeout.value };
    const number = /^\d+$/.test(format.value);
    if (format.value) wanted.content_format = number ? Number(format.value) : format.value;
    if (wait.value) wanted.wait = wait.value;
    if (payload.value) wanted.payload = payload.value;
    send.disabled = true;
    answer.replaceChildren();
    const started = performance.now();
    try {
      const got = await call("POST", `clients/${name(id)}/request`, { json: wanted });
      showError(undefined, fields, wrong);
      if (got.code === undefined) {
        answer.append(h("p", {}, h("b", { class: "warn" }, got.status), ": it goes out when the device is heard of."));
        return;
      }
      const kind = got.code.startsWith("2") ? "good" : "warn";
      const took = seconds((performance.now() - started) / 1000);
      answer.append(
        h("p", {}, h("b", { class: kind }, got.code), ` in ${took}`, got.content_format !== undefined && `, Content-Format ${got.content_format}`),
        (got.payload ?? got.payload_base64) && h("pre", {}, got.payload ?? `Base64: ${got.payload_base64}`));
    } catch (error) {
      showError(error, fields, wrong);
    } finally {
      send.disabled = false;
    }
  });
  return h("section", {}, h("div", { class: "head" }, h("h2", {}, "Send a request")), form);
}

export function panel(id, { close, kicked }) {
  const known = h("dl", { class: "facts" });
  const gone = h("p", { class: "warn" });
  const observations = subscriptions(id, () => update());
  const trace = tracing(id);
  const request = requests(id);
  const end = h("button", { class: "danger", changes: true, hidden: true, onclick: async () => { if (await kick(id)) kicked(); } }, "Kick");
  // What can be done only with a client that is here.
  const present = h("div", { hidden: true }, known, observations.element);
  const past = h("a", { href: `#events?client=${name(id)}` }, "Its events");
  const element = h("aside", { class: "panel side", "aria-label": `Client ${visible(id)}` },
    h("div", { class: "row" }, h("h2", { class: "grow wrap mono" }, visible(id)), past, end, h("button", { onclick: close }, "Close")),
    gone, present, trace.element, request);
  async function update() {
    try {
      const client = await get(`clients/${name(id)}`);
      gone.textContent = "";
      end.hidden = present.hidden = false;
      request.hidden = client.clientid === null;
      known.replaceChildren(...facts(client));
      observations.show(client);
    } catch (error) {
      if (error.status === 404) end.hidden = present.hidden = request.hidden = true;
      gone.textContent = error.status === 404 ? "This client is not here now. A trace shows it when it comes." : error.message;
    }
  }
  return { element, stop: trace.stop, update: async () => busy(element) || update() };
}
