// What a person does with the dashboard, and what it must show for it.

import assert from "node:assert/strict";
import path from "node:path";
import { chromium } from "playwright-core";

const { URL: url, TOKEN: token, PICTURES: pictures, PORT: port } = process.env;
const executablePath = process.env.CHROMIUM ?? "/usr/bin/chromium";
const args = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
  "--disable-component-update", "--disable-sync"];

const browser = await chromium.launch({ executablePath, args });
const faults = [];

async function open(options) {
  const context = await browser.newContext({ baseURL: url, ...options });
  const page = await context.newPage();
  page.setDefaultTimeout(10000);
  page.on("pageerror", (error) => faults.push(`error: ${error.message}`));
  page.on("console", (message) => {
    // A refused sign-in and a refused form are said in the console as well; they are asked for below.
    const wanted = /status of (400|401|404|409)/.test(message.text());
    if (message.type() === "error" && !wanted) faults.push(`console: ${message.text()}`);
  });
  page.on("dialog", (dialog) => {
    faults.push(`a dialog: ${dialog.message()}`);
    dialog.dismiss();
  });
  page.on("request", (request) => {
    if (!request.url().startsWith(url)) faults.push(`a request to ${request.url()}`);
  });
  return page;
}

const picture = (page, name) => page.screenshot({ path: path.join(pictures, `${name}.png`) });

async function signIn(page) {
  await page.goto("/");
  await page.getByRole("textbox", { name: "Token" }).fill(token);
  await page.getByRole("button", { name: "Sign in" }).click();
  await page.getByText("serving").waitFor();
}

async function noOverflow(page, what) {
  const [inner, outer] = await page.evaluate(() => [document.documentElement.scrollWidth, document.documentElement.clientWidth]);
  assert.ok(inner <= outer, `${what}: the page is ${inner} wide on a screen of ${outer}`);
}

async function access(page) {
  await page.goto("/");
  await page.getByRole("textbox", { name: "Token" }).fill("not-the-token-at-all");
  await page.getByRole("button", { name: "Sign in" }).click();
  await page.getByText("not valid").waitFor();
  await signIn(page);
  await page.reload();
  await page.getByText("serving").waitFor();
  // By the address that the quick start prints, which then has no token any more.
  const other = await open({});
  await other.goto(`/#token=${token}`);
  await other.getByText("serving").waitFor();
  assert.ok(!other.url().includes("token"), other.url());
  await other.context().close();
}

async function overview(page) {
  await page.locator(".tile", { hasText: "DTLS sessions" }).getByText(/^6/).waitFor();
  await page.locator(".tile", { hasText: "UDP peers" }).getByText(/^8/).waitFor();
  await page.locator("section", { hasText: "Handshakes by result" }).getByText("wrong key").waitFor();
  await page.waitForFunction(() => document.querySelectorAll(".chart path").length > 8
    && [...document.querySelectorAll(".chart path")].some((line) => line.getAttribute("d").split("L").length > 12), undefined, { timeout: 60000 });
  await picture(page, "overview-light");
  await page.emulateMedia({ colorScheme: "dark" });
  await picture(page, "overview-dark");
  await page.emulateMedia({ colorScheme: "light" });
  await page.screenshot({ path: path.join(pictures, "overview-whole.png"), fullPage: true });
}

// As a device calls itself in `main.rs`, with what is not seen written out.
const evil = "tracker-08\\u{202e}<img src=x onerror=alert(1)>";

async function clients(page) {
  await page.getByRole("link", { name: "Clients" }).click();
  await page.getByRole("button", { name: "pump-2", exact: true }).waitFor();
  // What a device calls itself is shown as it is, whatever it is.
  await page.getByRole("button", { name: `${evil}`, exact: true }).waitFor();
  await picture(page, "clients");
  await page.getByLabel("Client id contains").fill("meter");
  await page.getByText("1–2 of 2").waitFor();
  await page.getByLabel("Client id contains").fill("");
  await page.getByLabel("Transport").selectOption("udp");
  await page.getByText("1–8 of 8").waitFor();
  await page.getByLabel("Transport").selectOption("");
  await page.getByText("1–14 of 14").waitFor();

  await page.getByRole("button", { name: "urn:dev:ops:32473-Refrigerator-5002", exact: true }).click();
  const side = page.getByRole("complementary");
  await side.getByText("TLS_").waitFor();
  await side.getByText("weather/+").waitFor();
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
  await picture(page, "client");
  await page.emulateMedia({ colorScheme: "dark" });
  await picture(page, "client-dark");
  await page.emulateMedia({ colorScheme: "light" });
  await side.getByRole("button", { name: "Close" }).click();

  const row = page.getByRole("row", { name: "gate-east" });
  await row.getByRole("button", { name: "Kick" }).click();
  await picture(page, "kick");
  await page.getByRole("dialog").getByRole("button", { name: "Cancel" }).click();
  await row.waitFor();
  await row.getByRole("button", { name: "Kick" }).click();
  await page.getByRole("dialog").getByRole("button", { name: "Kick" }).click();
  await row.waitFor({ state: "detached" });
}

