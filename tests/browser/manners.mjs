// Signing in, keyboard, a gateway that does not answer, and the screen of a phone.

import assert from "node:assert/strict";
import { accessible, go, noOverflow, open, phone, picture, signIn, token } from "./browser.mjs";
import { traceOfBothSides } from "./clients.mjs";

export async function signingIn(page) {
  await page.goto("/");
  await page.getByRole("textbox", { name: "Token" }).fill("not-the-token-at-all");
  await page.getByRole("button", { name: "Sign in" }).click();
  await page.getByText("not valid").waitFor();
  await accessible(page, "signing in");
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

/** 80 KB came again at each load. */
export async function everyLoadBroughtAllFiles(page) {
  const again = [];
  page.on("response", (response) => { if (/\.(js|css)$/.test(response.url())) again.push(response); });
  await page.reload();
  await page.getByText("serving").waitFor();
  const sizes = await Promise.all(again.map(async (response) => (await response.request().sizes()).responseBodySize));
  assert.ok(again.length > 10, `${again.length} files`);
  assert.ok(sizes.reduce((total, size) => total + size, 0) < 2000, `a second load brings ${sizes}`);
}

export async function keyboard(page) {
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
  await page.goto("/#overview");
  await page.reload();
  await page.getByText("serving").waitFor();
  await page.keyboard.press("Tab");
  await page.keyboard.press("Enter");
  assert.ok(await page.locator("main").evaluate((main) => main === document.activeElement), "the bar can be skipped");
}

export async function trouble(page) {
  // A gateway that hangs takes the request and says nothing.
  const held = [];
  await page.route("**/api/v1/status", (route) => { held.push(route); });
  await page.getByText("The gateway does not answer.").first().waitFor({ timeout: 60000 });
  assert.equal(await page.locator("main.stale").count(), 1, "old numbers do not look like new ones");
  await picture(page, "away");
  await page.unroute("**/api/v1/status");
  await page.getByText("serving").waitFor({ timeout: 60000 });
  assert.equal(await page.locator("main.stale").count(), 0);
  await page.route("**/api/v1/users", (route) => route.fulfill({ status: 409, json: { code: "no_users_file", message: "no file of users" } }));
  await go(page, "Access");
  await page.getByText("no file of users").waitFor();
  assert.ok(!await page.getByText("Add a user").isVisible(), "a form that cannot work is not shown");
  await page.unroute("**/api/v1/users");
}

export async function onAPhone() {
  const page = await open(phone);
  await signIn(page);
  for (const name of ["Overview", "Listeners", "Clients", "Events", "Topics", "Access", "Settings"]) {
    await go(page, name);
    await page.waitForTimeout(1000);
    await noOverflow(page, name);
    await picture(page, `phone-${name.toLowerCase()}`);
    await accessible(page, `${name} on a phone`, ["light"]);
  }
  const form = page.locator("details[data-section='listeners.dtls.default']");
  await form.locator("summary").click();
  await noOverflow(page, "the form of settings");
  await page.emulateMedia({ colorScheme: "dark" });
  await form.scrollIntoViewIfNeeded();
  await picture(page, "phone-form-dark");
  await page.goto("/#clients/pump-2");
  await page.getByText("weather/+").waitFor();
  await noOverflow(page, "client");
  await picture(page, "phone-client-dark");
  const side = page.getByRole("complementary");
  await traceOfBothSides(side);
  await noOverflow(page, "a trace");
  await picture(page, "phone-trace-dark");
  await side.getByRole("button", { name: "Stop" }).click();
  await page.context().close();
}
