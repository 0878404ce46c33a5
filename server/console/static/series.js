// What was seen while the page was open: (unix seconds, value) by name, for sparklines.

import { groupsOf, keyIn } from "./groups.js";

export const SPAN_SECONDS = 300;

export class Series {
  #points = new Map();

  /** Add a value; null is a gap. A time that is known already is left as it is. */
  add(name, at, value) {
    const points = this.#points.get(name) ?? [];
    this.#points.set(name, points);
    const late = points.findIndex((p) => p[0] >= at);
    if (late < 0) points.push([at, value ?? null]);
    else if (points[late][0] !== at) points.splice(late, 0, [at, value ?? null]);
    while (points[0][0] < points.at(-1)[0] - SPAN_SECONDS) points.shift();
  }

  get(name) {
    return this.#points.get(name) ?? [];
  }

  /** Everything that a status says. */
  addStatus(status) {
    if (status.at === null) return;
    for (const [group, one] of groupsOf(status)) {
      for (const b of one.budgets) this.add(keyIn(group, b.name), status.at, b.ratio);
      for (const [name, m] of Object.entries(one.models)) {
        this.add(keyIn(group, `latency:${name}`), status.at, m.latency);
        this.add(keyIn(group, `rate:${name}`), status.at, m.rate);
      }
    }
  }

  /** The pressures of past decisions, so that a fresh page has a past to show. */
  addPast(decisions) {
    for (const d of decisions) {
      for (const p of d.pressures) {
        this.add(keyIn(d.group, p.name), d.at, p.ratio);
        if (p.name.startsWith("slo:") && p.usage) this.add(keyIn(d.group, `latency:${p.name.slice(4)}`), d.at, p.usage);
      }
    }
  }
}
