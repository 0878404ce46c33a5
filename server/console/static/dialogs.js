// What a person asks for, always confirmed first. The server's refusal is shown where the question was.

import { post } from "./api.js";
import { h } from "./dom.js";
import { bytes, latency, quality, signed, variant } from "./format.js";

const dialog = document.getElementById("dialog");

const ACTIONS = {
  swap: {
    title: (m) => `Swap ${m}`, choose: true, path: "swap",
    note: "Once: after its cooldown the controller may move it again, back up too where there is room.",
    button: (m, v) => `Swap ${m} to ${v}`,
  },
  pin: {
    title: (m) => `Pin ${m}`, choose: true, path: "pin",
    note: "It stays on this variant, whatever the pressure, until it is unpinned.",
    button: (m, v) => `Pin ${m} to ${v}`,
  },
  unpin: {
    title: (m) => `Unpin ${m}`, path: "unpin",
    note: "The controller decides again what it runs.",
    button: (m) => `Unpin ${m}`,
  },
  park: {
    title: (m) => `Park ${m}`, path: "park",
    note: "It leaves memory. Requests to it wait until it has been loaded again, or are refused.",
    button: (m) => `Park ${m}`,
  },
  clear: {
    title: (m, v) => `Clear the quarantine of ${m} ${v}`, path: "quarantine/clear",
    note: "It failed to load, or proved bad: its reason says how. The controller may try it again at once.",
    button: () => "Clear the quarantine",
  },
};

/** Ask for `action` on a model; `done(text)` is called when the server has accepted it. */
export function ask(action, name, status, preselected, done) {
  const spec = ACTIONS[action];
  const model = status.models[name];
  const ladder = model?.ladder ?? [];
  const pinning = action === "pin";
  const choices = spec.choose ? ladder.filter((r) => pinning || r.variant !== model.variant) : [];
  const first = choices.find((r) => r.variant === (preselected ?? (pinning ? model.variant : undefined))) ?? choices[0];
  let chosen = spec.choose ? first?.variant : preselected;

  const effect = h("p", { class: "effect" });
  const problem = h("p", { class: "problem", role: "alert" });
  const confirm = h("button", { class: "primary" });
  const cancel = h("button", { type: "button" }, "Cancel");
  const refresh = () => {
    effect.textContent = spec.choose ? consequences(model, ladder.find((r) => r.variant === chosen)) : "";
    confirm.textContent = spec.button(name, variant(chosen));
  };
  const options = choices.map((r) => {
    const input = h("input", { type: "radio", name: "variant", value: r.variant, checked: r.variant === chosen });
    input.addEventListener("change", () => {
      chosen = r.variant;
      refresh();
    });
    return h("label", { class: "option" }, input, h("b", {}, r.variant),
      h("span", { class: "dim" }, `quality ${quality(r.quality)} · ${bytes(r.resident_bytes)} · ${latency(r.p50_seconds)}`));
  });
  const form = h("form", {},
    h("h2", { id: "dialog-title" }, spec.title(name, variant(preselected))),
    options.length ? h("fieldset", {}, h("legend", {}, "Variant"), options) : null,
    effect, h("p", { class: "dim" }, spec.note), problem,
    h("div", { class: "buttons" }, cancel, confirm));
  if (spec.choose && !choices.length) {
    problem.textContent = `${name} has no other rung.`;
    confirm.disabled = true;
  }
  refresh();
  cancel.addEventListener("click", () => dialog.close());
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    confirm.disabled = true;
    problem.textContent = "";
    try {
      const body = spec.choose || action === "clear" ? { model: name, variant: chosen } : { model: name };
      await post(spec.path, body);
      dialog.close();
      done(`Accepted: ${spec.button(name, variant(chosen))}.`);
    } catch (error) {
      problem.textContent = `The server refused: ${error.message}`;
      confirm.disabled = false;
    }
  });
  dialog.replaceChildren(form);
  dialog.showModal();
}

/** What a change means, by the profiles. */
function consequences(model, rung) {
  const from = model.ladder.find((r) => r.variant === model.variant);
  if (!rung || !from || rung === from) return "";
  const parts = [`${from.variant} → ${rung.variant}:`];
  if (rung.quality !== null && from.quality !== null) parts.push(`quality ${signed(rung.quality - from.quality, 3)},`);
  if (rung.resident_bytes !== null && from.resident_bytes !== null) {
    const more = rung.resident_bytes - from.resident_bytes;
    parts.push(`${more < 0 ? "gives back" : "takes"} ${bytes(Math.abs(more))} a host,`);
  }
  parts.push(`median ${latency(from.p50_seconds)} → ${latency(rung.p50_seconds)}.`);
  return parts.join(" ");
}
