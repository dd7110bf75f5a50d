#!/bin/bash
# SPDX-License-Identifier: BSD-3-Clause
# Measures the boot that this host is in, then boots it again, until there are enough boots. tmt
# starts this script again after each boot.
set -eu
shopt -s nullglob

# Print the kernel of boot $1, from 0, so that kernels are interleaved (A B, B A, A B).
wanted() {
    local kernels place
    read -ra kernels <<<"$KERNELS"
    [ ${#kernels[@]} -gt 0 ] || { uname -r; return; }
    place=$(($1 % ${#kernels[@]}))
    (($1 / ${#kernels[@]} % 2 == 0)) || place=$((${#kernels[@]} - 1 - place))
    echo "${kernels[place]}"
}

# Reboot into the kernel of boot $1.
boot() {
    [ -z "$BOOT_INTO" ] || exec tmt-reboot -c "$BOOT_INTO $(wanted "$1")"
    exec tmt-reboot
}

cd "$TMT_TEST_DATA"
made=(*_*.jsonl)
read -r id </proc/sys/kernel/random/boot_id
file=$(uname -n)_$(uname -r)_$id.jsonl
kernels=$(wc -w <<<"$KERNELS")
total=$((BOOTS * (kernels > 0 ? kernels : 1)))

if [ ! -e "$file" ]; then
    if [ "$(uname -r)" != "$(wanted ${#made[@]})" ]; then
        asked=asked-${#made[@]}
        [ ! -e "$asked" ] || { echo "The host has booted $(uname -r) and not $(wanted ${#made[@]}); see BOOT_INTO." >&2; exit 1; }
        touch "$asked"
        boot ${#made[@]}
    fi
    status=0
    # Each boot has a record file of its own. It gets its name when it is whole.
    rm -f part
    KICKBENCH_RECORDS=$PWD/part $KICKBENCH $MEASURE || status=$?
    # 4, 5 and 28 also leave records of a whole boot: see docs/reference/exit-statuses.md.
    case $status in
    0 | 4 | 5 | 28) mv part "$file" ;;
    *) exit 1 ;;
    esac
    made+=("$file")
fi
[ ${#made[@]} -ge "$total" ] || boot ${#made[@]}
