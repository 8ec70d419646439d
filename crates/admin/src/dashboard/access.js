// Who may come in, who may do what, who is kept out, and who may manage.

import { bans } from "./bans.js";
import { h } from "./dom.js";
import { keys } from "./keys.js";
import { rules } from "./rules.js";
import { tokens } from "./tokens.js";
import { users } from "./users.js";

export function access() {
  const parts = [keys(), users(), rules(), bans(), tokens()];
  return {
    element: h("div", {}, h("div", { class: "head" }, h("h1", {}, "Access")), h("div", { class: "grid" }, parts.map((part) => part.element))),
    every: 0,
    update: () => Promise.all(parts.map((part) => part.update())),
  };
}
