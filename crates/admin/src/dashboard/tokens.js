// Who may use the management interface over the network.

import { call, name } from "./api.js";
import { asking, copied, field, h, showError } from "./dom.js";
import { listed, opened } from "./listed.js";
import { state } from "./state.js";

export function tokens() {
  const made = h("div", { role: "status", class: "form" });

  function adding(done) {
    const called = h("input", { required: true, autocomplete: "off" });
    const role = h("select", {}, h("option", { value: "readonly" }, "read only"), h("option", { value: "admin" }, "admin"));
    const length = h("input", { placeholder: "for ever", autocomplete: "off" });
    const fields = { name: field("Name", called), role: field("Role", role), for: field("For", length, "such as 720h or 90d") };
    const wrong = h("span", { class: "bad" });
    const form = h("form", { class: "form" }, h("div", { class: "fields" }, Object.values(fields)),
      h("div", { class: "row" }, h("button", { class: "primary" }, "Make a token"), wrong));
    form.addEventListener("submit", async (event) => {
      event.preventDefault();
      const json = { name: called.value, role: role.value };
      if (length.value) json.for = length.value;
      try {
        const stored = await call("POST", "tokens", { json });
        showError(undefined, fields, wrong);
        form.reset();
        made.replaceChildren(h("div", { class: "note" }, `The token “${stored.name}”, which is shown this once: `, copied(stored.token)));
        await done();
      } catch (error) {
        showError(error, fields, wrong);
      }
    });
    return opened("Make a token", form);
  }

  return listed({
    title: "Tokens",
    none: "No tokens.",
    load: "tokens",
    headings: ["Name", "Role", "Until"],
    nameOf: (token) => token.name,
    cells: (token, done) => [
      h("td", { class: "id" }, token.name, " ", token.name === state.token && h("span", { class: "tag" }, "this one")),
      h("td", {}, token.role === "admin" ? "admin" : "read only"),
      h("td", { class: token.expired ? "bad" : undefined }, token.until ? new Date(token.until).toLocaleString([], { hourCycle: "h23" }) : "for ever"),
      h("td", { class: "num" }, asking({
        label: "Remove", name: `Remove the token ${token.name}`, title: "Remove this token?", verb: "Remove", done: "Removed.",
        text: token.name === state.token ? `“${token.name}” is the token that you are signed in with.` : `Who shows “${token.name}” is no longer let in.`,
        act: async () => { await call("DELETE", `tokens/${name(token.name)}`); await done(); },
      })),
    ],
    form: adding,
    more: made,
  });
}
