# Sourced by each `build` here: what a wheel and a Debian package have in common. Does not belong here: what one of them has.

# PYTHONDONTWRITEBYTECODE: the checkout stays as it is.
same_bytes() { # CHECKOUT: times, names and permissions of files follow from the commit, not from who builds it and when
    export SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git -C "$1" log -1 --format=%ct)}
    export TZ=UTC LC_ALL=C.UTF-8 PYTHONDONTWRITEBYTECODE=1
    umask 022
}

plugin_extras() { # PYTHON CHECKOUT [LEFT-OUT...]: the extras for users, comma-separated, as pip takes them
    "$1" - "$2/pyproject.toml" bench dev dist "${@:3}" <<'PYTHON'
import sys, tomllib
extras = tomllib.load(open(sys.argv[1], "rb"))["project"]["optional-dependencies"]
print(",".join(sorted(set(extras) - set(sys.argv[2:]))).replace("_", "-"))
PYTHON
}
