// Settings: the file as text, its keys as fields, and what waits for a restart.

import assert from "node:assert/strict";
import { accessible, go, open, picture, signIn } from "./browser.mjs";

const section = (page, name) => page.locator(`details[data-section="${name}"]`);

export async function text(page) {
  await go(page, "Settings");
  await page.getByText("Advanced: the file as text").click();
  const editor = page.getByLabel("Configuration file");
  await page.waitForFunction(() => document.querySelector(".editor textarea")?.value.includes("[node]"));
  const text = await editor.inputValue();
  await editor.fill(`${text}\n[coap]\nheartbeat = 45\nhartbeat = "45s"\n`);
  await page.getByRole("button", { name: "Check and save" }).click();
  await page.getByText("unknown key").waitFor();
  assert.equal(await page.locator(".lines .wrong").count(), 2);
  await picture(page, "settings-wrong");
  await editor.fill(`${text}\n[coap]\nheartbeat = "45s"\n`);
  await page.getByRole("button", { name: "Check and save" }).click();
  await page.getByText("Saved and in force.").waitFor();
}

export async function fields(page) {
  const form = page.locator("form", { has: page.locator(".settings") });
  const coap = section(page, "coap");
  await coap.locator("summary").click();
  // What the text said stands in its field once what was saved is read again; what it did not say has its default.
  await page.waitForFunction(() => [...document.querySelectorAll('details[data-section="coap"] input')].some((field) => field.value === "45s"));
  assert.equal(await coap.getByLabel("heartbeat").inputValue(), "45s");
  assert.equal(await coap.getByLabel("observe_check").getAttribute("placeholder"), "24h");
  const save = form.getByRole("button", { name: "Save" });
  assert.ok(await save.isDisabled());
  // The keyboard alone is enough.
  await coap.getByLabel("heartbeat").focus();
  await page.keyboard.press("Control+A");
  await page.keyboard.type("soon");
  await section(page, "limits").locator("summary").click();
  await section(page, "limits").getByLabel("requests_per_second").fill("many");
  await page.keyboard.press("Enter");
  const wrong = coap.locator(".field", { has: page.getByLabel("heartbeat") });
  await wrong.getByText("expected a duration").waitFor();
  assert.equal(await coap.getByLabel("heartbeat").getAttribute("aria-invalid"), "true");
  await section(page, "limits").getByText("expected a whole number").waitFor();
  assert.ok(await coap.getByLabel("heartbeat").evaluate((field) => field === document.activeElement), "the first wrong field has the focus");
  await picture(page, "form-wrong");
  await accessible(page, "settings");
  await coap.getByLabel("heartbeat").fill("50s");
  await section(page, "limits").getByLabel("requests_per_second").fill("500");
  await coap.getByLabel("notify_type").selectOption("con");
  const rules = section(page, "listeners.udp.default");
  await rules.locator("summary").click();
  await rules.getByLabel("access_rules").fill("allow 127.0.0.0/8\ndeny all");
  await save.click();
  await page.getByText("Saved and in force.").waitFor();
  await coap.getByText("2 set").waitFor();
  // Emptied, a key goes back to its default.
  await coap.getByLabel("notify_type").selectOption("");
  await save.click();
  await coap.getByText("1 set").waitFor();
}

/** Eighteen boxes had to be opened one after the other to find a key. */
export async function noSettingCouldBeFound(page) {
  const search = page.getByLabel("Search settings");
  await search.fill("pathmtu");
  await page.getByText("No setting has that in its name or meaning.").waitFor();
  await search.fill("workers");
  await section(page, "node").getByLabel("workers").waitFor();
  assert.ok(!await section(page, "metrics").isVisible());
  await search.fill("");
  await section(page, "metrics").waitFor();
}

/** "Saved and in force." was said of what a restart has to put in force, and that it waits, out of sight. */
export async function savedAndInForce(page) {
  const form = page.locator("form", { has: page.locator(".settings") });
  await section(page, "log").locator("summary").click();
  await section(page, "log").getByLabel("format").selectOption("json");
  const save = form.getByRole("button", { name: "Save" });
  await page.locator(".toast").first().waitFor({ state: "detached" });
  await save.click();
  await page.getByText("Saved; takes effect after a restart: log.format").waitFor();
  assert.equal(await page.getByText("Saved and in force.").count(), 0);
  // Beside the button, and after that wherever one is.
  const note = form.locator(".actions").getByText("Takes effect after a restart: log.format");
  await note.waitFor();
  const [said, button] = [await note.boundingBox(), await save.boundingBox()];
  assert.ok(Math.abs(said.y - button.y) < 60, "it stands where the button is");
  await page.getByRole("link", { name: "restart needed" }).waitFor();
  await picture(page, "restart-needed");
  await go(page, "Overview");
  await page.getByText("A restart is needed.").waitFor();
  await page.reload();
  await page.getByRole("link", { name: "restart needed" }).click();
  await note.waitFor();
  await picture(page, "settings-whole", { fullPage: true });
  await section(page, "log").locator("summary").click();
  await section(page, "log").getByLabel("format").selectOption("");
  await save.click();
  await page.getByRole("link", { name: "restart needed" }).waitFor({ state: "detached" });
}

/** Every control was there for a token that may only read, and refused after the click. */
export async function readOnlySawEveryControl(reader) {
  const page = await open();
  await signIn(page, reader);
  await page.getByText("read only", { exact: true }).waitFor();
  for (const name of ["Listeners", "Clients", "Events", "Topics", "Access", "Settings", "Overview"]) {
    await go(page, name);
    await page.evaluate(() => { for (const one of document.querySelectorAll("main details")) one.open = true; });
    await page.waitForTimeout(500);
    const words = /^(Remove |Kick|Clear |Lift|Save|Check and save|Reload files|Publish|Add |Ban$|Make a token|Send$|Start$|End )/;
    const able = await page.locator("main button:enabled").evaluateAll((all, pattern) => all
      .map((one) => one.getAttribute("aria-label") ?? one.textContent).filter((label) => new RegExp(pattern).test(label)), words.source);
    assert.deepEqual(able, [], `${name} offers what is refused`);
    assert.equal(await page.locator("main input[role=switch]:enabled").count(), 0, name);
    if (name === "Listeners") await picture(page, "read-only");
  }
  await page.goto("/#clients/pump-2");
  const side = page.getByRole("complementary");
  await side.getByText("weather/+").waitFor();
  for (const name of ["Kick", "Start", "Send"]) assert.ok(await side.getByRole("button", { name, exact: true }).isDisabled(), name);
  await accessible(page, "read only");
  await page.context().close();
}
