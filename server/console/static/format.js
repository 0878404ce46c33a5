// Numbers and times for people. Pure functions; null and undefined are shown as a dash.

export const NONE = "–";

const absent = (value) => value === null || value === undefined || Number.isNaN(value);

/** Bytes in binary units, three significant figures or so. */
export function bytes(value) {
  if (absent(value)) return NONE;
  const size = Math.abs(value);
  if (size >= 2 ** 30) return `${(value / 2 ** 30).toFixed(2)} GiB`;
  if (size >= 2 ** 20) return `${(value / 2 ** 20).toFixed(size >= 100 * 2 ** 20 ? 0 : 1)} MiB`;
  if (size >= 2 ** 10) return `${(value / 2 ** 10).toFixed(0)} KiB`;
  return `${value.toFixed(0)} B`;
}

/** A latency in seconds. */
export function latency(value) {
  if (absent(value)) return NONE;
  if (value >= 1) return `${value.toFixed(2)} s`;
  const ms = value * 1e3;
  return `${ms.toFixed(ms >= 100 ? 0 : ms >= 1 ? 1 : 2)} ms`;
}

/** A span of time in seconds, in at most two units. */
export function duration(value) {
  if (absent(value)) return NONE;
  const s = Math.max(0, Math.round(value));
  if (s < 60) return `${s} s`;
  const parts = [[Math.floor(s / 86400), "d"], [Math.floor(s / 3600) % 24, "h"], [Math.floor(s / 60) % 60, "min"], [s % 60, "s"]];
  const first = parts.findIndex(([n]) => n > 0);
  return parts.slice(first, first + 2).filter(([n]) => n > 0).map(([n, unit]) => `${n} ${unit}`).join(" ");
}

export const ratio = (value) => (absent(value) ? NONE : value.toFixed(2));
export const quality = (value) => (absent(value) ? NONE : value.toFixed(3));
export const rate = (value) => (absent(value) ? NONE : `${value.toFixed(value >= 100 ? 0 : 1)}/s`);
export const variant = (name) => name ?? "parked";
export const signed = (value, digits) => `${value < 0 ? "−" : "+"}${Math.abs(value).toFixed(digits)}`;

/** Local time of day; the date too when that is not the day of `now`. Both are unix seconds. */
export function clock(at, now) {
  if (absent(at)) return NONE;
  const when = new Date(at * 1e3);
  const pad = (n) => String(n).padStart(2, "0");
  const time = [when.getHours(), when.getMinutes(), when.getSeconds()].map(pad).join(":");
  if (when.toDateString() === new Date(now * 1e3).toDateString()) return time;
  return `${when.getFullYear()}-${pad(when.getMonth() + 1)}-${pad(when.getDate())} ${time}`;
}

/** "time" for an objective, "bytes" for memory, "share" for utilisation: from a budget's name and limit. */
export function unitOf(name, limit) {
  if (name.startsWith("slo:")) return "time";
  return limit > 1000 ? "bytes" : "share";
}

/** A budget's usage or limit in its own unit. */
export function amount(value, unit) {
  return unit === "time" ? latency(value) : unit === "bytes" ? bytes(value) : ratio(value);
}

/** What a trigger is about, in words. */
export function triggerName(name) {
  return name.startsWith("slo:") ? `the latency of ${name.slice(4)}` : `budget ${name}`;
}

/** What a ratio is a ratio of. */
export const whole = (name) => (name.startsWith("slo:") ? "its objective" : "its limit");

export const plural = (n, word) => `${n} ${word}${n === 1 ? "" : "s"}`;
export const sentence = (text) => (text ? text[0].toUpperCase() + text.slice(1) : text);
