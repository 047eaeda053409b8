# SPDX-License-Identifier: GPL-2.0-or-later
# shellcheck shell=bash
#
# What scenarios share. This runs in L1, the emulated host; a scenario is read at the end, and fails when a command
# of it fails (bash -euo pipefail). $HOST is 1, or the number of the host in a scenario of several.
#
# Guest N has the address 192.168.7.N and the MAC address 02:00:00:00:00:0N; its files are /tmp/gN.*, its control socket
# is /tmp/gN. All guests use the kernel $KERNEL: "generic" (weft's own), or "amd64" and "cloud-amd64" (Debian's).

PATIENCE=150 # seconds for what takes a few on an idle machine
KERNEL=generic
[ -e /lab/generic ] || KERNEL=cloud-amd64
GUEST_MEMORY=128M
declare -A guest_pid=()

step() { echo "[$SECONDS s] $*"; }

fail() {
	echo "FAILED: $*"
	exit 1
}

# Waits until a command succeeds.
wait_for() { # COMMAND...
	local end=$((SECONDS + PATIENCE))
	until "$@" >/tmp/wait.log 2>&1; do
		((SECONDS < end)) || fail "still waiting after $PATIENCE s for: $*: $(tail -n 3 /tmp/wait.log)"
		sleep 0.2
	done
}

equal() { # WHAT GOT WANTED
	[ "$2" = "$3" ] || fail "$1: $2 instead of $3"
}

# In a scenario of several hosts: waits until all of them have come here.
meet() { # NAME
	touch "/out/meet.$1.$HOST"
	wait_for all_met "$1"
}

all_met() { # NAME
	local host
	for ((host = 1; host <= $(cat /out/hosts); host++)); do
		[ -e "/out/meet.$1.$host" ] || return 1
	done
}

# --- guests ---------------------------------------------------------------------------------------

# Sets the options that boot $KERNEL, in the array "boot", and what its command line needs in "boot_words".
boot_options() {
	boot_words="console=ttyS0 quiet"
	if [ "$KERNEL" = generic ]; then
		boot=(--kernel /lab/generic/bzImage --initrd /lab/tty.cpio)
		return
	fi
	# The modules come first, in an archive of their own; its init loads them and goes on with the image's.
	[ -e "/tmp/$KERNEL.cpio" ] || cat "/guest/$KERNEL/modules.cpio" /lab/tty.cpio >"/tmp/$KERNEL.cpio"
	boot=(--kernel "/guest/$KERNEL/vmlinuz" --initrd "/tmp/$KERNEL.cpio")
	boot_words+=" rdinit=/lab/init"
}

# Starts a guest, in the background; $CMDLINE is added to its command line. Its console is $CONSOLE, or goes to a file.
guest_start() { # NUMBER OPTION...
	local n=$1 boot boot_words
	shift
	boot_options
	weft run "${boot[@]}" --memory "$GUEST_MEMORY" --rng --console "${CONSOLE:-file:/tmp/g$n.console}" \
		--cmdline "$boot_words weft.ip=192.168.7.$n/24 ${CMDLINE:-}" --net "mac=02:00:00:00:00:0$n${NET:-}" \
		--ctl "/tmp/g$n" --agent "/tmp/g$n.agent" "$@" >"/tmp/g$n.log" 2>&1 </dev/null &
	guest_pid[$n]=$!
}

# Waits for the agent of a guest.
guest_wait() { # NUMBER
	local end=$((SECONDS + PATIENCE))
	until weft-ctl "/tmp/g$1" wait --timeout 1 >/dev/null 2>&1; do
		kill -0 "${guest_pid[$1]}" 2>/dev/null || fail "guest $1 ended"
		((SECONDS < end)) || fail "guest $1 is not there after $PATIENCE s"
		sleep 0.2
	done
	step "guest $1 is there ($KERNEL)"
}

guest() { # NUMBER OPTION...
	guest_start "$@"
	guest_wait "$1"
}

# Waits for the end of a guest's process, which is to have this exit status.
guest_end() { # NUMBER STATUS
	local status=0 end=$((SECONDS + PATIENCE))
	while kill -0 "${guest_pid[$1]}" 2>/dev/null; do
		((SECONDS < end)) || fail "guest $1 runs on after $PATIENCE s"
		sleep 0.2
	done
	wait "${guest_pid[$1]}" || status=$?
	equal "exit status of guest $1" $status "$2"
}

