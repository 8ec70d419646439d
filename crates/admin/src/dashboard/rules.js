// What the access rules say of somebody and a topic.

import { get } from "./api.js";
import { field, h, showError } from "./dom.js";

export function rules() {
  const action = h("select", {}, ["publish", "subscribe", "receive", "create"].map((value) => h("option", { value }, value)));
  const inputs = { topic: h("input", { class: "mono", required: true }), username: h("input"), clientid: h("input"), identity: h("input") };
  const fields = {
    action: field("Action", action), topic: field("Topic or filter", inputs.topic), username: field("User name", inputs.username),
    clientid: field("Client id", inputs.clientid), identity: field("DTLS identity", inputs.identity),
  };
  const wrong = h("span", { class: "bad" });
  const answer = h("p", { role: "status" });
  const form = h("form", { class: "form" }, h("div", { class: "fields" }, Object.values(fields)),
    h("div", { class: "row" }, h("button", { class: "primary" }, "Ask the rules"), wrong), answer);
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const asked = new URLSearchParams({ action: action.value });
    for (const [key, input] of Object.entries(inputs)) if (input.value) asked.set(key, input.value);
    answer.replaceChildren();
    try {
      const { allowed, detail } = await get(`acl/check?${asked}`);
      showError(undefined, fields, wrong);
      answer.replaceChildren(h("b", { class: allowed ? "good" : "bad" }, detail));
    } catch (error) {
      showError(error, fields, wrong);
    }
  });
  return {
    element: h("section", { class: "panel half" }, h("div", { class: "head" }, h("h2", {}, "Access rules")),
      h("p", { class: "soft" }, "May somebody do that? Topics are without the mountpoint. Rights that a database or a token grants are not looked at."), form),
    update: () => {},
  };
}
