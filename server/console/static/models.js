// Models: the ladder with the rung in force, live latency and rate, why it is there, and what one can do about it.

import { shareBar, sparkline } from "./charts.js";
import { h } from "./dom.js";
import { bytes, clock, latency, quality, rate, variant } from "./format.js";
import { keyOf } from "./decisions.js";
import { decisionsOf, groupsOf, keyIn, ofGroup, partOf } from "./groups.js";
import { SPAN_SECONDS } from "./series.js";
import { modelStory } from "./why.js";

const STATES = { best: "best rung", degraded: "degraded", parked: "parked", pinned: "pinned", manual: "moved by hand", unloaded: "unloaded" };

/** All rows. */
export function modelRows({ status, plan, decisions, complete, series, grafana }) {
  const names = Object.keys(status.models);
  if (!names.length) return h("p", { class: "empty" }, "No model is served.");
  return names.map((name) => {
    const parts = groupsOf(status).map(([group, one]) => ({
      group, model: one.models[name], aside: (one.quarantined ?? []).filter((q) => q.model === name), story: modelStory(name, one, partOf(plan, group), decisionsOf(decisions, group), complete),
    }));
    return row(name, status, parts, series, grafana);
  });
}

/** The state that stands for a model in all groups: the first that is not its best rung. */
const worst = (parts) => parts.find((p) => p.story.state !== "best")?.story.state ?? "best";

function row(name, status, parts, series, grafana) {
  const model = status.models[name];
  return h("article", { class: `model ${worst(parts)}`, id: `model-${name}`, "data-key": name, "data-model": name },
    h("div", { class: "modelhead" },
      h("h3", {}, name),
      parts.length > 1 ? null : h("span", { class: `chip ${parts[0].story.state}` }, STATES[parts[0].story.state]),
      grafana ? h("a", { href: `${grafana}/d/trimtab-models?var-model=${encodeURIComponent(name)}`, class: "small", "aria-label": `Grafana: ${name}` }, "Grafana") : null,
      h("span", { class: "actions" }, actions(name, model, status))),
    parts.map((part) => inGroup(name, part, status.at, series)));
}

/** A model in one host group: what it runs there and why. */
function inGroup(name, { group, model, aside, story }, now, series) {
  return h("div", { class: "ingroup", "data-key": `in ${group}`, "data-group": group || null },
    group ? h("h4", {}, `Group ${group} `, h("span", { class: `chip ${story.state}` }, STATES[story.state])) : null,
    h("div", { class: "modelbody" }, ladder(name, model, group), live(name, model, group, now, series)),
    story.why || story.until
      ? h("p", { class: "why" },
        story.why ? h("strong", {}, story.why, " ") : null,
        story.until,
        story.decision
          ? h("button", { type: "button", class: "link", "data-action": "reveal", "data-decision": keyOf(story.decision), "data-model": name }, "Numbers", h("span", { class: "hidden" }, ` of the decision about ${name}${ofGroup(group)}`))
          : null)
      : null,
    aside.map((q) => h("p", { class: "why" },
      h("strong", {}, `${variant(q.variant)} is quarantined ${q.until === null ? "until it is cleared" : `until ${clock(q.until, now)}`}: `), `${q.reason} `,
      q.variant === null ? null : h("button", { type: "button", class: "link", "data-action": "clear", "data-model": name, "data-variant": q.variant, "aria-label": `Clear the quarantine of ${name} ${q.variant}${ofGroup(group)}` }, "Clear…"))));
}

function actions(name, model, status) {
  const button = (action, text) =>
    h("button", { type: "button", class: "small", "data-action": action, "data-model": name, "aria-label": `${text.replace("…", "")} ${name}` }, text);
  return [
    button("swap", "Swap…"),
    button("pin", "Pin…"),
    name in status.pins ? button("unpin", "Unpin…") : null,
    model.variant === null || model.unloaded ? null : button("park", "Park…"),
  ];
}

function ladder(name, model, group) {
  const most = Math.max(...model.ladder.map((r) => r.resident_bytes ?? 0), 1);
  const rungs = model.ladder.map((r) => rung(name, model, r, most));
  if (model.unloaded) {
    rungs.push(h("li", { "data-key": "other" }, h("span", { class: "rung here", "aria-current": "true" }, h("b", {}, "unloaded"), h("span", {}, "not in memory"))));
  } else if (model.variant === null || !model.ladder.some((r) => r.variant === model.variant)) {
    rungs.push(h("li", { "data-key": "other" }, h("span", { class: "rung here", "aria-current": "true" }, h("b", {}, variant(model.variant)),
      h("span", {}, model.variant === null ? "not in memory" : "not a rung"))));
  }
  return h("ol", { class: "ladder", "aria-label": `Ladder of ${name}${ofGroup(group)}, best rung first` }, rungs);
}

function rung(name, model, r, most) {
  const here = r.variant === model.variant && !model.unloaded;
  const numbers = `quality ${quality(r.quality)}, ${bytes(r.resident_bytes)} in memory, ${latency(r.p50_seconds)}`;
  return h("li", { "data-key": r.variant },
    h("button", {
      type: "button", class: here ? "rung here" : "rung", "aria-current": here ? "true" : null, disabled: here,
      "data-action": "swap", "data-model": name, "data-variant": r.variant,
      "aria-label": `${r.variant}: ${numbers}${here ? "; in force" : `. Swap ${name} to it`}`,
    },
    h("b", {}, r.variant),
    h("span", { class: "q" }, quality(r.quality)),
    h("span", {}, bytes(r.resident_bytes)),
    h("span", {}, latency(r.p50_seconds)),
    shareBar((r.resident_bytes ?? 0) / most)));
}

function live(name, model, group, now, series) {
  const late = model.slo !== null && model.latency !== null && model.latency > model.slo;
  const p = `p${Math.round((model.quantile ?? 0.99) * 1000) / 10}`;
  return h("dl", { class: "live" },
    h("div", {},
      h("dt", {}, p),
      h("dd", {}, h("b", { class: late ? "late" : "" }, latency(model.latency)), model.slo === null ? null : h("span", { class: "dim" }, ` of ${latency(model.slo)}`),
        sparkline(series.get(keyIn(group, `latency:${name}`)), now, SPAN_SECONDS, model.slo === null ? [] : [model.slo], `${p} latency of ${name}${ofGroup(group)} over the last five minutes`))),
    h("div", {},
      h("dt", {}, "rate"),
      h("dd", {}, h("b", {}, rate(model.rate)),
        sparkline(series.get(keyIn(group, `rate:${name}`)), now, SPAN_SECONDS, [], `requests per second to ${name}${ofGroup(group)} over the last five minutes`))));
}
