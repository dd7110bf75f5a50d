# SPDX-License-Identifier: BSD-3-Clause
"""The verdict in JUnit XML, which CI systems read."""

from __future__ import annotations

import re
from collections.abc import Sequence
from xml.etree import ElementTree

from bench_lib.record import Host, ManagerName
from bench_lib.units import NS_PER_S
from bench_lib.verdict.comparison import Comparison, Verdict
from bench_lib.verdict.gate import Gate
from bench_lib.verdict.matching import host_name

_FORBIDDEN = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""The characters that XML 1.0 does not allow, not even as references."""


def document(gate: Gate) -> bytes:
    """Return a suite with a case per comparison, in the form that GitLab, GitHub and Jenkins share.

    If there are several hosts, each has a suite, and the last suite has the verdict over them.

    An inconclusive comparison is an error, so that neither the CI system nor its readers take it
    for a pass.
    """
    name = f"{gate.base.release} -> {gate.candidate.release}"
    whole = [gate.sentence, *(f"differs: {note}" for note in gate.notes)]
    if gate.emulated:
        whole.append("Emulated (tcg): hangs are judged, milliseconds are not.")
    whole += [f"left out: {host_name(host)}" for host in gate.left_out]
    whole += [f"left out: {each}" for each in gate.untried]
    if gate.unread:
        whole.append(f"{gate.unread} lines of the record file could not be read.")
    if len(gate.hosts) == 1:
        cases = _cases(gate.rows, "gate", gate.verdict, gate.sentence)
        return _document(_suite(name, cases, [*whole, *_mixes(gate.rows)]))
    suites = []
    for each in gate.hosts:
        rows = [row for row in gate.rows if row.key.host == each.host]
        cases = _cases(rows, _place(each.host), each.verdict, str(each))
        suites.append(
            _suite(f"{name} on {host_name(each.host)}", cases, [str(each), *_mixes(rows)])
        )
    return _document(
        *suites, _suite(name, [_judged("gate", "verdict", gate.verdict, gate.sentence)], whole)
    )


def _mixes(rows: Sequence[Comparison]) -> list[str]:
    return [f"{row.key.name}: {row.mixes.note}" for row in rows if row.mixes is not None]


def _cases(
    rows: Sequence[Comparison], place: str, verdict: Verdict, sentence: str
) -> list[ElementTree.Element]:
    """Return a case per comparison, and one for a verdict that follows from no single one."""
    cases = [_case(row) for row in rows]
    if not any(len(case) for case in cases) and verdict is not Verdict.PASS:
        cases.append(_judged(place, "verdict", verdict, sentence))
    return cases


def refusal(base: str, candidate: str, why: str) -> bytes:
    """Return a suite with one case, an error, for kernels that cannot be compared.

    :param base: the name by which the caller gave the baseline.
    :param candidate: the name by which the caller gave the candidate.
    :param why: the reason, in a sentence.
    """
    case = _failed("gate", "verdict", "error", why, "cannot compare")
    return _document(_suite(f"{base} -> {candidate}", [case], [why]))


def _document(*suites: ElementTree.Element) -> bytes:
    cases = [case for suite in suites for case in suite.findall("testcase")]
    whole = ElementTree.Element("testsuites", _counts(cases))
    whole.extend(suites)
    ElementTree.indent(whole)
    text: bytes = ElementTree.tostring(whole, encoding="utf-8", xml_declaration=True)
    return text


def _suite(
    name: str, cases: Sequence[ElementTree.Element], output: Sequence[str]
) -> ElementTree.Element:
    """:param output: the lines that CI systems show beside the cases."""
    suite = ElementTree.Element("testsuite", {"name": _text(name), **_counts(cases)})
    suite.extend(cases)
    ElementTree.SubElement(suite, "system-out").text = _text("\n".join(output))
    return suite


def _counts(cases: Sequence[ElementTree.Element]) -> dict[str, str]:
    counts = {
        "tests": len(cases),
        "failures": sum(case.find("failure") is not None for case in cases),
        "errors": sum(case.find("error") is not None for case in cases),
        "skipped": 0,
    }
    return {key: str(value) for key, value in counts.items()}


def _case(row: Comparison) -> ElementTree.Element:
    key = row.key
    by = "" if key.manager is ManagerName.QEMU else f" by {key.manager}"
    name = f"{key.request}{by}{key.shape.unusual}"
    place = f"{_place(key.host)}.{key.scenario}"
    case = _judged(place, name, row.verdict, "; ".join(row.reasons))
    case.set("time", f"{row.candidate.median.ns / NS_PER_S:.6f}" if row.candidate.median else "0")
    return case


def _place(host: Host) -> str:
    return f"kickbench.{host.machine}.{host.kind}-{host.accelerator}"


def _judged(place: str, name: str, verdict: Verdict, why: str) -> ElementTree.Element:
    if verdict is Verdict.PASS:
        return _named(place, name)
    how = "failure" if verdict is Verdict.FAIL else "error"
    return _failed(place, name, how, why, verdict)


def _named(place: str, name: str) -> ElementTree.Element:
    return ElementTree.Element("testcase", {"classname": _text(place), "name": _text(name)})


def _failed(place: str, name: str, how: str, why: str, kind: str) -> ElementTree.Element:
    case = _named(place, name)
    ElementTree.SubElement(case, how, {"message": _text(why), "type": kind})
    return case


def _text(text: str) -> str:
    return _FORBIDDEN.sub("\N{REPLACEMENT CHARACTER}", text)
