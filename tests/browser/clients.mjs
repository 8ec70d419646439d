// Clients: the list and the panel of one.

import assert from "node:assert/strict";
import fs from "node:fs";
import { accessible, confirm, go, picture } from "./browser.mjs";

// As a device calls itself in `main.rs`, with what is not seen written out.
const evil = "tracker-08\\u{202e}<img src=x onerror=alert(1)>";

const show = (page, name) => page.getByRole("link", { name, exact: true });
const ids = (page) => page.locator("tbody tr td:first-child").allTextContents();

/** There was no order, no total, no search but for client ids, no page to go to, and no counters. */
export async function listHadNoOrder(page) {
  await go(page, "Clients");
  await page.getByText("1–15 of 15").waitFor();
  const names = await ids(page);
  const named = names.filter((one) => one !== "unnamed");
  assert.deepEqual(named, [...named].sort(), "in the order of client ids");
  assert.equal(names.at(-1), "unnamed", "who has no name comes last");
  // What a device calls itself is shown as it is, whatever it is.
  await show(page, evil).waitFor();
  await picture(page, "clients");
  await accessible(page, "clients");
  const heading = page.getByRole("columnheader", { name: "Client id" });
  assert.equal(await heading.getAttribute("aria-sort"), "ascending");
  await heading.getByRole("button").click();
  await page.waitForFunction(() => document.querySelector("tbody td")?.textContent.startsWith("valve"));
  assert.equal(await heading.getAttribute("aria-sort"), "descending");
  for (const column of ["User name", "Identity", "Listener", "Address", "Here for", "Last seen", "Received", "Sent", "Observes", "Retransmissions"]) {
    const other = page.getByRole("columnheader", { name: column });
    const sorted = page.waitForResponse((response) => response.url().includes("&order=") && response.ok());
    await other.getByRole("button").click();
    await sorted;
    assert.ok(await other.getAttribute("aria-sort"), column);
  }
  await heading.getByRole("button").click();
  const search = page.getByLabel("Search clients");
  await search.fill("METER");
  await page.getByText("1–2 of 2").waitFor();
  await search.fill("127.0.0.1:");
  await page.getByText("1–15 of 15").waitFor();
  await search.fill("");
  await page.getByLabel("Transport").selectOption("udp");
  await page.getByText("1–9 of 9").waitFor();
  await page.getByLabel("Transport").selectOption("");
  await page.getByText("1–15 of 15").waitFor();
  const words = await page.locator("main").innerText();
  for (const word of ["Heard of", "Again", "Obs."]) assert.ok(!words.includes(word), word);
}

/** Pages, where there are more than one; the answers are as of a larger fleet. */
export async function pagesCouldNotBeJumpedTo(page) {
  await page.route("**/api/v1/clients?*", async (route) => {
    const got = await (await route.fetch({ url: route.request().url().replace(/page=\d+/, "page=1") })).json();
    const asked = Number(new URL(route.request().url()).searchParams.get("page"));
    await route.fulfill({ json: { data: got.data, meta: { page: asked, limit: 50, count: 1234, hasnext: asked < 25 } } });
  });
  await page.getByText("of 1,234").waitFor();
  const number = page.getByRole("textbox", { name: "Page" });
  await number.fill("17");
  await number.press("Enter");
  await page.getByText(/^801–\d+ of 1,234$/).waitFor();
  await page.getByRole("button", { name: "Next" }).click();
  await page.getByText(/^851–/).waitFor();
  await number.fill("99");
  await number.press("Enter");
  await page.getByText(/^1,201–/).waitFor();
  assert.ok(await page.getByRole("button", { name: "Next" }).isDisabled());
  await page.unroute("**/api/v1/clients?*");
  await number.fill("1");
  await number.press("Enter");
  await page.getByText("1–15 of 15").waitFor();
}

