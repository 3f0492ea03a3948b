#!/bin/bash
# make install-test: what a newcomer does first, to the letter: make demo, and what README.md says of installing, each
# on a Debian on which nothing has been installed but make. And what make demo says where it can't go on.
#
# Each runs on every suite, as root on one and as a user with sudo on the next.
# SUITES="trixie sid" chooses other suites than the stable ones.

# shellcheck source-path=SCRIPTDIR
source "$(dirname "$0")/lib.sh"
# shellcheck source=chroot.sh
source "$root/test/chroot.sh"

read -ra suites <<<"${SUITES:-bookworm trixie}"
user=somebody

main() {
	local users=(root "$user") i
	begin
	need_chroot
	((${#missing[@]} == 0)) || install_missing
	copy_sources

	for i in "${!suites[@]}"; do
		attempt demo "${suites[i]}" "${users[i % 2]}"
	done
	# when these begin, others have left what they got
	for i in "${!suites[@]}"; do
		attempt install_section "${suites[i]}" "${users[(i + 1) % 2]}"
	done
	attempt refusals "${suites[0]}" $user
	finish_parts
}

# attempt WHAT SUITE WHO: in a system of its own
attempt() { part "$1 on $2 as $3" attempt_in "$work/chroots/$1-$2-$3" "$@"; }

attempt_in() {
	local system=$1 what=$2 suite=$3 who=$4
	new_system "$suite" "$system"
	prepare_system "$who" "$system"
	"$what" "$who" "$system"
	share_downloads "$suite" "$system"
	rm -rf "${system:?}"
}

# Gives the user the sources, and sudo where it is to have that.
prepare_system() {
	local who=$1 system=$2
	# the questions that apt-get asks are answered by hand
	say 'APT::Get::Assume-Yes "true";' >"$system/etc/apt/apt.conf.d/99-answers"
	# the machine's own servers, and those of other systems, have the ports
	mkdir -p "$system/etc/postgresql-common"
	say "listen_addresses = ''" >"$system/etc/postgresql-common/createcluster.conf"
	if [[ $who == "$user" ]]; then
		quietly install_in_chroot "$system" sudo
		in_chroot "$system" useradd --create-home --shell /bin/bash "$user"
		say "$user ALL=(ALL) NOPASSWD: ALL" >"$system/etc/sudoers.d/$user"
	fi
	cp -r "$src" "$system$(home_of "$who")/postgres_lock"
	in_chroot "$system" chown -R "$who:" "$(home_of "$who")/postgres_lock"
}

home_of() { if [[ $1 == root ]]; then say /root; else say "/home/$1"; fi; }

# as WHO SYSTEM SCRIPT: in the sources, which it has got as they are.
as() {
	in_chroot "$2" env LC_ALL=C.UTF-8 DEBIAN_FRONTEND=noninteractive runuser -u "$1" -- \
		env HOME="$(home_of "$1")" sh -euc "cd ~/postgres_lock; $3"
}

#
# What is attempted
#

demo() {
	local who=$1 system=$2 server
	quietly install_in_chroot "$system" make
	# images of containers, and systems that are new, come without apt's lists
	rm -rf "${system:?}"/var/lib/apt/lists/*
	as "$who" "$system" 'make demo' | tee "$system.said"
	! grep -n '^ *$' "$system.said" || die 'the demo has said an empty line'

	# its end says how to get a server, as root
	server=$(sed -n 's/^    \(\(pg_createcluster\|runuser\) .*\)/\1/p' "$system.said")
	[[ $server == pg_createcluster* ]] || die 'the demo does not say how to get a server'
	[[ $(in_chroot "$system" sh -euc "cd /; $server" | tail -n 3 | tr -d ' \n') == *t* ]] ||
		die "what the demo says of a server does not take a lock"
}

# The examples of README.md's section, and then a lock. With sudo, that goes before what the text says it does.
install_section() {
	local who=$1 system=$2 shell sql
	shell=$(section sh)
	sql=$(section sql)
	[[ $who == root ]] || shell=$(sed -E 's/(apt-get|make install)/sudo \1/g' <<<"$shell")
	[[ $shell == *'make install'* && $sql == *'CREATE EXTENSION'* ]] || die 'README.md does not say how to install it'
	as "$who" "$system" "$shell"
	# a machine that runs would have started it
	in_chroot "$system" sh -euc 'set -- $(pg_lsclusters -h)
		[ "$4" = online ] || pg_ctlcluster "$1" "$2" start
		runuser -u postgres -- psql -X -v ON_ERROR_STOP=1 -c "$0" -c "SELECT pglock.acquire('\''order:42'\'')"' "$sql"
}

# section LANGUAGE: the examples in it
section() {
	sed -n '/^## Install$/,/^## [^I]/p' "$src/README.md" | sed -n "/^\`\`\`$1\$/,/^\`\`\`\$/p" | grep -v '^```'
}

# Where it can't go on it says in a sentence what to do.
refusals() {
	local who=$1 system=$2
	quietly install_in_chroot "$system" make
	in_chroot "$system" env SUDO_FORCE_REMOVE=yes apt-get -q -y purge sudo
	refuses "$who" "$system" 'there is no sudo'
	mv "$system/usr/bin/apt-get" "$system/usr/bin/apt-got"
	refuses "$who" "$system" 'dnf install .* postgresql-server-devel'
	refuses "$who" "$system" 'dnf install .* postgresql17-devel'
}

# refuses WHO SYSTEM PATTERN
refuses() {
	! as "$1" "$2" 'make demo' &>"$2.said" || die 'make demo goes on'
	cat "$2.said"
	grep -q -E "$3" "$2.said" || die "make demo does not say: $3"
	! grep -q 'command not found' "$2.said" || die 'it has tried'
}

main
