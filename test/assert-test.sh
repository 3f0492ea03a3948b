#!/bin/bash
# make assert-test: the tests of the server on a PostgreSQL 15 that checks its own assertions, and so shows
# misuse that others let pass. It is built from Debian's sources, and vanishes with the command.

# shellcheck source-path=SCRIPTDIR
source "$(dirname "$0")/lib.sh"

main() {
	begin
	has apt-get >/dev/null || die "the sources of PostgreSQL come from Debian, and there is no apt-get"
	need make has make
	need gcc has gcc
	need bison has bison
	need flex has flex
	need bzip2 has bzip2
	need libssl-dev test -f /usr/include/openssl/sha.h
	need libipc-run-perl perl -MIPC::Run -e 1
	need perl has prove
	((${#missing[@]} == 0)) || install_missing

	get_sources
	correct_assertion
	build_postgres
	run env TESTS="${TESTS:-$(server_tests)}" PG_CONFIG="$work/postgres/bin/pg_config" bash "$root/test/test.sh"
}

# The sources as PostgreSQL has published them: one of Debian's patches would have the extension installed
# over that of the machine's own server.
get_sources() {
	local apt=(apt_get -o Dir::Etc::SourceList="$work/sources.list" -o Dir::Etc::SourceParts=/dev/null
		-o Dir::State::Lists="$work/lists" -o APT::Sandbox::User=root)
	say "getting PostgreSQL's sources"
	mkdir -p lists/partial sources
	say "deb-src $(debian_mirror) bookworm main" >sources.list
	"${apt[@]}" update || die 'could not get the list of sources'
	"${apt[@]}" source --download-only --tar-only postgresql-15 || die "could not get PostgreSQL's sources"
	quietly tar -x -f postgresql-15_*.orig.tar.bz2 -C sources --strip-components=1
}

# PostgreSQL asserts that no transaction is about to end when a block with an exception handler has failed.
# In a deferred trigger one is, and nothing is wrong with that.
correct_assertion() {
	local file=sources/src/backend/access/transam/xact.c
	local function='/^RollbackAndReleaseCurrentSubTransaction/,/^}/'
	local ending='s->blockState == TBLOCK_END || s->blockState == TBLOCK_PREPARE'
	sed -i "$function s/== TBLOCK_STARTED);/== TBLOCK_STARTED || $ending);/" "$file"
	grep -q "$ending);" "$file" || die "could not correct the assertion in $file"
}

build_postgres() {
	say "building PostgreSQL with assertions"
	cd sources
	quietly ./configure --prefix="$work/postgres" --enable-cassert --enable-tap-tests \
		--with-ssl=openssl --without-readline --without-zlib CFLAGS=-O1
	quietly make -j"$(nproc)"
	quietly make install
	quietly make -C src/test/isolation install
	quietly make -C contrib/pgcrypto install # an example in docs/ needs it
	cd "$work"
	# others run the server
	chmod 755 "$work"
}

main
