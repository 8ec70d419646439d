// Who is kept out.

import { call, name } from "./api.js";
import { asking, field, h, showError, toast, visible } from "./dom.js";
import { listed, opened } from "./listed.js";

function adding(done) {
  const kind = h("select", {}, [["clientid", "Client id"], ["identity", "DTLS identity"], ["address", "Address or network"]].map(([value, label]) => h("option", { value }, label)));
  const value = h("input", { required: true, class: "mono", autocomplete: "off" });
  const length = h("input", { placeholder: "for ever", autocomplete: "off" });
  const reason = h("input", { autocomplete: "off" });
  const fields = { kind: field("What", kind), value: field("Which", value), for: field("For", length, "such as 2h or 30d"), reason: field("Why", reason) };
  const wrong = h("span", { class: "bad" });
  const form = h("form", { class: "form" }, h("div", { class: "fields" }, Object.values(fields)),
    h("div", { class: "row" }, h("button", { class: "primary" }, "Ban"), wrong));
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const json = { kind: kind.value, value: value.value, reason: reason.value };
    if (length.value) json.for = length.value;
    try {
      await call("POST", "bans", { json });
      showError(undefined, fields, wrong);
      toast(`${value.value} is kept out.`);
      form.reset();
      await done();
    } catch (error) {
      // The API calls the value by its kind.
      showError(error, { ...fields, [kind.value]: fields.value }, wrong);
    }
  });
  return opened("Keep somebody out", form);
}

export function bans() {
  return listed({
    title: "Bans",
    none: "Nobody is kept out.",
    load: "bans",
    headings: ["Who", "Until", "Why"],
    nameOf: (ban) => ban.value,
    cells: (ban, done) => [
      h("td", { class: "id" }, visible(ban.value), " ", h("span", { class: "tag" }, ban.kind)),
      h("td", {}, ban.until ? new Date(ban.until).toLocaleString([], { hourCycle: "h23" }) : "for ever"),
      h("td", { class: "wrap" }, visible(ban.reason)),
      h("td", { class: "num" }, asking({
        label: "Lift", name: `Lift the ban of ${visible(ban.value)}`, title: "Lift this ban?", verb: "Lift", done: "Lifted.",
        text: `“${visible(ban.value)}” may come back.`,
        act: async () => { await call("DELETE", `bans/${name(ban.kind)}/${name(ban.value)}`); await done(); },
      })),
    ],
    form: adding,
  });
}
