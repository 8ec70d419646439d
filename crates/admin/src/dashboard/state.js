// What all parts of the page know: how the gateway is, who one is, and what waits for a restart.

import { get } from "./api.js";

export const state = {
  /** The last answer of `status`. */
  status: undefined,
  /** Whether this token may change something. */
  mayChange: true,
  /** Keys that the file has and that a restart puts in force. */
  waiting: [],
  /** The name of this token. */
  token: "",
};

export async function readSelf() {
  const me = await get("self");
  state.mayChange = me.role === "admin";
  state.token = me.token;
}

export async function readWaiting() {
  const { keys } = await get("config/effective");
  state.waiting = keys.filter((key) => key.restart_required).map((key) => key.key);
}

/** Keys in words: a whole table that waits is named once. */
export function waitingWords() {
  const tables = new Map();
  for (const key of state.waiting) {
    const table = key.split(".").slice(0, -1).join(".");
    tables.set(table, [...(tables.get(table) ?? []), key]);
  }
  return [...tables].flatMap(([table, keys]) => (keys.length > 3 ? [table] : keys)).join(", ");
}
