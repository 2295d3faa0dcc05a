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

# The interface as XML: of a library that has every function of the headers, and nothing in them. Thus what lies
# behind the opaque handles is not part of it, and the compiler has held the real functions against the same
# headers.
describe() {
    echo '#include <manifuse/testing.h>' | gcc -E -P -Iabi/include - | tr '\n' ' ' |
        sed -E 's/(__attribute__\(\(visibility\("default"\)\)\) [^;{}]*\));/\1 { __builtin_trap(); }/g' >"$scratch/stub.c"
    gcc -g -w -shared -fPIC -fvisibility=hidden -Wl,--version-script=abi/manifuse.map \
        -Wl,-soname,"$(readelf -d "$library" | sed -n 's/.*(SONAME).*\[\(.*\)\]/\1/p')" \
        -o "$scratch/stub.so" "$scratch/stub.c"
    abidw --no-corpus-path --no-comp-dir-path --no-show-locs --no-elf-needed --type-id-style hash "$scratch/stub.so"
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

describe >"$scratch/described"
if [ "${1:-}" = --record ]; then
    cp "$scratch/described" "$baseline"
    echo "abi: recorded $baseline"
elif [ ! -e "$baseline" ]; then
    echo "abi: $baseline is not there yet: nothing to compare with"
elif out=$(abidiff --suppressions abi/abidiff.ignore "$baseline" "$scratch/described"); then
    echo "abi: $baseline: unchanged"
else
    echo "$out"
    echo "abi: changed since the baseline. If this is meant: CHANGELOG.md (ABI), then abi/check.sh --record"
    bad=1
fi
exit $bad
