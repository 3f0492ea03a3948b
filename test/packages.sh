#!/bin/bash
# make packages: makes the archives of a release and Debian's packages, and shows that they install
# where nothing of ours has been before.
#
# Debian's packages are built in one new Debian 12, installed in another and purged again. The
# archive is what they are built from, and what PGXN's own client installs.

# shellcheck source-path=SCRIPTDIR
source "$(dirname "$0")/lib.sh"
# shellcheck source-path=SCRIPTDIR
source "$(dirname "$0")/chroot.sh"

suite=bookworm

main() {
	begin
	need git has git
	need_chroot
	((${#missing[@]} == 0)) || install_missing
	build=$work/chroots/build
	user=$work/chroots/user

	title 'archives'
	archives
	title 'packages'
	new_systems
	build_packages
	title 'installed'
	install_packages
	purge_packages
	title 'by PGXN'\''s client'
	install_by_pgxn
}

# Makes the archives of the sources as they are, committed or not.
archives() {
	copy_sources
	local git=(git -C "$src" -c user.name=nobody -c user.email=nobody -c core.hooksPath=/dev/null)
	quietly "${git[@]}" init -q
	quietly "${git[@]}" add -A
	quietly "${git[@]}" commit -q -m sources
	quietly make -C "$src" dist
	archive=$(basename "$src"/postgres_lock-*.zip .zip)
	say "$archive.zip and $archive.tar.gz"
}

# Two that are equal: what one gets to build with is not there for the other.
new_systems() {
	debian_chroot "$user" $suite
	# tests make servers of their own
	mkdir -p "$user/etc/postgresql-common"
	say 'create_main_cluster = false' >"$user/etc/postgresql-common/createcluster.conf"
	quietly cp -a "$user" "$build"
}

# in_sources SYSTEM COMMAND...: where the archive is unpacked.
in_sources() {
	local system=$1
	shift
	quietly in_chroot "$system" sh -c 'cd /src/postgres_lock-*/ && exec "$@"' sh "$@"
}

# Unpacks the archive there, and adds what Debian adds to it.
unpack() {
	mkdir "$1/src"
	tar -C "$1/src" --no-same-owner -xf "$src/$archive.tar.gz"
	cp -r "$src/debian" "$1/src/$archive"
}

build_packages() {
	local version
	unpack "$build"
	version=$(sed -nE '1s/.*\((.*)-[^-]*\).*/\1/p' "$src/debian/changelog")
	cp "$src/$archive.tar.gz" "$build/src/postgres-lock_$version.orig.tar.gz"
	in_sources "$build" env DEBIAN_FRONTEND=noninteractive apt-get -q -y --no-install-recommends build-dep .
	in_sources "$build" env MAKEFLAGS="-j$(nproc)" dpkg-buildpackage -us -uc
	(cd "$build/src" && ls -- *.dsc *.deb)
	quietly install_in_chroot "$build" lintian
	# that closes a wish for the package in Debian only Debian's own can do
	in_sources "$build" sh -c 'lintian --allow-root --fail-on=error,warning \
		--suppress-tags=initial-upload-closes-no-bugs ../*.changes'
	say 'lintian finds nothing wrong'
}

# Each with what it says it needs, and nothing else; Debian's tests of it follow.
install_packages() {
	unpack "$user"
	cp "$build"/src/*.deb "$user/src"
	local extension=("$user"/src/postgresql-*-postgres-lock_*.deb) client=("$user"/src/libpostgres-lock-dev_*.deb)
	quietly install_in_chroot "$user" "${extension[@]#"$user"}"
	in_sources "$user" debian/tests/lock
	say 'the extension takes locks'
	quietly install_in_chroot "$user" "${client[@]#"$user"}" cmake g++ make pkg-config
	in_sources "$user" debian/tests/client
	say 'programs build with the C++ client'
}

purge_packages() {
	local left
	quietly in_chroot "$user" env DEBIAN_FRONTEND=noninteractive \
		apt-get -q -y purge libpostgres-lock-dev 'postgresql-.*-postgres-lock$'
	rm -r "${user:?}/src"
	left=$(find "$user" -xdev -iname '*postgres[_-]lock*')
	[[ -z $left ]] || die "purged, but this is left: $left"
	say 'purged, and nothing is left'
}

# Its client unpacks the archive, and builds and installs what META.json says is in it.
install_by_pgxn() {
	quietly install_in_chroot "$build" pgxnclient unzip
	cp "$src/$archive.zip" "$build/src"
	in_sources "$build" pgxn install --nosudo --pg_config "$(newest_pg_config)" "../$archive.zip"
	in_sources "$build" pg_virtualenv psql -X -v ON_ERROR_STOP=1 \
		-c 'CREATE EXTENSION postgres_lock' -c "SELECT pglock.acquire('order:42')"
	say 'the extension takes locks'
}

newest_pg_config() {
	local found=("$build"/usr/lib/postgresql/*/bin/pg_config)
	say "${found[-1]#"$build"}"
}

main
