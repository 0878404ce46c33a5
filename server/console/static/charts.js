// Gauges and sparklines as SVG. Positions are percentages, so they stretch with their box without a redraw.

import { s } from "./dom.js";
import { ratio } from "./format.js";

/** The right end of a gauge: past the limit, past what is used, and with room for the name of the enter mark. */
const scale = (b) => Math.max(1.15, (b.ratio ?? 0) * 1.05, b.enter * 1.27);

/** Seconds ahead that the trend is drawn to. */
const AHEAD = 30;

/** A budget's bar: how full, where it is heading, and the marks where degrading starts and ends. */
export function gauge(b, label) {
  const most = scale(b);
  const x = (value) => `${Math.min(100, Math.max(0, (value / most) * 100)).toFixed(2)}%`;
  const bar = (from, to, cls) => s("rect", { class: cls, x: x(from), y: 0, width: x(to - from), height: 14 });
  const mark = (at, text, anchor, cls) => [
    s("line", { class: `mark ${cls}`, x1: x(at), x2: x(at), y1: -3, y2: 19 }),
    s("text", { x: x(at), y: 31, dx: anchor === "end" ? -4 : 4, "text-anchor": anchor }, `${text} ${ratio(at)}`),
  ];
  const ahead = b.ratio === null || !b.limit ? 0 : (b.slope * AHEAD) / b.limit;
  return s("svg", { class: "gauge", role: "img", "aria-label": label },
    s("g", { transform: "translate(0 4)" },
      bar(0, most, "track"),
      bar(1, most, "beyond"),
      b.ratio === null ? null : bar(0, b.ratio, `fill ${b.state}`),
      b.ratio === null || Math.abs(ahead) < 0.005 ? null : ahead > 0
        ? bar(b.ratio, Math.min(most, b.ratio + ahead), `ahead ${b.state}`)
        : bar(Math.max(0, b.ratio + ahead), b.ratio, "behind"),
      s("line", { class: "limit", x1: x(1), x2: x(1), y1: 0, y2: 14 }),
      mark(b.exit, "exit", "end", "exit"),
      mark(b.enter, "enter", "start", "enter")));
}

/** A thin bar that is filled by a share of 1. The numbers are told elsewhere. */
export function shareBar(share) {
  return s("svg", { class: "share", "aria-hidden": "true" },
    s("rect", { class: "track", width: "100%", height: "100%" }),
    s("rect", { class: "fill", width: `${(100 * share).toFixed(1)}%`, height: "100%" }));
}

/** A line over the last `span` seconds, with dashed lines at `guides`. Points whose value is null are gaps. */
export function sparkline(points, now, span, guides, label) {
  const values = points.map((p) => p[1]).filter((v) => v !== null);
  const top = Math.max(...values, ...guides, 1e-9) * 1.08;
  const x = (at) => (100 * (1 - (now - at) / span)).toFixed(2);
  const y = (value) => (30 - (value / top) * 28).toFixed(2);
  let path = "";
  let pen = false;
  for (const [at, value] of points) {
    if (value !== null) path += `${pen ? "L" : "M"}${x(at)} ${y(value)}`;
    pen = value !== null;
  }
  return s("svg", { class: "spark", viewBox: "0 0 100 32", preserveAspectRatio: "none", role: "img", "aria-label": label },
    guides.map((g) => s("line", { class: "guide", x1: 0, x2: 100, y1: y(g), y2: y(g) })),
    path ? s("path", { d: path }) : null);
}
