// Pre-shared keys of devices.

import { call, get, name } from "./api.js";
import { asking, copied, field, h, showError, toast, visible } from "./dom.js";
import { listed, opened } from "./listed.js";
import { age } from "./words.js";

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
  let seen = new Map();

  /** Who has a session now, and was last heard of when. */
  async function sessions() {
    const { data } = await get("clients?transport=dtls&sort=seen_at&order=desc&limit=1000");
    seen = new Map(data.filter((one) => one.identity?.proof === "psk").map((one) => [one.identity.name, one.idle_seconds]).reverse());
  }

  function adding(done) {
    const identity = h("input", { required: true, autocomplete: "off" });
    const key = h("input", { placeholder: "one is made", autocomplete: "off", class: "mono" });
    const replace = h("input", { type: "checkbox" });
    const fields = { identity: field("Identity", identity), key: field("Key (hex)", key), listener: field("Listener", choice) };
    const wrong = h("span", { class: "bad" });
    const form = h("form", { class: "form" }, h("div", { class: "fields" }, Object.values(fields)),
      h("label", { class: "check" }, replace, "Replace the key that it has"),
      h("div", { class: "row" }, h("button", { class: "primary" }, "Add identity"), wrong));
    form.addEventListener("submit", async (event) => {
      event.preventDefault();
      const json = { identity: identity.value, replace: replace.checked };
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
    return opened("Add an identity, or replace its key", form);
  }

  const list = listed({
    title: "Pre-shared keys",
    none: "No identities yet.",
    load: "psk",
    headings: ["Identity", "Listeners", "Last seen"],
    nameOf: (one) => one.identity,
    cells: (one, done) => [
      h("td", { class: "id", title: visible(one.identity) }, h("a", { class: "link", href: `#clients?search=${name(one.identity)}` }, visible(one.identity))),
      h("td", {}, one.listeners.join(", ")),
      seen.has(one.identity) ? h("td", {}, `${age(seen.get(one.identity))} ago`) : h("td", { class: "soft" }, "no session now"),
      h("td", { class: "num" }, asking({
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
        await sessions();
      } catch { /* the list of keys says what is wrong */ }
      await list.update();
    },
  };
}
