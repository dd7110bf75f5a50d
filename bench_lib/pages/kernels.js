// SPDX-License-Identifier: BSD-3-Clause
"use strict";
// Shows the matrix of matrix.js, and the trials of trials/*.js. Both are scripts that call functions
// of this one, because a page that was opened from a file may load scripts but no other data.

const kickbench = (() => {
  const { element, byId, make, duration, count, hung, bootsOf } = parts;

  const ROWS_AT_ONCE = 50;

  /** @type {{ [outcome: string]: string }} */
  const SIGNS = { returned: "✓", mixed: "◐", hung: "✕", refused: "⊘", lost: "·" };

  /** The family of scenarios without an outage, which belong to every other family. */
  const NONE = "none";

  const filter = element("filter", HTMLInputElement);
  const family = element("family", HTMLSelectElement);
  const host = element("host", HTMLSelectElement);
  const table = element("matrix", HTMLTableElement);
  const against = element("against", HTMLSelectElement);

  /** @type {MatrixOf<Cell>} */
  let data = { history: false, columns: [], rows: [] };
  /** @type {Row[]} */
  let shown = [];
  /** @type {string[]} the names of all hosts, sorted */
  let hosts = [];
  /** @type {number[]} the numbers of the columns of the chosen family */
  let columns = [];
  /** @type {{ row: Row, number: number } | null} the chosen row, and the number of the chosen column */
  let selected = null;

  /** @type {Map<string, Trial[]>} the trials of a row, by its id */
  const loaded = new Map();
  /** @type {Map<string, ((trials: Trial[]) => void)[]>} callbacks that wait for the trials of a row */
  const waiting = new Map();

  /** @param {Cell} cell */
  const kindOf = (cell) => {
    const measured = cell.total - cell.lost;
    if (measured === 0) return "lost";
    if (cell.hung === measured) return "hung";
    if (cell.refused === measured) return "refused";
    return cell.hung + cell.refused === 0 ? "returned" : "mixed";
  };

  /** @param {Cell} cell */
  const othersOf = (cell) => `${cell.refused ? `, ${cell.refused} refused` : ""}${cell.lost ? `, ${cell.lost} lost` : ""}`;

  /** @param {Cell} cell */
  const medianOf = (cell) => (cell.ns === null ? "-" : `${cell.censored ? "> " : ""}${duration(cell.ns)}`);

  /** @param {number} number */
  const columnName = (number) => `${data.columns[number].request} in ${data.columns[number].place}`;

  /**
   * Names the host of a row, after these words, if the page has rows of several hosts.
   * @param {string} words
   * @param {Row} row
   */
  const ifSeveral = (words, row) => (hosts.length > 1 ? `${words}${row.machine}` : "");

  /** @param {Row} row */
  const shortName = (row) => `${row.release}${ifSeveral(" on ", row)}`;

  /** @param {Row} row */
  const rowName = (row) => `${row.release}, ${row.kind} (${row.accelerator}) on ${row.machine}`;

  // The matrix

  /**
   * @param {Row} row
   * @param {number} number
   */
  const cellOf = (row, number) => {
    const cell = row.cells[number];
    const td = make("td", { role: "gridcell" });
    if (!cell) {
      td.append(make("span", { class: "none" }, "-"));
      return td;
    }
    const kind = kindOf(cell);
    const button = make(
      "button",
      { class: kind, type: "button", tabindex: "-1", "aria-selected": "false", "data-row": row.id, "data-column": number },
      `${SIGNS[kind]} ${medianOf(cell)}`,
      make("small", {}, `${cell.hung}/${cell.total - cell.lost} hung${othersOf(cell)}`),
    );
    button.setAttribute("aria-label", `${row.release}, ${columnName(number)}: ${kind}, median ${medianOf(cell)}, ${cell.hung} of ${cell.total - cell.lost} hung${othersOf(cell)}${ifSeveral(", on ", row)}`);
    td.append(button);
    return td;
  };

  /** @param {Row} row */
  const rowOf = (row) =>
    make(
      "tr",
      {},
      make(
        "th",
        { scope: "row", title: [row.version, ...row.machine_ids.map((id) => `machine ${id}`)].join("\n") },
        row.release,
        ...(hosts.length > 1 ? [make("small", { class: "machine" }, row.machine)] : []),
        ...(row.machine_ids.length > 1 ? [make("small", { class: "warning" }, `${row.machine_ids.length} machines of this name`)] : []),
        make("small", {}, `${row.kind} (${row.accelerator}), ${count(row.boots, "boot")}`),
      ),
      ...columns.map((number) => cellOf(row, number)),
    );

  /** @param {Column} column */
  const headOf = (column) => make("th", { scope: "col" }, column.request, make("small", {}, column.place));

  /** The families that have an outage, in the order of their columns. */
  const families = () => [...new Set(data.columns.map((each) => each.family))].filter((each) => each !== NONE);

  /** Shows the heads of the columns of the chosen family, or of all with the families above them. */
  const renderHead = () => {
    columns = [...data.columns.keys()].filter((number) => ["", data.columns[number].family].includes(family.value) || data.columns[number].family === NONE);
    const chosen = columns.map((number) => data.columns[number]);
    const groups = families().length > 1 ? [...new Set(chosen.map((each) => each.family))] : [];
    const kernel = make("th", { scope: "col", rowspan: groups.length ? 2 : 1 }, "kernel");
    const above = groups.map((name) =>
      make("th", { scope: "colgroup", class: "family", colspan: chosen.filter((each) => each.family === name).length }, make("span", {}, name === NONE ? "no outage" : name)),
    );
    const heads = chosen.map(headOf);
    const rows = groups.length ? [make("tr", {}, kernel, ...above), make("tr", {}, ...heads)] : [make("tr", {}, kernel, ...heads)];
    table.createTHead().replaceChildren(...rows);
  };

  /**
   * The number of kernels of rows. A kernel has a row for each of its hosts.
   * @param {Row[]} rows
   */
  const kernelsOf = (rows) => new Set(rows.map((row) => `${row.release}\n${row.version}`)).size;

  /** @param {Row[]} rows */
  const hostsOf = (rows) => [...new Set(rows.map((row) => row.machine))].sort((one, other) => one.localeCompare(other, "en", { numeric: true }));

  /** How many kernels are shown, and how many hosts if there are several. */
  const countShown = () => {
    const kernels = `${kernelsOf(shown)} of ${kernelsOf(data.rows)} kernels`;
    return hosts.length > 1 ? `${kernels}, ${hostsOf(shown).length} of ${hosts.length} hosts` : kernels;
  };

  /** Shows the rows of the chosen host, or of all, that have every word of the filter. */
  const render = () => {
    const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
    shown = data.rows.filter((row) => {
      if (host.value && row.machine !== host.value) return false;
      const text = `${row.release} ${row.stream} ${row.kind} ${row.accelerator} ${row.machine}`.toLowerCase();
      return words.every((word) => text.includes(word));
    });
    byId("count").textContent = countShown();
    const body = table.tBodies[0];
    const mine = shown;
    body.replaceChildren();
    let next = 0;
    const some = () => {
      if (mine !== shown) return; // The filter has changed, and another call shows its rows.
      body.append(...mine.slice(next, next + ROWS_AT_ONCE).map(rowOf));
      if (next === 0) {
        body.querySelector("button")?.setAttribute("tabindex", "0");
        performance.mark("first cells"); // tools/scale_site.py reads this mark.
      }
      next += ROWS_AT_ONCE;
      if (next < mine.length) requestAnimationFrame(some);
    };
    some();
  };

  /** @param {Event} event */
  const buttonOf = (event) => {
    const button = event.target instanceof Element ? event.target.closest("#matrix button") : null;
    return button instanceof HTMLButtonElement ? button : null;
  };

  /** @type {{ [key: string]: [number, number] | undefined }} rows down and cells across, by key */
  const STEPS = { ArrowRight: [0, 1], ArrowLeft: [0, -1], ArrowDown: [1, 0], ArrowUp: [-1, 0] };

  /**
   * Moves the focus between cells with the arrow keys. The Tab key reaches one cell only.
   * @param {KeyboardEvent} event
   */
  const move = (event) => {
    const step = STEPS[event.key];
    const td = buttonOf(event)?.closest("td");
    if (!step || !td) return;
    event.preventDefault();
    const [down, across] = step;
    /** @type {Element | null | undefined} */
    let row = td.parentElement;
    let index = td.cellIndex;
    for (;;) {
      if (down) row = down > 0 ? row?.nextElementSibling : row?.previousElementSibling;
      index += across;
      const cell = row instanceof HTMLTableRowElement ? row.cells[index] : undefined;
      if (!cell || index < 1) return;
      const button = cell.querySelector("button");
      if (button) {
        focusCell(button);
        return;
      }
    }
  };

  /** @param {HTMLButtonElement} button */
  const focusCell = (button) => {
    for (const each of table.querySelectorAll('button[tabindex="0"]')) each.setAttribute("tabindex", "-1");
    button.setAttribute("tabindex", "0");
    button.focus();
    button.scrollIntoView({ block: "nearest", inline: "nearest" });
  };

  // The trials of a cell

  /**
   * Loads the trials of a row once, and passes them on.
   * @param {string} id
   * @param {(trials: Trial[]) => void} then
   */
  const load = (id, then) => {
    const known = loaded.get(id);
    if (known) {
      then(known);
      return;
    }
    const queue = waiting.get(id);
    if (queue) {
      queue.push(then);
      return;
    }
    waiting.set(id, [then]);
    const script = make("script", { src: `trials/${id}.js` });
    script.onerror = () => {
      waiting.delete(id);
      byId("summary").textContent = "This copy of the site does not contain the trials of this kernel.";
    };
    document.head.append(script);
  };

  /** @param {HTMLButtonElement} button */
  const select = (button) => {
    const row = data.rows.find((each) => each.id === button.dataset.row);
    if (!row) return;
    const number = Number(button.dataset.column);
    for (const each of table.querySelectorAll('button[aria-selected="true"]')) each.setAttribute("aria-selected", "false");
    button.setAttribute("aria-selected", "true");
    selected = { row, number };
    byId("detail").hidden = false;
    byId("what").textContent = `${columnName(number)}: ${shortName(row)}`;
    byId("evidence").replaceChildren(make("p", { class: "hint" }, "Choose a trial."));
    byId("summary").textContent = "";
    for (const place of ["reasons", "dots", "survival"]) byId(place).replaceChildren();
    offerOthers(row, number);
    show();
    byId("what").focus({ preventScroll: true });
    byId("detail").scrollIntoView({ block: "start" });
  };

  /**
   * How many vCPUs were on which path before the request, and in how many trials if that differed.
   * @param {Trial[]} trials
   */
  const mixesOf = (trials) => {
    const seen = trials.filter((each) => each.outcome !== "lost" && each.mix).map((each) => each.mix);
    const mixes = [...new Set(seen)].map((mix) => ({ mix, times: seen.filter((each) => each === mix).length }));
    const texts = mixes.sort((a, b) => b.times - a.times).map(({ mix, times }) => (mixes.length > 1 ? `${mix} (${count(times, "trial")})` : mix));
    return texts.length ? ` vCPUs before the request: ${texts.join("; ")}.` : "";
  };

  /** Shows the trials of the selected cell, unless the reader has selected another one meanwhile. */
  const show = () => {
    const chosen = selected;
    if (!chosen) return;
    const { row, number } = chosen;
    load(row.id, (all) => {
      const cell = row.cells[number];
      if (selected !== chosen || !cell) return;
      const trials = all.filter((each) => each.column === number);
      byId("summary").textContent =
        `${rowName(row)}; ${row.version}. ${count(cell.total, "trial")} in ${count(bootsOf(trials).length, "boot")}: median ${medianOf(cell)}, ${cell.hung} hung${othersOf(cell)}.${mixesOf(trials)}`;
      const reasons = [...new Set(trials.filter((each) => each.reason !== null).map((each) => `${each.outcome}: ${each.reason}`))];
      byId("reasons").replaceChildren(...reasons.map((each) => make("li", {}, each)));
      plots.drawDots(trials, showEvidence);
      showSurvival(row, number, trials);
    });
  };

  /**
   * Offers the other kernels that have trials of this column. The kernel before this one on the same
   * machine is chosen first.
   * @param {Row} row
   * @param {number} number
   */
  const offerOthers = (row, number) => {
    const others = data.rows.filter((each) => each !== row && each.cells[number]);
    const index = data.rows.indexOf(row);
    const before = others.filter((each) => data.rows.indexOf(each) < index && each.accelerator === row.accelerator && each.machine === row.machine);
    /** @param {Row[]} rows */
    const options = (rows) => rows.map((each) => make("option", { value: each.id }, rowName(each)));
    const here = others.filter((each) => each.machine === row.machine);
    const elsewhere = others.filter((each) => each.machine !== row.machine);
    const groups = [
      { label: `on ${row.machine}`, rows: here },
      { label: "on other hosts", rows: elsewhere },
    ].filter(({ rows }) => rows.length);
    against.replaceChildren(
      ...(elsewhere.length ? groups.map(({ label, rows }) => make("optgroup", { label }, ...options(rows))) : options(here)),
    );
    against.value = (before.at(-1) ?? here[0] ?? others[0])?.id ?? "";
  };

  /**
   * @param {Row} row
   * @param {number} number
   * @param {Trial[]} trials
   */
  const showSurvival = (row, number, trials) => {
    const other = data.rows.find((each) => each.id === against.value);
    /** @param {Trial[]} theirs */
    const finish = (theirs) => {
      const two = plots.drawSurvival(trials, theirs);
      byId("against-title").textContent =
        other && two ? `Still waiting: ${shortName(row)} (solid) and ${shortName(other)} (dashed)` : `Still waiting: ${shortName(row)}`;
    };
    if (!other) {
      finish([]);
      return;
    }
    const chosen = selected;
    load(other.id, (all) => {
      if (selected === chosen && against.value === other.id) finish(all.filter((each) => each.column === number));
    });
  };

  // The evidence of a trial

  /** @param {Trial} trial */
  const outcomeOf = (trial) => {
    const why = trial.reason === null ? "" : `: ${trial.reason}`;
    if (trial.outcome === "lost" || trial.outcome === "died") return `${trial.outcome}${why}`;
    if (!hung(trial)) return `${trial.outcome} after ${duration(trial.waited_ns)}${why}`;
    const late = trial.late_ns === null ? "" : `; answered after ${duration(trial.late_ns)}, too late`;
    return `${trial.outcome}, no answer in ${duration(trial.deadline_ns)}${late}${why}`;
  };

  /**
   * A heading with the state of a thread, and its stack.
   * @param {Thread} thread
   * @param {string[][]} stacks
   * @param {"before" | "after"} when
   */
  const threadOf = (thread, stacks, when) => {
    const moment = when === "before" ? "just before the request" : "at the end";
    const where = `state ${thread.state}, ${thread.wchan}, entry ${thread.entry}, waits for ${thread.waits_for}`;
    const signals = thread.signals.length ? `, pending ${thread.signals.join(" ")}` : "";
    const cpu = when === "before" ? "" : `, ${duration(thread.cpu_ns)} of CPU since`;
    const blocks = thread.blocks ? "; it blocks the answer" : "";
    return [
      make("h4", thread.blocks ? { class: "blocks" } : {}, `${thread.label} ${moment}: ${where}${signals}${cpu}${blocks}`),
      make("pre", { tabindex: "0" }, (stacks[thread.stack] ?? []).join("\n") || "(in user mode or in the guest)"),
    ];
  };

  /** @param {Trial} trial */
  const showEvidence = (trial) => {
    const facts = [
      ["trial", `${trial.seq} of run ${trial.run_id}, ${trial.started}`],
      ["boot", trial.boot || "none"],
      ["outcome", outcomeOf(trial)],
      ["outage", trial.outage ?? "none"],
      ["vCPUs before the request", trial.mix],
      ["QEMU", trial.qemu ?? "unknown"],
      ["pending for all of QEMU", trial.pending.join(" ")],
      ["did not end when killed", trial.survivors.join(", ")],
    ].filter(([, text]) => text);
    const lines = facts.map(([name, text]) => make("tr", {}, make("th", { scope: "row" }, name), make("td", {}, text)));
    byId("evidence").replaceChildren(
      make("table", {}, ...lines),
      ...trial.before.flatMap((thread) => threadOf(thread, trial.stacks, "before")),
      ...trial.after.flatMap((thread) => threadOf(thread, trial.stacks, "after")),
    );
  };

  // The chosen host, which the address of the page keeps

  const HOST = "host";

  const addressed = () => new URLSearchParams(location.hash.slice(1));

  /** Shows the rows of the host that the address names; of all if it names none that is known. */
  const readHost = () => {
    const named = addressed().get(HOST) ?? "";
    host.value = hosts.includes(named) ? named : "";
    render();
  };

  /** Shows the rows of the chosen host, and puts it into the address. */
  const chooseHost = () => {
    const address = addressed();
    if (host.value) address.set(HOST, host.value);
    else address.delete(HOST);
    // A page that was opened from a file may change only this part of its address.
    location.replace(`#${address}`);
    render();
  };

  // The functions that the data scripts call

  /** @param {PackedCell | null} cell */
  const unpack = (cell) => cell && { ns: cell[0], censored: cell[1], total: cell[2], hung: cell[3], lost: cell[4], refused: cell[5] };

  /**
   * Shows the matrix; matrix.js calls this once.
   * @param {MatrixOf<PackedCell>} given
   */
  const matrix = (given) => {
    data = { ...given, rows: given.rows.map((row) => ({ ...row, cells: row.cells.map(unpack) })) };
    family.append(...families().map((name) => make("option", { value: name }, name)));
    byId("families").hidden = families().length < 2;
    hosts = hostsOf(data.rows);
    host.append(...hosts.map((name) => make("option", { value: name }, name)));
    byId("hosts").hidden = hosts.length < 2;
    renderHead();
    for (const each of /** @type {NodeListOf<HTMLElement>} */ (document.querySelectorAll(".legend li"))) each.dataset.sign = `${SIGNS[each.className]} `;
    readHost();
    if (!data.rows.length) byId("count").textContent = "No trials are recorded yet.";
    filter.addEventListener("input", render);
    family.addEventListener("change", () => {
      renderHead();
      render();
    });
    host.addEventListener("change", chooseHost);
    addEventListener("hashchange", () => {
      if ((addressed().get(HOST) ?? "") !== host.value) readHost();
    });
    table.addEventListener("keydown", move);
    table.addEventListener("click", (event) => {
      const button = buttonOf(event);
      if (button) {
        focusCell(button);
        select(button);
      }
    });
    against.addEventListener("change", show);
    let width = innerWidth;
    addEventListener("resize", () => {
      if (innerWidth !== width) show();
      width = innerWidth;
    });
    if (!data.history) byId("history").replaceWith("asv has no history yet; asv run starts one.");
    else if (location.protocol === "file:") byId("history").replaceWith("The history of all numbers needs a server; run asv preview.");
  };

  /**
   * Keeps the trials of a row; trials/*.js calls this.
   * @param {string} id
   * @param {Trial[]} given
   */
  const trials = (id, given) => {
    loaded.set(id, given);
    for (const then of waiting.get(id) ?? []) then(given);
    waiting.delete(id);
  };

  return { matrix, trials };
})();
