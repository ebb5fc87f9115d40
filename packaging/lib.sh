# What the packaging scripts share: the tree's root, Debian's mirror, missing packages.
# shellcheck shell=bash

top=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

# Debian's own tools and Python, whatever else this machine puts in front of them.
debian_path=/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin

say() { printf '%s: %s\n' "${0##*/}" "$*" >&2; }
die() { say "$@"; exit 1; }

need_root() { [ "$(id -u)" = 0 ] || die "this needs root"; }

# need_packages NAME...: installs those that are missing.
need_packages() {
	local missing=() name
	for name; do
		dpkg-query -W -f='${Status}' "$name" 2>/dev/null | grep -q '^install ok installed$' ||
			missing+=("$name")
	done
	[ ${#missing[@]} -gt 0 ] || return 0
	[ "$(id -u)" = 0 ] || die "missing packages, to be installed by root: ${missing[*]}"
	say "installing ${missing[*]}"
	apt-get update -qq >&2
	DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends \
		-o Dpkg::Use-Pty=0 "${missing[@]}" >&2
}

# The archive this machine's apt takes Debian from; PREFORK_SD_MIRROR overrides it.
debian_mirror() {
	local uri release
	if [ -n "${PREFORK_SD_MIRROR:-}" ]; then
		echo "$PREFORK_SD_MIRROR"
		return
	fi
	while read -r uri release; do
		case $uri:$release in
			*security* | *-updates | *-backports*) ;;
			*/debian/:*) echo "$uri"; return ;;
		esac
	done < <(apt-get indextargets --format '$(REPO_URI) $(RELEASE)' 'Created-By: Packages')
	die "apt names no Debian archive; set PREFORK_SD_MIRROR"
}
