// Pre-shared keys of devices.

import { call, get, name } from "./api.js";
import { asking, copied, field, h, showError, toast, visible } from "./dom.js";
import { listed, opened } from "./listed.js";

/** A key that was made, in every form that somebody may need; it is not to be had again. */
function shown(stored) {
  const lines = stored.try_lines.length > 0 ? ["To try it on the gateway's machine, observe with the first line and publish with the second:", ...stored.try_lines] : [];
  return [
    h("div", { class: "note" }, `The key of “${visible(stored.identity)}”, which is shown this once, as text: `, copied(stored.key_text)),
    h("div", { class: "note" }, "in hexadecimal: ", copied(stored.key)),
    ...lines.map((line, n) => h("div", { class: "note" }, n === 0 ? line : copied(line))),
  ];
}

export function keys() {
  const made = h("div", { role: "status", class: "form" });
  const choice = h("select", {});

  function adding(done) {
    const identity = h("input", { required: true, autocomplete: "off" });
    const key = h("input", { placeholder: "one is made", autocomplete: "off", class: "mono" });
    const has = h("select", {}, [["", "do nothing"], ["replace", "replace it"], ["another", "keep it too, until it is removed"]].map(([value, label]) => h("option", { value }, label)));
    const fields = { identity: field("Identity", identity), key: field("Key (hex)", key), listener: field("Listener", choice), has: field("If it has a key", has) };
    const wrong = h("span", { class: "bad" });
    const form = h("form", { class: "form" }, h("div", { class: "fields" }, Object.values(fields)),
      h("div", { class: "row" }, h("button", { class: "primary" }, "Add identity"), wrong));
    form.addEventListener("submit", async (event) => {
      event.preventDefault();
      const json = { identity: identity.value, replace: has.value === "replace", another: has.value === "another" };
      if (key.value) json.key = key.value;
      if (choice.value) json.listener = choice.value;
      try {
        const stored = await call("POST", "psk", { json });
        showError(undefined, fields, wrong);
        form.reset();
        made.replaceChildren(...stored.key ? shown(stored) : []);
        if (!stored.key) toast(`${stored.identity} was added.`);
        await done();
      } catch (error) {
        showError(error, fields, wrong);
      }
    });
    return opened("Add an identity, or give it another key", form);
  }

  const list = listed({
    title: "Pre-shared keys",
    none: "No identities yet.",
    load: "psk",
    headings: ["Identity", "Listeners", "Last used"],
    nameOf: (one) => one.identity,
    cells: (one, done) => [
      h("td", { class: "id", title: visible(one.identity) }, h("a", { class: "link", href: `#clients?search=${name(one.identity)}` }, visible(one.identity))),
      h("td", {}, one.listeners.join(", ")),
      h("td", {}, h("ul", { class: "bare" }, one.keys.map(({ last_used: used }, n) => h("li", { class: used ? undefined : "soft" },
        used ? new Date(used).toLocaleString([], { hourCycle: "h23" }) : "not since the start", one.keys.length > 1 && n > 0 ? " (the older)" : "")))),
      h("td", { class: "num" }, one.keys.length > 1 && asking({
        label: "Remove the older", name: `Remove the older key of ${visible(one.identity)}`, title: "Remove the older key?", verb: "Remove", done: "Removed.",
        text: `“${visible(one.identity)}” can then connect with the newer one only. Sessions that used the older end.`,
        act: async () => { await call("DELETE", `psk/${name(one.identity)}?older=true`); await done(); },
      }), asking({
        label: "Remove", name: `Remove ${visible(one.identity)}`, title: "Remove this key?", verb: "Remove", done: "Removed.",
        text: `“${visible(one.identity)}” can no longer connect, and its sessions end.`,
        act: async () => { await call("DELETE", `psk/${name(one.identity)}`); await done(); },
      })),
    ],
    form: adding,
    more: made,
  });
  return {
    element: list.element,
    async update() {
      try {
        const { keys: all } = await get("config/effective");
        // Only those that have a file of keys: of several, one must be chosen.
        const names = all.filter((key) => /^listeners\.dtls\..*\.psk_file$/.test(key.key) && key.value).map((key) => key.key.split(".")[2]);
        choice.replaceChildren(...names.map((one) => h("option", { value: one }, one)));
      } catch { /* the list of keys says what is wrong */ }
      await list.update();
    },
  };
}
