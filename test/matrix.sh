#!/bin/bash
# make matrix: the tests of the server on every PostgreSQL that Debian has, side by side in a chroot, two
# versions at a time. A table ends it.
#
# KEEP=folder keeps the chroot there, for the next run. TESTS chooses tests, as for make test. ELSEWHERE names a
# version that is tested elsewhere: here it is only installed, for the upgrades from it. In CI the `required`
# versions must not be missing, tests that build libraries run on the newest of them only, and versions that are not
# released, which may fail, have the quick tests only.

# shellcheck source-path=SCRIPTDIR
source "$(dirname "$0")/lib.sh"
# shellcheck source=chroot.sh
source "$root/test/chroot.sh"

required=(15 17 18)

main() {
	[[ -z ${KEEP:-} ]] || KEEP=$(realpath -m "$KEEP")
	begin
	need_chroot
	((${#missing[@]} == 0)) || install_missing
	chroot=${KEEP:-$work/chroots/postgres}
	find_chroot
	copy_sources
	mv "$src" "$chroot/tmp/sources"
	test_all
	failed_outputs
	show_table
	rm -rf "${chroot:?}/tmp/sources"
	verdict
}

find_chroot() {
	if [[ -e $chroot/complete ]]; then
		say "using the chroot in $chroot"
		# what a run that was killed has left
		rm -rf "${chroot:?}"/tmp/* "${chroot:?}"/dev/shm/*
		return
	fi
	say "making a chroot with PostgreSQL ${versions[*]} in $chroot"
	postgres_chroot "$chroot"
	touch "$chroot/complete"
}

test_all() {
	local version installed=()
	tested=()
	for version in $(chroot_versions "$chroot"); do
		if ((${#tested[@]} >= 2)); then
			wait -n
			# the last may only have begun
			installed=("${tested[@]:0:${#tested[@]}-1}")
		fi
		say "testing on PostgreSQL $version${installed[*]:+, and upgrades from ${installed[*]}}"
		test_version "$version" "${installed[@]}" &
		tested+=("$version")
	done
	wait
}

# test_version VERSION OLDER...: leaves in files what the tests said, for outputs of two would mingle, and its
# row of the table. The older ones have the extension.
test_version() {
	local version=$1 start=$SECONDS status=0
	shift
	in_chroot "$chroot" env ${CI:+CI="$CI"} TESTS="${TESTS:-$(tests_of "$version")}" \
		UPGRADE_FROM="${*/#//usr/lib/postgresql/}" \
		PG_CONFIG="/usr/lib/postgresql/$version/bin/pg_config" \
		bash /tmp/sources/test/test.sh </dev/null &>"$work/$version.output" || status=$?
	summarize "$status" $((SECONDS - start)) <"$work/$version.output" >"$work/$version.row"
}

# tests_of VERSION
tests_of() {
	if [[ $1 == "${ELSEWHERE:-}" ]]; then
		say functions
	elif [[ -z ${CI:-} || $1 == "${required[-1]}" ]]; then
		server_tests
	elif released "$1"; then
		server_tests | sed -E "s/[0-9]+_($building) //g"
	else
		server_tests | sed -E 's/[0-9]+_[^ ]+ //g'
	fi
}

released() { ! in_chroot "$chroot" "/usr/lib/postgresql/$1/bin/postgres" --version | grep -q -E '[0-9](devel|beta|rc)'; }

# summarize STATUS SECONDS: a row of the table, made of what test.sh said. Whatever made it fail counts as
# one failed test at least.
summarize() {
	awk -v status="$1" -v seconds="$2" '
		/^building postgres_lock for PostgreSQL / { release = $5 }
		/^installing it into / { built = "yes" }
		match($0, /Failed: [0-9]+\)/) { failed += substr($0, RSTART + 8) }
		match($0, /^Files=[0-9]+, Tests=[0-9]+/) { all = substr($0, index($0, "Tests=") + 6) + 0 }
		END {
			if (status != 0 && failed == 0)
				failed = 1
			print release, built ? built : "no", all ? all - failed : 0, failed + 0, seconds
		}'
}

failed_outputs() {
	local version
	for version in "${tested[@]}"; do
		if ! passed "$version"; then
			title "what PostgreSQL $version said"
			cat "$work/$version.output"
		fi
	done
}

# Its row says that no test failed.
passed() { [[ $(cut -d ' ' -f 4 "$work/$1.row") == 0 ]]; }

show_table() {
	local version format='%-12s %-6s %7s %7s %8s\n'
	title 'matrix'
	# shellcheck disable=SC2059
	printf "$format" PostgreSQL built passed failed seconds
	for version in "${versions[@]}"; do
		if [[ " ${tested[*]} " == *" $version "* ]]; then
			# shellcheck disable=SC2046,SC2059
			printf "$format" $(cat "$work/$version.row")
		else
			printf '%-12s skipped: Debian has none that can be installed\n' "$version"
		fi
	done
}

# What is not released yet may fail: PostgreSQL still moves.
verdict() {
	local version status=0
	for version in "${tested[@]}"; do
		passed "$version" && continue
		if released "$version"; then
			status=1
		else
			say "PostgreSQL $version is not released yet: it may fail"
		fi
	done
	for version in "${required[@]}"; do
		[[ -z ${CI:-} || " ${tested[*]} " == *" $version "* ]] || die "there is no PostgreSQL $version to test on"
	done
	return $status
}

main
