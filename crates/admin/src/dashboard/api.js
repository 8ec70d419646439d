// Requests to /api/v1. The token, where one is needed, lives as long as the browser's tab.

const KEY = "portcullis-token";

/** How long an answer to a question may take, in milliseconds. A gateway that hangs does not refuse, it says nothing. */
const PATIENCE = 10000;
let onSignIn = () => {};

export class ApiError extends Error {
  constructor(status, body) {
    super(body.message ?? `HTTP ${status}`);
    this.status = status;
    this.code = body.code ?? "unknown";
    this.problems = body.problems ?? [];
  }
}

export function whenSignInIsNeeded(callback) {
  onSignIn = callback;
}

export function setToken(token) {
  if (token) sessionStorage.setItem(KEY, token);
  else sessionStorage.removeItem(KEY);
}

export function hasToken() {
  return sessionStorage.getItem(KEY) !== null;
}

export async function call(method, path, { json, toml, accept, match } = {}) {
  const headers = {};
  const token = sessionStorage.getItem(KEY);
  if (token) headers.Authorization = `Bearer ${token}`;
  if (json !== undefined) headers["Content-Type"] = "application/json";
  if (toml !== undefined) headers["Content-Type"] = "application/toml";
  if (accept) headers.Accept = accept;
  if (match) headers["If-Match"] = match;
  let response;
  try {
    const signal = method === "GET" ? AbortSignal.timeout(PATIENCE) : undefined;
    response = await fetch(`/api/v1/${path}`, { method, headers, signal, body: json !== undefined ? JSON.stringify(json) : toml });
  } catch {
    throw new ApiError(0, { code: "unreachable", message: "The gateway does not answer." });
  }
  if (response.status === 401) onSignIn();
  if (!response.ok) {
    let body = {};
    try { body = await response.json(); } catch { /* no JSON: the status says enough */ }
    throw new ApiError(response.status, body);
  }
  try {
    if (accept) return { text: await response.text(), tag: response.headers.get("ETag") };
    return response.status === 204 ? undefined : await response.json();
  } catch {
    throw new ApiError(0, { code: "unreachable", message: "The gateway's answer broke off." });
  }
}

/**
 * Reads an answer that goes on, line by line, until `signal` ends it. Resolves when the gateway ends it.
 * The token goes along in a header, which an EventSource does not send.
 */
export async function follow(method, path, { json, signal, last, line }) {
  const headers = {};
  const token = sessionStorage.getItem(KEY);
  if (token) headers.Authorization = `Bearer ${token}`;
  if (json !== undefined) headers["Content-Type"] = "application/json";
  if (last !== undefined) headers["Last-Event-ID"] = last;
  let response;
  try {
    response = await fetch(`/api/v1/${path}`, { method, headers, signal, body: json && JSON.stringify(json) });
  } catch (error) {
    if (signal.aborted) return;
    throw new ApiError(0, { code: "unreachable", message: "The gateway does not answer." });
  }
  if (response.status === 401) onSignIn();
  if (!response.ok) throw new ApiError(response.status, await response.json().catch(() => ({})));
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      const lines = (rest + value).split("\n");
      rest = lines.pop();
      for (const one of lines) line(one);
    }
  } catch (error) {
    if (!signal.aborted) throw new ApiError(0, { code: "unreachable", message: "The answer broke off." });
  }
}

/** The JSON of server-sent events, of an answer read by `follow`. */
export function eventLines(each) {
  return (line) => {
    if (!line.startsWith("data: ")) return;
    each(JSON.parse(line.slice(6)));
  };
}

export const get = (path) => call("GET", path);
export const name = encodeURIComponent;
