// Puts it together: what is known, where it comes from, and when it is drawn.

import { config, get, hasToken, setToken } from "./api.js";
import { factsView, headlineView, hostsView, nextView, titleOf } from "./aside.js";
import { budgetCards } from "./budgets.js";
import { decisionList, keyOf } from "./decisions.js";
import { ask } from "./dialogs.js";
import { h, show } from "./dom.js";
import { before, decisionsOf, groupsOf, ofGroup } from "./groups.js";
import { modelRows } from "./models.js";
import { Series } from "./series.js";
import { connect } from "./stream.js";
import { cause, decisionLines } from "./why.js";

const $ = (id) => document.getElementById(id);
const PAGE_SIZE = 50;
const KEPT = 1000;
/** A dry run is asked for at most this often. */
const PLAN_MS = 2000;
/** How many pages of older decisions are fetched unasked, to find why a model runs what it runs. */
const LOOK_BACK = 4;

const state = {
  status: null, plan: null, decisions: [], next: null, series: new Series(), live: false, grafana: null,
  model: "", quiet: false, problem: "", lost: null, lookedBack: 0, loaded: false, stale: true, planAt: -Infinity, planning: false,
};
const complete = () => state.loaded && state.next === null;

// Drawing

function draw() {
  const { status } = state;
  $("signout").hidden = !hasToken();
  drawBanner();
  if (!status) return;
  $("page").hidden = false;
  const view = { ...state, complete: complete() };
  show($("facts"), ...factsView(status, state.live));
  show($("headline"), headlineView(status));
  document.title = titleOf(status);
  show($("budgets"), budgetCards(status, state.series));
  show($("models"), modelRows(view));
  show($("next"), nextView(status, state.plan));
  if (state.stale) drawDecisions(view);
  show($("hosts"), hostsView(status));
  $("older").hidden = state.next === null;
  const models = ["", ...Object.keys(status.models)];
  show($("filter"), models.map((m) => h("option", { value: m, "data-key": `m${m}` }, m || "all models")));
}

function drawDecisions(view) {
  state.stale = false;
  show($("decisions"), decisionList({ ...view, isOpen: (key) => document.getElementById(key)?.open === true }));
}

/** Draw with the list of decisions, which a mere status leaves as it is. */
function redraw() {
  state.stale = true;
  draw();
}

function drawBanner() {
  const { lost, problem, status } = state;
  const parts = [];
  if (lost) {
    parts.push(h("p", { class: "banner lost", "data-key": "lost" },
      h("span", {}, `Connection lost: ${lost.message}. `, status ? "What is shown is old. " : "", "Trying again by itself."),
      h("button", { type: "button", "data-action": "retry" }, "Try now")));
  }
  for (const [group, one] of status ? groupsOf(status) : []) {
    if (one.error) parts.push(h("p", { class: "banner", "data-key": `tick ${group}` }, `The controller's last tick${ofGroup(group)} failed: ${one.error}`));
  }
  if (problem) {
    parts.push(h("p", { class: "banner", "data-key": "problem" }, h("span", {}, problem),
      h("button", { type: "button", "data-action": "dismiss" }, "Dismiss")));
  }
  show($("banner"), parts);
}

let toastTimer;
function toast(text) {
  $("toast").textContent = text;
  $("toast").hidden = false;
  clearTimeout(toastTimer);
  toastTimer = setTimeout(() => { $("toast").hidden = true; }, 6000);
}

// What comes in

function takeStatus(status) {
  state.status = status;
  state.series.addStatus(status);
  refreshPlan();
  draw();
}

function merge(decisions) {
  const known = new Map([...state.decisions, ...decisions].map((d) => [keyOf(d), d]));
  state.decisions = [...known.values()].sort((a, b) => b.at - a.at).slice(0, KEPT);
  state.stale = true;
}

function takeDecision(decision) {
  merge([decision]);
  const { status } = state;
  const at = state.decisions.findIndex((d) => keyOf(d) === keyOf(decision));
  const lines = decisionLines(decision, before(state.decisions, at), (status?.groups?.[decision.group] ?? status)?.budgets ?? []);
  if (lines.length) $("news").textContent = lines.map((l) => l.text).join(". ");
  draw();
}

