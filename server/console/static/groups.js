// Host groups: each is planned by itself. Where there are none, all hosts are one group that has no name.

/** The group of hosts whose node names no other one. */
const DEFAULT = "default";

/** [name, status] of each group; the name of the only one is "". */
export const groupsOf = (status) => (status.groups ? Object.entries(status.groups) : [["", status]]);

/** What a plan says of one group; null where it says nothing. */
export function partOf(plan, group) {
  if (!plan || !group) return plan;
  if (plan.groups) return plan.groups[group] ?? null;
  return group === DEFAULT ? plan : null;
}

/** The decisions of one group. */
export const decisionsOf = (decisions, group) => (group ? decisions.filter((d) => (d.group ?? DEFAULT) === group) : decisions);

/** The decision of the same group before `decisions[i]`, newest first; undefined where none is known. */
export const before = (decisions, i) => decisions.slice(i + 1).find((d) => (d.group ?? DEFAULT) === (decisions[i].group ?? DEFAULT));

/** What a group's budget, model or series is kept under. Those of the default group have no group in their key. */
export const keyIn = (group, name) => (group && group !== DEFAULT ? `${group}/${name}` : name);

/** " of group small", or nothing where there is only one. */
export const ofGroup = (group) => (group ? ` of group ${group}` : "");
