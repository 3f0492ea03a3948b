#!/bin/bash
# make packages: makes the archives of a release, Debian's packages, an RPM package and what the Dockerfile describes,
# and shows that they install where nothing of ours has been before.
#
# Debian's packages are built in a new Debian of each suite by the letter of docs/install.md, installed in another,
# used, and purged again; the others on one of the suites. SUITES="sid" chooses other suites than those with
# PostgreSQL 15 and 17.

# shellcheck source-path=SCRIPTDIR
source "$(dirname "$0")/lib.sh"
# shellcheck source=chroot.sh
source "$root/test/chroot.sh"

read -ra suites <<<"${SUITES:-bookworm trixie}"

main() {
	local suite
	begin
	need git has git
	need_chroot
	((${#missing[@]} == 0)) || install_missing

	title 'archives'
	archives
	title 'packages'
	for suite in "${suites[@]}"; do
		part "packages on $suite" packages "$suite"
	done
	finish_parts
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

packages() {
	build=$work/chroots/$1-build
	user=$work/chroots/$1-user
	new_packaging_system "$1" "$build"
	build_packages
	share_downloads "$1" "$build"
	# what one gets to build with is not there for the other
	new_packaging_system "$1" "$user"
	install_packages
	remove_packages
	# each of these on one suite: they are made for any system
	if [[ $1 == "${suites[0]}" ]]; then
		build_image "$1"
	fi
	if [[ $1 == "${suites[-1]}" ]]; then
		install_by_pgxn
		build_rpm
	fi
	rm -rf "${build:?}" "${user:?}"
}

new_packaging_system() {
	new_system "$1" "$2"
	# tests make servers of their own
	mkdir -p "$2/etc/postgresql-common"
	say 'create_main_cluster = false' >"$2/etc/postgresql-common/createcluster.conf"
	# the questions that apt-get asks are answered by hand
	say 'APT::Get::Assume-Yes "true";' >"$2/etc/apt/apt.conf.d/99-answers"
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

#
# Debian
#

build_packages() {
	local version
	unpack "$build"
	version=$(sed -nE '1s/.*\((.*)-[^-]*\).*/\1/p' "$src/debian/changelog")
	cp "$src/$archive.tar.gz" "$build/src/postgres-lock_$version.orig.tar.gz"
	as_documented "$build" apt-get build-dep
	as_documented "$build" dpkg-buildpackage
	in_sources "$build" dpkg-buildpackage -S -us -uc
	(cd "$build/src" && ls -- *.dsc *.deb)
	quietly install_in_chroot "$build" lintian
	# that closes a wish for the package in Debian only Debian's own can do
	in_sources "$build" sh -c 'lintian --allow-root --fail-on=error,warning \
		--suppress-tags=initial-upload-closes-no-bugs ../*.changes'
	say 'lintian finds nothing wrong'
}

# as_documented SYSTEM COMMAND: runs the line of docs/install.md that begins so, in the sources there.
as_documented() {
	local line
	line=$(grep -E "^(sudo )?$2 " "$src/docs/install.md" | grep -m 1 -E 'build-dep|buildpackage|\.deb')
	[[ -n $line ]] || die "docs/install.md has no \"$2\""
	say "\$ $line"
	in_sources "$1" env DEBIAN_FRONTEND=noninteractive MAKEFLAGS="-j$(nproc)" sh -euc "${line#sudo }"
}

# Each with what it says it needs, and nothing else; Debian's tests of it follow.
install_packages() {
	local client=("$build"/src/libpostgres-lock-dev_*.deb)
	unpack "$user"
	cp "$build"/src/*.deb "$user/src"
	# it may have been written for other versions
	cp "$build/src/$archive"/debian/control "$user/src/$archive/debian"
	as_documented "$user" 'apt-get install'
	offline=yes in_sources "$user" debian/tests/lock
	say 'the extension takes locks'
	quietly install_in_chroot "$user" "${client[@]#"$build"}" cmake g++ make pkg-config
	offline=yes in_sources "$user" debian/tests/client
	say 'programs build with the C++ client'
}

# That servers preload the library is said when it goes, and otherwise nothing.
remove_packages() {
	local package version left
	package=$(in_chroot "$user" dpkg-query -W -f '${Package}\n' 'postgresql-*-postgres-lock' | head -n 1)
	version=$(tr -dc 0-9 <<<"$package")
	quietly in_chroot "$user" pg_createcluster "$version" main
	remove remove "$package"
	! grep 'shared_preload_libraries' "$log" || die 'it warns though nothing preloads the library'

	quietly install_in_chroot "$user" "$(in_chroot "$user" sh -c "echo /src/${package}_*.deb")"
	quietly in_chroot "$user" pg_conftool "$version" main set shared_preload_libraries 'pg_stat_statements, postgres_lock'
	remove purge libpostgres-lock-dev "$package"
	grep "$version/main has postgres_lock in shared_preload_libraries" "$log" ||
		die 'it does not warn that the library is preloaded'
	quietly in_chroot "$user" pg_dropcluster "$version" main
	rm -r "${user:?}/src"
	left=$(find "$user" -xdev -iname '*postgres[_-]lock*')
	[[ -z $left ]] || die "purged, but this is left: $left"
	say 'purged, and nothing is left'
}

# remove remove|purge PACKAGE...
remove() { quietly in_chroot "$user" env DEBIAN_FRONTEND=noninteractive apt-get -q -y "$@"; }

#
# Others
#

# Its client unpacks the archive, and builds and installs what META.json says is in it.
install_by_pgxn() {
	quietly install_in_chroot "$build" pgxnclient unzip
	cp "$src/$archive.zip" "$build/src"
	in_sources "$build" pgxn install --nosudo --pg_config "$(newest_pg_config)" "../$archive.zip"
	takes_locks "$build"
	in_sources "$build" make uninstall PG_CONFIG="$(newest_pg_config)"
	say "PGXN's client installs it"
}

newest_pg_config() {
	local found=("$build"/usr/lib/postgresql/*/bin/pg_config)
	say "${found[-1]#"$build"}"
}

# takes_locks SYSTEM: by what is installed there, preloaded
takes_locks() {
	offline=yes quietly in_chroot "$1" pg_virtualenv -o shared_preload_libraries=postgres_lock psql -X -v ON_ERROR_STOP=1 \
		-c 'CREATE EXTENSION postgres_lock' -c "SELECT pglock.acquire('order:42')"
}

# There is no Fedora here: the spec's steps run with Debian's rpmbuild and PostgreSQL, and what is in the package is
# unpacked in place of being installed.
build_rpm() {
	local config
	config=$(newest_pg_config)
	quietly install_in_chroot "$build" rpm cpio elfutils
	cp "$src/$archive.tar.gz" "$build/src"
	in_sources "$build" rpmbuild -ba --nodeps --define "_sourcedir /src" --define '_topdir /rpm' \
		--define "pg_config $config" --define "pgmajorversion $(tr -dc 0-9 <<<"$config")" packaging/postgres_lock.spec
	in_sources "$build" sh -euc 'cd /
		for package in /rpm/RPMS/*/*.rpm; do rpm2cpio "$package" | cpio -idm --quiet; done'
	takes_locks "$build"
	[[ -f $build/usr/include/postgres_lock/libpq.hpp ]] || die 'the C++ client is in none of the RPM packages'
	say "the RPM package's library takes locks"
}

# There is no Docker here: the steps of the Dockerfile run in systems with Debian's PostgreSQL in place of the image's.
build_image() {
	local stage='' stages=0 step rest major
	major=$(basename "$(dirname "$(dirname "$(newest_pg_config)")")")
	while read -r step rest; do
		case $step in
			FROM)
				# the last one becomes the image
				stage=$user
				((stages++)) || { stage=$build-image; new_system "$1" "$stage"; }
				;;
			RUN) quietly in_chroot "$stage" env DEBIAN_FRONTEND=noninteractive PG_MAJOR="$major" sh -euc "$rest" ;;
			COPY)
				case $rest in
					'. /src') cp -r "$src" "$stage/src" ;;
					'--from=build /installed /') cp -a "$build-image/installed/." "$stage/" ;;
					*) die "COPY $rest is not known here" ;;
				esac
				;;
			ARG | CMD) ;;
			*) die "$step is not known here" ;;
		esac
	done < <(sed -e '/^#/d' -e '/^$/d' -e ':join' -e '/\\$/{N;s/\\\n//;b join' -e '}' "$src/Dockerfile")
	takes_locks "$user"
	rm -rf "${build:?}-image"
	say "what the Dockerfile builds takes locks"
}

main
