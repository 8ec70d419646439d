// Who may come in: users with passwords, devices with pre-shared keys.

import { call, get, name } from "./api.js";
import { confirmed, field, h, showError, toast, visible } from "./dom.js";

/** A list with a form under it. `what` says how the API calls its parts. */
function section({ title, none, load, row, headings, form }) {
  const rows = h("tbody");
  const filter = h("input", { type: "search", placeholder: "Filter…", "aria-label": `Filter ${title}` });
  const note = h("p", { class: "empty" });
  let all = [];
  function show() {
    const part = filter.value.toLowerCase();
    const fitting = all.filter((one) => row.name(one).toLowerCase().includes(part));
    rows.replaceChildren(...fitting.slice(0, 200).map((one) => row.cells(one, update)));
    note.textContent = all.length === 0 ? none : fitting.length > 200 ? `${fitting.length - 200} more: narrow it down.` : fitting.length === 0 ? "Nothing fits." : "";
  }
  async function update() {
    try {
      all = await get(load);
      table.hidden = adding.hidden = filter.hidden = false;
      show();
    } catch (error) {
      rows.replaceChildren();
      table.hidden = adding.hidden = filter.hidden = true;
      note.textContent = error.message;
    }
  }
  filter.addEventListener("input", show);
  const table = h("div", { class: "scroll" }, h("table", {}, h("thead", {}, h("tr", {}, headings.map((word) => h("th", {}, word)), h("th", {}))), rows));
  const adding = form(() => update());
  return {
    element: h("section", { class: "panel half" }, h("div", { class: "head" }, h("h1", {}, title), h("span", { class: "grow" }), filter), table, note, adding),
    update,
  };
}

async function remove(kind, path, text, done) {
  if (!await confirmed(`Remove this ${kind}?`, text, "Remove")) return;
  try {
    await call("DELETE", path);
    toast("Removed.");
  } catch (error) {
    toast(error.message);
  }
  await done();
}

function users() {
  return section({
    title: "Users",
    none: "No users yet.",
    load: "users",
    headings: ["Name", "Password hash"],
    row: {
      name: (user) => user.name,
      cells: (user, done) => h("tr", {},
        h("td", { class: "id" }, visible(user.name)),
        h("td", {}, user.hash, " ", user.weakness && h("span", { class: "tag warn", title: user.weakness }, "weak")),
        h("td", { class: "num" }, h("button", {
          class: "small danger",
          "aria-label": `Remove ${visible(user.name)}`,
          onclick: () => remove("user", `users/${name(user.name)}`, `“${visible(user.name)}” can log in no more. Connections that stand are not ended.`, done),
        }, "Remove"))),
    },
    form: (done) => {
      const user = h("input", { required: true, autocomplete: "off" });
      const password = h("input", { type: "password", required: true, autocomplete: "new-password" });
      const replace = h("input", { type: "checkbox" });
      const fields = { name: field("Name", user), password: field("Password", password) };
      const wrong = h("span", { class: "bad" });
      const form = h("form", { class: "form" }, h("div", { class: "fields" }, Object.values(fields)),
        h("label", { class: "check" }, replace, "may be there already and gets this password"),
        h("div", { class: "row" }, h("button", { class: "primary" }, "Add user"), wrong));
      form.addEventListener("submit", async (event) => {
        event.preventDefault();
        try {
          await call("POST", "users", { json: { name: user.value, password: password.value, replace: replace.checked } });
          showError(undefined, fields, wrong);
          toast(`${user.value} was added.`);
          form.reset();
          await done();
        } catch (error) {
          showError(error, fields, wrong);
        }
      });
      return form;
    },
  });
}

function keys() {
  const made = h("div", { role: "status" });
  const choice = h("select", {}, h("option", { value: "" }, "the only file of keys"));
  const keyed = section({
    title: "Pre-shared keys",
    none: "No identities yet.",
    load: "psk",
    headings: ["Identity", "Listeners"],
    row: {
      name: (one) => one.identity,
      cells: (one, done) => h("tr", {},
        h("td", { class: "id", title: visible(one.identity) }, visible(one.identity)),
        h("td", {}, one.listeners.join(", ")),
        h("td", { class: "num" }, h("button", {
          class: "small danger",
          "aria-label": `Remove ${visible(one.identity)}`,
          onclick: () => remove("key", `psk/${name(one.identity)}`, `“${visible(one.identity)}” can make no handshake more, and its sessions end.`, done),
        }, "Remove"))),
    },
    form: (done) => {
      const identity = h("input", { required: true, autocomplete: "off" });
      const key = h("input", { placeholder: "one is made", autocomplete: "off", class: "mono" });
      const replace = h("input", { type: "checkbox" });
      const fields = { identity: field("Identity", identity), key: field("Key (hex)", key), listener: field("Listener", choice) };
      const wrong = h("span", { class: "bad" });
      const form = h("form", { class: "form" }, h("div", { class: "fields" }, Object.values(fields)),
        h("label", { class: "check" }, replace, "may have a key already, which is replaced"),
        h("div", { class: "row" }, h("button", { class: "primary" }, "Add identity"), wrong), made);
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
      return form;
    },
  });
  function copied(text) {
    const copy = h("button", { class: "small", type: "button", onclick: async () => {
      try { await navigator.clipboard.writeText(text); copy.textContent = "Copied"; } catch { toast("The browser does not allow it."); }
    } }, "Copy");
    return [h("code", { class: "wrap" }, text), " ", copy];
  }
  function shown(stored) {
    const lines = stored.try_lines.length > 0 ? ["To try it on the gateway's machine, observe with the first line and publish with the second:", ...stored.try_lines] : [];
    return [
      h("div", { class: "note" }, `The key of “${stored.identity}”, which is shown this once, as text: `, copied(stored.key_text)),
      h("div", { class: "note" }, "in hexadecimal: ", copied(stored.key)),
      ...lines.map((line, n) => h("div", { class: "note" }, n === 0 ? line : copied(line))),
    ];
  }
  return {
    element: keyed.element,
    async update() {
      try {
        const names = (await get("listeners")).filter((one) => one.kind === "dtls").map((one) => one.name);
        choice.replaceChildren(h("option", { value: "" }, names.length === 1 ? names[0] : "the only file of keys"),
          ...(names.length > 1 ? names.map((one) => h("option", { value: one }, one)) : []));
      } catch { /* the list of keys says what is wrong */ }
      await keyed.update();
    },
  };
}

export function credentials() {
  const parts = [keys(), users()];
  return {
    element: h("div", { class: "grid" }, parts.map((part) => part.element)),
    every: 0,
    update: () => Promise.all(parts.map((part) => part.update())),
  };
}