async function credentials(page) {
  await page.getByRole("link", { name: "Credentials" }).click();
  const keys = page.locator("section", { hasText: "Pre-shared keys" });
  await keys.getByRole("cell", { name: "pump-2", exact: true }).waitFor();
  await keys.getByLabel("Identity").fill("lamp-1");
  await keys.getByLabel("Key (hex)").fill("xyz");
  await keys.getByRole("button", { name: "Add identity" }).click();
  await keys.getByLabel("Key (hex)").locator("xpath=..").getByText("not hexadecimal").waitFor();
  await keys.getByLabel("Key (hex)").fill("");
  await keys.getByRole("button", { name: "Add identity" }).click();
  await keys.getByText("shown this once").waitFor();
  await keys.getByRole("cell", { name: "lamp-1", exact: true }).waitFor();
  const users = page.locator("section", { hasText: "Users" });
  await users.getByLabel("Name", { exact: true }).fill("ann");
  await users.getByLabel("Password", { exact: true }).fill("correct horse");
  await users.getByRole("button", { name: "Add user" }).click();
  await users.getByRole("cell", { name: "ann", exact: true }).waitFor();
  await picture(page, "credentials");
  await users.getByRole("row", { name: "ann" }).getByRole("button", { name: "Remove" }).click();
  await page.getByRole("dialog").getByRole("button", { name: "Remove" }).click();
  await users.getByText("No users yet.").waitFor();
}

async function settings(page) {
  await page.getByRole("link", { name: "Settings" }).click();
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
  const serves = page.getByRole("switch", { name: "udp:default serves" });
  await serves.click();
  await page.getByRole("dialog").getByRole("button", { name: "Switch off" }).click();
  await page.getByText("udp:default is off.").waitFor();
  await picture(page, "settings");
  await serves.click();
  await page.getByText("udp:default is on.").waitFor();
}

async function keyboard(page) {
  await page.goto("/#clients");
  const kick = page.getByRole("button", { name: "Kick pump-2" });
  await kick.focus();
  await page.waitForResponse((response) => response.url().includes("/clients?"));
  await page.waitForResponse((response) => response.url().includes("/clients?"));
  await page.waitForTimeout(300);
  assert.ok(await kick.evaluate((button) => button === document.activeElement), "a table that is read again keeps the focus");
  const signOut = page.getByRole("button", { name: "Sign out" });
  await signOut.focus();
  await page.waitForTimeout(5000);
  assert.ok(await signOut.evaluate((button) => button === document.activeElement), "and so does the header");
}

async function trouble(page) {
  // A gateway that hangs takes the request and says nothing.
  const held = [];
  await page.route("**/api/v1/status", (route) => { held.push(route); });
  await page.getByText("The gateway does not answer.").first().waitFor({ timeout: 30000 });
  assert.equal(await page.locator("main.stale").count(), 1, "old numbers do not look like new ones");
  await picture(page, "away");
  await page.unroute("**/api/v1/status");
  await page.getByText("serving").waitFor({ timeout: 30000 });
  assert.equal(await page.locator("main.stale").count(), 0);
  await page.route("**/api/v1/users", (route) => route.fulfill({ status: 409, json: { code: "no_users_file", message: "no file of users" } }));
  await page.getByRole("link", { name: "Credentials" }).click();
  await page.getByText("no file of users").waitFor();
  assert.ok(!await page.getByRole("button", { name: "Add user" }).isVisible(), "a form that cannot work is not shown");
  await page.unroute("**/api/v1/users");
  // An address that someone typed.
  await page.goto("/#clients/%zz");
  await page.getByText("not here now").waitFor();
}

const section = (page, name) => page.locator(`details[data-section="${name}"]`);

