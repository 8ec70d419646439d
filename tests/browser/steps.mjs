// What a person does with the dashboard, and what it must show for it, in the order in which it is done.

import assert from "node:assert/strict";
import { browser, faults, open, picture, reader } from "./browser.mjs";
import * as clients from "./clients.mjs";
import * as manners from "./manners.mjs";
import * as overview from "./overview.mjs";
import * as pages from "./pages.mjs";
import * as settings from "./settings.mjs";

const steps = [
  manners.signingIn, overview.numbers, overview.chartsBeganAtTheLoad, overview.timeAxisWentByIndex, overview.nothingSaidWhatIsWrong,
  clients.listHadNoOrder, clients.pagesCouldNotBeJumpedTo, clients.panel, clients.trace, clients.kick, clients.unnamedCouldNotBeOpened, clients.absentOfferedAKick,
  pages.listeners, pages.adding, pages.events, pages.topics, pages.keys, pages.users, pages.bansTokensAndRules, pages.removing,
  settings.text, settings.fields, settings.noSettingCouldBeFound, settings.savedAndInForce, () => settings.readOnlySawEveryControl(reader),
  overview.portrait, manners.everyLoadBroughtAllFiles, manners.keyboard, manners.trouble, manners.onAPhone,
];

let now = "";
try {
  const page = await open();
  for (const step of steps) {
    now = step.name || "readOnlySawEveryControl";
    const begun = Date.now();
    await step(page);
    console.log(`${now}: ${((Date.now() - begun) / 1000).toFixed(1)} s`);
  }
  assert.deepEqual(faults, []);
} catch (error) {
  console.error(`in ${now}`);
  const page = browser.contexts().at(-1)?.pages().at(-1);
  if (page) await picture(page, "failed");
  throw error;
} finally {
  if (faults.length > 0) console.error(faults.join("\n"));
  await browser.close();
}
