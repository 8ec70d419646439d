// Users with passwords.

import { call, name } from "./api.js";
import { asking, field, h, showError, toast, visible } from "./dom.js";
import { listed, opened } from "./listed.js";

function adding(done) {
  const user = h("input", { required: true, autocomplete: "off" });
  const password = h("input", { type: "password", required: true, autocomplete: "new-password" });
  const replace = h("input", { type: "checkbox" });
  const fields = { name: field("Name", user), password: field("Password", password) };
  const wrong = h("span", { class: "bad" });
  const form = h("form", { class: "form" }, h("div", { class: "fields" }, Object.values(fields)),
    h("label", { class: "check" }, replace, "Replace the password of an existing user"),
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
  return opened("Add a user, or change a password", form);
}

export function users() {
  return listed({
    title: "Users",
    none: "No users yet.",
    load: "users",
    headings: ["Name", "Password hash"],
    nameOf: (user) => user.name,
    cells: (user, done) => [
      h("td", { class: "id" }, h("a", { class: "link", href: `#clients?search=${name(user.name)}` }, visible(user.name))),
      h("td", {}, user.hash, " ", user.weakness && h("span", { class: "tag warn", title: user.weakness }, "weak")),
      h("td", { class: "num" }, asking({
        label: "Remove", name: `Remove ${visible(user.name)}`, title: "Remove this user?", verb: "Remove", done: "Removed.",
        text: `“${visible(user.name)}” can no longer log in. Connections that stand are not ended.`,
        act: async () => { await call("DELETE", `users/${name(user.name)}`); await done(); },
      })),
    ],
    form: adding,
  });
}
