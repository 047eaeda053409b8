# SPDX-License-Identifier: GPL-2.0-or-later
# shellcheck shell=bash
#
# bash completion for weft, weft-ctl, weft-top, vnetd and weft-cluster. Options and commands are read from each program's
# own --help, so that they never differ from it.

_weft_options() { # PROGRAM ARGUMENTS...: the options in its help
	"$@" --help 2>/dev/null | grep -oE -- '(^|[ ,|[])--?[a-z][a-z-]*' | tr -d ' ,|[' | sort -u
}

_weft_commands() { # PROGRAM: the commands in its help, which stand behind two blanks
	"$1" --help 2>/dev/null | sed -nE 's/^  ([a-z]+)( .*)?$/\1/p'
}

_weft_reply() { # WORDS: those that begin with the current word
	mapfile -t COMPREPLY < <(compgen -W "$1" -- "${COMP_WORDS[COMP_CWORD]}")
}

_weft_files() { mapfile -t COMPREPLY < <(compgen -f -- "${COMP_WORDS[COMP_CWORD]}"); }

_weft_clusters() { "$1" list 2>/dev/null | tail -n +2 | cut -d' ' -f1; }

_weft_vms() { "$1" status 2>/dev/null | tail -n +2 | cut -d' ' -f1; }

_weft_value() { # OPTION: completes its value; fails if it takes none that can be known
	case $1 in
	--config | --kernel | --initrd | --disk | --agent | --ctl | --weft | --overlay | --key-file) _weft_files ;;
	--console) _weft_reply "stdio file: unix: off" ;;
	--on-reboot) _weft_reply "restart exit" ;;
	--sandbox | --offload | --learn | --transit | --neighbours) _weft_reply "on off" ;;
	--link | --listen) _weft_reply "udp:// eth:// ib:// shm:// tap:// passt://" ;;
	--tap) _weft_reply "$(ls /sys/class/net 2>/dev/null)" ;;
	--image) _weft_reply "tty" ;;
	--name) _weft_reply "$(_weft_clusters "${COMP_WORDS[0]}")" ;;
	*) return 1 ;;
	esac
}

_weft() {
	if ((COMP_CWORD == 1)); then
		_weft_reply "run --help --version"
	else
		_weft_value "${COMP_WORDS[COMP_CWORD - 1]}" || _weft_reply "$(_weft_options "$1" run)"
	fi
}

_weft_ctl() {
	case $COMP_CWORD in
	1) _weft_files ;;
	2) _weft_reply "$(_weft_commands "$1")" ;;
	*)
		case ${COMP_WORDS[2]} in
		status | stats) _weft_reply "--json" ;;
		stop) _weft_reply "--force" ;;
		wait) _weft_reply "--timeout" ;;
		shutdown) _weft_reply "--reboot --timeout" ;;
		matrix | metrics | help) _weft_reply "--json" ;;
		link | route | mac | capture) _weft_overlay "$1" "${COMP_WORDS[1]}" ;;
		trace) _weft_reply "dst src $(_weft_ports "$1" "${COMP_WORDS[1]}")" ;;
		mode) _weft_reply "history tx rx auto guest vmm $(_weft_ports "$1" "${COMP_WORDS[1]}")" ;;
		*) COMPREPLY=() ;;
		esac
		;;
	esac
}

_weft_ports() { # WEFT-CTL SOCKET: names of the ports
	"$1" "$2" stats --json 2>/dev/null | grep -o '"name":"[^"]*","type"' | cut -d'"' -f4
}

_weft_overlay() { # WEFT-CTL SOCKET: words of the control language
	case "${COMP_WORDS[2]} ${COMP_WORDS[3]}" in
	"link del") _weft_reply "$(_weft_ports "$@")" ;;
	"route replace") _weft_files ;;
	"capture start") if ((COMP_CWORD == 4)); then _weft_files; else _weft_reply "port limit $(_weft_ports "$@")"; fi ;;
	route\ *) ((COMP_CWORD > 3)) && _weft_reply "priority from src dst to any none not all nics links drop $(_weft_ports "$@")" ;;
	esac
	((COMP_CWORD > 3)) ||
		_weft_reply "$("$1" "$2" help --json 2>/dev/null | grep -o "\"${COMP_WORDS[2]} [a-z]*\"" | tr -d '"' | cut -d' ' -f2)"
}

_vnetd() {
	_weft_value "${COMP_WORDS[COMP_CWORD - 1]}" || _weft_reply "$(_weft_options "$1") --version"
}

_weft_top() {
	case ${COMP_WORDS[COMP_CWORD]} in
	-*) _weft_reply "$(_weft_options "$1")" ;;
	*) _weft_files ;;
	esac
}

_weft_cluster() {
	local command=${COMP_WORDS[1]}
	if ((COMP_CWORD == 1)); then
		_weft_reply "$(_weft_commands "$1") --help"
		return
	fi
	_weft_value "${COMP_WORDS[COMP_CWORD - 1]}" && return
	case $command in
	exec | console | logs) _weft_reply "$(_weft_vms "$1") $(_weft_options "$1" "$command")" ;;
	*) _weft_reply "$(_weft_options "$1" "$command")" ;;
	esac
}

complete -F _weft weft
complete -F _weft_ctl weft-ctl
complete -F _vnetd vnetd
complete -F _weft_top weft-top
complete -F _weft_cluster weft-cluster
