// SPDX-License-Identifier: BSD-3-Clause
"use strict";
// Draws the two plots of a cell: its trials as marks, and the share of trials without an answer.

const plots = (() => {
  const { byId, make, draw, duration, hung, bootsOf } = parts;

  const LEFT = 70;
  const RIGHT = 20;
  const TOP = 24;
  const BOTTOM = 34;

  /**
   * The trials that wait for an answer: all but the refused and the lost ones.
   * @param {Trial[]} trials
   */
  const waited = (trials) => trials.filter((each) => each.outcome === "returned" || hung(each));

  /**
   * Draws a logarithmic time axis and the deadlines of the trials.
   * @param {SVGElement} svg
   * @param {Trial[]} trials
   * @param {number} width
   * @param {number} height
   */
  const timeAxis = (svg, trials, width, height) => {
    const waits = trials.map((each) => Math.max(1, each.waited_ns));
    const deadline = Math.max(...trials.map((each) => each.deadline_ns));
    // The axis has at least three decades, so that hung trials stand far from answered ones.
    const low = Math.min(Math.floor(Math.log10(Math.min(...waits))), Math.floor(Math.log10(deadline)) - 3);
    const high = Math.log10(deadline) + 0.1;
    /** @param {number} ns */
    const x = (ns) => LEFT + ((Math.log10(Math.max(1, ns)) - low) / (high - low)) * (width - LEFT - RIGHT);
    const every = (width - LEFT - RIGHT) / (high - low) < 55 ? 2 : 1;
    for (let power = low; power <= high; power += every) {
      const at = x(10 ** power);
      svg.append(draw("line", { class: "grid", x1: at, x2: at, y1: TOP, y2: height - BOTTOM }));
      svg.append(draw("text", { x: at, y: height - 14, "text-anchor": "middle" }, duration(10 ** power)));
    }
    for (const each of new Set(trials.map((trial) => trial.deadline_ns))) {
      svg.append(draw("line", { class: "deadline", x1: x(each), x2: x(each), y1: TOP, y2: height - BOTTOM }));
      svg.append(draw("text", { x: x(each), y: 14, "text-anchor": "end" }, `deadline ${duration(each)}: no answer`));
    }
    return x;
  };

  /**
   * Makes an empty drawing, as wide as its place in the page.
   * @param {string} place
   * @param {number} height
   * @param {string} label
   * @returns {[SVGSVGElement, number]} the drawing and its width
   */
  const canvas = (place, height, label) => {
    const width = Math.max(280, byId(place).clientWidth);
    const svg = draw("svg", { viewBox: `0 0 ${width} ${height}`, role: "group", "aria-label": label });
    byId(place).replaceChildren(svg);
    return [svg, width];
  };

  /**
   * Draws a mark per trial, with a lane per boot.
   * @param {Trial[]} trials
   * @param {(trial: Trial) => void} onChoice called with the trial that the reader chooses
   */
  const drawDots = (trials, onChoice) => {
    const boots = bootsOf(trials);
    if (trials.some((each) => !each.boot)) boots.push("");
    // A lane has room for every trial of a boot side by side, because hung trials have equal times.
    const most = Math.max(...boots.map((boot) => trials.filter((each) => each.boot === boot).length));
    const gap = Math.min(16, 400 / most);
    const lane = 16 + gap * most;
    const height = TOP + BOTTOM + lane * boots.length;
    const [svg, width] = canvas("dots", height, "Trials by boot on a logarithmic time axis");
    const x = timeAxis(svg, trials, width, height);
    boots.forEach((boot, number) => {
      const y = TOP + lane * (number + 0.5);
      svg.append(draw("text", { x: 4, y: y + 4 }, boot ? `boot ${number + 1}` : "no boot"));
      svg.append(draw("line", { class: "grid", x1: LEFT, x2: width - RIGHT, y1: y, y2: y }));
      const here = trials.filter((each) => each.boot === boot);
      here.forEach((trial, index) => {
        const at = y + gap * (index - (here.length - 1) / 2);
        svg.append(dotOf(trial, trial.outcome === "lost" ? LEFT + 8 : x(trial.waited_ns), at, onChoice));
      });
    });
    svg.querySelector(".dot")?.setAttribute("tabindex", "0");
  };

  /**
   * @param {Trial} trial
   * @param {number} x
   * @param {number} y
   * @returns {[SVGElement, string]} the mark of a trial, and its description
   */
  const markOf = (trial, x, y) => {
    if (hung(trial)) {
      return [
        draw("path", { d: `M${x} ${y - 7}l7 7l-7 7l-7 -7z`, class: "dot hung" }),
        `${trial.outcome}, no answer in ${duration(trial.waited_ns)}`,
      ];
    }
    if (trial.outcome === "lost") {
      return [
        draw("rect", { x: x - 5, y: y - 5, width: 10, height: 10, class: "dot lost" }),
        `${trial.outcome}, nothing measured`,
      ];
    }
    const mark =
      trial.outcome === "refused"
        ? draw("path", { d: `M${x} ${y - 7}l7 13h-14z`, class: "dot refused" })
        : draw("circle", { cx: x, cy: y, r: 6, class: "dot" });
    return [mark, `${trial.outcome}, ${duration(trial.waited_ns)}`];
  };

  /** @type {{ [key: string]: number | undefined }} */
  const STEPS = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 };

  const allDots = () => [.../** @type {NodeListOf<SVGElement>} */ (byId("dots").querySelectorAll(".dot"))];

  /**
   * @param {Trial} trial
   * @param {number} x
   * @param {number} y
   * @param {(trial: Trial) => void} onChoice
   */
  const dotOf = (trial, x, y, onChoice) => {
    const [dot, what] = markOf(trial, x, y);
    const text = `trial ${trial.seq} of run ${trial.run_id}: ${what}`;
    for (const [key, value] of Object.entries({ role: "button", tabindex: "-1", "aria-pressed": "false", "aria-label": text })) dot.setAttribute(key, value);
    dot.append(draw("title", {}, text));
    const choose = () => {
      for (const each of allDots()) {
        each.setAttribute("aria-pressed", String(each === dot));
        each.setAttribute("tabindex", each === dot ? "0" : "-1");
      }
      onChoice(trial);
    };
    dot.addEventListener("click", choose);
    dot.addEventListener("keydown", (event) => {
      const step = STEPS[event.key];
      if (event.key === "Enter" || event.key === " ") choose();
      else if (step) {
        const dots = allDots();
        const next = dots[dots.indexOf(dot) + step];
        if (next) {
          dot.setAttribute("tabindex", "-1");
          next.setAttribute("tabindex", "0");
          next.focus();
        }
      } else return;
      event.preventDefault();
    });
    return dot;
  };

  /**
   * The path of the Kaplan-Meier estimate: the share of trials that still wait, by time. A hung trial
   * is known of up to its own deadline and does not count after it. So a curve may end above 0, and
   * it ends at the longest wait.
   * @param {Trial[]} trials
   * @param {(ns: number) => number} x
   * @param {(share: number) => number} y
   */
  const steps = (trials, x, y) => {
    const order = [...trials].sort((a, b) => a.waited_ns - b.waited_ns || Number(hung(a)) - Number(hung(b)));
    let path = `M${LEFT} ${y(1)}`;
    let share = 1;
    order.forEach((each, index) => {
      if (hung(each)) return;
      share *= 1 - 1 / (order.length - index);
      path += `H${x(each.waited_ns)}V${y(share)}`;
    });
    return share > 0 ? `${path}H${x(order[order.length - 1].waited_ns)}` : path;
  };

  /**
   * Draws the survival curve of a kernel (solid) and of another one (dashed).
   * @param {Trial[]} trials
   * @param {Trial[]} others empty if there is no other kernel
   * @returns {boolean} whether the plot compares two kernels
   */
  const drawSurvival = (trials, others) => {
    const ours = waited(trials);
    const theirs = waited(others);
    if (!ours.length) {
      byId("survival").replaceChildren(make("p", { class: "hint" }, "Nothing was measured."));
      return false;
    }
    const height = 220;
    const [svg, width] = canvas("survival", height, "Share of trials without an answer yet, by time");
    const x = timeAxis(svg, [...ours, ...theirs], width, height);
    /** @param {number} share */
    const y = (share) => TOP + (1 - share) * (height - TOP - BOTTOM);
    for (const share of [0, 0.5, 1]) {
      svg.append(draw("text", { x: LEFT - 8, y: y(share) + 4, "text-anchor": "end" }, `${share * 100} %`));
      svg.append(draw("line", { class: "grid", x1: LEFT, x2: width - RIGHT, y1: y(share), y2: y(share) }));
    }
    if (theirs.length) svg.append(draw("path", { class: "line against", d: steps(theirs, x, y) }));
    svg.append(draw("path", { class: "line", d: steps(ours, x, y) }));
    return theirs.length > 0;
  };

  return { drawDots, drawSurvival };
})();
