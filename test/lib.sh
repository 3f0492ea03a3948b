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
# Parts that run side by side
#

parts=()
at_once=2

# part NAME COMMAND...: runs it in the background, beside others. What it says goes to a file.
part() {
	local name=$1
	shift
	if ((${#parts[@]} >= at_once)); then
		wait -n || true
		show_ended
	fi
	parts+=("$name")
	{
		set +e
		SECONDS=0
		(
			set -e
			log="$work/$name.log"
			"$@"
		)
		say "$? $SECONDS" >"$work/$name.end"
	} </dev/null &>"$work/$name.output" &
}

# Says of the parts that have ended how, once. Those that failed are noted in `failed`.
failed=()
show_ended() {
	local name status seconds
	for name in "${parts[@]}"; do
		[[ -e $work/$name.end && ! -e $work/$name.shown ]] || continue
		touch "$work/$name.shown"
		read -r status seconds <"$work/$name.end"
		if ((status == 0)); then
			say "$name: passed in $seconds s"
		else
			failed+=("$name")
			title "$name: FAILED after $seconds s"
			cat "$work/$name.output"
		fi
	done
}

# Waits for all parts; fails if one has.
finish_parts() {
	local name
	for name in "${parts[@]}"; do
		wait -n || true
		show_ended
	done
	wait
	show_ended
	((${#failed[@]} == 0))
}

#
# Users
#

as_root() {
	if ((EUID == 0)); then "$@"; else sudo "$@"; fi
}

# A server refuses to run as root. Debian's packages make the user postgres; one's own PostgreSQL need not.
as_server() {
	if ((EUID == 0)); then
		setpriv --reuid="$(server_user)" --regid="$(id -g "$(server_user)")" --init-groups "$@"
	else
		"$@"
	fi
}

server_user() { if id postgres &>/dev/null; then say postgres; else say nobody; fi; }

# need_reachable PATH: ends the command with a sentence if the user who runs the servers can't get there.
need_reachable() {
	as_server test -x "$1" || die "the servers are run by the user $(server_user), who can't reach $1:" \
		"let others pass through the folders above it (chmod o+x), or choose another place"
}

# Gives the folder to the user who runs the servers.
give_to_server() {
	if ((EUID == 0)); then
		chown -R "$(server_user):" "${work:?}"
	fi
}

#
# Installing what is missing
#

missing=()
# what this command has installed
# shellcheck disable=SC2034
installed=

# need PACKAGE CHECK...: the package is missing if the check fails.
need() {
	local package=$1
	shift
	"$@" &>/dev/null || missing+=("$package")
}

has() { command -v "$1"; }

# a C or C++ library, as pkg-config knows it
has_package() { pkg-config --exists "$1"; }

# a module of the system's Python, which need not be the first on the PATH
has_module() { /usr/bin/python3 -c "import $1"; }

# what the tests of the C++ client are built with
need_client() {
	need libpq-dev has_package libpq
	need libpqxx-dev has_package libpqxx
	need libasio-dev test -f /usr/include/asio.hpp
	has_boost || need "$(boost_package)" has_boost
	need libgtest-dev has_package gtest
	need libssl-dev test -f /usr/include/openssl/sha.h
	need pkg-config has pkg-config
}

# Boost's Asio, from 1.78 on
has_boost() { (($(sed -nE 's/^#define BOOST_VERSION ([0-9]+)$/\1/p' /usr/include/boost/version.hpp 2>/dev/null || say 0) >= 107800)); }

# The newest that apt has: Debian 12 calls an older one its default.
boost_package() {
	local name=
	if has apt-cache >/dev/null; then
		name=$(newest_boost)
		[[ -n $name ]] || { update_lists >&2; name=$(newest_boost); }
	fi
	say "${name:-libboost-dev}"
}

newest_boost() { apt-cache search --names-only '^libboost1\.[0-9]+-dev$' | sed 's/ .*//' | sort -V | tail -n 1; }

# Finds the PostgreSQL to use, and says which: that of PG_CONFIG, or else the newest that is installed, or else
# the one that apt offers.
find_postgres() {
	if [[ -n ${PG_CONFIG:-} ]]; then
		has "$PG_CONFIG" >/dev/null || [[ $PG_CONFIG == */* ]] || die "there is no $PG_CONFIG on the PATH"
		PG_CONFIG=$(has "$PG_CONFIG" || say "$PG_CONFIG")
	elif PG_CONFIG=$(newest_installed); then
		say "using the newest PostgreSQL that is installed, that of $(dirname "$PG_CONFIG")"
	else
		has apt-get >/dev/null || missing_without_apt PostgreSQL
		find_offered
	fi
	bin=$("$PG_CONFIG" --bindir 2>/dev/null) || bin=$(dirname "$PG_CONFIG")
	server="PostgreSQL's server of $PG_CONFIG"
	server_dev="the files for building extensions of $PG_CONFIG"
	if [[ $PG_CONFIG =~ ^$debian_postgres/([0-9]+)/ ]]; then
		server=postgresql-${BASH_REMATCH[1]}
		server_dev=postgresql-server-dev-${BASH_REMATCH[1]}
	fi
}

debian_postgres=/usr/lib/postgresql
oldest_postgres=15

# The pg_config of the newest server from 15 up, in Debian's folders, in PGDG's for other systems, or on the PATH. The
# program itself may not be installed yet. That on the PATH may have come with libpq alone, and belong to no server.
newest_installed() {
	local folder name found
	found=$({
		for name in pg_config pg_server_config; do
			name=$(has $name) && folder=$("$name" --bindir 2>/dev/null) && [[ -x $folder/postgres ]] || continue
			say "$(major_version "$folder/postgres") $name"
		done
		for folder in "$debian_postgres"/*/bin /usr/pgsql-*/bin; do
			[[ ! -x $folder/postgres ]] || say "$(major_version "$folder/postgres") $folder/pg_config"
		done
	} | sort -s -n -k 1,1 | tail -n 1)
	[[ -n $found && ${found%% *} -ge $oldest_postgres ]] && say "${found#* }"
}

# of a program of PostgreSQL
major_version() { "$1" --version | sed -nE 's/^[^0-9]*([0-9]+).*/\1/p'; }

# Takes the PostgreSQL that apt offers.
find_offered() {
	local version
	version=$(offered_version)
	if [[ -z $version ]]; then
		update_lists
		version=$(offered_version)
	fi
	[[ -n $version ]] || die "apt offers no PostgreSQL; say where one is: PG_CONFIG=/path/to/pg_config"
	((version >= oldest_postgres)) || die "apt offers PostgreSQL $version, and $oldest_postgres or later is needed:" \
		"take it from https://wiki.postgresql.org/wiki/Apt, or say where one is: PG_CONFIG=/path/to/pg_config"
	say "using the PostgreSQL that apt offers: $version"
	PG_CONFIG=$debian_postgres/$version/bin/pg_config
}

# Nothing, and no failure, if apt has no lists yet.
offered_version() {
	{ apt-cache depends postgresql 2>/dev/null || true; } | sed -nE 's/^ *Depends: postgresql-([0-9]+)$/\1/p'
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
	need_reachable "$bin/postgres"
	export PG_CONFIG PATH="$bin:$PATH"
	extension_folder=$("$PG_CONFIG" --sharedir)/extension
	installs_as_user || need_root "installing the extension into $extension_folder"
}

# May we write to PostgreSQL's directories?
installs_as_user() { [[ -w $extension_folder && -w $("$PG_CONFIG" --pkglibdir) ]]; }

# need_root WHAT: ends the command with a sentence if what is about to happen needs root, and we can't be root.
need_root() {
	((EUID != 0)) || return 0
	has sudo >/dev/null ||
		die "$1 takes root, and there is no sudo: run it as root," \
			"or with the PG_CONFIG of a PostgreSQL of your own that lacks nothing"
	sudo -v || die "$1 takes root, and sudo refuses: run it as root," \
		"or with the PG_CONFIG of a PostgreSQL of your own that lacks nothing"
}

# Those who own their PostgreSQL get its parts from where it came.
install_missing() {
	local names
	names=$(printf '%s, ' "${missing[@]}")
	names=${names%, }
	has apt-get >/dev/null || missing_without_apt "$names"
	[[ $names != *' of '* ]] || die "missing: $names; install it, or say where PostgreSQL is: PG_CONFIG=/path/to/pg_config"
	need_root "apt-get install ${missing[*]}"

	say "installing with apt-get: $names"
	update_lists
	apt_get install --no-install-recommends "${missing[@]}" ||
		die "could not install: $names; see above, or say where PostgreSQL is: PG_CONFIG=/path/to/pg_config"
	# shellcheck disable=SC2034
	installed=${missing[*]}
}

# Fedora's names of Debian's packages; those that are not here are called the same, or are not there.
declare -A fedora=(
	[g++]=gcc-c++ [pkg-config]=pkgconf-pkg-config [gpg]=gnupg2
	[perl]=perl-Test-Harness [libipc-run-perl]=perl-IPC-Run [libdbd-pg-perl]=perl-DBD-Pg
	[libpq-dev]=libpq-devel [libpqxx-dev]=libpqxx-devel [libasio-dev]=asio-devel [libgtest-dev]=gtest-devel
	[libboost-dev]=boost-devel
	[libssl-dev]=openssl-devel [libpostgresql-jdbc-java]=postgresql-jdbc [default-jdk-headless]=java-devel)

# missing_without_apt NAMES: ends the command where we can't install, with what Fedora and PGDG call it.
missing_without_apt() {
	local package packages=(make gcc-c++ openssl-devel)
	for package in "${missing[@]}"; do
		package=${fedora[$package]:-$package}
		[[ $package == *' '* || " ${packages[*]} " == *" $package "* ]] || packages+=("$package")
	done
	die "missing: $1. There is no apt-get here to install it with. On Fedora and its relatives:
  dnf install ${packages[*]} postgresql-server postgresql-contrib postgresql-server-devel
  and PG_CONFIG=pg_server_config
or, with the PostgreSQL of PGDG (https://www.postgresql.org/download):
  dnf install ${packages[*]} postgresql17-server postgresql17-contrib postgresql17-devel
  and PG_CONFIG=/usr/pgsql-17/bin/pg_config
Elsewhere: a C++20 compiler, make, OpenSSL's headers, PostgreSQL's server from $oldest_postgres up and its files for
building extensions, and PG_CONFIG=/path/to/pg_config"
}

# Once is enough for a command.
update_lists() {
	[[ -z ${lists_updated:-} ]] || return 0
	need_root 'apt-get update'
	apt_get update || say "could not update the lists of packages, going on with those there are"
	lists_updated=yes
}

# apt-get without questions. Packages of servers make a cluster when they are installed, start it, and have it
# started whenever the machine is: nobody asked for that, so their scripts find programs that do nothing.
apt_get() {
	local name
	mkdir -p "$work/apt"
	for name in pg_createcluster invoke-rc.d update-rc.d deb-systemd-invoke deb-systemd-helper; do
		ln -sf /bin/true "$work/apt/$name"
	done
	chmod 755 "$work" "$work/apt"
	# one at a time: its locks are not all waited for
	as_root flock /var/lib/dpkg env DEBIAN_FRONTEND=noninteractive TMPDIR=/tmp apt-get -qq -y -o APT::Get::Show-Versions=0 \
		-o Acquire::Retries=3 -o DPkg::Lock::Timeout=300 -o Dpkg::Use-Pty=0 \
		-o DPkg::Path="$work/apt:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin" \
		"$@" </dev/null &>"$log" || { cat "$log" >&2; return 1; }
}

# Where apt gets Debian's packages.
debian_mirror() {
	local address
	address=$(listed_mirror)
	[[ -n $address ]] || { update_lists >&2; address=$(listed_mirror); }
	[[ -n $address ]] || die "apt knows no address of Debian's packages"
	say "$address"
}

# Nothing if apt has no lists yet.
listed_mirror() {
	local suites='stable|oldstable|testing|sid|unstable'
	suites+="|$(sed -n 's/^VERSION_CODENAME=//p' /etc/os-release)"
	apt-get indextargets --format '$(REPO_URI) $(COMPONENT) $(RELEASE)' |
		sed -nE "s/^([^ ]+) main ($suites)$/\1/p" | head -n 1
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

# Builds the extension from a copy of the sources, and installs it into PostgreSQL's directories. SERVER_SANITIZE
# names sanitizers of the compiler to build it with; clang, which makes the bitcode, has others.
build_and_install() {
	local as=as_root options=("PG_CONFIG=$PG_CONFIG")
	! installs_as_user || as=
	[[ -z ${SERVER_SANITIZE:-} ]] ||
		options+=("COPT=-fsanitize=$SERVER_SANITIZE -fno-sanitize-recover=all -O1 -g" with_llvm=no)

	say "building postgres_lock for $("$PG_CONFIG" --version)"
	copy_sources
	quietly make -C "$src" -j"$(nproc)" "${options[@]}"
	say "installing it into $extension_folder"
	# Debian's versions share the folder for the client, and more than one may be tested at a time
	$as flock "$("$PG_CONFIG" --includedir)" make -C "$src" install "${options[@]}" \
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
	local file name clients='exporter|client|drivers|driver_matrix|driver_traps|mixed_fleet|pgbouncer|pgpool|pools|migration|interrupted|vanished|recipes|plproxy|adding_servers|many_servers'
	for file in "$root"/sql/[^-]*.sql "$root"/test/specs/*.spec "$root"/test/t/*.pl; do
		name=$(basename "${file%.*}")
		[[ $name =~ ^postgres_lock--|_($clients)$ ]] || printf '%s ' "$name"
	done
}

# those that build libraries of their own, which takes long
# shellcheck disable=SC2034
building='two_libraries|build|token_clock|lease_clock'

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
