// Chromium, and what every page must be: without faults, without requests elsewhere, accessible, no wider than the screen.

import assert from "node:assert/strict";
import fs from "node:fs";
import { createRequire } from "node:module";
import path from "node:path";
import { chromium } from "playwright-core";

export const { URL: url, TOKEN: token, READER: reader, PICTURES: pictures, PORT: port, CONFIG: config } = process.env;
const executablePath = process.env.CHROMIUM ?? "/usr/bin/chromium";
const args = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
  "--disable-component-update", "--disable-sync"];
const axe = fs.readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");

/** How long something may take that must come: a machine may have much else to do. */
export const patience = 30000;

export const browser = await chromium.launch({ executablePath, args });
export const faults = [];
export const phone = { viewport: { width: 390, height: 844 }, deviceScaleFactor: 2, isMobile: true, hasTouch: true };
export const desktop = { viewport: { width: 1360, height: 900 } };

export async function open(options = desktop) {
  const context = await browser.newContext({ baseURL: url, ...options });
  const page = await context.newPage();
  page.setDefaultTimeout(patience);
  page.on("pageerror", (error) => faults.push(`error: ${error.message}`));
  page.on("console", (message) => {
    // A refused sign-in and a refused form are said in the console as well; they are asked for in the steps.
    const wanted = /status of (400|401|403|404|409)/.test(message.text());
    if (message.type() === "error" && !wanted) faults.push(`console: ${message.text()}`);
  });
  page.on("dialog", (dialog) => {
    faults.push(`a dialog: ${dialog.message()}`);
    dialog.dismiss();
  });
  page.on("request", (request) => {
    if (!request.url().startsWith(url) && !request.url().startsWith("blob:")) faults.push(`a request to ${request.url()}`);
  });
  return page;
}

export const picture = (page, name, options = {}) => page.screenshot({ path: path.join(pictures, `${name}.png`), ...options });

export async function signIn(page, shown = token) {
  await page.goto("/");
  await page.getByRole("textbox", { name: "Token" }).fill(shown);
  await page.getByRole("button", { name: "Sign in" }).click();
  await page.getByText("serving").waitFor();
}

/** Goes to a page by the bar at the top. */
export async function go(page, name) {
  await page.locator("#nav").getByRole("link", { name, exact: true }).click();
  await page.getByRole("heading", { level: 1, name }).waitFor();
}

/** Answers yes to what is asked. */
export const confirm = (page, verb) => page.getByRole("dialog").getByRole("button", { name: verb }).click();

export async function noOverflow(page, what) {
  const [inner, outer] = await page.evaluate(() => [document.documentElement.scrollWidth, document.documentElement.clientWidth]);
  assert.ok(inner <= outer, `${what}: the page is ${inner} wide on a screen of ${outer}`);
}

/** Whether axe finds nothing, in light and in dark. */
export async function accessible(page, what, schemes = ["dark", "light"]) {
  await page.evaluate(axe);
  for (const colorScheme of schemes) {
    await page.emulateMedia({ colorScheme });
    const { violations } = await page.evaluate("axe.run()");
    const found = violations.map((one) => `${one.impact} ${one.id}: ${one.nodes.map((node) => node.target.join(" ")).slice(0, 3).join(", ")}`);
    assert.deepEqual(found, [], `${what}, ${colorScheme}`);
  }
}

/** Asks the gateway itself. */
export async function ask(method, route, body) {
  const headers = { Authorization: `Bearer ${token}`, "Content-Type": "application/json" };
  return fetch(`${url}/api/v1/${route}`, { method, headers, body: body && JSON.stringify(body) });
}
