#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# Is the library's interface what it says it is?
#
#   abi/check.sh             compare, exit 1 on any difference
#   abi/check.sh --record    take the interface as it is for the new baseline
#
# Exported symbols = symbol map = public headers = cffi declarations = SWIG interface (which lists what it leaves
# to handwritten cgo); then abidiff against the baseline, where abi/abidiff.ignore explains what may differ.
set -euo pipefail
cd "$(dirname "$0")/.."
export LC_ALL=C PATH="$PWD/build/venv/bin:$PWD/build/bin:$PATH"

library=${MF_LIBRARY:-build/release/libmanifuse.so}
baseline=abi/manifuse.abi
cdef=bindings/python/manifuse/_native/cdef.h
swig=abi/manifuse.i
bad=0

[ -e "$library" ] || {
    echo "abi/check.sh: $library is not there: run make first" >&2
    exit 2
}

# ---- lists of names, one a line, sorted ----------------------------------------------------------------

# Function names in C declarations on stdin, comments and preprocessor lines left out.
declared() {
    gcc -fpreprocessed -dD -E -P -x c - 2>/dev/null | grep -v '^#' | grep -oE '\bmf_[a-z0-9_]+ *\(' |
        tr -d ' (' | sort -u
}

exported() { nm -D --defined-only "$library" | awk '$2 != "A" { sub(/@.*/, "", $3); print $3 }' | sort -u; }

mapped() { grep -oE '^ +[a-z_][a-z0-9_]*;' abi/manifuse.map | tr -d ' ;' | sort -u; }

in_headers() {
    cat abi/include/manifuse/*.h | gcc -fpreprocessed -dD -E -P -x c - 2>/dev/null | grep -v '^#' | tr '\n' ' ' |
        grep -oE 'MF_API [^;(]*\(' | grep -oE 'mf_[a-z0-9_]+ *\($' | tr -d ' (' | sort -u
}

# What the interface wraps, and what it lists by hand with the reason in the comment at its end.
in_swig() {
    { declared <"$swig"; sed -n '/^ \* By hand/,$s/^ \*     //p' "$swig" | grep -oE '\bmf_[a-z0-9_]+'; } | sort -u
}

in_cdef() { declared <"$cdef"; }

# ---- comparing -----------------------------------------------------------------------------------------

compare() { # compare NAME FILE: against what the headers declare
    local name=$1 less more

    less=$(comm -13 "$2" "$headers" | tr '\n' ' ')
    more=$(comm -23 "$2" "$headers" | tr '\n' ' ')
    [ -z "$less" ] || echo "abi: in the headers, but not in $name: $less"
    [ -z "$more" ] || echo "abi: in $name, but not in the headers: $more"
    if [ -n "$less$more" ]; then
        bad=1
    else
        echo "abi: $name: $(wc -l <"$2") symbols, as in the headers"
    fi
}

binding() { # binding FILE LISTER
    if [ -e "$1" ]; then
        "$2" >"$scratch/binding"
        compare "$1" "$scratch/binding"
    else
        echo "abi: $1 is not there yet: not compared"
    fi
}

describe() { # the library's interface as XML that says nothing about the machine
    abidw --headers-dir abi/include --drop-private-types --no-corpus-path --no-comp-dir-path --no-show-locs \
        --no-elf-needed --type-id-style hash "$library" | sed -E "s/ (path|version)='[^']*'//"
}

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
headers=$scratch/headers

in_headers >"$headers"
exported >"$scratch/exported"
mapped >"$scratch/mapped"
compare "abi/manifuse.map" "$scratch/mapped"
compare "$library" "$scratch/exported"
binding "$cdef" in_cdef
binding "$swig" in_swig

if [ "${1:-}" = --record ]; then
    describe >"$scratch/baseline"
    mv "$scratch/baseline" "$baseline"
    echo "abi: recorded $baseline"
elif [ ! -e "$baseline" ]; then
    echo "abi: $baseline is not there yet: nothing to compare with"
elif out=$(abidiff --headers-dir1 abi/include --headers-dir2 abi/include --drop-private-types --no-show-locs \
    --suppressions abi/abidiff.ignore "$baseline" "$library"); then
    echo "abi: unchanged since the baseline"
else
    # Bit 3 of the status: incompatible. Bit 2: changed, which a new symbol or an appended field is, too.
    echo "$out"
    echo "abi: changed since the baseline. If this is meant: CHANGELOG.md (ABI), then abi/check.sh --record"
    bad=1
fi
exit $bad