async function refreshPlan() {
  if (state.planning || document.hidden) return;
  state.planning = true;
  // The first at once, later ones after a pause: then the last status of a burst is answered for, too.
  await new Promise((resolve) => setTimeout(resolve, Math.max(0, state.planAt + PLAN_MS - performance.now())));
  try {
    state.plan = await get("plan");
  } catch {
    state.plan = null; // the holds of the last tick stand in for it
  } finally {
    state.planning = false;
    state.planAt = performance.now();
  }
  draw();
}

/** Everything that was missed while there was no connection. */
async function catchUp() {
  try {
    const [status, page] = await Promise.all([get("status"), get(`decisions?limit=${PAGE_SIZE}`)]);
    const reached = page.decisions.some((d) => state.decisions.some((old) => old.at === d.at));
    if (!state.loaded || !reached) {
      // The first load, or a gap: what is older is fetched again; what events have brought since is kept.
      state.decisions = state.decisions.filter((d) => d.at > (page.decisions[0]?.at ?? -Infinity));
      Object.assign(state, { next: page.next, lookedBack: 0, loaded: true });
    }
    merge(page.decisions);
    state.series.addPast(page.decisions);
    if (state.status?.at > status.at) draw(); // an event has overtaken the answer
    else takeStatus(status);
    await lookBack();
  } catch (error) {
    report(error);
  }
}

async function older() {
  if (state.next === null) return;
  const page = await get(`decisions?before=${encodeURIComponent(state.next)}&limit=${PAGE_SIZE}`);
  state.next = page.next;
  merge(page.decisions);
  draw();
}

/** A model below its best rung whose swap is not among the decisions at hand: look further back, within reason. */
async function lookBack() {
  const explained = (name, m, decisions) => m.variant === m.ladder[0]?.variant || cause(name, m.variant, decisions) !== null;
  const unexplained = () => groupsOf(state.status).some(([group, one]) =>
    Object.entries(one.models).some(([name, m]) => !explained(name, m, decisionsOf(state.decisions, group))));
  while (state.lookedBack < LOOK_BACK && state.next !== null && unexplained()) {
    state.lookedBack += 1;
    await older();
  }
}

function report(error) {
  if (error.status === 401) {
    signIn(error);
    return;
  }
  if (error.status === 0) return; // the stream says that the connection is lost
  state.problem = `The server refused: ${error.message}`;
  draw();
}

// The token

function signIn({ status, message }) {
  $("signin").hidden = false;
  $("page").hidden = true;
  $("signin-error").textContent = hasToken() || status === 403 ? message : "";
  $("token").focus();
}

$("signin").addEventListener("submit", (event) => {
  event.preventDefault();
  setToken($("token").value.trim());
  $("token").value = "";
  $("signin").hidden = true;
  stream.retry();
});

$("signout").addEventListener("click", () => {
  setToken("");
  location.reload();
});

// What a person does

function reveal(key, model) {
  state.model = model;
  $("filter").value = model;
  redraw();
  const details = document.getElementById(key);
  if (!details) return;
  details.open = true;
  details.scrollIntoView({ block: "nearest" });
  details.querySelector("summary").focus();
}

document.addEventListener("click", (event) => {
  const target = event.target.closest("[data-action]");
  if (!target) return;
  const { action, model, variant, decision } = target.dataset;
  if (action === "retry") stream.retry();
  else if (action === "dismiss") {
    state.problem = "";
    draw();
  } else if (action === "reveal") reveal(decision, model);
  else ask(action, model, state.status, variant, toast);
});

$("filter").addEventListener("change", (event) => {
  state.model = event.target.value;
  redraw();
});
$("quiet").addEventListener("change", (event) => {
  state.quiet = event.target.checked;
  redraw();
});
$("decisions").addEventListener("toggle", redraw, true); // does not bubble
$("older").addEventListener("click", () => older().catch(report));

// Start

const stream = connect({
  open() {
    Object.assign(state, { live: true, lost: null });
    $("signin").hidden = true;
    catchUp();
  },
  event(name, value) {
    if (name === "status") takeStatus(value);
    else if (name === "decision") takeDecision(value);
  },
  lost(message) {
    Object.assign(state, { live: false, lost: { message } });
    draw();
  },
  refused(error) {
    Object.assign(state, { live: false, lost: null });
    signIn(error);
    draw();
  },
});

config().then(({ grafana_url: url }) => {
  if (!url) return;
  state.grafana = url;
  show($("links"), h("a", { href: `${url}/d/trimtab-budgets` }, "Grafana"));
  draw();
});
