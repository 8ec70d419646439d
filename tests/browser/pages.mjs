// Listeners, events, topics and access.

import assert from "node:assert/strict";
import { accessible, confirm, go, picture, port } from "./browser.mjs";

const section = (page, heading) => page.locator("section", { has: page.getByRole("heading", { name: heading, exact: true }) });

export async function listeners(page) {
  await go(page, "Listeners");
  const dtls = page.locator("section", { hasText: "DTLS" });
  await dtls.getByText(/^[A-Z-]+ .*(CCM|GCM|POLY)/).first().waitFor();
  await dtls.getByText("wrong key").waitFor();
  await dtls.getByText(/\d\/s/).first().waitFor();
  await picture(page, "listeners");
  await accessible(page, "listeners");
  const serves = page.getByRole("switch", { name: "udp:default serves" });
  await serves.click();
  await confirm(page, "Switch off");
  await page.getByText("udp:default is off.").waitFor();
  await serves.click();
  await page.getByText("udp:default is on.").waitFor();
}

export async function adding(page) {
  await page.getByText("Add a listener").click();
  const form = page.locator("form", { has: page.getByLabel("Kind") });
  await form.getByLabel("Kind").selectOption("dtls");
  await form.getByLabel("name", { exact: false }).first().fill("cellar");
  await form.getByLabel("bind").fill("nowhere");
  await form.getByRole("button", { name: "Add listener" }).click();
  await form.locator(".field", { has: page.getByLabel("bind") }).getByText("expected").waitFor();
  await form.getByLabel("bind").fill(`127.0.0.1:${port}`);
  await form.getByLabel("psk_file").fill("cellar.txt");
  await picture(page, "listener-form");
  await form.getByRole("button", { name: "Add listener" }).click();
  await page.getByText(`dtls:cellar serves at 127.0.0.1:${port}.`).waitFor();
  await page.getByRole("switch", { name: "dtls:cellar serves" }).waitFor();
}

export async function removing(page) {
  await go(page, "Listeners");
  await page.getByRole("button", { name: "Remove dtls:cellar" }).click();
  await confirm(page, "Remove");
  await page.getByText("dtls:cellar is gone.").waitFor();
  await page.getByRole("switch", { name: "dtls:cellar serves" }).waitFor({ state: "detached" });
}

export async function events(page) {
  await go(page, "Events");
  const failed = page.getByRole("row", { name: "handshake failed" });
  await failed.getByText("wrong key").waitFor();
  // What is done now comes without a reload.
  await page.getByRole("row", { name: "disconnected" }).getByText("gate-east").waitFor();
  await picture(page, "events");
  await accessible(page, "events");
  await page.getByLabel("Kind of event").selectOption("handshake_failed");
  await page.getByRole("row", { name: "connected" }).first().waitFor({ state: "detached" });
  await failed.waitFor();
  await page.getByLabel("Client id or identity").fill("pump-2");
  await page.getByLabel("Client id or identity").press("Enter");
  await failed.waitFor({ state: "detached" });
  await page.getByLabel("Kind of event").selectOption("");
  await page.getByRole("link", { name: "pump-2" }).click();
  await page.getByRole("complementary", { name: "Client pump-2" }).waitFor();
}

export async function topics(page) {
  await go(page, "Topics");
  const observe = section(page, "Observe");
  await observe.getByLabel("Topic filter to observe").fill("sensors/#");
  await observe.getByRole("button", { name: "Observe" }).click();
  await observe.getByText("sensors/pump-2").first().waitFor();
  await observe.getByRole("button", { name: "Stop" }).click();
  const publish = section(page, "Publish");
  await publish.getByLabel("Topic").fill("fleet/+");
  await publish.getByLabel("Payload").fill("maintenance <b>at noon</b>");
  await publish.getByLabel("retain").check();
  await publish.getByRole("button", { name: "Publish" }).click();
  await publish.getByLabel("Topic").locator("xpath=..").getByText(/./).last().waitFor();
  await publish.getByLabel("Topic").fill("fleet/announcements");
  await publish.getByRole("button", { name: "Publish" }).click();
  const kept = section(page, "Retained messages");
  await kept.getByText("maintenance <b>at noon</b>").waitFor();
  await picture(page, "topics");
  await accessible(page, "topics");
  await kept.getByLabel("Topic filter").fill("barn/#");
  await kept.getByLabel("Topic filter").press("Enter");
  await kept.getByText("Nothing is retained there.").waitFor();
  await kept.getByLabel("Topic filter").fill("fleet/#");
  await kept.getByLabel("Topic filter").press("Enter");
  await kept.getByRole("button", { name: "Clear fleet/announcements" }).click();
  await confirm(page, "Clear");
  await kept.getByText("Nothing is retained there.").waitFor();
}

