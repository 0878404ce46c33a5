// Why things are as they are, in sentences made of a status and the decisions before it. Pure functions.

import { groupsOf, ofGroup } from "./groups.js";
import { clock, duration, plural, ratio, sentence, triggerName, variant, whole } from "./format.js";

/** The newest decision that brought `model` to what it runs now, and its swap; null where none is known. */
export function cause(model, running, decisions) {
  for (const decision of decisions) {
    const swap = decision.swaps.find((s) => s.model === model && s.to_variant === running);
    if (swap) return { decision, swap };
  }
  return null;
}

/** How pressed `trigger` was when `decision` was made, in words: "budget ram was at 0.94 of its limit". */
export function pressedBy(trigger, decision, budgets) {
  const pressure = decision.pressures.find((p) => p.name === trigger);
  if (!pressure || pressure.ratio === null) return "";
  const enter = budgets.find((b) => b.name === trigger)?.enter;
  const limit = enter === undefined ? "" : ` (degrading starts at ${ratio(enter)})`;
  return `${triggerName(trigger)} was at ${ratio(pressure.ratio)} of ${whole(trigger)}${limit}`;
}

/** One swap of a decision in a sentence that starts with what was done. */
export function swapSentence(swap, decision, budgets) {
  const change = `${swap.model} from ${variant(swap.from_variant)} to ${variant(swap.to_variant)}`;
  const pressed = pressedBy(swap.trigger, decision, budgets);
  if (swap.direction === "degrade") return `Degraded ${change}${pressed ? ` because ${pressed}` : `: ${swap.reason}`}`;
  if (swap.direction === "restore") return `Restored ${change}: ${swap.reason}`;
  if (swap.direction === "repair") return `Repaired ${change}: ${swap.reason}`;
  return `Moved ${change}: ${swap.reason}`;
}

/** A hold's model and step in words. */
export function holdSubject(hold) {
  if (hold.model === "*") return "All models";
  return hold.variant === undefined ? hold.model : `${hold.model} → ${variant(hold.variant)}`;
}

const pressed = (budgets) => budgets.filter((b) => b.state !== "calm");

function untilCalm(budgets) {
  const parts = pressed(budgets).map((b) => {
    const now = b.ratio === null ? `no reading: ${b.missing}` : `now ${ratio(b.ratio)}`;
    return `${triggerName(b.name)} has fallen to ${ratio(b.exit)} of ${whole(b.name)} (${now})`;
  });
  return parts.join(" and ");
}

/** A step that the last tick planned and a fresh look then forbade: a dry run, which does not look, cannot tell of it. */
export const isDropped = (hold) => hold.reason.startsWith("dropped before it ran");

/** When a dry run's swaps would be made. */
export function whenPlanned(plan) {
  const seconds = (plan.at ?? plan.now) - plan.now;
  return seconds > 1 ? `in ${duration(seconds)} if nothing changes` : "at the next tick";
}

/** When a model that is below its best rung will be restored, or why not yet. */
export function restores(name, status, plan) {
  const planned = (plan?.swaps ?? []).find((s) => s.model === name && s.direction === "restore");
  const dropped = status.holds.find((h) => h.model === name && isDropped(h));
  if (planned) return `Restores to ${variant(planned.to_variant)} ${whenPlanned(plan)}${dropped ? `; the last try was ${dropped.reason}` : ""}.`;
  if (pressed(status.budgets).length) return `Restores when ${untilCalm(status.budgets)}.`;
  const holds = plan?.holds ?? status.holds;
  const own = holds.find((h) => h.model === name);
  if (own) return `Not restored yet: ${own.reason.replace(/^not restored: /, "")}.`;
  const other = holds.find((h) => h.model !== "*" && h.reason.startsWith("not restored")) ?? holds.find((h) => h.model !== "*");
  if (other) return `Restores after ${other.model}: the last degradation is taken back first.`;
  if (holds.length) return `Not restored yet: ${holds[0].reason}.`;
  return "Restores at one of the next ticks: models are restored one at a time.";
}

/**
 * What one model runs and why: `state` is best, degraded, pinned, parked, manual (moved by hand) or unloaded; `why` and `until` are
 * sentences (empty where there is nothing to say), `decision` the one that did it, or null. `complete`: no older decisions
 * exist than those given.
 */
export function modelStory(name, status, plan, decisions, complete) {
  const model = status.models[name];
  const best = model.ladder[0]?.variant;
  const below = model.variant !== best && model.ladder.length > 0;
  const found = cause(name, model.variant, decisions);
  const story = { state: "best", why: "", until: "", decision: found?.decision ?? null };
  if (model.unloaded) {
    const then = model.variant === null ? "" : ` It is to run ${model.variant} then.`;
    return { state: "unloaded", why: "Unloaded on request: what is asked of it is refused.", until: `Stays so until it is loaded.${then}`, decision: null };
  }
  if (model.variant === null) story.state = "parked";
  else if (model.pinned) story.state = "pinned";
  else if (below) story.state = found?.swap.direction === "pin" ? "manual" : "degraded";
  if (story.state === "best") {
    if (found?.swap.direction === "restore") {
      const at = clock(found.decision.at, status.at);
      story.why = `Runs its best rung, restored from ${variant(found.swap.from_variant)} at ${at}.`;
    }
    return story;
  }
  if (found) story.why = because(found, status);
  else if (complete && story.state === "degraded") {
    story.why = `Runs ${model.variant} since the server started: the best rungs of all models did not fit together.`;
  } else if (story.state !== "pinned") {
    story.why = `Runs ${variant(model.variant)}; the decision is older than those loaded here.`;
  }
  if (model.pinned) {
    story.until = name in status.pins ? "Pinned by hand: stays until it is unpinned." : "Pinned in the configuration.";
  } else {
    story.until = restores(name, status, plan);
  }
  return story;
}

