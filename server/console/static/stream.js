// Server-sent events read with fetch (EventSource cannot send a token), and a connection that comes back by itself.

import { events } from "./api.js";

/** No byte for this long, and the connection is taken for dead. */
const SILENCE_MS = 60_000;
const FIRST_WAIT_MS = 500;
const LONGEST_WAIT_MS = 10_000;

/** A parser of text/event-stream (WHATWG HTML, 9.2.6): feed it text, it calls `dispatch(event, data)`. */
export function parser(dispatch) {
  let rest = "";
  let event = "";
  let data = [];
  return (text) => {
    rest += text;
    // A \r at the very end may be half of a \r\n: it waits for what follows.
    const lines = rest.split(/\r\n|\n|\r(?!$)/);
    rest = lines.pop();
    for (const line of lines) {
      if (line === "") {
        if (data.length) dispatch(event || "message", data.join("\n"));
        event = "";
        data = [];
        continue;
      }
      const colon = line.indexOf(":");
      if (colon === 0) continue;
      const field = colon < 0 ? line : line.slice(0, colon);
      const value = colon < 0 ? "" : line.slice(colon + 1).replace(/^ /, "");
      if (field === "event") event = value;
      else if (field === "data") data.push(value);
    }
  };
}

/**
 * Keep a stream open for ever. `on.event(name, value)` gets each event's JSON; `on.open()` every new connection;
 * `on.lost(message, seconds)` says that the next try comes in that many seconds; `on.refused(error)` that the server
 * wants a token, or another one: the next try then waits for `retry()`.
 */
export function connect(on) {
  let wake = () => {};
  const pause = (ms) => new Promise((resolve) => {
    const timer = ms === null ? null : setTimeout(resolve, ms);
    wake = () => {
      clearTimeout(timer);
      resolve();
    };
  });

  async function once() {
    const control = new AbortController();
    let watchdog = setTimeout(() => control.abort(), SILENCE_MS);
    try {
      const answer = await events(control.signal);
      on.open();
      const feed = parser((name, data) => on.event(name, JSON.parse(data)));
      const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
      for (;;) {
        const { done, value } = await reader.read();
        if (done) return;
        clearTimeout(watchdog);
        watchdog = setTimeout(() => control.abort(), SILENCE_MS);
        feed(value);
      }
    } finally {
      clearTimeout(watchdog);
    }
  }

  (async () => {
    let wait = FIRST_WAIT_MS;
    for (;;) {
      let message = "the server closed the connection";
      const started = performance.now();
      try {
        await once();
      } catch (error) {
        if (error.status === 401 || error.status === 403) {
          on.refused(error);
          await pause(null);
          wait = FIRST_WAIT_MS;
          continue;
        }
        message = error.name === "AbortError" ? "the server fell silent" : error.message;
      }
      if (performance.now() - started > LONGEST_WAIT_MS) wait = FIRST_WAIT_MS;
      on.lost(message, wait / 1e3);
      await pause(wait);
      wait = Math.min(wait * 2, LONGEST_WAIT_MS);
    }
  })();

  return { retry: () => wake() };
}
