# shellcheck shell=bash
# What the commands share: they find or install PostgreSQL, copy the sources into a folder of their
# own, build and install there, and run servers that nobody else can reach. At their end, whatever
# the reason, nothing they started runs and the folder is gone.
#
# A command sources this file, and calls `begin`, `prepare` and `build_and_install`.

set -euo pipefail
# each child gets a process group: it can be ended with all that it started
set -m

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

say() { printf '%s\n' "$*"; }
title() { printf '\n== %s\n' "$*"; }
die() { printf 'postgres_lock: %s\n' "$*" >&2; exit 1; }

#
# Beginning and end
#

# Makes the folder `work`, which vanishes with the command.
begin() {
	work=$(mktemp -d /tmp/postgres_lock.XXXXXX)
	log=$work/log
	trap 'end $?' EXIT
	trap 'exit 129' HUP
	trap 'exit 130' INT
	trap 'exit 143' TERM

	# an outer make and the user's settings for psql are not meant for us
	local name
	for name in MAKEFLAGS MFLAGS MAKELEVEL MAKEFILES $(compgen -e PG); do
		[[ $name == PG_CONFIG ]] || unset "$name"
	done
	export LC_ALL=C HOME=$work TMPDIR=$work
	[[ ${PG_CONFIG:-} != */* ]] || PG_CONFIG=$(realpath -s "$PG_CONFIG")
	cd "$work"
}

end() {
	trap '' EXIT HUP INT TERM
	set +e
	# those that run servers first: they would start more
	local group groups
	groups=$(jobs -p)
	for group in $groups; do
		kill -TERM -- "-$group"
	done 2>/dev/null
	wait 2>/dev/null
	for group in $groups; do
		await_end "$group"
	done
	stop_servers
	cd /
	rm -rf "${work:?}"
	exit "$1"
}

# Waits until nobody is left of a process group, for ten seconds at most.
await_end() {
	local attempt
	for attempt in {1..100}; do
		kill -0 -- "-$1" || return 0
		((attempt < 100)) || kill -KILL -- "-$1"
		sleep 0.1
	done
} 2>/dev/null

# Ends every server that has its data below the folder, by the process id it wrote there. Those in
# chroots had numbers of their own, and are gone.
stop_servers() {
	local pid_file
	find "$work" -path "$work/chroots" -prune -o -name postmaster.pid -print 2>/dev/null |
		while read -r pid_file; do
			as_server "$bin/pg_ctl" stop -D "$(dirname "$pid_file")" -m immediate
		done &>/dev/null
}

# Runs a command that takes long, so that a signal ends it and us at once: bash would put off its
# traps until a child in the foreground ends.
run() {
	"$@" </dev/null &
	wait $!
}

# The same without a word, unless the command fails.
quietly() {
	run "$@" &>"$log" && return
	cat "$log" >&2
	die "failed: $*"
}

#
# Users
#

as_root() {
	if ((EUID == 0)); then "$@"; else sudo "$@"; fi
}

# A server refuses to run as root.
as_server() {
	if ((EUID == 0)); then
		setpriv --reuid=postgres --regid=postgres --init-groups "$@"
	else
		"$@"
	fi
}

# Gives the folder to the user who runs the servers.
give_to_server() {
	if ((EUID == 0)); then
		chown -R postgres: "${work:?}"
	fi
}

#
# Installing what is missing
#

missing=()

# need PACKAGE CHECK...: the package is missing if the check fails.
need() {
	local package=$1
	shift
	"$@" &>/dev/null || missing+=("$package")
}

has() { command -v "$1"; }

# a C or C++ library, as pkg-config knows it
has_package() { pkg-config --exists "$1"; }

# what the tests of the C++ client are built with
need_client() {
	need libpq-dev has_package libpq
	need libpqxx-dev has_package libpqxx
	need libasio-dev test -f /usr/include/asio.hpp
	need libgtest-dev has_package gtest
	need pkg-config has pkg-config
}

# PG_CONFIG, if given, says which PostgreSQL to use. Otherwise it is Debian's 15, and not the
# pg_config on the PATH: that may come with libpq alone.
find_postgres() {
	local debian=/usr/lib/postgresql
	if [[ -z ${PG_CONFIG:-} ]]; then
		PG_CONFIG=$debian/15/bin/pg_config
		if ! has apt-get >/dev/null && has pg_config >/dev/null; then
			PG_CONFIG=$(has pg_config)
		fi
	elif [[ $PG_CONFIG != */* ]]; then
		has "$PG_CONFIG" >/dev/null || die "there is no $PG_CONFIG on the PATH"
		PG_CONFIG=$(has "$PG_CONFIG")
	fi
	bin=$("$PG_CONFIG" --bindir 2>/dev/null) || bin=$(dirname "$PG_CONFIG")
	server="PostgreSQL's server of $PG_CONFIG"
	server_dev="the files for building extensions of $PG_CONFIG"
	if [[ $PG_CONFIG =~ ^$debian/([0-9]+)/ ]]; then
		server=postgresql-${BASH_REMATCH[1]}
		server_dev=postgresql-server-dev-${BASH_REMATCH[1]}
	fi
}

has_header() { [[ -f $("$PG_CONFIG" --includedir-server)/postgres.h ]]; }

# where PGXS has pg_regress and the Perl modules
test_tools() { dirname "$("$PG_CONFIG" --pgxs)" | sed 's,/makefiles$,/test,'; }