guest_stop() { # NUMBER
	weft-ctl "/tmp/g$1" stop
	guest_end "$1" 0
}

# Whether a guest answers, and has started since it had this id.
rebooted() { # NUMBER BOOT-ID
	local id
	id=$(in_guest "$1" cat /proc/sys/kernel/random/boot_id) && [ "$id" != "$2" ]
}

guest_reboot() { # NUMBER
	local before
	before=$(in_guest "$1" cat /proc/sys/kernel/random/boot_id)
	in_guest "$1" sh -c 'reboot & true' || true # the answer may be lost with the guest
	wait_for rebooted "$1" "$before"
	step "guest $1 rebooted"
}

in_guest() { # NUMBER COMMAND...
	timeout $PATIENCE weft-ctl "/tmp/g$1" exec -- "${@:2}"
}

# A program of the host's, with the libraries that it needs, for a guest that has none such.
guest_lend() { # NUMBER PROGRAM
	local program
	program=$(type -P "$2")
	# shellcheck disable=SC2046 # a list of files
	tar -chf - -C / ".$program" $(LD_TRACE_LOADED_OBJECTS=1 "$program" | sed -n 's|.*\s\(/\S*\) .*|.\1|p') |
		in_guest "$1" tar -xf - -C /
}

# A number from a guest's counters, by a filter of jq.
counter() { # NUMBER FILTER
	weft-ctl "/tmp/g$1" stats --json | jq -r "$2"
}

guest_pings() { # NUMBER ADDRESS
	in_guest "$1" ping -c 1 -W 1 "$2"
}

guests_reach() { # NUMBER NUMBER
	wait_for guest_pings "$1" "192.168.7.$2"
	step "guest $1 reaches guest $2"
}

# Random data through a TCP connection arrives as it was.
transfer() { # FROM TO MEBIBYTES
	local sent
	in_guest "$2" sh -c '{ sleep 300 | nc -l -p 7070 > /tmp/got; } 2>/dev/null & true'
	sent=$(in_guest "$1" sh -ec "head -c $(($3 << 20)) /dev/urandom > /tmp/sent; sha256sum < /tmp/sent")
	wait_for in_guest "$1" sh -c "nc -w 30 192.168.7.$2 7070 < /tmp/sent"
	wait_for in_guest "$2" sh -c "test \"\$(sha256sum < /tmp/got)\" = '$sent'"
	step "$3 MiB from guest $1 to guest $2 arrived as they were"
}

# An iperf3 server in a guest.
serve() { # NUMBER
	in_guest "$1" iperf3 --server --daemon --pidfile /tmp/iperf3.pid
}

# iperf3 from one guest to the other.
stream() { # CLIENT SERVER SECONDS OPTION...
	in_guest "$2" test -e /tmp/iperf3.pid || serve "$2"
	in_guest "$1" iperf3 --json --client "192.168.7.$2" --time "$3" "${@:4}" >/tmp/stream.json
	step "stream $1 to $2: $(jq '.end.sum_received.bits_per_second / 1e6 | floor' /tmp/stream.json) Mb/s"
}

# A soft-RoCE adapter with the addresses 10.9.0.1 and 10.9.0.2, for two processes of one host.
soft_roce() {
	ip link add rdma0 mtu 4200 up type dummy
	ip address add 10.9.0.1/24 dev rdma0
	ip address add 10.9.0.2/24 dev rdma0
	rdma link add rxe0 type rxe netdev rdma0
}

# Whether the link "peer" of a guest's overlay is in this state.
link_is() { # NUMBER STATE
	[ "$(counter "$1" '.ports[] | select(.name == "peer") | .state')" = "$2" ]
}

# --- the run --------------------------------------------------------------------------------------

# If the scenario failed: what the processes said, and in the results their counters.
finish() {
	local status=$? file
	[ $status -ne 0 ] || return 0
	step "failed with status $status"
	for file in /tmp/g?; do
		[ ! -S "$file" ] || timeout 5 weft-ctl "$file" stats >"/out/stats.${file#/tmp/}" || true
	done
	for file in /tmp/g*.log /tmp/g*.console; do
		[ ! -s "$file" ] || { echo "--- $file"; tail -n 30 "$file"; }
	done
}

if [ -n "${1:-}" ]; then
	trap finish EXIT
	# shellcheck disable=SC1090
	. "/lab/scenarios/$1"
fi