async function fields(page) {
  const form = page.locator("form", { has: page.locator(".settings") });
  const coap = section(page, "coap");
  await coap.locator("summary").click();
  // What the text said stands in its field, what it did not say has its default.
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
  await page.emulateMedia({ colorScheme: "dark" });
  await picture(page, "form-wrong-dark");
  await page.emulateMedia({ colorScheme: "light" });
  await coap.getByLabel("heartbeat").fill("50s");
  await section(page, "limits").getByLabel("requests_per_second").fill("500");
  await coap.getByLabel("notify_type").selectOption("con");
  const rules = section(page, "listeners.udp.default");
  await rules.locator("summary").click();
  await rules.getByLabel("access_rules").fill("allow 127.0.0.0/8\ndeny all");
  await section(page, "log").locator("summary").click();
  await section(page, "log").getByLabel("format").selectOption("json");
  await save.click();
  await page.getByText("Saved and in force.").waitFor();
  await page.getByText("In force after a restart of the process: log.format").waitFor();
  // It stays when the other parts of the page have been read again.
  await page.waitForTimeout(2000);
  assert.ok(await page.getByText("In force after a restart of the process: log.format").isVisible(), "what needs a restart is still said");
  await coap.getByText("2 set").waitFor();
  // Emptied, a key goes back to its default.
  await coap.getByLabel("notify_type").selectOption("");
  await save.click();
  await coap.getByText("1 set").waitFor();
}

async function adding(page, port) {
  await page.getByText("Add a listener").click();
  const form = page.locator("form", { has: page.getByLabel("Kind") });
  await form.getByLabel("Kind").selectOption("dtls");
  await form.getByLabel("name", { exact: false }).first().fill("cellar");
  await form.getByLabel("bind").fill("nowhere");
  await form.getByRole("button", { name: "Add listener" }).click();
  await form.locator(".field", { has: page.getByLabel("bind") }).getByText("expected").waitFor();
  await form.getByLabel("bind").fill(`127.0.0.1:${port}`);
  await form.getByLabel("psk_file").fill("psk.txt");
  await picture(page, "listener-form");
  await form.getByRole("button", { name: "Add listener" }).click();
  await page.getByText(`dtls:cellar serves at 127.0.0.1:${port}.`).waitFor();
  await page.getByRole("switch", { name: "dtls:cellar serves" }).waitFor();
  await section(page, "listeners.dtls.cellar").waitFor();
  await page.screenshot({ path: path.join(pictures, "settings-whole.png"), fullPage: true });
  await page.getByRole("button", { name: "Remove dtls:cellar" }).click();
  await page.getByRole("dialog").getByRole("button", { name: "Remove" }).click();
  await page.getByText("dtls:cellar is gone.").waitFor();
  await section(page, "listeners.dtls.cellar").waitFor({ state: "detached" });
}

async function phone() {
  const page = await open({ viewport: { width: 390, height: 844 }, deviceScaleFactor: 2, isMobile: true, hasTouch: true });
  await signIn(page);
  await page.waitForTimeout(5000);
  await noOverflow(page, "overview");
  await picture(page, "phone-overview");
  for (const name of ["Clients", "Credentials", "Settings"]) {
    await page.getByRole("link", { name }).click();
    await page.waitForTimeout(1500);
    await noOverflow(page, name);
    await picture(page, `phone-${name.toLowerCase()}`);
  }
  await section(page, "listeners.dtls.default").locator("summary").click();
  await page.getByText("Add a listener").click();
  await noOverflow(page, "the form of settings");
  await page.emulateMedia({ colorScheme: "dark" });
  await section(page, "listeners.dtls.default").scrollIntoViewIfNeeded();
  await picture(page, "phone-form-dark");
  await page.goto("/#clients/pump-2");
  await page.getByText("weather/+").waitFor();
  await noOverflow(page, "client");
  await picture(page, "phone-client");
}

try {
  const page = await open({ viewport: { width: 1360, height: 900 } });
  await access(page);
  await overview(page);
  await clients(page);
  await credentials(page);
  await settings(page);
  await fields(page);
  await adding(page, port);
  await keyboard(page);
  await trouble(page);
  await phone();
  assert.deepEqual(faults, []);
} catch (error) {
  const page = browser.contexts().at(-1)?.pages().at(-1);
  if (page) await picture(page, "failed");
  throw error;
} finally {
  if (faults.length > 0) console.error(faults.join("\n"));
  await browser.close();
}
