// The clients: a table to search, order and page through, and a panel for one of them.

import { call, get, name } from "./api.js";
import { panel } from "./client.js";
import { busy, confirmed, h, refill, toast, visible } from "./dom.js";
import { age, bytes, count } from "./words.js";

const asked = { page: 1, limit: "50", search: "", transport: "", listener: "", sort: "clientid", order: "asc" };

/** The columns: what they are ordered by, their heading, on which screens they are shown. */
const COLUMNS = [
  ["clientid", "Client id", ""], ["username", "User name", "optional"], ["identity", "Identity", "wide"], ["listener", "Listener", "optional"],
  ["address", "Address", "optional"], ["created_at", "Here for", "num optional"], ["seen_at", "Last seen", "num"],
  ["messages_received", "Received", "num wide"], ["messages_sent", "Sent", "num optional"], ["subscriptions", "Observes", "num wide"],
  ["retransmissions", "Retransmissions", "num optional"],
];

/** Those that one looks for from the largest down; a time is largest when it is latest. */
const DOWN = ["seen_at", "messages_received", "messages_sent", "subscriptions", "retransmissions", "created_at"];

function query() {
  const parameters = new URLSearchParams({ page: asked.page, limit: asked.limit, sort: asked.sort, order: asked.order });
  for (const key of ["search", "transport", "listener"]) if (asked[key]) parameters.set(key, asked[key]);
  return `clients?${parameters}`;
}

/** What a client is called in addresses: one without a client id by where it is. */
const key = (client) => client.clientid ?? client.address;

export async function kick(id) {
  const text = `The connection of “${visible(id)}” and its DTLS session end, and all of its observations with them. The device may come back.`;
  if (!await confirmed("Kick this client?", text, "Kick")) return false;
  try {
    await call("DELETE", `clients/${name(id)}`);
    toast(`${visible(id)} was kicked.`);
    return true;
  } catch (error) {
    toast(error.message);
    return false;
  }
}

function row(client, selected, kicked) {
  const id = key(client);
  const none = h("span", { class: "soft" }, "–");
  const label = h("a", { class: "link", "data-key": `show ${id}`, href: `#clients/${name(id ?? "")}` },
    client.clientid === null ? h("span", { class: "soft" }, "unnamed") : visible(client.clientid));
  const proof = client.identity && [visible(client.identity.name), " ", h("span", { class: "tag" }, client.identity.proof === "psk" ? "PSK" : "cert")];
  const traffic = (way) => (client.traffic ? h("span", { title: bytes(client.traffic[`bytes_${way}`]) }, count(client.traffic[`messages_${way}`])) : none.cloneNode(true));
  const cells = {
    clientid: h("td", { class: "id", title: visible(id ?? "") }, label),
    username: h("td", { class: "id" }, client.username === null ? none : visible(client.username)),
    identity: h("td", { class: "id" }, proof ?? none.cloneNode(true)),
    listener: h("td", {}, `${client.transport}:${client.listener}`),
    address: h("td", { class: "mono" }, client.address ?? h("span", { class: "warn" }, "away")),
    created_at: h("td", {}, age(client.age_seconds)),
    seen_at: h("td", {}, `${age(client.idle_seconds)} ago`),
    messages_received: h("td", {}, traffic("received")),
    messages_sent: h("td", {}, traffic("sent")),
    subscriptions: h("td", {}, count(client.subscriptions)),
    retransmissions: h("td", {}, count(client.retransmissions)),
  };
  for (const [column, , classes] of COLUMNS) cells[column].classList.add(...classes.split(" ").filter(Boolean));
  return h("tr", { "aria-selected": id === selected },
    COLUMNS.map(([column]) => cells[column]),
    h("td", { class: "num" }, id !== null && h("button", {
      class: "small quiet", changes: true, "data-key": `kick ${id}`, "aria-label": `Kick ${visible(id)}`,
      onclick: async () => { if (await kick(id)) await kicked(); },
    }, "Kick")));
}

function select(label, choices, value, change) {
  return h("select", { "aria-label": label, onchange: (event) => change(event.target.value) },
    choices.map(([own, text]) => h("option", { value: own, selected: own === value }, text)));
}