function because({ decision, swap }, status) {
  const at = clock(decision.at, status.at);
  const change = `from ${variant(swap.from_variant)} to ${variant(swap.to_variant)} at ${at}`;
  if (swap.direction === "degrade") {
    const words = pressedBy(swap.trigger, decision, status.budgets);
    return `Degraded ${change} because ${words || swap.reason}.`;
  }
  if (swap.direction === "restore") return `Restored one step, ${change}; it is not on its best rung yet.`;
  return `Moved ${change}: ${swap.reason}.`;
}

/**
 * The situation in one or two sentences, and its severity: calm, scaling or saturated. `parts` are the text in pieces, those
 * that name a model as `{model}`.
 */
export function headline(status) {
  const groups = groupsOf(status);
  const models = Object.keys(status.models);
  const isLow = (m) => !m.pinned && !m.unloaded && m.variant !== m.ladder[0]?.variant && m.ladder.length > 0;
  const low = models.map((name) => [name, groups.filter(([, one]) => isLow(one.models[name])).map(([group]) => group)]).filter(([, where]) => where.length);
  const tight = groups.flatMap(([group, one]) => pressed(one.budgets).map((b) => ({ ...b, group })));
  const severity = tight.some((b) => b.state === "saturated") ? "saturated" : tight.length || low.length ? "scaling" : "calm";
  const named = low.flatMap(([model, where], i) => [i ? ", " : "", { model }, where[0] ? ` (group ${where.join(", ")})` : ""]);
  const away = models.filter((name) => groups.some(([, one]) => one.models[name].unloaded));
  const unloaded = away.length ? ["Unloaded on request: ", ...away.flatMap((model, i) => [i ? ", " : "", { model }]), "."] : [];
  const first = low.length
    ? [`${low.length} of ${plural(models.length, "model")} ${low.length === 1 ? "runs" : "run"} below best: `, ...named, away.length ? ". " : ".", ...unloaded]
    : away.length ? unloaded
    : [`${models.length === 1 ? "The model runs" : `All ${models.length} models run`} as wanted.`];
  const second = tight.length
    ? tight.map((b) => `${sentence(triggerName(b.name))}${ofGroup(b.group)} is ${b.state}: ${b.ratio === null ? b.missing : `${ratio(b.ratio)} of ${whole(b.name)}, calm again at ${ratio(b.exit)}`}${filling(b)}.`).join(" ")
    : !groups.some(([, one]) => one.budgets.length) ? "No budget is configured."
    : `Every budget and objective is calm${low.length ? "; models are restored one at a time" : ""}.`;
  const parts = [...first, ` ${second}`];
  return { severity, parts, text: parts.map((p) => p.model ?? p).join("") };
}

const filling = (b) => (b.seconds_to_exhaustion !== null && b.seconds_to_exhaustion < 3600 ? `, full in ${duration(b.seconds_to_exhaustion)}` : "");

/** What a decision says that the one before it (older; null: none known) did not: lines of `{kind, text}`. */
export function decisionLines(decision, older, budgets) {
  const lines = decision.swaps.map((swap) => ({
    kind: swap.direction,
    text: swapSentence(swap, decision, budgets),
    model: swap.model,
  }));
  for (const o of decision.outcomes) {
    const change = `${o.model}: ${variant(o.from_variant)} → ${variant(o.to_variant)}`;
    lines.push(o.outcome === "done"
      ? { kind: "done", text: `Swap done in ${o.seconds.toFixed(2)} s, ${change}`, model: o.model }
      : { kind: "failed", text: `Swap ${o.outcome.replace("_", " ")}, ${change}: ${o.reason}`, model: o.model });
  }
  const before = new Map((older?.triggers ?? []).map((t) => [t.name, t.state]));
  for (const t of older === undefined ? [] : decision.triggers) {
    const was = before.get(t.name) ?? "calm";
    if (was === t.state) continue;
    const now = decision.pressures.find((p) => p.name === t.name)?.ratio;
    const at = now === null || now === undefined ? "" : ` at ${ratio(now)} of ${whole(t.name)}`;
    lines.push({ kind: t.state, text: `${sentence(triggerName(t.name))} went from ${was} to ${t.state}${at}`, model: t.name.startsWith("slo:") ? t.name.slice(4) : "*" });
  }
  if (decision.error) lines.push({ kind: "failed", text: `The tick failed: ${decision.error}`, model: "*" });
  return lines;
}
