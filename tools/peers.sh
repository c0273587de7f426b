#!/usr/bin/env bash
# Builds the programs that measurements are compared with: llama-bench and llama-server, in build/peers/bin, from the same
# llama.cpp sources and with the same settings as our engine (cmake/Llama.cmake). Usage: tools/peers.sh
set -euo pipefail
cd "$(dirname "$0")/.."
source=build/third_party/llama.cpp log=build/peers.log
[ -f $source/CMakeLists.txt ] || tools/setup.sh system llama
version=$(basename "$(echo $source/.unbend-*)" | sed 's/^\.unbend-//')
settings=(
  -DCMAKE_BUILD_TYPE=Release -DCMAKE_POSITION_INDEPENDENT_CODE=ON -DBUILD_SHARED_LIBS=OFF
  -DCMAKE_C_FLAGS=-U__AVX512FP16__ -DCMAKE_CXX_FLAGS=-U__AVX512FP16__
  -DGGML_OPENMP=OFF -DGGML_NATIVE=ON -DGGML_LLAMAFILE=ON -DGGML_CCACHE=OFF
  -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_APP=OFF
  -DLLAMA_BUILD_UI=OFF -DLLAMA_USE_PREBUILT_UI=OFF -DLLAMA_OPENSSL=OFF  # nothing is fetched, no web page, no HTTPS
  -DLLAMA_BUILD_NUMBER=0 "-DLLAMA_BUILD_COMMIT=llama-cpp-python-$version"  # else our own repository's
)
if command -v ccache >/dev/null; then settings+=(-DCMAKE_C_COMPILER_LAUNCHER=ccache -DCMAKE_CXX_COMPILER_LAUNCHER=ccache); fi
echo "[peers] llama-bench and llama-server of llama-cpp-python $version (log: $log)"
mkdir -p build
if ! { cmake -G Ninja -S $source -B build/peers "${settings[@]}" &&
       cmake --build build/peers --target llama-bench llama-server; } >$log 2>&1; then
  tail -n 20 $log >&2
  echo "peers: building failed, see $log" >&2
  exit 1
fi
