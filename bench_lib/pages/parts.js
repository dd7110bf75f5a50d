// SPDX-License-Identifier: BSD-3-Clause
"use strict";
// What the other scripts of the page share: the types of its data, which kernels.py writes, and
// functions that make elements and texts. Text enters the page as text, never as markup.

/**
 * The numbers of one cell, in the order in which kernels.py writes them: the median, whether the
 * median is only a lower bound, and how many trials there are, hung or died, were lost, and were
 * refused.
 * @typedef {[number | null, boolean, number, number, number, number]} PackedCell
 */

/**
 * @typedef {object} Cell
 * @property {number | null} ns the median wait
 * @property {boolean} censored whether the median is only a lower bound
 * @property {number} total
 * @property {number} hung
 * @property {number} lost
 * @property {number} refused
 */

/**
 * One kernel on one host.
 * @template C
 * @typedef {object} RowOf
 * @property {string} id
 * @property {string} release
 * @property {string} version
 * @property {string} stream
 * @property {string} kind
 * @property {string} accelerator
 * @property {string} machine the name of the host
 * @property {string[]} machine_ids the ids of the machines of that name; none in older records
 * @property {number} boots
 * @property {(C | null)[]} cells one per column
 */

/** @typedef {RowOf<Cell>} Row */

/**
 * One request in one scenario.
 * @typedef {{ request: string, place: string, family: string }} Column
 */

/**
 * @template C
 * @typedef {{ history: boolean, columns: Column[], rows: RowOf<C>[] }} MatrixOf
 */

/**
 * A thread of QEMU, just before the request or at the end of the trial.
 * @typedef {object} Thread
 * @property {string} label
 * @property {string} state
 * @property {string} wchan
 * @property {string} entry
 * @property {string} waits_for
 * @property {string[]} signals
 * @property {number} cpu_ns
 * @property {number} stack the index of its stack in the stacks of the trial
 * @property {boolean} blocks whether the thread explains the hang
 */

/**
 * @typedef {object} Trial
 * @property {number} column
 * @property {string} boot empty if the lab was lost before it reported its boot
 * @property {string} outcome
 * @property {string | null} reason
 * @property {number} waited_ns
 * @property {number} deadline_ns
 * @property {string} run_id
 * @property {number} seq
 * @property {string} started
 * @property {string | null} outage
 * @property {string | null} qemu
 * @property {number | null} late_ns
 * @property {string[]} survivors
 * @property {string[]} pending
 * @property {string} mix how many vCPUs were on which path just before the request
 * @property {string[][]} stacks the different stacks of all threads
 * @property {Thread[]} before
 * @property {Thread[]} after
 */

/** @typedef {{ [name: string]: string | number }} Attributes */

const parts = (() => {
  const FAILED = ["asleep", "spinning", "unanswered", "died"];
  const SVG = "http://www.w3.org/2000/svg";

  /**
   * The element of kernels.html with this id.
   * @template {HTMLElement} T
   * @param {string} id
   * @param {new () => T} type
   * @returns {T}
   */
  const element = (id, type) => {
    const found = document.getElementById(id);
    if (!(found instanceof type)) throw new Error(`kernels.html has no ${type.name} #${id}.`);
    return found;
  };

  /** @param {string} id */
  const byId = (id) => element(id, HTMLElement);

  /**
   * @template {keyof HTMLElementTagNameMap} K
   * @param {K} name
   * @param {Attributes} [attributes]
   * @param {...(Node | string)} children
   */
  const make = (name, attributes = {}, ...children) => {
    const made = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, String(value));
    made.append(...children);
    return made;
  };

  /**
   * @template {keyof SVGElementTagNameMap} K
   * @param {K} name
   * @param {Attributes} [attributes]
   * @param {string} [text]
   */
  const draw = (name, attributes = {}, text) => {
    const made = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, String(value));
    if (text !== undefined) made.textContent = text;
    return /** @type {SVGElementTagNameMap[K]} */ (made);
  };

  /** @param {number} ns */
  const duration = (ns) => {
    if (ns < 1e4) return `${ns} ns`;
    if (ns < 1e6) return `${Math.round(ns / 1e3)} us`;
    if (ns < 1e7) return `${(ns / 1e6).toFixed(2)} ms`;
    return ns < 1e9 ? `${Math.round(ns / 1e6)} ms` : `${(ns / 1e9).toFixed(1)} s`;
  };

  /**
   * A number and its noun: 1 boot, 2 boots.
   * @param {number} number
   * @param {string} noun
   */
  const count = (number, noun) => `${number} ${noun}${number === 1 ? "" : "s"}`;

  /** @param {Trial} trial */
  const hung = (trial) => FAILED.includes(trial.outcome);

  /**
   * The boots of the trials. A trial without a boot id belongs to no boot.
   * @param {Trial[]} trials
   */
  const bootsOf = (trials) => [...new Set(trials.map((each) => each.boot).filter(Boolean))];

  return { element, byId, make, draw, duration, count, hung, bootsOf };
})();