export function clients(selected, wishes) {
  for (const [wish, value] of wishes) if (wish in asked) asked[wish] = value;
  if (wishes.size > 0) asked.page = 1;
  const rows = h("tbody");
  const places = h("span", { class: "soft", role: "status" });
  const wrong = h("p", { class: "bad" });
  const search = h("input", { type: "search", placeholder: "Id, user, identity, address…", value: asked.search, "aria-label": "Search clients" });
  const restart = (what, value) => { asked[what] = value; asked.page = 1; update(); };
  const listener = select("Listener", [["", "All listeners"]], "", (value) => restart("listener", value));
  const transport = select("Transport", [["", "All transports"], ["udp", "UDP only"], ["dtls", "DTLS only"], ["tcp", "TCP only"], ["tls", "TLS only"]], asked.transport, (value) => restart("transport", value));
  const size = select("Clients per page", ["25", "50", "100", "500"].map((one) => [one, `${one} a page`]), asked.limit, (value) => restart("limit", value));
  const page = h("input", { class: "short", inputmode: "numeric", "aria-label": "Page", onchange: () => jump(Number(page.value)) });
  const last = h("span", { class: "soft" });
  const back = h("button", { class: "small", onclick: () => jump(asked.page - 1) }, "Previous");
  const on = h("button", { class: "small", onclick: () => jump(asked.page + 1) }, "Next");
  const turning = h("div", { class: "row turning" }, size, h("span", { class: "grow" }), back, h("label", { class: "check" }, "Page ", page), last, on);
  let typing;
  search.addEventListener("input", () => {
    clearTimeout(typing);
    typing = setTimeout(() => restart("search", search.value), 250);
  });

  const headings = COLUMNS.map(([column, label, classes]) => {
    const heading = h("th", { class: classes, scope: "col" }, h("button", { class: "sort", onclick: () => order(column) }, label));
    heading.column = column;
    return heading;
  });
  function order(column) {
    if (asked.sort === column) asked.order = asked.order === "asc" ? "desc" : "asc";
    else Object.assign(asked, { sort: column, order: DOWN.includes(column) ? "desc" : "asc" });
    restart("sort", column);
    ordered();
  }
  function ordered() {
    for (const heading of headings) {
      if (heading.column === asked.sort) heading.setAttribute("aria-sort", asked.order === "asc" ? "ascending" : "descending");
      else heading.removeAttribute("aria-sort");
    }
  }
  ordered();

  const list = h("section", { class: "panel" },
    h("div", { class: "head" }, h("h1", {}, "Clients"), places, h("span", { class: "grow" }), h("div", { class: "row" }, search, listener, transport)),
    wrong,
    h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Table of clients" }, h("table", {}, h("thead", {}, h("tr", {}, headings, h("th", { scope: "col" }, h("span", { class: "unseen" }, "Actions")))), rows)),
    turning);
  const split = h("div", { class: "split" }, list);
  let side;
  let asking = 0;
  let pages = 1;

  async function update() {
    asking += 1;
    const mine = asking;
    let got;
    try {
      got = await get(query());
      wrong.textContent = "";
    } catch (error) {
      wrong.textContent = error.message;
      return;
    }
    // Something else was asked for meanwhile.
    if (mine !== asking) return;
    const { data, meta } = got;
    refill(rows, data.map((client) => row(client, selected, update)));
    if (data.length === 0) rows.append(h("tr", {}, h("td", { colspan: COLUMNS.length + 1 }, h("p", { class: "empty" }, asked.search || asked.transport || asked.listener ? "No client fits." : "No clients yet."))));
    const first = (meta.page - 1) * meta.limit;
    pages = Math.max(1, Math.ceil(meta.count / meta.limit));
    places.textContent = data.length > 0 ? `${count(first + 1)}–${count(first + data.length)} of ${count(meta.count)}` : "";
    back.disabled = meta.page <= 1;
    on.disabled = !meta.hasnext;
    if (document.activeElement !== page) page.value = meta.page;
    last.textContent = `of ${count(pages)}`;
    turning.hidden = meta.count <= 25;
  }

  function jump(to) {
    asked.page = Math.min(Math.max(1, Math.floor(to) || 1), pages);
    page.value = asked.page;
    update();
  }

  async function choices() {
    const names = [...new Set((await get("listeners")).map((one) => one.name))];
    if (asked.listener && !names.includes(asked.listener)) asked.listener = "";
    listener.replaceChildren(...[["", "All listeners"], ...names.map((one) => [one, one])].map(([value, label]) => h("option", { value, selected: value === asked.listener }, label)));
  }

  if (selected !== undefined) {
    const leave = () => { location.hash = "#clients"; };
    side = panel(selected, { close: leave, kicked: leave });
    split.append(side.element);
    split.classList.add("open");
  }
  let begun = false;
  return {
    element: split,
    // Every third beat: a list is more work than a number.
    every: 3,
    close: () => side?.stop(),
    async update() {
      if (!begun) await choices();
      begun = true;
      await Promise.all([busy(list) || update(), side?.update()]);
    },
  };
}
