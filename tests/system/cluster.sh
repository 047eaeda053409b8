#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# Clusters of Linux guests on one overlay, as a user has them: weft-cluster, weft-ctl, the guest agent,
# and the frames between the guests, under load and with what may go wrong.

# shellcheck disable=SC2317 # the tests are functions that tap_check calls
# shellcheck source=tests/system/lib.sh
source "$(dirname "$0")/lib.sh"

readonly CYCLES=${CLUSTER_CYCLES:-20}
readonly LIMIT=300 # seconds to wait for what must come: only what never comes takes so long
readonly LOAD_SECONDS=3
readonly IMAGES_MAX=12000000 # bytes of kernel and root image together
readonly DATA_MIB=24

ctl=${WEFT%/*}/weft-ctl
export XDG_RUNTIME_DIR=$tmp/run
run=$XDG_RUNTIME_DIR/weft
mkdir "$XDG_RUNTIME_DIR"

have_kvm || tap_skip_all "cluster" "no access to /dev/kvm"
linux_find || tap_skip_all "cluster" "the tty image is not built"

cluster() { timeout $LIMIT "$root/tools/weft-cluster" "$@"; }
up() { cluster up --timeout $LIMIT --kernel "$kernel" --initrd "$initrd" "$@"; }
in_vm() { cluster exec "$@"; } # VM COMMAND...
vm_runs_not() { ! in_vm "$1" -- pgrep "${@:2}" </dev/null >/dev/null; } # VM PGREP-ARGUMENTS...
vm_pid() { cut -d' ' -f1 "$run/weft/$1/pid"; }
on_exit 'cluster down --force >/dev/null 2>&1'

# The processes that this test started and that still are VMs.
processes() { pgrep -f "^$WEFT run .*$run/" || true; }
no_process() { [ -z "$(processes)" ]; }
nothing_left() {
	wait_until $LIMIT no_process
	processes
	find "$run" 2>/dev/null
	no_process && [ ! -e "$run" ]
}

# --- up and what it says ------------------------------------------------------------------------

table_is_right() {
	cluster up -n 2 --timeout $LIMIT >"$tmp/table" || return # the images of `make demo`
	cat "$tmp/table"
	[ "$(wc -l <"$tmp/table")" = 3 ] &&
		grep -Eq '^weft-1 +10\.77\.0\.1 +02:00:00:01:00:01 +[0-9]+ +[0-9]+$' "$tmp/table" &&
		grep -Eq '^weft-2 +10\.77\.0\.2 +02:00:00:01:00:02 +[0-9]+ +[0-9]+$' "$tmp/table"
}

# What VM 1 has booted, by its own record.
images_are_small() {
	local kernel initrd size
	{ read -r kernel && read -r initrd; } < <(tr '\0' '\n' <"/proc/$(vm_pid 1)/cmdline" |
		sed -n -e '/^--kernel$/{n;p}' -e '/^--initrd$/{n;p}')
	size=$(($(stat -Lc %s "$kernel") + $(stat -Lc %s "$initrd")))
	echo "$kernel and $initrd: $size bytes"
	((size > 0 && size <= IMAGES_MAX))
}

guest_is_as_derived() {
	[ "$(in_vm 2 hostname)" = weft-2 ] && in_vm weft-2 -- ip addr show eth0 >"$tmp/eth0" &&
		cat "$tmp/eth0" && grep -q 02:00:00:01:00:02 "$tmp/eth0" && grep -q 10.77.0.2/16 "$tmp/eth0"
}

status_is_json() {
	cluster status --json | python3 -c '
import json, sys
c = json.load(sys.stdin)
assert c["ready"] and [vm["state"] for vm in c["vms"]] == ["running"] * 2, c
assert all(vm["status"]["agent_up"] for vm in c["vms"]), c'
}

modes_are_private() {
	stat -c '%a %n' "$run/weft" "$run"/weft/1/*.sock
	[ "$(stat -c %a "$run/weft")" = 700 ] &&
		[ "$(stat -c %a "$run"/weft/?/*.sock | sort -u)" = 600 ]
}

# --- the agent ----------------------------------------------------------------------------------

exec_passes_all() {
	local status=0
	echo in | in_vm 1 -- sh -c 'cat; echo err >&2; exit 7' >"$tmp/out" 2>"$tmp/err" || status=$?
	head "$tmp/out" "$tmp/err"
	[ "$(cat "$tmp/out") $(cat "$tmp/err") $status" = "in err 7" ]
}

# The end of the input comes by itself, when the guest has nothing else to do.
exec_passes_late_end() {
	[ "$({ echo in && sleep 1; } | in_vm 1 cat)" = in ]
}

exec_passes_signals() {
	local status=0
	in_vm 1 -- sh -c 'kill -9 $$' || status=$?
	((status == 128 + 9))
}

exec_keeps_data() {
	local sent received
	head -c "${DATA_MIB}M" /dev/urandom >"$tmp/data"
	sent=$(sha256 <"$tmp/data")
	received=$(in_vm 1 cat <"$tmp/data" | sha256)
	[ "$sent" = "$received" ]
}

exec_many_at_once() {
	local i pids=()
	for i in {1..40}; do
		{ [ "$(in_vm 1 -- echo "number $i" </dev/null)" = "number $i" ]; } &
		pids+=($!)
	done
	for i in "${pids[@]}"; do
		wait "$i" || return 1
	done
}

# A reader that does not read (we only hold the pipe open) holds up its own command and nobody else.
exec_deaf_client() {
	local i pipe deaf status=0
	mkfifo "$tmp/pipe"
	exec {pipe}<>"$tmp/pipe"
	"$ctl" "$run/weft/1/ctl.sock" exec yes </dev/null >&"$pipe" &
	deaf=$!
	sleep 0.5
	for i in {1..5}; do
		timeout $LIMIT "$ctl" "$run/weft/1/ctl.sock" exec true || status=1
	done
	kill "$deaf"
	wait "$deaf"
	exec {pipe}<&-
	return "$status"
}

exec_client_gone() {
	"$ctl" "$run/weft/1/ctl.sock" exec sleep 4321 </dev/null &
	local client=$!
	wait_until $LIMIT in_vm 1 -- pgrep -f 'sleep 4321' </dev/null || return
	kill -9 "$client"
	wait "$client"
	wait_until $LIMIT vm_runs_not 1 -f 'sleep 4321'
}

console_answers() {
	local keys client status=0
	mkfifo "$tmp/keys"
	exec {keys}<>"$tmp/keys"
	"$ctl" "$run/weft/1/ctl.sock" console <&"$keys" >"$tmp/console" &
	client=$!
	# shellcheck disable=SC2016 # the guest's shell expands it
	echo 'echo $((6*7))x' >&"$keys"
	wait_until $LIMIT grep -q 42x "$tmp/console" && wait_until $LIMIT grep -q 42x "$run/weft/1/console.log" || status=1
	cat "$tmp/console"
	kill "$client"
	wait "$client"
	exec {keys}<&-
	return "$status"
}

descriptors() { find "/proc/$(vm_pid 1)/fd" | wc -l; }
descriptors_at_most() { (($(descriptors) <= $1)); }
descriptors_stay() {
	local before i
	before=$(descriptors)
	for i in {1..20}; do
		in_vm 1 true </dev/null || return
	done
	wait_until $LIMIT descriptors_at_most "$before"
}

# --- the overlay --------------------------------------------------------------------------------

ping_all() { # COUNT SIZE
	in_vm 1 -- ping -c "$1" -i 0.05 -s "$2" 10.77.0.2 </dev/null | tee "$tmp/ping"
	grep -q "$1 packets transmitted, $1 packets received" "$tmp/ping"
}

# TCP for some seconds; prints the rate, which must be better than none at all.
iperf_runs() { # OPTIONS...
	in_vm 2 -- iperf3 -s -1 </dev/null >"$tmp/server" 2>&1 &
	local server=$!
	wait_until $LIMIT in_vm 2 -- sh -c 'netstat -lnt | grep -q :5201' </dev/null || return
	in_vm 1 -- iperf3 -c 10.77.0.2 -t "$LOAD_SECONDS" -J "$@" </dev/null >"$tmp/iperf" || return
	wait "$server"
	python3 - "$tmp/iperf" <<-END
	import json, sys
	end = json.load(open(sys.argv[1]))["end"]
	rate = end.get("sum_received", end.get("sum"))["bits_per_second"] / 1e9
	print(f"{rate:.2f} Gb/s")
	assert rate > 0
	END
}

# A file from guest to guest in both directions at once, compared by hash.
data_survives() {
	local vm sums
	for vm in 1 2; do
		in_vm "$vm" -- sh -c "rm -f /tmp/*; dd if=/dev/urandom of=/tmp/sent bs=1M count=$DATA_MIB 2>/dev/null
			sleep $LIMIT | nc -l -p 7000 >/tmp/received &" </dev/null || return # nc ends with its input
	done
	for vm in 1 2; do
		wait_until $LIMIT in_vm "$vm" -- sh -c 'netstat -lnt | grep -q :7000' </dev/null || return
	done
	for vm in 1 2; do
		in_vm "$vm" -- sh -c "nc 10.77.0.$((3 - vm)) 7000 </tmp/sent" </dev/null &
	done
	wait
	wait_until $LIMIT vm_runs_not 1 nc && wait_until $LIMIT vm_runs_not 2 nc || return
	sums=$(for vm in 1 2; do
		in_vm "$vm" -- sh -c 'wc -c /tmp/sent /tmp/received >&2; sha256sum /tmp/sent /tmp/received' </dev/null
	done)
	echo "$sums"
	in_vm 1 rm /tmp/sent /tmp/received </dev/null
	in_vm 2 rm /tmp/sent /tmp/received </dev/null
	# Sent and received of one are received and sent of the other: two sums, each twice.
	[ "$(cut -d' ' -f1 <<<"$sums" | sort | uniq -c | awk '{ print $1 }' | xargs)" = "2 2" ]
}

mesh_is_full() {
	local from to
	up -n 4 || return
	for from in 1 2 3 4; do
		for to in 1 2 3 4; do
			((from == to)) || in_vm "$from" -- ping -c 1 -W $LIMIT "10.77.0.$to" </dev/null || return
		done
	done
}

# --- what may go wrong --------------------------------------------------------------------------

vm_is_dead() { # INDEX
	cluster status >"$tmp/status"
	grep -Eq "^weft-$1 +dead" "$tmp/status"
}

killed_vm_is_seen() {
	kill -9 "$(vm_pid 2)"
	wait_until $LIMIT vm_is_dead 2 || return
	cat "$tmp/status"
	! cluster status >/dev/null && grep -Eq '^weft-1 +running' "$tmp/status" &&
		in_vm 1 true </dev/null
}

# It is killed while it waits: for guests that have no agent, and so never answer.
killed_launcher_is_replaced() {
	local launcher
	"$root/tools/weft-cluster" up -n 2 --kernel "$root/build/guests/virtio-echo.elf" --initrd "$initrd" >/dev/null 2>&1 &
	launcher=$!
	wait_until $LIMIT [ -s "$run/weft/2/pid" ] || return
	kill -9 "$launcher"
	wait "$launcher"
	up -n 2 && cluster status
}

clusters_are_apart() {
	up -n 1 --name other --vni 7 || return
	cluster list
	[ "$(cluster exec --name other 1 hostname </dev/null)" = other-1 ] &&
		! cluster exec --name other 1 -- ping -c 1 -W 1 10.77.0.2 </dev/null >/dev/null &&
		cluster down --name other && [ "$(cluster list | wc -l)" = 2 ]
}

cycles() {
	local i
	for ((i = 1; i <= CYCLES; i++)); do
		up -n 2 >"$tmp/table" 2>&1 || { cat "$tmp/table"; echo "up $i failed"; return 1; }
		cluster down || { echo "down $i failed"; return 1; }
		nothing_left || { echo "something is left after $i"; return 1; }
	done
}

tap_check "up starts two guests and prints a table" table_is_right || tap_end
tap_check "kernel and root image together have at most 12 MB" images_are_small
tap_check "a guest has the name, MAC and address of its index" guest_is_as_derived
tap_check "status for programs is JSON" status_is_json
tap_check "sockets and their directory are private" modes_are_private
tap_check_fails "up twice is refused" 1 "is up already" up -n 2
tap_check "exec passes input, output, errors and the exit status" exec_passes_all
tap_check "exec passes the end of the input when it comes late" exec_passes_late_end
tap_check "exec tells the signal that ended the command" exec_passes_signals
tap_check_fails "exec of a command that is not there" 127 "cannot start" in_vm 1 nonsense
tap_check "exec carries ${DATA_MIB} MiB both ways unharmed" exec_keeps_data
tap_check "40 commands at once" exec_many_at_once
tap_check "a client that does not read holds up nobody else" exec_deaf_client
tap_check "a client that is killed takes its command with it" exec_client_gone
tap_check "no descriptors are lost by commands" descriptors_stay
tap_check "the console can be attached to, and is logged" console_answers
tap_check "ping" ping_all 20 56
tap_check "ping with the largest datagrams" ping_all 5 60000
tap_check "iperf3, guest 1 to guest 2" iperf_runs
tap_check "iperf3, guest 2 to guest 1" iperf_runs -R
tap_check "iperf3, both ways at once" iperf_runs --bidir
tap_check "${DATA_MIB} MiB both ways at once arrive unharmed" data_survives
tap_check "another cluster with another VNI is apart" clusters_are_apart
tap_check "a VM killed by -9 is seen, the other goes on" killed_vm_is_seen
tap_check_fails "exec in a dead VM" 1 "is dead" in_vm 2 true
tap_check "down clears away what a killed VM left" cluster down
tap_check "nothing is left" nothing_left
tap_check "up after that" up -n 2
tap_check "down" cluster down
tap_check "after a launcher was killed by -9, up works again" killed_launcher_is_replaced
tap_check "down" cluster down
tap_check "four guests reach each other" mesh_is_full
tap_check "down --force" cluster down --force
tap_check_fails "a VM that cannot start is explained" 1 "neither a bzImage nor" \
	cluster up -n 1 --kernel /etc/passwd --initrd "$initrd"
tap_check "nothing is left of it" nothing_left
tap_check_fails "down without a cluster" 1 "no cluster" cluster down
tap_check_fails "status without a cluster" 1 "no cluster" cluster status
tap_check_fails "unknown options are refused" 2 "no option" cluster up --frob
tap_check_fails "impossible numbers are refused" 2 "not possible" cluster up -n 0
tap_check "$CYCLES times up and down leave nothing" cycles
tap_end
