# SPDX-License-Identifier: BSD-3-Clause
"""The page Kernels in a real browser, from files and from a server."""

from __future__ import annotations

import dataclasses
import itertools
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import Select, WebDriverWait

from bench_lib import record
from bench_lib.record import (
    Entry,
    Evidence,
    Kernel,
    ManagerName,
    Outcome,
    Record,
    RequestName,
    Role,
    ScenarioName,
    WaitsFor,
)
from bench_lib.settings import CHECKOUT
from tests.conftest import HANG_S
from tests.make import STUCK, thread
from tests.make import record as make
from tests.site.conftest import ASV, EVIL, KERNELS, LOST, Browser, Publish, records

HUNG, FINE, NASTY = (kernel.release for kernel in KERNELS)


@pytest.fixture
def server(site: Path, history: Path) -> Iterator[str]:
    """`asv preview`; its address."""
    preview = subprocess.Popen(
        [ASV, "preview", "--port", "0"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert preview.stdout is not None
    try:
        for line in preview.stdout:
            if found := re.search(r"http://127\.0\.0\.1:\d+/", line):
                break
        assert found
        yield found[0]
    finally:
        preview.terminate()
        preview.wait()
        preview.stdout.close()


def wait(browser: Browser, until: Callable[[], object]) -> None:
    WebDriverWait(browser.driver, HANG_S).until(lambda _: until())


def one(browser: Browser, selector: str) -> WebElement:
    return browser.driver.find_element(By.CSS_SELECTOR, selector)


def every(browser: Browser, selector: str) -> list[WebElement]:
    return browser.driver.find_elements(By.CSS_SELECTOR, selector)


def open_page(browser: Browser, address: str) -> None:
    browser.driver.get(address)
    wait(browser, lambda: every(browser, "#matrix tbody tr"))


def cell(browser: Browser, release: str, scenario: str) -> WebElement:
    (found,) = [
        each
        for each in every(browser, "#matrix button")
        if (each.get_attribute("aria-label") or "").startswith(f"{release}, stop in {scenario}")
    ]
    return found


@pytest.mark.parametrize("where", ["file", "server"])
def test_a_cell_leads_to_its_trials_and_these_to_their_evidence(
    browser: Browser, site: Path, request: pytest.FixtureRequest, where: str
) -> None:
    address = (
        request.getfixturevalue("server") if where == "server" else site.as_uri() + "/index.html"
    )
    open_page(browser, address)
    assert [each.text for each in every(browser, "#matrix thead th")] == [
        "kernel", "stop\nidle", "stop\nblackhole",
    ]  # fmt: skip
    assert cell(browser, HUNG, "blackhole").text == "✕ > 5.0 s\n4/4 hung"
    assert cell(browser, FINE, "blackhole").text == "✓ 2.55 ms\n0/4 hung, 1 lost"

    cell(browser, FINE, "blackhole").click()
    wait(browser, lambda: every(browser, "#dots .dot"))
    assert len(every(browser, "#dots circle.dot")) == 4
    (lost,) = every(browser, "#dots .dot.lost")
    lost.click()
    assert LOST in one(browser, "#evidence").text
    assert LOST in one(browser, "#reasons").text
    # By default it is compared with the kernel before it, whose requests all hung.
    assert Select(one(browser, "#against")).first_selected_option.text.startswith(HUNG)
    wait(browser, lambda: len(every(browser, "#survival .line")) == 2)

    cell(browser, HUNG, "blackhole").click()
    wait(browser, lambda: len(every(browser, "#dots .dot.hung")) == 4)
    assert one(browser, "#summary").text.endswith("vCPUs before the request: gup.")
    every(browser, "#dots .dot")[0].click()
    evidence = one(browser, "#evidence").text
    assert "vCPUs before the request gup" in evidence
    assert "asleep, no answer in 5.0 s" in evidence
    assert "vCPU 0 just before the request: state S, handle_userfault, entry gup" in evidence
    assert "waits for userfault" in evidence
    assert "handle_userfault\n__get_user_pages\nhva_to_pfn" in evidence


def test_a_cell_counts_the_paths_on_which_vcpus_were_stuck(
    browser: Browser, history: Path, publish: Publish
) -> None:
    mixes = [[Entry.UACCESS, Entry.GUP, Entry.UACCESS]] * 2 + [[Entry.GUP] * 3]
    for entries in mixes:
        vcpus = tuple(
            dataclasses.replace(
                thread("S", "handle_userfault", STUCK, entry, WaitsFor.USERFAULT), vcpu=number
            )
            for number, entry in enumerate(entries)
        )
        made = dataclasses.replace(make(), evidence=Evidence(vcpus))
        record.append(history / ".asv" / "records.jsonl", made)
    assert publish().returncode == 0
    open_page(browser, (history / ".asv" / "html" / "index.html").as_uri())
    every(browser, "#matrix button")[0].click()
    wait(browser, lambda: one(browser, "#summary").text)
    assert one(browser, "#summary").text.endswith(
        "vCPUs before the request: 2 uaccess, 1 gup (2 trials); 3 gup (1 trial)."
    )


def test_hung_trials_are_on_the_line_of_their_deadline(browser: Browser, site: Path) -> None:
    open_page(browser, site.as_uri() + "/index.html")
    cell(browser, HUNG, "blackhole").click()
    wait(browser, lambda: every(browser, "#dots .dot.hung"))
    line = float(one(browser, "#dots .deadline").get_attribute("x1") or "nan")
    for dot in every(browser, "#dots .dot.hung"):
        assert float((dot.get_attribute("d") or "")[1:].split()[0]) == line


def test_no_trial_of_a_boot_hides_another(
    browser: Browser, history: Path, publish: Publish
) -> None:
    """Eight trials, as many as asv makes, which all hung until the same deadline."""
    record.append(history / ".asv" / "records.jsonl", *[make(Outcome.ASLEEP)] * 8)
    assert publish().returncode == 0
    open_page(browser, (history / ".asv" / "html" / "index.html").as_uri())
    every(browser, "#matrix button")[0].click()
    wait(browser, lambda: len(every(browser, "#dots .dot")) == 8)
    tops = sorted(each.rect["y"] for each in every(browser, "#dots .dot"))
    heights = [each.rect["height"] for each in every(browser, "#dots .dot")]
    gaps = [after - before for before, after in itertools.pairwise(tops)]
    assert min(gaps) >= max(heights) - 1


def test_a_trial_with_a_short_deadline_is_censored_there(
    browser: Browser, history: Path, publish: Publish
) -> None:
    """Kaplan and Meier: the second of three trials is censored after two milliseconds."""
    trials = [make(latency_ms=1.0), make(Outcome.ASLEEP), make(latency_ms=4.0)]
    trials[1] = dataclasses.replace(trials[1], deadline_ns=2_000_000)
    record.append(history / ".asv" / "records.jsonl", *trials)
    assert publish().returncode == 0
    open_page(browser, (history / ".asv" / "html" / "index.html").as_uri())
    every(browser, "#matrix button")[0].click()
    wait(browser, lambda: every(browser, "#survival .line"))
    path = one(browser, "#survival .line").get_attribute("d") or ""
    whole, none = (
        float(one(browser, f"#survival line.grid[x1='70'][y1='{y}']").get_attribute("y1") or "nan")
        for y in (24, 186)
    )
    shares = [(none - float(y)) / (none - whole) for y in re.findall(r"V([\d.]+)", path)]
    assert shares == pytest.approx([2 / 3, 0])


def publish_alone(history: Path, publish: Publish, *made: Record) -> str:
    """Publish a site of these records, and return the address of its page."""
    record.append(history / ".asv" / "records.jsonl", *made)
    assert publish().returncode == 0
    return (history / ".asv" / "html" / "index.html").as_uri()


def test_a_kernel_has_room_beside_many_columns(
    browser: Browser, history: Path, publish: Publish
) -> None:
    """The columns of libvirt's guests are apart from those of QEMU's, and twice as many."""
    many = [
        dataclasses.replace(make(), scenario=scenario, manager=manager)
        for scenario in ScenarioName
        for manager in ManagerName
    ]
    open_page(browser, publish_alone(history, publish, *many))
    heads = [each.text for each in every(browser, "#matrix thead th[scope=col]")]
    assert len(heads) == 1 + len(many)
    assert "stop\nblackhole by libvirt" in heads
    kernel = one(browser, "#matrix tbody th")
    assert kernel.size["width"] > 2 * kernel.size["height"]


def heads(browser: Browser) -> list[list[str]]:
    """The texts of the rows of the table's head."""
    return [
        [each.text for each in row.find_elements(By.CSS_SELECTOR, "th")]
        for row in every(browser, "#matrix thead tr")
    ]


def test_families_are_shown_apart_and_can_be_chosen(
    browser: Browser, history: Path, publish: Publish
) -> None:
    made = [
        make(scenario=scenario)
        for scenario in (ScenarioName.FUSE_HOLD, ScenarioName.BLACKHOLE, ScenarioName.IDLE)
    ]
    killed = [dataclasses.replace(each, request=RequestName.SIGKILL) for each in made[:2]]
    open_page(browser, publish_alone(history, publish, *made, *killed))
    idle = "stop\nidle"
    migration = ["stop\nblackhole", "sigkill\nblackhole"]
    storage = ["stop\nfuse-hold", "sigkill\nfuse-hold"]
    assert heads(browser) == [
        ["kernel", "no outage", "migration", "storage"],
        [idle, *migration, *storage],
    ]
    spans = [int(each.get_attribute("colspan") or 0) for each in every(browser, "#matrix .family")]
    assert spans == [1, 2, 2]
    Select(one(browser, "#family")).select_by_value("storage")
    assert heads(browser) == [["kernel", "no outage", "storage"], [idle, *storage]]
    assert len(every(browser, "#matrix tbody td")) == 3
    # A cell leads to its own trials, wherever its column is.
    every(browser, "#matrix button")[1].click()
    wait(browser, lambda: every(browser, "#dots .dot"))
    assert one(browser, "#what").text.startswith("stop in fuse-hold: ")
    Select(one(browser, "#family")).select_by_visible_text("all")
    assert heads(browser)[1] == [idle, *migration, *storage]


def test_one_family_alone_needs_no_choice(
    browser: Browser, history: Path, publish: Publish
) -> None:
    made = [make(scenario=each) for each in (ScenarioName.IDLE, ScenarioName.FUSE_HOLD)]
    open_page(browser, publish_alone(history, publish, *made))
    assert heads(browser) == [["kernel", "stop\nidle", "stop\nfuse-hold"]]
    assert not one(browser, "#family").is_displayed()


def test_the_families_stay_in_view_in_a_long_table(
    browser: Browser, history: Path, publish: Publish
) -> None:
    made = [
        dataclasses.replace(make(scenario=scenario), kernel=Kernel(f"6.{number}", "#1"))
        for number in range(40)
        for scenario in (ScenarioName.BLACKHOLE, ScenarioName.FUSE_HOLD)
    ]
    open_page(browser, publish_alone(history, publish, *made))
    browser.run("document.querySelector('.scroll').scrollTop = 1000")
    top = one(browser, ".scroll").rect["y"]
    family, column = (
        one(browser, selector).rect for selector in ("#matrix .family", "#matrix tr + tr th")
    )
    assert top <= family["y"] < column["y"] < top + 100


def test_refusals_are_shown_apart(browser: Browser, history: Path, publish: Publish) -> None:
    refused = make(Outcome.REFUSED, 30.0, reason="The lock is held.")
    alone = dataclasses.replace(refused, scenario=ScenarioName.PAUSED)
    open_page(browser, publish_alone(history, publish, make(), refused, alone))
    some, all_ = (each.text for each in every(browser, "#matrix button"))
    assert some == "◐ 1.00 ms\n0/2 hung, 1 refused"
    assert all_ == "⊘ 30 ms\n0/1 hung, 1 refused"
    every(browser, "#matrix button")[0].click()
    wait(browser, lambda: len(every(browser, "#dots .dot")) == 2)
    (dot,) = every(browser, "#dots .dot.refused")
    dot.click()
    assert "refused after 30 ms: The lock is held." in one(browser, "#evidence").text
    # The curve has only the answer, not the refusal.
    wait(browser, lambda: every(browser, "#survival .line"))
    assert (one(browser, "#survival .line").get_attribute("d") or "").count("V") == 1


def test_the_thread_that_blocks_an_answer_is_marked(
    browser: Browser, history: Path, publish: Publish
) -> None:
    stuck = thread("D", "handle_userfault", STUCK, Entry.GUP, WaitsFor.USERFAULT)
    main = dataclasses.replace(
        stuck, tid=10, role=Role.MAIN, vcpu=None, state="S", wchan="futex_wait_queue", stack=()
    )
    made = dataclasses.replace(
        make(Outcome.ASLEEP),
        evidence=Evidence((stuck,), (main, stuck), pending=("SIGTERM",), blocker=stuck.tid),
        late_ns=6_200_000_000,
        survivors=("QEMU 4711",),
    )
    open_page(browser, publish_alone(history, publish, made))
    every(browser, "#matrix button")[0].click()
    wait(browser, lambda: every(browser, "#dots .dot"))
    every(browser, "#dots .dot")[0].click()
    blocker = one(browser, "#evidence h4.blocks").text
    assert blocker.startswith("vCPU 0 at the end: state D, handle_userfault, entry gup")
    assert blocker.endswith("it blocks the answer")
    text = one(browser, "#evidence").text
    assert "main at the end: state S, futex_wait_queue" in text
    assert "asleep, no answer in 5.0 s; answered after 6.2 s, too late" in text
    assert "SIGTERM" in text
    assert "QEMU 4711" in text


def test_a_lab_that_did_not_come_up_does_not_count_as_a_boot(
    browser: Browser, history: Path, publish: Publish
) -> None:
    lost = dataclasses.replace(make(Outcome.LOST, reason="It did not come up."), boot_id="")
    open_page(browser, publish_alone(history, publish, make(), make(), lost))
    (head,) = every(browser, "#matrix tbody th")
    assert head.text.endswith(", 1 boot")
    every(browser, "#matrix button")[0].click()
    wait(browser, lambda: len(every(browser, "#dots .dot")) == 3)
    assert "3 trials in 1 boot: median" in one(browser, "#summary").text
    labels = [each.text for each in every(browser, "#dots svg > text")]
    assert labels[-2:] == ["boot 1", "no boot"]


def test_the_page_can_be_used_with_the_keyboard_alone(browser: Browser, site: Path) -> None:
    open_page(browser, site.as_uri() + "/index.html")

    def press(*keys: str) -> None:
        ActionChains(browser.driver).send_keys(*keys).perform()

    def focused() -> str:
        return str(browser.run("return document.activeElement.getAttribute('aria-label')"))

    one(browser, "#filter").click()
    press(Keys.TAB)
    assert browser.run("return document.activeElement.id") == "host"
    press(Keys.TAB)
    assert focused().startswith(f"{HUNG}, stop in idle")
    press(Keys.ARROW_RIGHT)
    assert focused().startswith(f"{HUNG}, stop in blackhole")
    press(Keys.ARROW_DOWN)
    assert focused().startswith(f"{FINE}, stop in blackhole")
    press(Keys.ENTER)
    wait(browser, lambda: every(browser, "#dots .dot"))
    press(Keys.TAB)
    assert focused().startswith("trial 1 of run")
    press(Keys.ARROW_RIGHT, Keys.ENTER)
    assert "returned after" in one(browser, "#evidence").text


def test_the_filter_keeps_the_kernels_with_all_its_words(browser: Browser, site: Path) -> None:
    open_page(browser, site.as_uri() + "/index.html")
    one(browser, "#filter").send_keys("debian 6.12")
    wait(browser, lambda: one(browser, "#count").text == "1 of 3 kernels, 1 of 2 hosts")
    assert [each.text for each in every(browser, "#matrix tbody th")] == [
        f"{FINE}\nsomewhere\nnative (kvm), 2 boots"
    ]


def on(machine: str, made: Record) -> Record:
    """The record of another host, which needed twice as long there."""
    host = dataclasses.replace(made.host, machine=machine)
    latency_ns = None if made.latency_ns is None else 2 * made.latency_ns
    return dataclasses.replace(made, host=host, latency_ns=latency_ns)


@pytest.fixture
def two_hosts(history: Path, publish: Publish) -> str:
    """The address of a page with two kernels on each of two hosts."""
    here = [each for each in records() if each.kernel.release in {HUNG, FINE}]
    there = [on("host-10", each) for each in here]
    return publish_alone(history, publish, *here, *there)


def rows(browser: Browser) -> list[tuple[str, str]]:
    """The release and the host of each row."""
    texts = [each.text.splitlines() for each in every(browser, "#matrix tbody th")]
    return [(release, machine) for release, machine, _ in texts]


def test_each_row_names_its_host_and_one_host_can_be_chosen(
    browser: Browser, two_hosts: str
) -> None:
    open_page(browser, two_hosts)
    assert rows(browser) == [
        (HUNG, "host-10"), (HUNG, "somewhere"), (FINE, "host-10"), (FINE, "somewhere"),
    ]  # fmt: skip
    assert one(browser, "#count").text == "2 of 2 kernels, 2 of 2 hosts"
    chosen = Select(one(browser, "#host"))
    assert [each.text for each in chosen.options] == ["all", "host-10", "somewhere"]
    chosen.select_by_visible_text("host-10")
    assert rows(browser) == [(HUNG, "host-10"), (FINE, "host-10")]
    assert one(browser, "#count").text == "2 of 2 kernels, 1 of 2 hosts"
    assert cell(browser, FINE, "idle").text.startswith("✓ 5.10 ms")
    chosen.select_by_visible_text("all")
    assert len(rows(browser)) == 4


def test_the_address_keeps_the_chosen_host(browser: Browser, two_hosts: str) -> None:
    open_page(browser, two_hosts)
    Select(one(browser, "#host")).select_by_visible_text("somewhere")
    address = browser.driver.current_url
    assert address.endswith("#host=somewhere")
    browser.driver.get("about:blank")
    open_page(browser, address)
    assert Select(one(browser, "#host")).first_selected_option.text == "somewhere"
    assert {machine for _, machine in rows(browser)} == {"somewhere"}
    browser.run("location.hash = '#host=host-10'")
    wait(browser, lambda: {machine for _, machine in rows(browser)} == {"host-10"})
    browser.run("location.hash = '#host=gone'")
    wait(browser, lambda: len(rows(browser)) == 4)


def test_a_kernel_is_compared_with_one_of_its_own_host_first(
    browser: Browser, two_hosts: str
) -> None:
    open_page(browser, two_hosts + "#host=somewhere")
    cell(browser, FINE, "blackhole").click()
    wait(browser, lambda: every(browser, "#survival .line"))
    assert one(browser, "#what").text == f"stop in blackhole: {FINE} on somewhere"
    title = f"Still waiting: {FINE} on somewhere (solid) and {HUNG} on somewhere (dashed)"
    assert one(browser, "#against-title").text == title
    against = Select(one(browser, "#against"))
    assert against.first_selected_option.text == f"{HUNG}, native (kvm) on somewhere"
    groups = every(browser, "#against optgroup")
    assert [each.get_attribute("label") for each in groups] == ["on somewhere", "on other hosts"]
    assert [each.text for each in against.options] == [
        f"{HUNG}, native (kvm) on somewhere",
        f"{HUNG}, native (kvm) on host-10",
        f"{FINE}, native (kvm) on host-10",
    ]


def test_a_row_of_two_machines_of_one_name_says_so(
    browser: Browser, history: Path, publish: Publish
) -> None:
    made = [dataclasses.replace(make(), machine_id=each) for each in ("c0ffee", "0b5e55ed")]
    open_page(browser, publish_alone(history, publish, *made))
    (head,) = every(browser, "#matrix tbody th")
    assert "2 machines of this name" in head.text
    title = (head.get_attribute("title") or "").splitlines()
    assert title == [made[0].kernel.version, "machine 0b5e55ed", "machine c0ffee"]


def test_a_page_of_one_host_does_not_offer_hosts(
    browser: Browser, history: Path, publish: Publish
) -> None:
    open_page(browser, publish_alone(history, publish, make()))
    assert not one(browser, "#hosts").is_displayed()
    assert one(browser, "#count").text == "1 of 1 kernels"
    (head,) = every(browser, "#matrix tbody th")
    assert head.text == "6.1.0-56-amd64\nnative (kvm), 1 boot"


def test_no_text_of_a_record_becomes_markup(browser: Browser, site: Path) -> None:
    open_page(browser, site.as_uri() + "/index.html")
    assert NASTY in [each.text.partition("\n")[0] for each in every(browser, "#matrix tbody th")]
    cell(browser, NASTY, "blackhole").click()
    wait(browser, lambda: every(browser, "#dots .dot"))
    every(browser, "#dots .dot")[0].click()
    assert EVIL in one(browser, "#summary").text
    assert EVIL in one(browser, "#evidence").text
    assert not every(browser, "main img, main script")
    assert browser.run("return window.hacked") is None


@pytest.mark.parametrize("width", [1280, 400])
def test_the_page_is_not_wider_than_its_window(browser: Browser, site: Path, width: int) -> None:
    browser.size(width)
    open_page(browser, site.as_uri() + "/index.html")
    cell(browser, HUNG, "blackhole").click()
    wait(browser, lambda: every(browser, "#survival .line"))
    assert browser.run("return document.documentElement.scrollWidth") <= width
    (dots,) = every(browser, "#dots svg")
    assert dots.size["width"] <= width


@pytest.mark.usefixtures("browser")
def test_the_tool_takes_the_pictures_of_the_documentation(site: Path, tmp_path: Path) -> None:
    """The pictures of docs/, which README.md shows too."""
    tool = CHECKOUT / "tools" / "picture.py"
    subprocess.run([sys.executable, tool, site, tmp_path], check=True, timeout=HANG_S)
    for width in (1280, 400):
        header = (tmp_path / f"kernels-{width}.png").read_bytes()[:24]
        assert header[:8] == b"\x89PNG\r\n\x1a\n"
        assert int.from_bytes(header[16:20]) == width


def test_the_history_works_without_a_network(browser: Browser, server: str) -> None:
    open_page(browser, server)
    one(browser, "#history").click()
    wait(browser, lambda: "vm_stop" in one(browser, "body").text)


def test_from_a_file_the_page_says_that_the_history_needs_a_server(
    browser: Browser, site: Path
) -> None:
    open_page(browser, site.as_uri() + "/index.html")
    assert "asv preview" in one(browser, "nav").text
    assert not every(browser, "nav a")


def test_records_alone_make_a_site(browser: Browser, history: Path, publish: Publish) -> None:
    """Like the records of a campaign, before asv has run anything."""
    record.append(history / ".asv" / "records.jsonl", *records())
    done = publish()
    assert done.returncode == 0, done.stdout + done.stderr
    open_page(browser, (history / ".asv" / "html" / "index.html").as_uri())
    assert len(every(browser, "#matrix tbody tr")) == 3
    assert "asv run starts one" in one(browser, "nav").text


def test_without_records_the_page_says_so(
    browser: Browser, history: Path, publish: Publish
) -> None:
    assert publish().returncode == 0
    browser.driver.get((history / ".asv" / "html" / "index.html").as_uri())
    wait(browser, lambda: one(browser, "#count").text == "No trials are recorded yet.")