export async function panel(page) {
  await show(page, "urn:dev:ops:32473-Refrigerator-5002").click();
  const side = page.getByRole("complementary");
  await side.getByText("TLS_").waitFor();
  await side.getByText("weather/+").waitFor();
  await side.getByText(/\d+ messages, .*, \d+ publishes/).waitFor();
  await side.getByText("sensors/urn-dev-ops").waitFor();
  await side.getByLabel("Path").fill("/status");
  await side.getByRole("button", { name: "Send" }).click();
  await side.getByText("T-1000").waitFor();
  await side.getByLabel("Give up after").fill("soon");
  await side.getByRole("button", { name: "Send" }).click();
  await side.getByLabel("Give up after").locator("xpath=..").getByText("expected a duration").waitFor();
  await side.getByText("Add one").click();
  await side.getByLabel("Topic filter").fill("barn/#");
  await side.getByRole("button", { name: "Observe for this client" }).click();
  await side.getByRole("cell", { name: "barn/#", exact: true }).waitFor();
  await side.getByRole("row", { name: "barn/#" }).getByRole("button", { name: "End" }).click();
  await side.getByRole("cell", { name: "barn/#", exact: true }).waitFor({ state: "detached" });
}

/** The trace of the panel, with what a request came to behind the gateway: the deciding line, the broker's topic, its answer and the time. */
export async function traceOfBothSides(side) {
  await side.getByRole("button", { name: "Start" }).click();
  const line = (text) => side.locator(".trace li", { hasText: text });
  await line("POST").nth(2).waitFor();
  await line(/ACL: publish sensors\/\S+ .*line \d+/).first().waitFor();
  await line(/MQTT publish sensors\/\S+ QoS 1, \d+ bytes/).first().waitFor();
  await line(/MQTT publish sensors\/\S+: ok after [\d.]+ .?s/).first().waitFor();
  await side.locator(".trace").scrollIntoViewIfNeeded();
}

/** What a device does could be followed by the command line only, and without its MQTT side. */
export async function trace(page) {
  const side = page.getByRole("complementary");
  await traceOfBothSides(side);
  await picture(page, "client");
  await page.emulateMedia({ colorScheme: "dark" });
  await picture(page, "client-dark");
  await accessible(page, "client");
  await side.getByRole("button", { name: "Stop" }).click();
  const [download] = await Promise.all([page.waitForEvent("download"), side.getByRole("button", { name: "Save" }).click()]);
  assert.equal(download.suggestedFilename(), "trace-urn_dev_ops_32473-Refrigerator-5002.jsonl");
  const lines = fs.readFileSync(await download.path(), "utf8").trim().split("\n").map((line) => JSON.parse(line));
  assert.ok(lines.length >= 3 && lines.every((line) => line.time), `${lines.length} lines`);
  await side.getByRole("button", { name: "Close" }).click();
}

export async function kick(page) {
  const row = page.getByRole("row", { name: "gate-east" });
  await row.getByRole("button", { name: "Kick" }).click();
  await picture(page, "kick");
  await confirm(page, "Cancel");
  await row.waitFor();
  await row.getByRole("button", { name: "Kick" }).click();
  await confirm(page, "Kick");
  await row.waitFor({ state: "detached" });
}

/** One without a client id could be neither shown nor kicked. */
export async function unnamedCouldNotBeOpened(page) {
  await show(page, "unnamed").click();
  const side = page.getByRole("complementary", { name: /^Client 127\.0\.0\.1:\d+$/ });
  await side.getByText(/^\d+ messages/).first().waitFor();
  await side.getByRole("button", { name: "Kick" }).click();
  await confirm(page, "Kick");
  await side.waitFor({ state: "detached" });
  await show(page, "unnamed").waitFor({ state: "detached" });
}

/** Kick, observe and send were offered for one who is not there. */
export async function absentOfferedAKick(page) {
  await page.goto("/#clients/no-such-one");
  const side = page.getByRole("complementary");
  await side.getByText("This client is not here now.").waitFor();
  for (const name of ["Kick", "Send", "Observe for this client"]) {
    assert.equal(await side.getByRole("button", { name }).count(), 0, name);
  }
  // An address that someone typed.
  await page.goto("/#clients/%zz");
  await page.getByText("not here now").waitFor();
}
