# SPDX-License-Identifier: BSD-3-Clause

import pytest

from bench_lib.errors import BadShape, ImageError, NotOffered, NotRecoverable
from bench_lib.guest import image
from bench_lib.guest.workloads.description import WORKLOADS, shape_of
from bench_lib.record import Backing, ManagerName, RequestName, ScenarioName, Shape
from bench_lib.settings import Settings
from bench_lib.trial import case
from bench_lib.trial.case import Case
from tests.conftest import CHECKOUT


@pytest.mark.parametrize(
    "shape",
    [
        Shape(vcpus=0),
        Shape(vcpus=256),
        Shape(memory_mib=15),
        Shape(memory_mib=(256 << 10) + 2),
        Shape(memory_mib=4096, image="uaccess"),
        Shape(work="memory"),
        *(
            Shape(cpu=each)
            for each in ("", "help", "host,", "host,,a=off", "host -S", "host,a=b c", "-cpu", "a\n")
        ),
    ],
    ids=str,
)
def test_guests_that_are_impossible_are_refused(shape: Shape) -> None:
    with pytest.raises(BadShape):
        Case(ScenarioName.IDLE, RequestName.STOP, shape)


@pytest.mark.parametrize("shape", [Shape(vcpus=255), Shape(memory_mib=128 << 10)], ids=str)
def test_big_guests_are_possible(shape: Shape) -> None:
    assert Case(ScenarioName.IDLE, RequestName.STOP, shape).shape == shape


@pytest.mark.parametrize(
    ("shape", "staging_s"),
    [(Shape(), 30), (Shape(memory_mib=4096), 150), (Shape(vcpus=64), 90)],
    ids=str,
)
def test_a_big_guest_has_more_time_to_be_staged(shape: Shape, staging_s: float) -> None:
    settings = Settings.from_environment({"HOME": "/"})
    assert Case(ScenarioName.IDLE, RequestName.STOP, shape).staging_s(settings) == staging_s


def test_the_deadline_of_dirty_rate_begins_after_the_second_that_qemu_measures() -> None:
    settings = Settings.from_environment({"HOME": "/", "KICKBENCH_DEADLINE": "1"})
    assert Case(ScenarioName.IDLE, RequestName.STOP).deadline_s(settings) == 1
    assert Case(ScenarioName.IDLE, RequestName.DIRTY_RATE).deadline_s(settings) == 2


def test_an_unknown_guest_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ImageError, match="no guest image 'gupp'; the images are gup, "):
        Case(ScenarioName.IDLE, RequestName.STOP, Shape(image="gupp"))


def test_every_guest_image_is_described() -> None:
    assert set(WORKLOADS) == {*image.manifest(CHECKOUT / "guest-images"), "linux"}


def test_a_shape_has_the_values_of_its_workload_where_none_are_given() -> None:
    assert shape_of("linux") == Shape(memory_mib=128, image="linux", work="memory")
    assert shape_of("linux", memory_mib=256, cpu="host,kvm-pv-eoi=off", work="idle") == Shape(
        memory_mib=256, image="linux", cpu="host,kvm-pv-eoi=off", work="idle"
    )
    assert shape_of("gup") == Shape()


def test_a_cpu_that_is_the_usual_one_makes_no_other_shape() -> None:
    assert shape_of("linux", cpu="host") == shape_of("linux")
    assert shape_of("gup", cpu="qemu64,-pni") == Shape()
    assert shape_of("gup", cpu="host") == Shape(cpu="host")


def test_a_work_that_the_workload_has_not_is_refused() -> None:
    for work, why in (("swim", "'swim' is not one of them"), (None, "linux needs a work: memory")):
        with pytest.raises(BadShape, match=why):
            Case(
                ScenarioName.IDLE, RequestName.STOP, Shape(memory_mib=128, image="linux", work=work)
            )
    with pytest.raises(BadShape, match="image gup takes no --work"):
        Case(ScenarioName.IDLE, RequestName.STOP, Shape(work="idle"))


def test_a_linux_guest_is_not_run_by_libvirt() -> None:
    with pytest.raises(BadShape, match="libvirt does not run Linux guests"):
        Case(ScenarioName.IDLE, RequestName.STOP, shape_of("linux"), manager=ManagerName.LIBVIRT)


def test_an_image_without_a_kernel_of_its_own_cannot_be_booted() -> None:
    with pytest.raises(BadShape, match="gup has nothing to boot; leave out --boot"):
        Case(ScenarioName.IDLE, RequestName.STOP, boot=True)


def test_a_guest_whose_pages_are_lost_cannot_be_recovered() -> None:
    with pytest.raises(NotRecoverable, match="its missing pages are lost with the source"):
        Case(ScenarioName.DEAD_SOURCE, RequestName.STOP, recover=True)


def test_a_guest_that_runs_where_it_was_started_has_nothing_to_recover() -> None:
    with pytest.raises(NotRecoverable, match="no migration"):
        Case(ScenarioName.IDLE, RequestName.STOP, recover=True)


