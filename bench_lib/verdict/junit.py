# SPDX-License-Identifier: BSD-3-Clause
"""The verdict in JUnit XML, which CI systems read."""

from __future__ import annotations

import re
from collections.abc import Sequence
from xml.etree import ElementTree

from bench_lib.record import ManagerName
from bench_lib.units import NS_PER_S
from bench_lib.verdict.gate import Comparison, Gate, Verdict
from bench_lib.verdict.matching import host_name

_FORBIDDEN = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""The characters that XML 1.0 does not allow, not even as references."""


def document(gate: Gate) -> bytes:
    """Return a suite with a case per comparison, in the form that GitLab, GitHub and Jenkins share.

    An inconclusive comparison is an error, so that neither the CI system nor its readers take it
    for a pass.
    """
    lines = [gate.sentence, *(f"differs: {note}" for note in gate.notes)]
    lines += [f"{row.key.name}: {row.mixes.note}" for row in gate.rows if row.mixes is not None]
    if gate.emulated:
        lines.append("Emulated (tcg): hangs are judged, milliseconds are not.")
    lines += [f"left out: {host_name(host)}" for host in gate.left_out]
    lines += [f"left out: {each}" for each in gate.untried]
    if gate.unread:
        lines.append(f"{gate.unread} lines of the record file could not be read.")
    cases = [_case(row) for row in gate.rows]
    if not any(len(case) for case in cases) and gate.verdict is not Verdict.PASS:
        # The verdict follows from all comparisons together, and no single one is bad.
        cases.append(_failed("gate", "verdict", "error", gate.sentence, gate.verdict))
    return _suite(f"{gate.base.release} -> {gate.candidate.release}", cases, "\n".join(lines))


def refusal(base: str, candidate: str, why: str) -> bytes:
    """Return a suite with one case, an error, for kernels that cannot be compared.

    :param base: the name by which the caller gave the baseline.
    :param candidate: the name by which the caller gave the candidate.
    :param why: the reason, in a sentence.
    """
    case = _failed("gate", "verdict", "error", why, "cannot compare")
    return _suite(f"{base} -> {candidate}", [case], why)


def _suite(name: str, cases: Sequence[ElementTree.Element], output: str) -> bytes:
    counts = {
        "tests": len(cases),
        "failures": sum(case.find("failure") is not None for case in cases),
        "errors": sum(case.find("error") is not None for case in cases),
        "skipped": 0,
    }
    attributes = {key: str(value) for key, value in counts.items()}
    suites = ElementTree.Element("testsuites", attributes)
    suite = ElementTree.SubElement(suites, "testsuite", {"name": _text(name), **attributes})
    suite.extend(cases)
    ElementTree.SubElement(suite, "system-out").text = _text(output)
    ElementTree.indent(suites)
    text: bytes = ElementTree.tostring(suites, encoding="utf-8", xml_declaration=True)
    return text


def _case(row: Comparison) -> ElementTree.Element:
    key = row.key
    by = "" if key.manager is ManagerName.QEMU else f" by {key.manager}"
    name = f"{key.request}{by}{key.shape.unusual}"
    host = f"{key.host.machine}.{key.host.kind}-{key.host.accelerator}"
    place = f"kickbench.{host}.{key.scenario}"
    text = "; ".join(row.reasons)
    if row.verdict is Verdict.FAIL:
        case = _failed(place, name, "failure", text, row.verdict)
    elif row.verdict is Verdict.INCONCLUSIVE:
        case = _failed(place, name, "error", text, row.verdict)
    else:
        case = _named(place, name)
    case.set("time", f"{row.candidate.median.ns / NS_PER_S:.6f}" if row.candidate.median else "0")
    return case


def _named(place: str, name: str) -> ElementTree.Element:
    return ElementTree.Element("testcase", {"classname": _text(place), "name": _text(name)})


def _failed(place: str, name: str, how: str, why: str, kind: str) -> ElementTree.Element:
    case = _named(place, name)
    ElementTree.SubElement(case, how, {"message": _text(why), "type": kind})
    return case


def _text(text: str) -> str:
    return _FORBIDDEN.sub("\N{REPLACEMENT CHARACTER}", text)
