# shellcheck shell=bash disable=SC2154
# The drivers of other languages, for the tests of test/drivers: from Debian's packages and npm, and Python's once more
# from the next Debian, whose versions are newer. A driver that can't be had is done without, but not in CI: its tests
# are skipped by its name.

driver_tests=(060_drivers 065_driver_matrix 066_interrupted 068_driver_traps 078_lease_recipes)

# Fills the folder DRIVERS, which the tests look into.
find_drivers() {
	asked_for "${driver_tests[@]}" || return 0
	export DRIVERS=$work/drivers
	as_server mkdir "$DRIVERS"
	install_driver_packages
	# it takes the longest
	build_rust </dev/null &
	rust=$!
	unpack_trixie || do_without "trixie's Python drivers"
	say 'building the C++ client as one of the drivers'
	quietly as_server make -C "$src/test/client" BUILD="$DRIVERS" SANITIZE="${SANITIZE:-}" libpq_guard
	build_go || do_without "Go's drivers"
}

# what the tests of pools use, too
need_driver_packages() {
	need python3-asyncpg has_module asyncpg
	need python3-psycopg2 has_module psycopg2
	need python3-psycopg has_module psycopg
	need python3-sqlalchemy has_module sqlalchemy
	need libpostgresql-jdbc-java has_jar postgresql
	need default-jdk-headless has javac
	need nodejs has node
	need npm has npm
}

install_driver_packages() {
	local package

	missing=()
	need_driver_packages
	need python3-greenlet has_module greenlet
	need libdbd-pg-perl perl -MDBD::Pg -e 1
	need mmdebstrap has mmdebstrap
	need_languages
	((${#missing[@]} > 0)) && has apt-get >/dev/null || return 0

	say "installing with apt-get: ${missing[*]}"
	apt_get update || say 'could not update the lists of packages, going on with those there are'
	run apt_get install --no-install-recommends "${missing[@]}" 2>/dev/null && return
	for package in "${missing[@]}"; do
		run apt_get install --no-install-recommends "$package" || do_without "$package"
	done
}

# Debian's compilers and interpreters, as they know its libraries: others may come first on the PATH
need_languages() {
	need python3-django has_module django
	need ruby-pg /usr/bin/ruby -r pg -e 0
	need ruby-activerecord /usr/bin/ruby -r active_record -e 0
	need php-cli test -x /usr/bin/php
	need php-pgsql /usr/bin/php -r 'exit((int) !extension_loaded("pdo_pgsql"));'
	need golang-go test -x /usr/bin/go
	need golang-github-lib-pq-dev test -d /usr/share/gocode/src/github.com/lib/pq
	need golang-github-jackc-pgx-v4-dev test -d /usr/share/gocode/src/github.com/jackc/pgx/v4
	need cargo test -x /usr/bin/cargo
	need librust-tokio-postgres-dev has_crate tokio-postgres
}

has_crate() { compgen -G "/usr/share/cargo/registry/$1-[0-9]*"; }

has_jar() { [[ -f /usr/share/java/$1.jar ]]; }

# The other clients that npm has, and the command that generates Prisma's
npm_packages=(postgres@3 knex@3 sequelize@6 typeorm@1 drizzle-orm@0.45 slonik@46
	prisma@7 @prisma/client@7 @prisma/adapter-pg@7)

# Says in NODE_PATH where npm's packages are. Debian has node-postgres, too, for when npm can't be asked.
find_node_packages() {
	asked_for 063_pools "${driver_tests[@]}" || return 0
	export NODE_PATH=$work/npm/node_modules:/usr/share/nodejs
	as_server mkdir "$work/npm"
	npm_install pg@8 || run apt_get install --no-install-recommends node-pg || do_without node-postgres
	asked_for "${driver_tests[@]}" || return 0
	{ npm_install "${npm_packages[@]}" && generate_prisma; } || do_without "npm's other drivers"
}

npm_install() {
	say "installing with npm: $*"
	run as_server npm install --prefix "$work/npm" --ignore-scripts --no-audit --no-fund "$@" &>"$log" ||
		{ cat "$log" >&2; return 1; }
}

# Prisma would download a program of its own, but needs none for this.
generate_prisma() {
	as_server cp "$src/test/drivers/schema.prisma" "$work/npm"
	run as_server env -C "$work/npm" PRISMA_SCHEMA_ENGINE_BINARY=/bin/true CHECKPOINT_DISABLE=1 \
		npx --no-install prisma generate &>"$log" || { cat "$log" >&2; return 1; }
}

# Unpacks trixie's Python and its drivers. Nothing is installed, and no root directory changed: they run from where
# they are, by their own loader and libraries.
unpack_trixie() {
	local packages=python3,python3-asyncpg,python3-psycopg2,python3-psycopg,python3-sqlalchemy,python3-greenlet,python3-django

	has mmdebstrap >/dev/null || return
	say "unpacking trixie's $packages"
	run as_root mmdebstrap --mode=root --variant=extract --include="$packages" \
		--aptopt='Acquire::Check-Valid-Until "false"' --aptopt='Acquire::Retries "3"' \
		--dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/locale/*' \
		trixie "$DRIVERS/trixie" "deb $(debian_mirror) trixie main" &>"$log" || { cat "$log" >&2; return 1; }
	as_root chown -R "$(stat -c %U: "$DRIVERS")" "${DRIVERS:?}/trixie"
}

# Builds Go's workers from Debian's sources.
build_go() {
	local worker files
	say "building Go's workers"
	for worker in lib_pq lib_pq_lease pgx_lock pgx_lease; do
		files=("$worker.go" go_worker.go)
		[[ $worker != *_lease ]] || files+=(lease.go go_lease_worker.go)
		run as_server env GOPATH=/usr/share/gocode GO111MODULE=off GOFLAGS= GOCACHE="$work/go" \
			/usr/bin/go build -o "$DRIVERS/$worker" "${files[@]/#/$src/test/drivers/}" &>"$log" ||
			{ cat "$log" >&2; return 1; }
	done
}

# Builds Rust's workers with Debian's crates.
build_rust() {
	local cargo=$work/cargo
	as_server mkdir "$cargo"
	{ as_server env -u CARGO_TARGET_DIR CARGO_HOME="$cargo" RUSTC=/usr/bin/rustc timeout 900 \
		/usr/bin/cargo build --offline --manifest-path "$src/test/drivers/Cargo.toml" --target-dir "$cargo/target" \
		--config 'source.crates-io.replace-with="debian"' \
		--config 'source.debian.directory="/usr/share/cargo/registry"' &&
		as_server cp "$cargo"/target/debug/tokio_postgres{,_lease} "$DRIVERS"; } &>"$cargo/log" || { cat "$cargo/log" >&2; return 1; }
}

await_rust() {
	[[ -z ${rust:-} ]] || wait "$rust" || do_without "Rust's tokio-postgres"
}