def test_cases_survive_the_way_into_a_lab() -> None:
    cases = [
        Case(ScenarioName.LINK_DOWN, RequestName.CTRL_C),
        Case(
            ScenarioName.PAUSED,
            RequestName.STOP,
            Shape(4, 64, Backing.MEMFD, True, "uaccess", "host,kvm-steal-time=off"),
            True,
        ),
    ]
    assert case.from_json(case.to_json(cases)) == cases


def test_cases_that_differ_have_names_that_differ() -> None:
    cases = [
        Case(ScenarioName.PAUSED, RequestName.STOP),
        Case(ScenarioName.PAUSED, RequestName.STOP, recover=True),
        Case(ScenarioName.PAUSED, RequestName.STOP, Shape(vcpus=2)),
        Case(ScenarioName.PAUSED, RequestName.STOP, Shape(preempt=True)),
        Case(ScenarioName.PAUSED, RequestName.STOP, Shape(cpu="host")),
        Case(ScenarioName.PAUSED, RequestName.STOP, Shape(cpu="host,kvm-pv-eoi=off")),
    ]
    assert len({each.name for each in cases}) == len(cases)
    assert cases[0].name == "paused/stop"


def test_a_case_that_boots_its_guest_has_another_name() -> None:
    cases = [
        Case(ScenarioName.IDLE, RequestName.STOP, shape_of("linux"), boot=boot)
        for boot in (False, True)
    ]
    assert [each.name for each in cases] == [
        "idle/stop/linux,1,128,anonymous,False/memory",
        "idle/stop/linux,1,128,anonymous,False/memory/boot",
    ]


def test_a_frozen_qemu_is_only_sent_requests_that_the_kernel_answers() -> None:
    for then in (RequestName.SIGKILL, RequestName.PROC_MAPS, RequestName.PS):
        Case(ScenarioName.BLACKHOLE, RequestName.CGROUP_FREEZE, then=then)
    for then in (RequestName.STOP, RequestName.CGROUP_FREEZE, RequestName.GDB_ATTACH):
        with pytest.raises(NotOffered, match=r"would not answer .* are sigkill, proc-maps, ps\."):
            Case(ScenarioName.BLACKHOLE, RequestName.CGROUP_FREEZE, then=then)
    Case(ScenarioName.BLACKHOLE, RequestName.STOP, then=RequestName.CGROUP_FREEZE)


def test_a_qemu_that_the_scenario_keeps_in_a_cgroup_is_not_frozen_with_another_one() -> None:
    freeze, high = RequestName.CGROUP_FREEZE, ScenarioName.MEMORY_HIGH
    for request, then in ((freeze, None), (RequestName.STOP, freeze)):
        with pytest.raises(NotOffered, match="memory-high needs QEMU in a cgroup of its own"):
            Case(high, request, then=then)
    Case(high, RequestName.STOP)
    Case(ScenarioName.SWAP_MEMFD, freeze)


def test_only_one_memory_module_is_plugged_into_a_guest() -> None:
    plug = RequestName.PLUG_MEMORY
    with pytest.raises(NotOffered, match="one memory module"):
        Case(ScenarioName.BLACKHOLE, plug, then=plug)
    Case(ScenarioName.BLACKHOLE, plug, then=RequestName.STOP)


def test_nothing_follows_a_core_dump() -> None:
    with pytest.raises(NotOffered, match="core-dump ends the guest"):
        Case(ScenarioName.BLACKHOLE, RequestName.CORE_DUMP, then=RequestName.STOP)
    with pytest.raises(NotRecoverable, match="core-dump ends the guest"):
        Case(ScenarioName.BLACKHOLE, RequestName.CORE_DUMP, recover=True)


def test_a_store_in_memory_is_one_more_copy_of_the_guests_memory() -> None:
    assert Case(ScenarioName.IDLE, RequestName.STOP).copies == 1
    assert Case(ScenarioName.FUSE_HOLD, RequestName.STOP).copies == 2
    assert Case(ScenarioName.MEMORY_HIGH, RequestName.STOP).copies == 1


def test_a_core_dump_copies_the_memory_of_the_guest() -> None:
    scenario = ScenarioName.BLACKHOLE
    assert Case(scenario, RequestName.STOP).copies == 2
    assert Case(scenario, RequestName.CORE_DUMP).copies == 3
    assert Case(scenario, RequestName.STOP, then=RequestName.CORE_DUMP).copies == 3


def test_a_linux_guest_that_is_given_memory_does_not_start_from_a_state_without_its_slot() -> None:
    shape = shape_of("linux")
    plug, stop = RequestName.PLUG_MEMORY, RequestName.STOP
    assert Case(ScenarioName.BLACKHOLE, plug, shape).boots
    assert Case(ScenarioName.BLACKHOLE, stop, shape, then=plug).boots
    assert not Case(ScenarioName.BLACKHOLE, stop, shape).boots
    assert Case(ScenarioName.BLACKHOLE, stop, shape, boot=True).boots
