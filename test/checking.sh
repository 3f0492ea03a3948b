# shellcheck shell=bash disable=SC2154,SC2164
# A PostgreSQL 15 that checks its own assertions, and so shows misuse that others let pass. It is built from
# Debian's sources.
#
# To be sourced after lib.sh. KEEP=folder keeps it there, for the next command that wants it; otherwise it
# vanishes with the command.

need_checking_postgres() {
	has apt-get >/dev/null || die "the sources of PostgreSQL come from Debian, and there is no apt-get"
	need make has make
	need gcc has gcc
	need g++ has g++
	need bison has bison
	need flex has flex
	need bzip2 has bzip2
	need libssl-dev test -f /usr/include/openssl/sha.h
	need libipc-run-perl perl -MIPC::Run -e 1
	need perl has prove
}

# Says in `checking` where it is: its sources, built, and what is installed of them.
find_checking_postgres() {
	checking=$(realpath -m "${KEEP:-$work/checking}")
	mkdir -p "$checking/sources"
	# others run the server
	chmod 755 "$work" "$checking"
	need_reachable "$checking"
	if [[ ! -e $checking/complete ]]; then
		get_sources
		correct_assertion
		build_postgres
		touch "$checking/complete"
	else
		say "using the PostgreSQL in $checking"
	fi
	export PG_CONFIG=$checking/postgres/bin/pg_config
}

# The sources as PostgreSQL has published them: one of Debian's patches would have the extension installed
# over that of the machine's own server.
get_sources() {
	local apt=(apt_get -o Dir::Etc::SourceList="$work/sources.list" -o Dir::Etc::SourceParts=/dev/null
		-o Dir::State::Lists="$work/lists" -o APT::Sandbox::User=root)
	say "getting PostgreSQL's sources"
	mkdir -p lists/partial
	say "deb-src $(debian_mirror) bookworm main" >sources.list
	"${apt[@]}" update || die 'could not get the list of sources'
	"${apt[@]}" source --download-only --tar-only postgresql-15 || die "could not get PostgreSQL's sources"
	quietly tar -x -f postgresql-15_*.orig.tar.bz2 -C "$checking/sources" --strip-components=1
}

# PostgreSQL asserts that no transaction is about to end when a block with an exception handler has failed.
# In a deferred trigger one is, and nothing is wrong with that.
correct_assertion() {
	local file=$checking/sources/src/backend/access/transam/xact.c
	local function='/^RollbackAndReleaseCurrentSubTransaction/,/^}/'
	local ending='s->blockState == TBLOCK_END || s->blockState == TBLOCK_PREPARE'
	sed -i "$function s/== TBLOCK_STARTED);/== TBLOCK_STARTED || $ending);/" "$file"
	grep -q "$ending);" "$file" || die "could not correct the assertion in $file"
}

build_postgres() {
	say "building PostgreSQL with assertions"
	cd "$checking/sources"
	quietly ./configure --prefix="$checking/postgres" --enable-cassert --enable-tap-tests \
		--with-ssl=openssl --without-readline --without-zlib CFLAGS=-O1
	quietly make -j"$(nproc)"
	quietly make install
	quietly make -C src/test/regress -j"$(nproc)" all
	quietly make -C src/test/isolation install
	quietly make -C contrib/pgcrypto install # an example in docs/ needs it
	quietly make -C contrib/amcheck install # and a test of what a crash leaves
	cd "$work"
}