# Finds PostgreSQL and a compiler, and installs what is missing of them and of what has been asked
# for with need.
prepare() {
	find_postgres
	need "$server" test -x "$bin/postgres"
	need "$server_dev" has_header
	need g++ has g++
	((${#missing[@]} == 0)) || install_missing
	export PG_CONFIG PATH="$bin:$PATH"
}

# Those who own their PostgreSQL get its parts from where it came.
install_missing() {
	local names
	names=$(printf '%s, ' "${missing[@]}")
	names=${names%, }
	if ! has apt-get >/dev/null || [[ $names == *' of '* ]]; then
		die "missing: $names; install it, or say where PostgreSQL is: PG_CONFIG=/path/to/pg_config"
	fi
	((EUID == 0)) || has sudo >/dev/null ||
		die "missing: $names; there is no sudo: install it as root with apt-get install ${missing[*]}"

	say "installing with apt-get: $names"
	apt_get update || say "could not update the lists of packages, going on with those there are"
	apt_get install --no-install-recommends "${missing[@]}" ||
		die "could not install: $names; see above, or say where PostgreSQL is: PG_CONFIG=/path/to/pg_config"
}

# apt-get without questions. The server's package makes a cluster when it is installed, and starts
# it: nobody asked for that, so its scripts find a pg_createcluster that does nothing.
apt_get() {
	mkdir -p "$work/apt"
	ln -sf /bin/true "$work/apt/pg_createcluster"
	chmod 755 "$work" "$work/apt"
	as_root env DEBIAN_FRONTEND=noninteractive TMPDIR=/tmp apt-get -qq -y -o APT::Get::Show-Versions=0 \
		-o Acquire::Retries=3 -o DPkg::Lock::Timeout=300 -o Dpkg::Use-Pty=0 \
		-o DPkg::Path="$work/apt:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin" \
		"$@" </dev/null &>"$log" || { cat "$log" >&2; return 1; }
}

# Where apt gets Debian's packages.
debian_mirror() {
	local address suites='stable|oldstable|testing|sid|unstable'
	suites+="|$(sed -n 's/^VERSION_CODENAME=//p' /etc/os-release)"
	address=$(apt-get indextargets --format '$(REPO_URI) $(COMPONENT) $(RELEASE)' |
		sed -nE "s/^([^ ]+) main ($suites)$/\1/p" | head -n 1)
	[[ -n $address ]] || die "apt knows no address of Debian's packages"
	say "$address"
}

#
# Building
#

# Copies the sources to `src`: the files git would commit, or without git all but build products.
copy_sources() {
	src=$work/src
	mkdir "$src"
	# the checkout may be another user's, which git minds
	if git -c safe.directory="$root" -C "$root" ls-files -z --cached --others --exclude-standard \
		>"$work/files" 2>/dev/null; then
		existing_files <"$work/files" | tar -C "$root" --null -T - -cf - | tar -C "$src" -xf -
	else
		tar -C "$root" --exclude=./.git --exclude='*.o' --exclude='*.bc' --exclude='*.so' -cf - . |
			tar -C "$src" -xf -
	fi
}

# of the NUL-terminated names on standard input
existing_files() {
	local file
	while IFS= read -r -d '' file; do
		[[ ! -f $root/$file ]] || printf '%s\0' "$file"
	done
}

# Builds the extension from a copy of the sources, and installs it into PostgreSQL's directories.
build_and_install() {
	local directory as=as_root
	directory=$("$PG_CONFIG" --sharedir)/extension
	[[ ! -w $directory || ! -w $("$PG_CONFIG" --pkglibdir) ]] || as=

	say "building postgres_lock for $("$PG_CONFIG" --version)"
	copy_sources
	quietly make -C "$src" -j"$(nproc)" PG_CONFIG="$PG_CONFIG"
	say "installing it into $directory"
	# Debian's versions share the folder for the client, and more than one may be tested at a time
	$as flock "$("$PG_CONFIG" --includedir)" make -C "$src" install PG_CONFIG="$PG_CONFIG" \
		</dev/null &>"$log" ||
		{ cat "$log" >&2; die "could not install the extension"; }
	give_to_server
}

#
# Tests
#

# The names of the tests of the server: all but those that want clients installed, which one version has
# been tested with.
server_tests() {
	local file name clients='exporter|client|drivers|driver_matrix|mixed_fleet|pgbouncer|pools|migration'
	for file in "$root"/sql/[^-]*.sql "$root"/test/specs/*.spec "$root"/test/t/*.pl; do
		name=$(basename "${file%.*}")
		[[ $name =~ ^postgres_lock--|_($clients)$ ]] || printf '%s ' "$name"
	done
}

#
# A server for a demonstration or a benchmark
#

# Starts a server on a socket in the folder, without TCP; psql and pgbench connect to it by default.
# Arguments: lines for postgresql.conf.
start_server() {
	local data=$work/data
	quietly as_server initdb -D "$data" -U postgres -A trust -E UTF8 --no-locale --no-sync
	printf '%s\n' "listen_addresses = ''" "unix_socket_directories = '$work'" "fsync = off" "$@" \
		>>"$data/postgresql.conf"
	quietly as_server pg_ctl start -w -D "$data" -l "$work/server.log"
	export PGHOST=$work PGUSER=postgres PGDATABASE=postgres
}

# psql that prints values only, and stops at an error
query() { psql -X -q -A -t -v ON_ERROR_STOP=1 "$@"; }
