// SPDX-License-Identifier: BSD-3-Clause
"use strict";
// Shows what matrix.js and trials/*.js say. These are scripts that call back, for a page that was
// opened from a file may load scripts and nothing else. All text goes in as text, never as markup.

const kickbench = (() => {
  const ROWS_AT_ONCE = 50;
  const SIGNS = { returned: "✓", mixed: "◐", hung: "✕", refused: "⊘", lost: "·" };
  const FAILED = ["asleep", "spinning", "unanswered", "died"];
  const SVG = "http://www.w3.org/2000/svg";
  const byId = (id) => document.getElementById(id);

  let data = null;
  let shown = [];
  let selected = null;
  const loaded = new Map(); // trials of a row, by its id
  const waiting = new Map(); // who waits for them

  const make = (name, attributes = {}, ...children) => {
    const element = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    element.append(...children);
    return element;
  };

  const draw = (name, attributes = {}, text) => {
    const element = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    if (text !== undefined) element.textContent = text;
    return element;
  };

  const duration = (ns) => {
    if (ns < 1e4) return `${ns} ns`;
    if (ns < 1e6) return `${Math.round(ns / 1e3)} us`;
    if (ns < 1e7) return `${(ns / 1e6).toFixed(2)} ms`;
    return ns < 1e9 ? `${Math.round(ns / 1e6)} ms` : `${(ns / 1e9).toFixed(1)} s`;
  };

  const count = (number, noun) => `${number} ${noun}${number === 1 ? "" : "s"}`;

  // Trials that a lab was lost in before it said which boot it was belong to no boot.
  const bootsOf = (trials) => [...new Set(trials.map((each) => each.boot).filter(Boolean))];

  const kind = (cell) => {
    const made = cell.total - cell.lost;
    if (made === 0) return "lost";
    if (cell.hung === made) return "hung";
    if (cell.refused === made) return "refused";
    return cell.hung + cell.refused === 0 ? "returned" : "mixed";
  };

  const others = (cell) =>
    `${cell.refused ? `, ${cell.refused} refused` : ""}${cell.lost ? `, ${cell.lost} lost` : ""}`;

  const median = (cell) =>
    cell.ns === null ? "-" : `${cell.censored ? "> " : ""}${duration(cell.ns)}`;

  const column = (number) => data.columns[number];
  const columnName = (number) => `${column(number).request} in ${column(number).place}`;
  const rowName = (row) => `${row.release}, ${row.kind} (${row.accelerator}) on ${row.machine}`;

  // The matrix

  const cellOf = (row, number) => {
    const cell = row.cells[number];
    const td = make("td", { role: "gridcell" });
    if (!cell) {
      td.append(make("span", { class: "none" }, "-"));
      return td;
    }
    const what = kind(cell);
    const button = make(
      "button",
      { class: what, type: "button", tabindex: "-1", "aria-selected": "false", "data-row": row.id, "data-column": number },
      `${SIGNS[what]} ${median(cell)}`,
      make("small", {}, `${cell.hung}/${cell.total - cell.lost} hung${others(cell)}`),
    );
    button.setAttribute("aria-label", `${row.release}, ${columnName(number)}: ${what}, median ${median(cell)}, ${cell.hung} of ${cell.total - cell.lost} hung${others(cell)}`);
    td.append(button);
    return td;
  };

  const rowOf = (row) =>
    make(
      "tr",
      {},
      make("th", { scope: "row", title: row.version }, row.release, make("small", {}, `${row.kind} (${row.accelerator}), ${count(row.boots, "boot")}`)),
      ...data.columns.map((_, number) => cellOf(row, number)),
    );

  const render = () => {
    const words = byId("filter").value.toLowerCase().split(/\s+/).filter(Boolean);
    shown = data.rows.filter((row) => {
      const text = `${row.release} ${row.stream} ${row.kind} ${row.accelerator} ${row.machine}`.toLowerCase();
      return words.every((word) => text.includes(word));
    });
    byId("count").textContent = `${shown.length} of ${data.rows.length} kernels`;
    const body = byId("matrix").tBodies[0];
    const mine = shown;
    body.replaceChildren();
    let next = 0;
    const some = () => {
      if (mine !== shown) return; // filtered anew
      body.append(...mine.slice(next, next + ROWS_AT_ONCE).map(rowOf));
      if (next === 0) {
        body.querySelector("button")?.setAttribute("tabindex", "0");
        performance.mark("first cells"); // tools/scale_site.py reads it
      }
      next += ROWS_AT_ONCE;
      if (next < mine.length) requestAnimationFrame(some);
    };
    some();
  };

  // Arrow keys go through the cells, of which one is in the order of tabs.
  const move = (event) => {
    const steps = { ArrowRight: [0, 1], ArrowLeft: [0, -1], ArrowDown: [1, 0], ArrowUp: [-1, 0] };
    const step = steps[event.key];
    const here = event.target.closest("#matrix button");
    if (!step || !here) return;
    event.preventDefault();
    const td = here.parentElement;
    let [row, cell] = [td.parentElement, td.cellIndex];
    for (;;) {
      if (step[0]) row = step[0] > 0 ? row.nextElementSibling : row.previousElementSibling;
      cell += step[1];
      const found = row?.cells[cell];
      if (!found || cell < 1) return;
      const button = found.querySelector("button");
      if (button) {
        focusCell(button);
        return;
      }
    }
  };

  const focusCell = (button) => {
    for (const each of byId("matrix").querySelectorAll('button[tabindex="0"]')) each.setAttribute("tabindex", "-1");
    button.setAttribute("tabindex", "0");
    button.focus();
    button.scrollIntoView({ block: "nearest", inline: "nearest" });
  };

  // A cell's trials

  const load = (id, then) => {
    if (loaded.has(id)) {
      then(loaded.get(id));
      return;
    }
    if (waiting.has(id)) {
      waiting.get(id).push(then);
      return;
    }
    waiting.set(id, [then]);
    const script = make("script", { src: `trials/${id}.js` });
    script.onerror = () => {
      waiting.delete(id);
      byId("summary").textContent = "The trials of this kernel are not in this copy of the site.";
    };
    document.head.append(script);
  };

  const select = (button) => {
    const row = data.rows.find((each) => each.id === button.dataset.row);
    const number = Number(button.dataset.column);
    for (const each of byId("matrix").querySelectorAll('button[aria-selected="true"]')) each.setAttribute("aria-selected", "false");
    button.setAttribute("aria-selected", "true");
    selected = { row, number };
    byId("detail").hidden = false;
    byId("what").textContent = `${columnName(number)}: ${row.release}`;
    byId("evidence").replaceChildren(make("p", { class: "hint" }, "Choose a dot."));
    byId("summary").textContent = "";
    for (const place of ["reasons", "dots", "survival"]) byId(place).replaceChildren();
    offerOthers();
    show();
    byId("what").focus({ preventScroll: true });
    byId("detail").scrollIntoView({ block: "start" });
  };

  const show = () => {
    const { row, number } = selected;
    load(row.id, (all) => {
      if (selected.row !== row || selected.number !== number) return;
      const trials = all.filter((each) => each.column === number);
      const cell = row.cells[number];
      byId("summary").textContent =
        `${rowName(row)}; ${row.version}. ${count(cell.total, "trial")} in ${count(bootsOf(trials).length, "boot")}: median ${median(cell)}, ${cell.hung} hung${others(cell)}.`;
      const reasons = [...new Set(trials.filter((each) => each.reason !== null).map((each) => `${each.outcome}: ${each.reason}`))];
      byId("reasons").replaceChildren(...reasons.map((each) => make("li", {}, each)));
      drawDots(trials);
      drawSurvival(trials);
    });
  };

  const offerOthers = () => {
    const { row, number } = selected;
    const others = data.rows.filter((each) => each !== row && each.cells[number]);
    const index = data.rows.indexOf(row);
    const before = others.filter((each) => data.rows.indexOf(each) < index && each.accelerator === row.accelerator && each.machine === row.machine);
    byId("against").replaceChildren(...others.map((each) => make("option", { value: each.id }, rowName(each))));
    byId("against").value = (before.at(-1) ?? others[0])?.id ?? "";
  };

  // The plots

  const hung = (trial) => FAILED.includes(trial.outcome);
  const waited = (trials) => trials.filter((each) => each.outcome === "returned" || hung(each));

  const LEFT = 70;
  const RIGHT = 20;
  const TOP = 24;
  const BOTTOM = 34;

  const timeAxis = (svg, trials, width, height) => {
    const waits = trials.map((each) => Math.max(1, each.waited_ns));
    const deadline = Math.max(...trials.map((each) => each.deadline_ns));
    // Three decades at the least, so that what hung is seen to be far from what did not.
    const low = Math.min(Math.floor(Math.log10(Math.min(...waits))), Math.floor(Math.log10(deadline)) - 3);
    const high = Math.log10(deadline) + 0.1;
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

  const canvas = (place, height, label) => {
    const width = Math.max(280, byId(place).clientWidth);
    const svg = draw("svg", { viewBox: `0 0 ${width} ${height}`, role: "group", "aria-label": label });
    byId(place).replaceChildren(svg);
    return [svg, width];
  };

  const empty = (place) => byId(place).replaceChildren(make("p", { class: "hint" }, "Nothing was measured."));

  const drawDots = (trials) => {
    const boots = bootsOf(trials);
    if (trials.some((each) => !each.boot)) boots.push("");
    // Room for every trial of a boot, for those that hung have all the same time.
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
        svg.append(dotOf(trial, trial.outcome === "lost" ? LEFT + 8 : x(trial.waited_ns), at));
      });
    });
    svg.querySelector(".dot").setAttribute("tabindex", "0");
  };

  const dotOf = (trial, x, y) => {
    let dot = draw("circle", { cx: x, cy: y, r: 6, class: "dot" });
    let what = `${trial.outcome}, ${duration(trial.waited_ns)}`;
    if (hung(trial)) {
      dot = draw("path", { d: `M${x} ${y - 7}l7 7l-7 7l-7 -7z`, class: "dot hung" });
      what = `${trial.outcome}, no answer in ${duration(trial.waited_ns)}`;
    } else if (trial.outcome === "refused") {
      dot = draw("path", { d: `M${x} ${y - 7}l7 13h-14z`, class: "dot refused" });
    } else if (trial.outcome === "lost") {
      dot = draw("rect", { x: x - 5, y: y - 5, width: 10, height: 10, class: "dot lost" });
      what = `${trial.outcome}, nothing measured`;
    }
    const text = `trial ${trial.seq} of run ${trial.run_id}: ${what}`;
    for (const [key, value] of Object.entries({ role: "button", tabindex: "-1", "aria-pressed": "false", "aria-label": text })) dot.setAttribute(key, value);
    dot.append(draw("title", {}, text));
    const choose = () => {
      for (const each of byId("dots").querySelectorAll(".dot")) {
        each.setAttribute("aria-pressed", String(each === dot));
        each.setAttribute("tabindex", each === dot ? "0" : "-1");
      }
      evidence(trial);
    };
    dot.addEventListener("click", choose);
    dot.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
      if (event.key === "Enter" || event.key === " ") choose();
      else if (step) {
        const dots = [...byId("dots").querySelectorAll(".dot")];
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

  // The share that still waits, by Kaplan and Meier: whoever hung is known of up to its own deadline,
  // and counts no longer. So a curve may end above 0, and ends where nobody is known of.
  const steps = (trials, x, y) => {
    const order = [...trials].sort((a, b) => a.waited_ns - b.waited_ns || hung(a) - hung(b));
    let path = `M${LEFT} ${y(1)}`;
    let share = 1;
    order.forEach((each, index) => {
      if (hung(each)) return;
      share *= 1 - 1 / (order.length - index);
      path += `H${x(each.waited_ns)}V${y(share)}`;
    });
    return share > 0 ? `${path}H${x(order.at(-1).waited_ns)}` : path;
  };

  const drawSurvival = (all) => {
    const ours = waited(all);
    if (!ours.length) return empty("survival");
    const other = data.rows.find((each) => each.id === byId("against").value);
    const finish = (theirs) => {
      const height = 220;
      const [svg, width] = canvas("survival", height, "Share of trials without an answer yet, by time");
      const x = timeAxis(svg, [...ours, ...theirs], width, height);
      const y = (share) => TOP + (1 - share) * (height - TOP - BOTTOM);
      for (const share of [0, 0.5, 1]) {
        svg.append(draw("text", { x: LEFT - 8, y: y(share) + 4, "text-anchor": "end" }, `${share * 100} %`));
        svg.append(draw("line", { class: "grid", x1: LEFT, x2: width - RIGHT, y1: y(share), y2: y(share) }));
      }
      if (theirs.length) svg.append(draw("path", { class: "line against", d: steps(theirs, x, y) }));
      svg.append(draw("path", { class: "line", d: steps(ours, x, y) }));
      byId("against-title").textContent = theirs.length
        ? `Still waiting: ${selected.row.release} (solid) and ${other.release} (dashed)`
        : `Still waiting: ${selected.row.release}`;
    };
    if (!other) return finish([]);
    const { row, number } = selected;
    load(other.id, (trials) => {
      if (selected.row === row && selected.number === number && byId("against").value === other.id) finish(waited(trials.filter((each) => each.column === number)));
    });
    return undefined;
  };

  const outcome = (trial) => {
    const why = trial.reason === null ? "" : `: ${trial.reason}`;
    if (trial.outcome === "lost" || trial.outcome === "died") return `${trial.outcome}${why}`;
    if (!hung(trial)) return `${trial.outcome} after ${duration(trial.waited_ns)}${why}`;
    const late = trial.late_ns === null ? "" : `; answered after ${duration(trial.late_ns)}, too late`;
    return `${trial.outcome}, no answer in ${duration(trial.deadline_ns)}${late}${why}`;
  };

  const look = (thread, when) => {
    const cpu = when === "before" ? "" : `, ${duration(thread.cpu_ns)} of CPU since`;
    const signals = thread.signals.length ? `, pending ${thread.signals.join(" ")}` : "";
    const blocks = thread.blocks ? "; it blocks the answer" : "";
    const where = `state ${thread.state}, ${thread.wchan}, entry ${thread.entry}, waits for ${thread.waits_for}`;
    return [
      make("h4", thread.blocks ? { class: "blocks" } : {}, `${thread.label} ${when === "before" ? "just before the request" : "at the end"}: ${where}${signals}${cpu}${blocks}`),
      make("pre", { tabindex: "0" }, thread.stack.join("\n") || "(in user mode or in the guest)"),
    ];
  };

  const evidence = (trial) => {
    const facts = [
      ["trial", `${trial.seq} of run ${trial.run_id}, ${trial.started}`],
      ["boot", trial.boot || "none"],
      ["outcome", outcome(trial)],
      ["outage", trial.outage ?? "none"],
      ["QEMU", trial.qemu ?? "unknown"],
      ["pending for all of QEMU", trial.pending.join(" ")],
      ["did not end when killed", trial.survivors.join(", ")],
    ].filter(([, text]) => text);
    const table = make("table", {}, ...facts.map(([name, text]) => make("tr", {}, make("th", { scope: "row" }, name), make("td", {}, text))));
    const looks = ["before", "after"].flatMap((when) => trial[when].flatMap((thread) => look(thread, when)));
    byId("evidence").replaceChildren(table, ...looks);
  };

  // What the data scripts call

  const matrix = (given) => {
    data = given;
    const names = (cell) => cell && { ns: cell[0], censored: cell[1], total: cell[2], hung: cell[3], lost: cell[4], refused: cell[5] };
    for (const row of data.rows) row.cells = row.cells.map(names);
    const head = make("tr", {}, make("th", { scope: "col" }, "kernel"), ...data.columns.map((each) => make("th", { scope: "col" }, each.request, make("small", {}, each.place))));
    byId("matrix").tHead.replaceChildren(head);
    for (const each of document.querySelectorAll(".legend li")) each.dataset.sign = `${SIGNS[each.className]} `;
    render();
    if (!data.rows.length) byId("count").textContent = "No trials are recorded yet.";
    byId("filter").addEventListener("input", render);
    byId("matrix").addEventListener("keydown", move);
    byId("matrix").addEventListener("click", (event) => {
      const button = event.target.closest("button");
      if (button) {
        focusCell(button);
        select(button);
      }
    });
    byId("against").addEventListener("change", show);
    let width = innerWidth;
    addEventListener("resize", () => {
      if (selected && innerWidth !== width) show();
      width = innerWidth;
    });
    if (!data.history) byId("history").replaceWith("There is no history of asv's yet; asv run begins one.");
    else if (location.protocol === "file:") byId("history").replaceWith("The history of all numbers needs a server: asv preview.");
  };

  const trials = (id, given) => {
    loaded.set(id, given);
    for (const then of waiting.get(id) ?? []) then(given);
    waiting.delete(id);
  };

  return { matrix, trials };
})();
