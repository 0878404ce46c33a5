// What would be done next and why not yet; the hosts; the headline and the header's facts.

import { h } from "./dom.js";
import { clock, plural, sentence, variant } from "./format.js";
import { groupsOf, partOf } from "./groups.js";
import { headline, holdSubject, isDropped, whenPlanned } from "./why.js";

export function headlineView(status) {
  const { severity, parts } = headline(status);
  return h("p", { class: `situation ${severity}` }, parts.map((p) => (p.model ? h("a", { href: `#model-${p.model}` }, p.model) : p)));
}

/** The tab's title says when something is up. */
export function titleOf(status) {
  const { severity } = headline(status);
  return severity === "calm" ? "trimtab operations" : `● ${severity === "scaling" ? "degraded" : severity} · trimtab`;
}

/** `plan` null: it could not be asked for; the holds of the last tick are shown then. */
export function nextView(status, plan) {
  const groups = groupsOf(status);
  return groups.map(([group, one]) => [
    group ? h("h3", { class: "group" }, `Group ${group}`) : null,
    nextIn(one, partOf(plan, group)),
  ]);
}

function nextIn(status, plan) {
  const swaps = plan?.swaps ?? [];
  const holds = plan ? [...plan.holds, ...status.holds.filter(isDropped)] : status.holds;
  if (!swaps.length && !holds.length) {
    return h("p", { class: "empty" }, "Nothing: no trigger is active and no model waits to be restored.");
  }
  return [
    swaps.length ? h("ul", { class: "next" }, swaps.map((s) =>
      h("li", {}, h("b", {}, `${sentence(s.direction)} ${s.model}: ${variant(s.from_variant)} → ${variant(s.to_variant)} ${whenPlanned(plan)}`), h("span", { class: "dim" }, s.reason)))) : null,
    swaps.length || !holds.length ? null : h("p", { class: "dim" }, "Nothing now; this waits:"),
    holds.length ? h("ul", { class: "next" }, holds.map((hold) =>
      h("li", {}, h("b", {}, h("i", { "aria-hidden": "true" }, "‖ "), `${holdSubject(hold)}: not yet`), h("span", { class: "dim" }, hold.reason.replace(/^not restored: /, ""))))) : null,
  ];
}

export function hostsView(status) {
  if (!status.hosts.length) return h("p", { class: "empty problem" }, "No host answers.");
  return h("ul", { class: "hosts" }, status.hosts.map((host) => {
    const behind = host.observed_generation < (status.groups?.[host.group] ?? status).generation;
    const failed = Object.entries(host.failed);
    return h("li", { "data-key": host.host },
      h("b", {}, host.host), h("span", { class: "dim" }, ` process ${host.pid}`),
      status.groups ? h("span", { class: "chip group" }, host.group) : null,
      h("span", { class: behind ? "chip scaling" : "chip calm" }, behind ? `at plan ${host.observed_generation}` : "on the plan"),
      host.swapping.length ? h("span", { class: "chip scaling" }, `swapping ${host.swapping.join(", ")}`) : null,
      failed.map(([model, why]) => h("span", { class: "problem" }, `${model}: ${why}`)));
  }));
}

/** The header's line: plan, hosts, how fresh. */
export function factsView(status, live) {
  return [
    h("span", { class: live ? "dot" : "dot lost", "aria-hidden": "true" }),
    h("span", {}, `${live ? "Live" : "Not connected"}${status.groups ? "" : ` · plan ${status.generation ?? "–"}`} · ${plural(status.hosts.length, "host")} · seen ${clock(status.at, Date.now() / 1e3)}`),
  ];
}