export async function keys(page) {
  await go(page, "Access");
  const keys = section(page, "Pre-shared keys");
  await keys.getByRole("cell", { name: "pump-2", exact: true }).waitFor();
  await keys.getByRole("row", { name: "pump-2" }).getByText(/\d\d:\d\d:\d\d/).waitFor();
  await keys.getByText("Add an identity").click();
  // "The only file of keys" was offered where there are two.
  assert.deepEqual(await keys.getByLabel("Listener").locator("option").allTextContents(), ["default", "cellar"]);
  await keys.getByLabel("Listener").selectOption("default");
  await keys.getByLabel("Identity").fill("lamp-1");
  await keys.getByLabel("Key (hex)").fill("xyz");
  await keys.getByRole("button", { name: "Add identity" }).click();
  await keys.getByLabel("Key (hex)").locator("xpath=..").getByText("not hexadecimal").waitFor();
  await keys.getByLabel("Key (hex)").fill("");
  await keys.getByRole("button", { name: "Add identity" }).click();
  await keys.getByText("shown this once").waitFor();
  await keys.getByText("in hexadecimal").waitFor();
  await keys.getByRole("cell", { name: "lamp-1", exact: true }).waitFor();
  // The form and the key that is shown once were below the list, off the screen.
  const [form, list] = [await keys.getByText("shown this once").boundingBox(), await keys.getByRole("table").boundingBox()];
  assert.ok(form.y < list.y, "what was made stands above the list");
  // Another key beside it, and the older one away.
  const row = keys.getByRole("row", { name: "lamp-1" });
  await row.getByText("not since the start").waitFor();
  await keys.getByLabel("Identity").fill("lamp-1");
  await keys.getByRole("button", { name: "Add identity" }).click();
  await keys.locator(".bad", { hasText: "has a key already" }).waitFor();
  await keys.getByLabel("If it has a key").selectOption("another");
  await keys.getByRole("button", { name: "Add identity" }).click();
  await row.getByText("(the older)").waitFor();
  await row.getByRole("button", { name: "Remove the older key of lamp-1" }).click();
  await confirm(page, "Remove");
  await row.getByText("(the older)").waitFor({ state: "detached" });
  await row.getByText("not since the start").waitFor();
}

export async function users(page) {
  const users = section(page, "Users");
  await users.getByText("Add a user").click();
  await users.getByLabel("Name", { exact: true }).fill("ann");
  await users.getByLabel("Password", { exact: true }).fill("correct horse");
  await users.getByRole("button", { name: "Add user" }).click();
  await users.getByRole("cell", { name: "ann", exact: true }).waitFor();
  await picture(page, "access");
  await accessible(page, "access");
  await users.getByRole("row", { name: "ann" }).getByRole("button", { name: "Remove" }).click();
  await confirm(page, "Remove");
  await users.getByText("No users yet.").waitFor();
}

export async function bansTokensAndRules(page) {
  const bans = section(page, "Bans");
  await bans.getByText("Keep somebody out").click();
  await bans.getByLabel("What").selectOption("address");
  await bans.getByLabel("Which").fill("nowhere");
  await bans.getByRole("button", { name: "Ban" }).click();
  await bans.locator(".wrong:not(:empty)").waitFor();
  await bans.getByLabel("Which").fill("203.0.113.0/24");
  await bans.getByLabel("For", { exact: false }).first().fill("2h");
  await bans.getByLabel("Why").fill("a flood");
  await bans.getByRole("button", { name: "Ban" }).click();
  await bans.getByRole("row", { name: "203.0.113.0/24" }).getByRole("button").click();
  await confirm(page, "Lift");
  await bans.getByText("Nobody is kept out.").waitFor();
  const tokens = section(page, "Tokens");
  await tokens.getByText("this one").waitFor();
  await tokens.getByText("Make a token").first().click();
  await tokens.getByLabel("Name").fill("colleague");
  await tokens.getByRole("button", { name: "Make a token" }).click();
  await tokens.getByText("shown this once").waitFor();
  await tokens.getByRole("row", { name: "colleague" }).getByText("read only").waitFor();
  const rules = section(page, "Access rules");
  await rules.getByLabel("Topic or filter").fill("barn/door");
  await rules.getByRole("button", { name: "Ask the rules" }).click();
  await rules.getByText("denied: no line matches").waitFor();
  await rules.getByLabel("Topic or filter").fill("weather/today");
  await rules.getByLabel("Action").selectOption("receive");
  await rules.getByRole("button", { name: "Ask the rules" }).click();
  await rules.getByText("allowed by line 1").waitFor();
}
