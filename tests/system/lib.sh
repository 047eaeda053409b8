# SPDX-License-Identifier: GPL-2.0-or-later
# shellcheck shell=bash
#
# What system tests in bash share. A test sources this file, calls the functions below, and ends with
# tap_end. Results are lines of the Test Anything Protocol on stdout:
#
#	ok N - NAME
#	not ok N - NAME          (what went wrong follows in lines that begin with #)
#	ok N - NAME # SKIP WHY
#
# $tmp is a directory of the test's own that is removed at its end; whatever else must be undone is
# given to on_exit. From the environment: WEFT, the program under test (default build/weft), with
# weft-ctl beside it; WEFT_KERNEL, the directory of a built guest kernel (default: the one for this host).

set -uo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
export WEFT=${WEFT:-$root/build/weft}
tap_count=0 tap_failed=0
exit_commands=()
tmp=$(mktemp -d -t weft-test.XXXXXX)

on_exit() { exit_commands=("$*" "${exit_commands[@]}"); }

exit_run() {
	local command
	for command in "${exit_commands[@]}"; do
		eval "$command"
	done
	rm -rf "$tmp"
}
trap exit_run EXIT
trap 'exit 1' INT TERM HUP

tap_ok() { echo "ok $((++tap_count)) - ${1//#/}"; }

tap_not_ok() { # NAME [DETAILS]
	echo "not ok $((++tap_count)) - ${1//#/}"
	[ -z "${2:-}" ] || tail -n 40 <<<"$2" | sed 's/^/# /'
	tap_failed=$((tap_failed + 1))
}

tap_skip() { echo "ok $((++tap_count)) - ${1//#/} # SKIP $2"; } # NAME WHY

# Passes if COMMAND ends with status 0; what it printed is shown if not.
tap_check() { # NAME COMMAND...
	local name=$1 output status=0
	shift
	output=$("$@" 2>&1) || status=$?
	if ((status == 0)); then tap_ok "$name"; else tap_not_ok "$name" "$output"$'\n'"status $status"; fi
	return $status
}

# Passes if COMMAND ends with STATUS and the pattern TEXT is in what it prints.
tap_check_fails() { # NAME STATUS TEXT COMMAND...
	local name=$1 expected=$2 text=$3 output status=0
	shift 3
	output=$("$@" 2>&1) || status=$?
	if ((status == expected)) && grep -q -e "$text" <<<"$output"; then
		tap_ok "$name"
	else
		tap_not_ok "$name" "$output"$'\n'"status $status, expected $expected and '$text'"
	fi
}

# Ends the test here, passed, if it cannot run.
tap_skip_all() { # NAME WHY
	tap_skip "$1" "$2"
	exit 0
}

tap_end() {
	echo "1..$tap_count"
	((tap_failed == 0))
	exit
}

have_kvm() { [ -r /dev/kvm ] && [ -w /dev/kvm ]; }

# Sets $kernel and $initrd to the tty image's; fails if they are not built.
linux_find() {
	kernel=${WEFT_KERNEL:-$("$root/guest-images/kernel/build" --path --auto)}/bzImage
	initrd=$("$root/guest-images/tty/build" --path)
	[ -r "$kernel" ] && [ -r "$initrd" ]
}

# Waits until COMMAND succeeds, at most SECONDS.
wait_until() { # SECONDS COMMAND...
	local deadline=$((${EPOCHREALTIME/./} + $1 * 1000000))
	shift
	until "$@"; do
		((${EPOCHREALTIME/./} < deadline)) || return 1
		sleep 0.02
	done
}

sha256() { sha256sum | cut -d' ' -f1; }
