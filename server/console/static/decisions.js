// The timeline: each decision as sentences, with the numbers behind them one click away.

import { h } from "./dom.js";
import { amount, bytes, clock, duration, quality, ratio, signed, unitOf, variant } from "./format.js";
import { before } from "./groups.js";
import { decisionLines, holdSubject } from "./why.js";

const MARKS = { degrade: "▼", restore: "▲", pin: "◆", repair: "↻", done: "✓", failed: "✕", scaling: "!", saturated: "‼", calm: "○", hold: "‖" };

/** Groups decide at the same time, each for itself. */
export const keyOf = (decision) => `d${decision.at}${decision.group ?? ""}`;

/**
 * The list. `decisions` newest first; `model` "" shows all; `quiet`: also those that only say what is waited for; `isOpen(key)`:
 * whether a decision's numbers are to be seen (those of a thousand closed ones are not worth building).
 */
export function decisionList({ decisions, complete, status, model, quiet, isOpen }) {
  const items = [];
  decisions.forEach((d, i) => {
    const older = before(decisions, i) ?? (complete ? null : undefined);
    let lines = decisionLines(d, older, (status.groups?.[d.group] ?? status).budgets);
    if (quiet && !lines.length) lines = d.holds.map((hold) => ({ kind: "hold", text: `Waits, ${holdSubject(hold)}: ${hold.reason}`, model: hold.model }));
    if (model) lines = lines.filter((l) => l.model === model || l.model === "*");
    if (quiet && !lines.length && !model) lines = [{ kind: "calm", text: "Nothing to do", model: "*" }];
    if (lines.length) items.push(item(d, lines, status, isOpen(keyOf(d))));
  });
  if (!items.length) return h("p", { class: "empty" }, model ? `Nothing about ${model} yet.` : "Nothing has happened yet.");
  return h("ol", { class: "timeline" }, items);
}

function item(d, lines, status, open) {
  return h("li", { "data-key": keyOf(d) },
    h("details", { id: keyOf(d) },
      h("summary", {},
        h("time", { datetime: new Date(d.at * 1e3).toISOString() }, clock(d.at, status.at)),
        status.groups && d.group ? h("span", { class: "chip group" }, d.group) : null,
        h("span", { class: "lines" }, lines.map((l) =>
          h("span", { class: `line ${l.kind}` }, h("i", { "aria-hidden": "true" }, MARKS[l.kind] ?? "◆"), h("span", {}, l.text))))),
      open ? numbers(d, status) : null));
}

function numbers(d, status) {
  const enter = new Map((status.groups?.[d.group] ?? status).budgets.map((b) => [b.name, b]));
  const states = new Map(d.triggers.map((t) => [t.name, t.state]));
  return h("div", { class: "numbers" },
    h("p", { class: "dim" }, `Plan ${d.generation}`),
    d.sentences?.length ? h("ul", { class: "sentences" }, d.sentences.map((text) => h("li", {}, text))) : null,
    table("What was seen", ["", "state", "ratio", "enter / exit", "used", "full in"], d.pressures.map((p) => {
      const unit = unitOf(p.name, p.limit ?? 0);
      const b = enter.get(p.name);
      return [p.name, states.get(p.name) ?? "calm", p.ratio === null ? p.missing : ratio(p.ratio), b ? `${ratio(b.enter)} / ${ratio(b.exit)}` : "–",
        `${amount(p.usage, unit)} of ${amount(p.limit, unit)}`, duration(p.seconds_to_exhaustion)];
    })),
    table("What was planned", ["", "from → to", "memory", "quality", "how"], d.swaps.map((s) => [
      s.model, `${variant(s.from_variant)} → ${variant(s.to_variant)}`, bytes(s.bytes_planned),
      `${quality(s.quality_from)} → ${quality(s.quality_to)} (${signed(s.quality_to - s.quality_from, 3)})`, s.mode.replaceAll("_", " "),
    ])),
    table("What came of it", ["", "from → to", "measured", "took", "outcome"], d.outcomes.map((o) => [
      o.model, `${variant(o.from_variant)} → ${variant(o.to_variant)}`, bytes(o.bytes_measured), `${o.seconds.toFixed(2)} s`,
      o.reason ? `${o.outcome.replaceAll("_", " ")}: ${o.reason}` : o.outcome,
    ])),
    d.holds.length
      ? [h("h3", { class: "sub" }, "What was not done"), h("ul", { class: "sentences" }, d.holds.map((hold) => h("li", {}, h("b", {}, holdSubject(hold)), `: ${hold.reason}`)))]
      : null);
}

function table(title, head, rows) {
  if (!rows.length) return null;
  return [
    h("h3", { class: "sub" }, title),
    h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": title },
      h("table", {},
        h("thead", {}, h("tr", {}, head.map((text, i) => (i ? h("th", { scope: "col" }, text) : h("td", {}))))),
        h("tbody", {}, rows.map((cells) => h("tr", {}, cells.map((text, i) => (i ? h("td", {}, text) : h("th", { scope: "row" }, text)))))))),
  ];
}
