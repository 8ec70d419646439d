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

export const get = (path) => call("GET", path);
export const name = encodeURIComponent;
