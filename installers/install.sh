#!/bin/sh
# Installs Spare's programs on Linux, and takes them away again. See --help.
set -eu

usage() {
	cat <<'HELP'
Install Spare on this Linux machine, or remove it.

  install.sh --node [--ticket TICKET]   this machine lends its spare time
  install.sh --hub                      this machine hands out the work
  install.sh --uninstall [--purge]      undo all of it

Options
  --from DIR       where the programs are (default: bin/ beside this folder, or this folder)
  --ticket TICKET  join that hub at once, as printed by 'spare-hub ticket'
  --no-start       enable the service, but do not start it
  --node, --hub    with --uninstall: remove only that one
  --purge          with --uninstall: delete keys, cache, jobs and results too
  --root DIR       install below DIR, to build an image or a package: no user is made, no service started

It copies the programs to /usr/local/bin and a unit to /etc/systemd/system, makes the system user
spare-node or spare-hub, lets the program make user namespaces where AppArmor asks, and keeps data in /var/lib/spare-node or /var/lib/spare-hub. Running it
again upgrades. Where there is no systemd, it says how to start the programs by hand.
HELP
}

say() { printf '%s\n' "$*"; }
die() {
	printf 'install.sh: %s\n' "$*" >&2
	exit 1
}
misuse() {
	printf 'install.sh: %s (see install.sh --help)\n' "$*" >&2
	exit 2
}

roles='' from='' ticket='' root='' uninstall='' purge='' start=yes
while [ $# -gt 0 ]; do
	case $1 in
	--node) roles="$roles node" ;;
	--hub) roles="$roles hub" ;;
	--uninstall) uninstall=yes ;;
	--purge) purge=yes ;;
	--no-start) start= ;;
	--from | --ticket | --root)
		[ $# -ge 2 ] || misuse "$1 wants a value"
		case $1 in
		--from) from=$2 ;;
		--ticket) ticket=$2 ;;
		--root) root=$2 ;;
		esac
		shift
		;;
	-h | --help)
		usage
		exit 0
		;;
	*) misuse "unknown option $1" ;;
	esac
	shift
done

[ -z "$purge" ] || [ -n "$uninstall" ] || misuse "--purge goes with --uninstall"
[ -z "$ticket" ] || [ -z "$uninstall" ] || misuse "--ticket does not go with --uninstall"
if [ -z "$roles" ]; then
	[ -n "$uninstall" ] || misuse "say what this machine is: --node or --hub"
	roles="node hub"
fi
case " $roles " in *" node "*) ;; *) [ -z "$ticket" ] || misuse "--ticket goes with --node" ;; esac
[ "$(uname -s)" = Linux ] || die "this installer is for Linux; on other systems run 'spare-node install'"
if [ -n "$root" ]; then
	mkdir -p "$root"
	root=$(cd "$root" && pwd)
	[ -z "$ticket" ] || misuse "--ticket does not go with --root: the node joins where it runs"
elif [ "$(id -u)" -ne 0 ]; then
	die "run this as root: sudo $0 ..."
fi

here=$(cd "$(dirname "$0")" && pwd)
bindir=$root/usr/local/bin
unitdir=$root/etc/systemd/system
armordir=$root/etc/apparmor.d
vardir=$root/var/lib

# live: this is the running system and systemd manages it.
live() { [ -z "$root" ] && [ -d /run/systemd/system ]; }
# systemctl enables units without a running systemd too, in an image or a container.
has_systemctl() { [ -z "$root" ] && command -v systemctl >/dev/null 2>&1; }

find_programs() {
	if [ -n "$from" ]; then
		[ -d "$from" ] || die "--from $from: no such folder"
		from=$(cd "$from" && pwd)
	elif [ -x "$here/../bin/spare" ]; then
		from=$(cd "$here/../bin" && pwd)
	elif [ -x "$here/spare" ]; then
		from=$here
	else
		die "no programs in $here/../bin or $here; run 'make build' first, or give --from DIR"
	fi
	for program in "$@"; do
		[ -x "$from/$program" ] || die "$from has no program $program; run 'make build' first, or give --from DIR"
	done
}

# A copy and a rename: a program that runs meanwhile is not disturbed, and none is ever half there.
put() { # mode source destination
	mkdir -p "$(dirname "$3")"
	cp "$2" "$3.new.$$"
	chmod "$1" "$3.new.$$"
	mv -f "$3.new.$$" "$3"
}

make_user() {
	[ -z "$root" ] || return 0
	if ! id "$1" >/dev/null 2>&1; then
		command -v useradd >/dev/null 2>&1 || die "no useradd here; make a system user $1 and run this again"
		shell=/usr/sbin/nologin
		[ -x "$shell" ] || shell=/bin/false
		useradd --system --user-group --no-create-home --home-dir "/var/lib/$1" --shell "$shell" "$1"
		say "made the system user $1"
	fi
	chown -R "$1:$1" "/var/lib/$1"
}

