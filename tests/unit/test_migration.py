from bench_lib.migration import Phase


def test_a_state_that_qemu_adds_is_no_reason_to_stop() -> None:
    assert Phase("postcopy-device") is Phase.OTHER


def test_states_are_qemus_own_names() -> None:
    assert Phase("postcopy-paused") is Phase.PAUSED
