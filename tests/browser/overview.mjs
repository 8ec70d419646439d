// The overview: what is wrong comes first, charts are by time, each number leads on.

import assert from "node:assert/strict";
import fs from "node:fs";
import { accessible, ask, config, go, open, picture, signIn } from "./browser.mjs";

const chart = (page, title) => page.locator(".chart", { hasText: title });

export async function numbers(page) {
  await go(page, "Overview");
  await page.locator(".tile", { hasText: "DTLS sessions" }).getByText(/^6/).waitFor();
  await page.locator(".tile", { hasText: "UDP peers" }).getByText(/^9/).waitFor();
  await page.locator("section", { hasText: "Handshakes by result" }).getByText("wrong key").waitFor();
  await page.getByText("All is well.").waitFor();
  const dead = await page.locator(".tile").evaluateAll((tiles) => tiles.filter((tile) => !tile.getAttribute("href")?.startsWith("#")).length);
  assert.equal(dead, 0, "a tile leads nowhere");
  await page.locator(".tile", { hasText: "DTLS sessions" }).click();
  await page.getByText("1–6 of 6").waitFor();
  await page.getByLabel("Transport").selectOption("");
  await go(page, "Overview");
}

/** Each load began with nothing, and only what this tab had seen was shown. */
export async function chartsBeganAtTheLoad(page) {
  const drawn = () => page.waitForFunction(() => [...document.querySelectorAll(".chart .s1[d]")].every((line) => line.getAttribute("d").includes("L")), undefined, { timeout: 90000 });
  await drawn();
  const before = await chart(page, "Messages").locator("path.s1").first().getAttribute("d");
  await page.reload();
  await page.waitForFunction((least) => (document.querySelector(".chart path.s1")?.getAttribute("d") ?? "").split("L").length >= least, before.split("L").length);
  await picture(page, "overview-light");
  await page.emulateMedia({ colorScheme: "dark" });
  await picture(page, "overview-dark");
  await page.emulateMedia({ colorScheme: "light" });
  await picture(page, "overview-whole", { fullPage: true });
  await accessible(page, "overview");
}

/** An hour with ten minutes in which the gateway was asleep, and five sessions. */
async function asleep(route) {
  const got = await (await route.fetch()).json();
  const now = Date.now() / 1000;
  const model = { ...got.points.at(-1), dtls_sessions: 5, udp_peers: 1, connections: 0, latency_p50_seconds: got.latency_floor_seconds, latency_p99_seconds: 0.0125 };
  got.points = Array.from({ length: 360 }, (_, n) => ({ ...model, time: now - 3600 + n * 10 })).filter((_, n) => n < 120 || n >= 180);
  await route.fulfill({ json: got });
}

/** The time axis went by the index of a point: a gap was not seen, and steps of seconds and of minutes looked alike. */
export async function timeAxisWentByIndex() {
  const page = await open();
  await page.route("**/api/v1/history*", asleep);
  await signIn(page);
  await page.getByRole("button", { name: "1 h", exact: true }).click();
  const messages = chart(page, "Messages").first();
  await messages.locator("rect.gap").first().waitFor();
  const lines = await messages.locator("path.s1").getAttribute("d");
  const parts = lines.split("M").slice(1).map((part) => part.split("L").map((point) => Number(point.split(" ")[0])));
  assert.equal(parts.length, 2, `one line on each side of the gap: ${lines}`);
  const [before, after] = parts;
  const [gap, wide] = [after[0] - before.at(-1), before.at(-1) - before[0]];
  assert.ok(Math.abs(gap / wide - 610 / 1190) < 0.03, `ten minutes are half as wide as twenty: ${gap} and ${wide}`);
  // The axis says what its lines stand for.
  const labels = await chart(page, "Sessions and peers").locator("text.axis[text-anchor=end]").allTextContents();
  assert.deepEqual(labels.slice(0, 4), ["0", "2", "4", "6"]);
  assert.match((await messages.locator("text.axis[text-anchor=middle]").allTextContents()).join(), /\d\d:\d\d/);
  // What lies in the first bucket is told as less than its bound, and no digit is lost.
  const times = chart(page, "Time to the answer");
  await times.locator(".legend").getByText("< 10 µs").waitFor();
  await times.locator(".legend").getByText("12.5 ms").waitFor();
  // One cursor for all, by pointer and by keyboard.
  await messages.locator("svg").hover();
  assert.equal(await page.locator(".chart .cursor").count(), await page.locator(".chart").count());
  const slider = times.getByRole("slider");
  await slider.focus();
  await page.keyboard.press("End");
  const last = await slider.getAttribute("aria-valuetext");
  await page.keyboard.press("ArrowLeft");
  const one = await slider.getAttribute("aria-valuetext");
  assert.notEqual(one, last);
  assert.match(one, /^\d\d:\d\d:\d\d: median < 10 µs, p95 .*, p99 12\.5 ms$/);
  assert.equal(await messages.locator(".cursor").count(), 1);
  await page.keyboard.press("Escape");
  assert.equal(await page.locator(".chart .cursor").count(), 0);
  await picture(page, "charts-gap");
  await page.getByRole("button", { name: "5 min", exact: true }).click();
  assert.equal(await page.getByRole("button", { name: "5 min", exact: true }).getAttribute("aria-pressed"), "true");
  await messages.locator("rect.gap").waitFor({ state: "detached" });
  await page.context().close();
}

/** As the documents show it, with some minutes to see. */
export async function portrait(page) {
  await go(page, "Overview");
  await page.getByRole("button", { name: "5 min", exact: true }).click();
  await page.waitForTimeout(3000);
  await picture(page, "overview");
}

/** What was wrong stood nowhere, or among nine equal tiles. */
export async function nothingSaidWhatIsWrong() {
  const page = await open();
  await signIn(page);
  const text = fs.readFileSync(config, "utf8");
  fs.writeFileSync(config, `${text}\nbroken = [\n`);
  assert.equal((await ask("POST", "reload")).status, 409);
  await page.getByRole("link", { name: "The last reload was refused." }).click();
  await page.locator(".editor textarea").waitFor();
  fs.writeFileSync(config, text);
  assert.equal((await ask("POST", "reload")).status, 200);
  await go(page, "Overview");
  await page.getByText("All is well.").waitFor();
  // A gateway whose certificate, broker and login server give cause.
  await page.route("**/api/v1/metrics", async (route) => {
    const got = await (await route.fetch()).json();
    got.samples.portcullis_certificate_not_after_seconds = [{ labels: { use: "listeners.dtls.default.cert_file" }, value: got.time + 5 * 86400 }];
    await route.fulfill({ json: got });
  });
  await page.route("**/api/v1/status", async (route) => {
    const got = await (await route.fetch()).json();
    got.broker = { ...got.broker, connected: false, fault: "refused: look at broker.username" };
    got.login_servers = [{ backend: "ldap", up: false, fault: "no answer", down_seconds: 70 }];
    await route.fulfill({ json: got });
  });
  const first = page.locator(".concerns li");
  await first.getByText("refused: look at broker.username").waitFor();
  await page.getByText("Nobody can log in: ldap is away.").waitFor();
  await page.getByText("A certificate runs out soon.").waitFor();
  assert.ok((await first.first().getAttribute("class")).includes("bad"), "the worst comes first");
  await picture(page, "overview-trouble");
  await accessible(page, "overview with concerns");
  await page.getByRole("link", { name: "The broker is away." }).click();
  await page.locator("details[data-section=broker][open]").waitFor();
  await page.context().close();
}
