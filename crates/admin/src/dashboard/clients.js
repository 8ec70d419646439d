// The clients: a table to search and page through, and a panel for one of them.

import { call, get, name } from "./api.js";
import { panel } from "./client.js";
import { age, busy, confirmed, h, refill, toast, visible } from "./dom.js";

const LIMIT = 50;
const asked = { page: 1, like_clientid: "", transport: "" };

function query() {
  const parameters = new URLSearchParams({ page: asked.page, limit: LIMIT });
  if (asked.like_clientid) parameters.set("like_clientid", asked.like_clientid);
  if (asked.transport) parameters.set("transport", asked.transport);
  return `clients?${parameters}`;
}

function cipher(suite) {
  return suite.replace(/^TLS_/, "").replace("_WITH_", " ").replaceAll("_", "-");
}

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

export function clients(selected) {
  const rows = h("tbody");
  const places = h("span", { class: "soft" });
  const wrong = h("p", { class: "bad" });
  const back = h("button", { class: "small", onclick: () => turn(-1) }, "Previous");
  const on = h("button", { class: "small", onclick: () => turn(1) }, "Next");
  const search = h("input", { type: "search", placeholder: "Client id contains…", value: asked.like_clientid, "aria-label": "Client id contains" });
  const transport = h("select", { "aria-label": "Transport" },
    [["", "UDP and DTLS"], ["udp", "UDP only"], ["dtls", "DTLS only"]].map(([value, label]) => h("option", { value, selected: value === asked.transport }, label)));
  let typing;
  search.addEventListener("input", () => {
    clearTimeout(typing);
    typing = setTimeout(() => { asked.like_clientid = search.value; restart(); }, 250);
  });
  transport.addEventListener("change", () => { asked.transport = transport.value; restart(); });

  const list = h("section", { class: "panel" },
    h("div", { class: "head" }, h("h1", {}, "Clients"), places, h("span", { class: "grow" }), h("div", { class: "row" }, search, transport)),
    wrong,
    h("div", { class: "scroll" }, h("table", {},
      h("thead", {}, h("tr", {},
        h("th", {}, "Client id"), h("th", { class: "wide" }, "Identity"), h("th", { class: "optional" }, "Listener"), h("th", { class: "optional" }, "Address"),
        h("th", { class: "optional" }, "Cipher"), h("th", { class: "num optional" }, "Age"), h("th", { class: "num" }, "Heard of"),
        h("th", { class: "num" }, "Obs."), h("th", { class: "num wide", title: "Sent again because it was not acknowledged" }, "Again"), h("th", {}))),
      rows)),
    h("div", { class: "row" }, h("span", { class: "grow" }), back, on));
  const split = h("div", { class: "split" }, list);
  let side;
  let asking = 0;

  function row(client) {
    const id = client.clientid;
    const label = id === null
      ? h("span", { class: "soft" }, "unnamed")
      : h("button", { class: "link", "data-key": `show ${id} ${client.address}`, onclick: () => { location.hash = `#clients/${name(id)}`; } }, visible(id));
    const proof = client.identity && [visible(client.identity.name), " ", h("span", { class: "tag" }, client.identity.proof === "psk" ? "PSK" : "cert")];
    return h("tr", { "aria-selected": id !== null && id === selected },
      h("td", { class: "id", title: visible(id ?? "") }, label),
      h("td", { class: "id wide" }, proof ?? h("span", { class: "soft" }, "–")),
      h("td", { class: "optional" }, `${client.transport}:${client.listener}`),
      h("td", { class: "mono optional" }, client.address ?? h("span", { class: "warn" }, "away")),
      h("td", { class: "optional" }, client.dtls ? [cipher(client.dtls.cipher), " ", client.dtls.cid && h("span", { class: "tag" }, "CID")] : h("span", { class: "soft" }, "–")),
      h("td", { class: "num optional" }, age(client.age_seconds)),
      h("td", { class: "num" }, age(client.idle_seconds)),
      h("td", { class: "num" }, client.subscriptions),
      h("td", { class: "num wide" }, client.retransmissions),
      h("td", { class: "num" }, id !== null && h("button", {
        class: "small danger", "data-key": `kick ${id} ${client.address}`, "aria-label": `Kick ${visible(id)}`,
        onclick: async () => { if (await kick(id)) await update(); },
      }, "Kick")));
  }

  async function update() {
    asking += 1;
    const mine = asking;
    let page;
    try {
      page = await get(query());
      wrong.textContent = "";
    } catch (error) {
      wrong.textContent = error.message;
      return;
    }
    // Something else was asked for meanwhile.
    if (mine !== asking) return;
    const { data, meta } = page;
    refill(rows, data.map(row));
    if (data.length === 0) rows.append(h("tr", {}, h("td", { colspan: 10 }, h("p", { class: "empty" }, asked.like_clientid || asked.transport ? "No client fits." : "No clients yet."))));
    const first = (meta.page - 1) * meta.limit;
    const total = meta.count === undefined ? "" : ` of ${meta.count}`;
    places.textContent = data.length > 0 ? `${first + 1}–${first + data.length}${total}` : "";
    back.disabled = meta.page <= 1;
    on.disabled = !meta.hasnext;
    back.hidden = on.hidden = meta.page <= 1 && !meta.hasnext;
  }

  function restart() {
    asked.page = 1;
    update();
  }

  function turn(by) {
    asked.page += by;
    update();
  }

  if (selected !== undefined) {
    side = panel(selected, { close: () => { location.hash = "#clients"; }, kicked: () => { location.hash = "#clients"; } });
    split.append(side.element);
    split.classList.add("open");
  }
  return {
    element: split,
    // Every third beat: a list is more work than a number.
    every: 3,
    async update() {
      await Promise.all([busy(list) || update(), side?.update()]);
    },
  };
}
