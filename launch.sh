#!/usr/bin/env bash
# Starts a program on every GPU of this machine (or on two CPU processes), making .venv first if
# need be. `./launch.sh --help` tells the rest; launch/start.py reads the arguments.
if [ -z "${BASH_VERSION:-}" ] || shopt -qo posix; then exec bash "$0" "$@"; fi # as by `sh launch.sh`
set -euo pipefail
cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")"

venv=.venv
stamp=$venv/.pyproject.sha256

usage() {
    cat <<'END'
Usage: ./launch.sh [--nproc N] [train.py's arguments]
       ./launch.sh [--nproc N] [torchrun flags] PROGRAM.py [program's arguments]
       ./launch.sh test [pytest's arguments]
       ./launch.sh setup

Runs PROGRAM.py, or train.py, in N processes: by default one for each GPU that CUDA_VISIBLE_DEVICES
leaves, or two on the CPU where there is none. It runs in the folder of this script, so paths are
relative to that.

  ./launch.sh --config configs/ci.yaml             train; all of this is train.py's
  ./launch.sh train.py --help                      what train.py takes
  ./launch.sh --nproc 4 train.py --config …        on four processes
  ./launch.sh --nproc 2 --max-restarts 3 train.py …
                                                   start again, and continue, if a process dies
  ./launch.sh --nnodes 2 --rdzv-endpoint HOST:29500 train.py …
                                                   on two nodes: run the same on both, HOST being
                                                   one of them (docs/running.md has Slurm)
  ./launch.sh check.py                             prove that what is promised holds here
  ./launch.sh compare.py                           the placements side by side; it starts their
                                                   processes itself
  ./launch.sh plan.py                              which placement would be the fastest, and why
  ./launch.sh prepare.py SOURCE TARGET             pack a folder of images for training
  ./launch.sh evaluate.py runs/fashion             score what was trained, on every GPU
  ./launch.sh predict.py a.jpg --weights runs/fashion
                                                   one process does this, and the two below
  ./launch.sh convert.py runs/fashion net.onnx     write weights in another format
  ./launch.sh kernels.py runs/fashion kernels.png  draw the first layer's kernels
  ./launch.sh test -k launch                       the tests whose names contain "launch"

What is before PROGRAM.py is torchrun's (`.venv/bin/torchrun --help`), what is after is the
program's. The exit status is that of the first rank that failed, 128 + N if signal N ended it.

The first start makes .venv from pyproject.toml, which takes minutes; later ones redo that only
if pyproject.toml has changed. `setup` does this and nothing else.

  PYTHON=python3.12   the interpreter that .venv is made from (3.10 or newer; default: python3)
  OMP_NUM_THREADS=N   threads per process (default: an equal share of the cores)
  LAUNCH_DRY_RUN=1    print the command instead of running it
END
}

die() { echo "launch.sh: $*" >&2; exit 1; }

# --- Set-up ---------------------------------------------------------------------------------------

make_venv() {
    local python=${PYTHON:-python3} wheels
    command -v "$python" >/dev/null || die "needs Python 3.10 or newer, and found no '$python'."
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' ||
        die "needs Python 3.10 or newer, and '$python' is $("$python" -V 2>&1);" \
            "name another with PYTHON=…"
    mkdir -p $venv
    echo unfinished >$stamp
    "$python" -m venv $venv >/dev/null 2>&1 && return

    # Debian keeps the wheel that venv would install pip from in packages of its own, python3-venv
    # and python3-pip-whl. Anyone may download the latter; only installing it would need root.
    "$python" -m venv --without-pip $venv || die "'$python' cannot make a virtual environment."
    wheels=$(mktemp -d)
    trap 'rm -rf "$wheels"' RETURN
    (
        chmod 755 "$wheels" # else apt, run as root, warns that its unprivileged half cannot write
        cd "$wheels"
        apt-get download python3-pip-whl && dpkg-deb -x python3-pip-whl_*.deb .
    ) >/dev/null 2>&1 &&
        $venv/bin/python "$(echo "$wheels"/usr/share/python-wheels/pip-*.whl)/pip" install -q pip ||
        die "'$python' comes without pip; install Debian's python3-venv, or name another" \
            "interpreter with PYTHON=…"
}

install_dependencies() {
    local pip=("$venv/bin/python" -m pip --disable-pip-version-check install) runtime
    [ -t 2 ] || pip+=(--quiet) # a progress bar is for someone who watches
    "${pip[@]}" --quiet 'pip>=25.1' # the first to know --group
    mapfile -t runtime < <($venv/bin/python - <<'END'
try:
    import tomllib
except ImportError:  # Python 3.10
    from pip._vendor import tomli as tomllib
with open("pyproject.toml", "rb") as file:
    print(*tomllib.load(file)["project"]["dependencies"], sep="\n")
END
    )
    [ ${#runtime[@]} -gt 0 ] || die "cannot read the dependencies in pyproject.toml."
    "${pip[@]}" --group dev "${runtime[@]}"
}

setup() {
    local wanted
    wanted=$(sha256sum <pyproject.toml)
    ready() { [ -x $venv/bin/python ] && [ "$(cat $stamp 2>/dev/null)" = "$wanted" ]; }
    ready && return
    (
        # Of several started at once, say by srun, one sets up and the others wait for it.
        flock 9
        ready && exit
        echo "Setting up $venv; this takes minutes the first time." >&2
        # Packages of which an interruption left half look installed to pip: begin again.
        if [ "$(cat $stamp 2>/dev/null)" = unfinished ]; then rm -rf $venv; fi
        [ -x $venv/bin/python ] || make_venv
        echo unfinished >$stamp
        install_dependencies >&2 && echo "$wanted" >$stamp
    ) 9<launch.sh </dev/null || die "set-up failed; start again once its cause is gone."
}

# --- Start ----------------------------------------------------------------------------------------

case ${1:-} in
    -h | --help) usage; exit ;;
    setup) setup && echo "$venv is ready."; exit ;;
esac
setup
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"
exec $venv/bin/python -m launch.start "$@" # so that signals reach the program and its status is ours
