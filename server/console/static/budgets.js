// Budgets and latency objectives: one card each.

import { gauge, sparkline } from "./charts.js";
import { h } from "./dom.js";
import { amount, clock, duration, plural, ratio, unitOf } from "./format.js";
import { groupsOf, keyIn } from "./groups.js";
import { SPAN_SECONDS } from "./series.js";

/** A trend of less than this share of the limit in a second is noise. */
const STEADY = 5e-4;

/** All cards. `series` holds the ratios seen so far. */
export function budgetCards(status, series) {
  const groups = groupsOf(status);
  if (!groups.some(([, one]) => one.budgets.length)) {
    return h("p", { class: "empty" }, "No budget is configured, so nothing is ever degraded.");
  }
  return groups.map(([group, one]) => [
    group ? h("h3", { class: "group", "data-key": `group ${group}` }, `Group ${group}`, h("span", { class: "dim" }, ` ${plural(one.hosts.length, "host")}`)) : null,
    one.budgets.map((b) => card(group, b, status.at, series)),
  ]);
}

function card(group, b, now, series) {
  const key = keyIn(group, b.name);
  const slo = b.name.startsWith("slo:");
  const unit = unitOf(b.name, b.limit ?? 0);
  const used = b.ratio === null ? `no reading: ${b.missing}` : `${amount(b.usage, unit)} of ${amount(b.limit, unit)}`;
  const label = `${b.name}: ${b.ratio === null ? used : ratio(b.ratio)}; degrading starts at ${ratio(b.enter)} and ends at ${ratio(b.exit)}`;
  return h("article", { class: `card ${b.state}`, "data-key": key, "data-budget": key },
    h("div", { class: "cardhead" },
      h(group ? "h4" : "h3", {}, slo ? [h("span", { class: "dim" }, "latency of "), b.name.slice(4)] : b.name),
      h("span", { class: `chip ${b.state}` }, b.state),
      b.since && b.state !== "calm" ? h("span", { class: "dim" }, `since ${clock(b.since, now)}`) : null),
    h("div", { class: "reading" },
      h("strong", { class: "big" }, b.ratio === null ? "?" : ratio(b.ratio)),
      h("span", { class: b.ratio === null ? "problem" : "" }, used),
      b.ratio === null ? null : h("span", { class: "dim trend" }, trend(b, unit))),
    gauge(b, label),
    sparkline(series.get(key), now, SPAN_SECONDS, [b.enter, b.exit], `${b.name} over the last five minutes`));
}

/** Which way, how fast, and how long until the limit. */
function trend(b, unit) {
  if (unit === "time") return "";
  if (Math.abs(b.slope) < b.limit * STEADY) return "steady";
  const size = Math.abs(b.slope);
  const speed = `${b.slope > 0 ? "↗" : "↘"} ${unit === "bytes" ? `${amount(size, unit)}/s` : `${amount(size * 60, unit)}/min`}`;
  return b.slope > 0 && b.seconds_to_exhaustion !== null ? `${speed}, full in ${duration(b.seconds_to_exhaustion)}` : speed;
}
