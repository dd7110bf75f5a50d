"""A verdict as CI systems read it: JUnit XML."""

from __future__ import annotations

from xml.etree import ElementTree

from bench_lib.verdict.gate import Comparison, Gate, Verdict


def document(gate: Gate) -> bytes:
    """A suite with a case for each comparison, in the form that GitLab, GitHub and Jenkins share.

    What is inconclusive is an error: neither that system nor its readers may take it for a pass.
    """
    name = f"{gate.base.release} -> {gate.candidate.release}"
    counts = {
        "tests": len(gate.rows),
        "failures": sum(row.verdict is Verdict.FAIL for row in gate.rows),
        "errors": sum(row.verdict is Verdict.INCONCLUSIVE for row in gate.rows),
        "skipped": 0,
    }
    attributes = {key: str(value) for key, value in counts.items()}
    suites = ElementTree.Element("testsuites", attributes)
    suite = ElementTree.SubElement(suites, "testsuite", {"name": name, **attributes})
    for row in gate.rows:
        _add(suite, row)
    ElementTree.SubElement(suite, "system-out").text = gate.sentence
    ElementTree.indent(suites)
    text: bytes = ElementTree.tostring(suites, encoding="utf-8", xml_declaration=True)
    return text


def _add(suite: ElementTree.Element, row: Comparison) -> None:
    case = ElementTree.SubElement(
        suite,
        "testcase",
        {
            "classname": f"kickbench.{row.host.kind}-{row.host.accelerator}.{row.scenario}",
            "name": str(row.request),
            "time": f"{row.candidate.median.ns / 1e9:.6f}" if row.candidate.median else "0",
        },
    )
    text = "; ".join(row.reasons)
    if row.verdict is Verdict.FAIL:
        ElementTree.SubElement(case, "failure", {"message": text})
    elif row.verdict is Verdict.INCONCLUSIVE:
        ElementTree.SubElement(case, "error", {"message": text, "type": "inconclusive"})
