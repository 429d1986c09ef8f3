// SPDX-License-Identifier: Apache-2.0
// Requests to the server. The session cookie goes along by itself; the header says that it was this page.

const HEADERS = { "X-HVG3D": "1", Accept: "application/json" };

/** What the server said was wrong: `code`, `message`, `remedy`; `status` is 0 where there was no answer at all. */
export class ApiError extends Error {
  constructor(status, { code, message, remedy }) {
    super(message);
    this.status = status;
    this.code = code;
    this.remedy = remedy;
  }
}

/** Called once when the server no longer knows this browser. */
let onSignedOut = () => {};

export function whenSignedOut(listener) {
  onSignedOut = listener;
}

export async function call(method, path, { body, token, signal } = {}) {
  const headers = { ...HEADERS };
  if (body !== undefined) headers["Content-Type"] = "application/json";
  if (token !== undefined) headers.Authorization = `Bearer ${token}`;
  let answer;
  try {
    answer = await fetch(path, {
      method,
      headers,
      signal,
      body: body === undefined ? undefined : JSON.stringify(body),
      credentials: "same-origin",
      cache: "no-store",
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError(0, {
      code: "unreachable",
      message: "The server does not answer.",
      remedy: "See whether it is still running.",
    });
  }
  if (answer.status === 204) return null;
  let content = null;
  try {
    content = await answer.json();
  } catch {
    // not JSON: the status has to do
  }
  if (answer.ok) return content;
  const error = content?.error ?? {
    code: "http_error",
    message: `The server answered with ${answer.status}.`,
    remedy: null,
  };
  if (answer.status === 401 && token === undefined) onSignedOut();
  throw new ApiError(answer.status, error);
}

const job = (id) => `/v1/jobs/${encodeURIComponent(id)}`;

export const api = {
  signIn: (token) => call("POST", "/v1/session", { token }),
  renew: () => call("POST", "/v1/session"),
  signOut: () => call("DELETE", "/v1/session"),
  health: () => call("GET", "/v1/health"),
  models: () => call("GET", "/v1/models"),
  jobs: (query, signal) => call("GET", `/v1/jobs?${new URLSearchParams(query)}`, { signal }),
  job: (id) => call("GET", job(id)),
  metadata: (id, signal) => call("GET", `${job(id)}/metadata.json`, { signal }),
  create: (body) => call("POST", "/v1/jobs", { body }),
  cancel: (id) => call("POST", `${job(id)}/cancel`),
  move: (id, position) => call("POST", `${job(id)}/move`, { body: { position } }),
  remove: (id) => call("DELETE", job(id)),
};

export const media = {
  video: (id) => `${job(id)}/video.mp4`,
  scene: (id) => `${job(id)}/scene.mp4`,
  metadata: (id) => `${job(id)}/metadata.json`,
  /** `version` changes when the picture does: a running job's is drawn anew under the same address. */
  preview: (id, version) => `${job(id)}/preview.jpg?v=${version}`,
};

/** A random UUID (version 4). crypto.randomUUID is missing where the page came over plain HTTP from another machine. */
export function uuid() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  bytes[6] = (bytes[6] & 0x0f) | 0x40;
  bytes[8] = (bytes[8] & 0x3f) | 0x80;
  const hex = [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("");
  return [hex.slice(0, 8), hex.slice(8, 12), hex.slice(12, 16), hex.slice(16, 20), hex.slice(20)].join("-");
}

export const randomSeed = () => crypto.getRandomValues(new Uint32Array(1))[0];
