// The admin API. The token lives in this tab's session storage and is sent as a header, never in an address.

const BASE = new URL("../admin/v1/", document.baseURI);
const KEY = "trimtab-token";

let token = read();

function read() {
  try {
    return sessionStorage.getItem(KEY) ?? "";
  } catch {
    return ""; // storage may be forbidden: the token then lives in memory
  }
}

export const hasToken = () => token !== "";

export function setToken(value) {
  token = value;
  try {
    if (value) sessionStorage.setItem(KEY, value);
    else sessionStorage.removeItem(KEY);
  } catch {
    // it lives in memory
  }
}

/** What the server refused: `status` is its HTTP status, 0 where no answer came. */
export class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

async function request(path, options = {}) {
  const headers = { ...options.headers };
  if (token) headers.authorization = `Bearer ${token}`;
  let answer;
  try {
    answer = await fetch(new URL(path, BASE), { ...options, headers, cache: "no-store", credentials: "same-origin" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refused(0, "the server does not answer");
  }
  if (answer.ok) return answer;
  let message = "";
  try {
    message = (await answer.json()).error;
  } catch {
    // not ours: a proxy's page, say
  }
  throw new Refused(answer.status, message || `the server answered ${answer.status} ${answer.statusText}`.trim());
}

export const get = async (path) => (await request(path)).json();

export const post = async (path, body) =>
  (await request(path, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify(body),
  })).json();

/** The stream of server-sent events, as a response whose body is to be read. */
export const events = (signal) => request("events", { headers: { accept: "text/event-stream" }, signal });

/** What the page was configured with. */
export async function config() {
  const answer = await fetch(new URL("config.json", document.baseURI));
  return answer.ok ? answer.json() : {};
}
