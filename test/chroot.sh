# shellcheck shell=bash
# Debian systems in folders, for what the machine's own can't show: other versions of PostgreSQL, or a
# system on which nothing is installed yet. Only root can make and enter them.
#
# shellcheck disable=SC2154
# To be sourced after lib.sh. A folder in "$work/chroots" vanishes with the command.

# The suites that have PostgreSQL's versions: the newest that holds together, and then older ones.
suites=(forky trixie bookworm experimental)
versions=(15 17 18 19)

need_chroot() {
	((EUID == 0)) || die "only root can make a chroot: sudo make ..."
	need mmdebstrap has mmdebstrap
	# with which it finds the keys of Debian's suites
	need gpg has gpg
	need util-linux has unshare
	need iproute2 has ip
}

# debian_chroot FOLDER SUITES [OPTION...]: a small Debian of these suites ("trixie bookworm"). The
# options are mmdebstrap's, as --include=g++,make. A suite that there is not is left out by name.
debian_chroot() {
	local folder=$1 names=$2 address suite found=() sources=()
	shift 2
	address=$(debian_mirror)
	for suite in $names; do
		if has_suite "$address" "$suite"; then
			found+=("$suite")
			sources+=("deb $address $suite main")
		else
			say "skipped: Debian has no suite $suite, or it can't be reached"
		fi
	done
	((${#found[@]} > 0)) || die "no suite of $names at $address"

	mkdir -p "$(dirname "$folder")"
	# what says how old a moving suite's list may be is often older
	quietly mmdebstrap --mode=root --variant=minbase --skip=cleanup/apt/lists \
		--aptopt='Acquire::Check-Valid-Until "false"' --aptopt='Acquire::Retries "3"' \
		--dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/doc/*' \
		--dpkgopt='path-exclude=/usr/share/locale/*' --dpkgopt=force-unsafe-io \
		--customize-hook='chmod 1777 "$1/dev/shm"' \
		"$@" "${found[0]}" "$folder" "${sources[@]}"
}

# new_system SUITE FOLDER: a Debian of that suite on which nothing has been installed. Those of one suite are copies
# of one, in SYSTEMS if that is set, so that commands can share them. What share_downloads has left need not be got again.
new_system() {
	local suite=$1 folder=$2 original
	original=$(original_of "$suite")
	mkdir -p "$(dirname "$original")" "$(dirname "$folder")"
	local lock
	exec {lock}>"$original.lock"
	flock "$lock"
	if [[ ! -e $original.complete ]]; then
		debian_chroot "$original" "$suite"
		touch "$original.complete"
	fi
	exec {lock}>&-
	quietly cp -a "$original" "$folder"
	cp -l "$original.downloads"/*.deb "$folder/var/cache/apt/archives" 2>/dev/null || true
}

original_of() { say "${SYSTEMS:-$work/chroots/systems}/$1"; }

# share_downloads SUITE FOLDER: leaves the packages that the system has got for those that are made after it.
share_downloads() {
	mkdir -p "$(original_of "$1").downloads"
	cp -ln "$2"/var/cache/apt/archives/*.deb "$(original_of "$1").downloads" 2>/dev/null || true
}

# has_suite MIRROR SUITE
has_suite() {
	/usr/lib/apt/apt-helper -o Acquire::Retries=3 download-file \
		"${1%/}/dists/$2/InRelease" "$work/InRelease" &>/dev/null
}

# in_chroot FOLDER COMMAND...: runs it as root in there, with nothing of our environment. Nothing that
# it starts outlives it, where the machine lets us have namespaces. With `offline` set it has a network of its own as
# well, which leads nowhere, and whose ports are all free: servers that two systems begin at the same time take one port.
in_chroot() {
	local folder=$1 namespaces=(unshare --mount --pid --ipc --fork --kill-child)
	shift
	[[ -z ${offline:-} ]] || namespaces+=(--net)
	"${namespaces[@]}" true 2>/dev/null || namespaces=()
	# the first process of a namespace is deaf to signals and takes all others with it: a shell, so that
	# the command hears them. The machine's own lo is up.
	env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C \
		"${namespaces[@]}" sh -c '
			if [ $$ = 1 ]; then
				mount -t proc proc "$0/proc"
				mount -t tmpfs -o mode=1777 tmpfs "$0/dev/shm"
				ip link set lo up
			fi 2>/dev/null
			chroot "$0" "$@"
			exit' "$folder" "$@"
}

# install_in_chroot FOLDER PACKAGE...: their scripts find what we have in /usr/local/sbin first.
install_in_chroot() {
	local folder=$1
	shift
	in_chroot "$folder" env DEBIAN_FRONTEND=noninteractive apt-get -q -y \
		-o Dpkg::Use-Pty=0 -o DPkg::Path= -o APT::Keep-Downloaded-Packages=false \
		--no-install-recommends install "$@"
}

# postgres_chroot FOLDER: one with the `versions` side by side, those that can be had, and with what it
# takes to build the extension and to test it. It does without LLVM, which is large.
postgres_chroot() {
	local folder=$1 version packages=()
	debian_chroot "$folder" "${suites[*]}" --include=g++,make,perl,libipc-run-perl,libssl-dev \
		--dpkgopt='path-exclude=/usr/lib/llvm-*' --dpkgopt='path-exclude=/usr/lib/*/lib*LLVM*' \
		--dpkgopt='path-exclude=/usr/lib/*/libclang*' \
		--dpkgopt='path-exclude=/usr/lib/postgresql/*/lib/llvmjit*'
	without_servers "$folder"
	# apt takes nothing from experimental unasked, not even what the newest version needs of itself
	printf '%s\n' "Package: src:postgresql-${versions[-1]}" 'Pin: release a=experimental' \
		'Pin-Priority: 500' >"$folder/etc/apt/preferences.d/postgresql"

	for version in "${versions[@]}"; do
		if run install_in_chroot "$folder" --simulate "postgresql"{,-server-dev}"-$version" &>"$log"; then
			packages+=("postgresql"{,-server-dev}"-$version")
		else
			say "skipped: PostgreSQL $version can't be installed: $(grep -m 1 '^E:' "$log")"
		fi
	done
	((${#packages[@]} > 0)) || die 'no version of PostgreSQL can be installed'
	quietly install_in_chroot "$folder" "${packages[@]}"
	without_llvm "$folder"
}

# without_servers FOLDER: PostgreSQL's packages would make servers, and folders for them, which takes
# /proc: nobody asked for that.
without_servers() {
	ln -s /bin/true "$1/usr/local/sbin/pg_createcluster"
	ln -s /bin/true "$1/usr/local/sbin/systemd-tmpfiles"
}

# without_llvm FOLDER: extensions are built without bitcode.
without_llvm() {
	sed -i 's/^with_llvm[\t ]*=.*/with_llvm = no/' "$1"/usr/lib/postgresql/*/lib/pgxs/src/Makefile.global
}

# The versions in a chroot.
chroot_versions() {
	local version
	for version in "${versions[@]}"; do
		[[ ! -x $1/usr/lib/postgresql/$version/bin/postgres ]] || say "$version"
	done
}