install_role() {
	service=spare-$1
	put 755 "$from/spare" "$bindir/spare"
	put 755 "$from/$service" "$bindir/$service"

	mkdir -p "$unitdir"
	sed "s|/usr/bin/|/usr/local/bin/|" "$here/systemd/$service.service" >"$unitdir/.$service.$$"
	put 644 "$unitdir/.$service.$$" "$unitdir/$service.service"
	rm -f "$unitdir/.$service.$$"

	allow_namespaces "$service"

	mkdir -p "$vardir/$service"
	chmod 700 "$vardir/$service"
	make_user "$service"

	if [ "$1" = node ] && [ -n "$ticket" ]; then
		as_user "$service" "$bindir/spare-node" join "$ticket" --data "$vardir/$service" ||
			die "the node is installed, but did not join; ask the hub's operator for a new ticket and run this again"
	fi
	if has_systemctl; then
		! live || systemctl daemon-reload
		systemctl enable --quiet "$service.service"
		if live && [ -n "$start" ]; then systemctl restart "$service.service"; fi
	fi
	say "installed $service in $bindir"
	next_step "$1"
}

# AppArmor may keep user namespaces, which the sandbox is made of, from programs that it does
# not know. It can since its version 4, and what is older takes no such profile.
allow_namespaces() {
	[ -e "$armordir/abi/4.0" ] || return 0
	put 644 "$here/apparmor/$1" "$armordir/$1"
	if armored && ! apparmor_parser --replace "$armordir/$1"; then
		say "AppArmor does not take $armordir/$1; 'spare-node status' says whether the sandbox works without it"
	fi
}

# armored: AppArmor runs here and can be told something.
armored() { [ -z "$root" ] && [ -d /sys/kernel/security/apparmor ] && command -v apparmor_parser >/dev/null 2>&1; }

as_user() {
	user=$1
	shift
	if command -v runuser >/dev/null 2>&1; then
		runuser -u "$user" -- "$@"
	elif command -v setpriv >/dev/null 2>&1; then
		setpriv --reuid "$user" --regid "$user" --init-groups "$@"
	else
		die "neither runuser nor setpriv here; join as user $user by hand: $*"
	fi
}

next_step() {
	[ -z "$root" ] || return 0
	case $1 in
	hub)
		if live; then
			say "next: spare-hub ticket --data /var/lib/spare-hub   prints a ticket for each new node"
			say "      journalctl -u spare-hub                      shows the log"
		else
			say "no systemd runs here; start it by hand:"
			say "  runuser -u spare-hub -- $bindir/spare-hub serve --data /var/lib/spare-hub --http 127.0.0.1:8080 --nodes 0.0.0.0:7770"
		fi
		;;
	node)
		if [ -z "$ticket" ] && ! ls "$vardir"/spare-node/* >/dev/null 2>&1; then
			say "next: runuser -u spare-node -- $bindir/spare-node join TICKET --data /var/lib/spare-node"
			! live || say "      systemctl start spare-node"
		fi
		live || say "no systemd runs here; start it by hand: runuser -u spare-node -- $bindir/spare-node run --data /var/lib/spare-node"
		;;
	esac
}

uninstall_role() {
	service=spare-$1
	if has_systemctl && [ -e "$unitdir/$service.service" ]; then
		! live || systemctl stop "$service.service" || true
		systemctl disable --quiet "$service.service" 2>/dev/null || true
	fi
	rm -f "$unitdir/$service.service" "$unitdir/multi-user.target.wants/$service.service"
	rm -rf "$unitdir/$service.service.d"
	! live || systemctl daemon-reload
	rm -f "$bindir/$service"
	if [ -e "$armordir/$service" ]; then
		! armored || apparmor_parser --remove "$armordir/$service" || true
		rm -f "$armordir/$service"
	fi

	data=$vardir/$service
	if [ -n "$purge" ]; then
		rm -rf "$data"
	elif [ -d "$data" ] && ! rmdir "$data" 2>/dev/null; then
		# The user goes, so its files would belong to a number that the next user may get.
		[ -n "$root" ] || chown -R root:root "$data"
		say "kept $data (keys and data); --uninstall --purge deletes it"
	fi
	if [ -z "$root" ] && id "$service" >/dev/null 2>&1; then
		userdel "$service" || die "could not remove the user $service; does a program of it still run? (pgrep -u $service)"
	fi
	say "removed $service"
}

if [ -n "$uninstall" ]; then
	for role in $roles; do uninstall_role "$role"; done
	if [ ! -e "$bindir/spare-node" ] && [ ! -e "$bindir/spare-hub" ]; then rm -f "$bindir/spare"; fi
	if [ -n "$root" ]; then
		# Below --root the folders are ours too, if nothing else is in them.
		for folder in usr/local/bin usr/local usr etc/systemd/system/multi-user.target.wants etc/systemd/system etc/systemd etc var/lib var; do
			rmdir "$root/$folder" 2>/dev/null || true
		done
	fi
	exit 0
fi

programs=spare
for role in $roles; do programs="$programs spare-$role"; done
# shellcheck disable=SC2086 # the list is words on purpose
find_programs $programs
for role in $roles; do
	for file in systemd/spare-$role.service apparmor/spare-$role; do [ -r "$here/$file" ] || die "$here/$file is missing"; done
done
for role in $roles; do install_role "$role"; done
