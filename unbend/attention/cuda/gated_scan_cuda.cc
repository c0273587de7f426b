#include "unbend/attention/cuda/gated_scan_cuda.h"

#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <cuda_runtime_api.h>
#include <torch/types.h>

#include <algorithm>
#include <limits>
#include <utility>
#include <vector>

#include "unbend/attention/cuda/gated_scan_launch.h"
#include "unbend/base/error.h"

namespace unbend::cuda {
namespace {

using kernel::ScanArguments;

static_assert(kWidest == kWidestScan);
constexpr int64_t kAlignment = 16;

// The kernels count the numbers from one token to the next as an int.
bool near(const at::Tensor& x) { return x.stride(2) <= std::numeric_limits<int>::max(); }

// Rows as the kernels read them: aligned, their width a multiple of 16 bytes (zeros to the right).
at::Tensor aligned(at::Tensor x) {
  const int64_t each = kAlignment / x.element_size(), over = x.size(3) % each;
  if (over) x = at::constant_pad_nd(x, {0, each - over});
  const bool fits = x.stride(3) == 1 && x.stride(0) % each == 0 && x.stride(1) % each == 0 && x.stride(2) % each == 0 &&
                    reinterpret_cast<std::uintptr_t>(x.data_ptr()) % kAlignment == 0 && near(x);
  return fits ? x : x.clone(at::MemoryFormat::Contiguous);
}
// Decays may be one number each, which need no alignment.
at::Tensor aligned_decay(const at::Tensor& x) {
  if (!x.defined()) return x;
  return x.size(3) > 1 ? aligned(x) : near(x) ? x : x.contiguous();
}

Rows rows(const at::Tensor& x, int64_t heads = 0) {
  if (!x.defined()) return {};
  return {x.data_ptr(), x.stride(0), x.stride(1), int(x.stride(2)), int(x.size(3)), heads ? int(heads / x.size(1)) : 1};
}

// Room for results, aligned; zeros to the right of the width.
at::Tensor room(const at::Tensor& like, int64_t heads, int64_t width, at::ScalarType type) {
  const int64_t padded = (width + 7) / 8 * 8;
  const std::vector<int64_t> shape = {like.size(0), heads, like.size(2), padded};
  return padded == width ? at::empty(shape, like.options().dtype(type)) : at::zeros(shape, like.options().dtype(type));
}

// Of states [batch, heads / group, ..., dk, dv].
States states(const at::Tensor& x, int64_t heads, bool transposed = false) {
  if (!x.defined()) return {};
  const int dv = int(x.size(-1));
  return {x.data_ptr<float>(), transposed ? 1 : dv, transposed ? dv : 1, int(heads / x.size(1))};
}
// One of each group adds the gradient of a state that its heads share.
States once(States states) {
  states.first_only = true;
  return states;
}

struct Pieces {
  int count, length;
};
// Time is cut where heads alone would leave multiprocessors idle: each works on about 16 warps at a time, of which a
// head needs one for 16 columns.
Pieces pieces(int64_t heads_in_all, int64_t width, int64_t length) {
  int multiprocessors = 1;
  cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, c10::cuda::current_device());
  const int64_t warps = heads_in_all * ((width + 15) / 16);
  const int64_t most = std::max<int64_t>(length / (2 * kBoundary), 1);
  const int64_t count = std::clamp<int64_t>(16 * multiprocessors / warps, 1, most);
  const int64_t each = ((length + count - 1) / count + kBoundary - 1) / kBoundary * kBoundary;
  return {int((length + each - 1) / each), int(each)};
}

// Where the kernels note a wrong decay: memory of this machine that devices write to.
int* wrong_decays() {
  static int* const flag = [] {
    void* memory = nullptr;
    if (cudaHostAlloc(&memory, sizeof(int), cudaHostAllocPortable | cudaHostAllocMapped) != cudaSuccess)
      fail_computation("gated_scan: no memory that the CUDA device can write to: {}",
                       cudaGetErrorString(cudaGetLastError()));
    *static_cast<int*>(memory) = 0;
    return static_cast<int*>(memory);
  }();
  return flag;
}

void check_launch() {
  if (const auto error = cudaGetLastError(); error != cudaSuccess)
    fail_computation("gated_scan: the CUDA kernel did not start: {}", cudaGetErrorString(error));
}

// What all scans of one call have in common: their sizes and the segments of time.
ScanLaunch launch(const at::Tensor& q, bool backwards, const at::Tensor& queries, const at::Tensor& keys,
                  const at::Tensor& values, Decays decays, const at::Tensor& log_decay, int64_t dk, int64_t dv) {
  const int64_t heads = q.size(1), length = q.size(2);
  ScanLaunch scan{};
  scan.element = keys.scalar_type() == at::kBFloat16 ? Element::BFloat16 : Element::Float32;
  scan.decays = decays, scan.backwards = backwards;
  scan.batch = int(q.size(0)), scan.heads = int(heads), scan.length = int(length), scan.dk = int(dk), scan.dv = int(dv);
  scan.q = rows(queries, heads), scan.k = rows(keys, heads), scan.v = rows(values, heads),
  scan.log_decay = rows(log_decay, heads);
  scan.invalid = wrong_decays();
  // By what does not depend on the roles, so that all scans of a call cut alike.
  const auto [count, each] = pieces(q.size(0) * heads, std::max(dk, dv), length);
  scan.segments = count, scan.segment = each;
  return scan;
}

void start(const ScanLaunch& scan) {
  launch_scan(scan, c10::cuda::getCurrentCUDAStream().stream());
  check_launch();
}

// States that enter the segments of a scan, [batch, heads that have their own, segments, dk, dv]; none for one segment.
at::Tensor entering(const ScanLaunch& scan, const at::TensorOptions& options) {
  if (scan.segments == 1) return {};
  ScanLaunch local = scan;
  const bool decays = scan.decays != Decays::None;
  const int group = std::min({scan.k.group, scan.v.group, decays ? scan.log_decay.group : scan.k.group});
  local.heads = scan.heads / group;
  for (Rows* rows : {&local.k, &local.v, &local.log_decay}) rows->group /= group;
  local.q = local.out = {}, local.initial = local.final = {}, local.boundaries = nullptr;
  const auto states = at::empty({scan.batch, local.heads, scan.segments, scan.dk, scan.dv}, options);
  local.leaving = states.data_ptr<float>();
  at::Tensor sums;
  if (decays) {
    sums = at::empty({scan.batch, local.heads, scan.segments, scan.log_decay.width}, options);
    local.decay_sums = sums.data_ptr<float>();
  }
  start(local);
  CombineLaunch combine{local.leaving, local.decay_sums, scan.decays, scan.backwards,       scan.batch,  local.heads,
                        scan.segments, scan.dk,          scan.dv,     scan.log_decay.width, scan.initial};
  combine.initial.group = std::max(scan.initial.group / group, 1);
  launch_combine(combine, c10::cuda::getCurrentCUDAStream().stream());
  check_launch();
  return states;
}

Decays decays_of(const at::Tensor& log_decay, DecayAxis axis) {
  if (!log_decay.defined()) return Decays::None;
  if (log_decay.size(3) == 1) return Decays::Scalar;
  return axis == DecayAxis::Key ? Decays::Key : Decays::Value;
}
// For scans with keys and values in each other's place.
Decays exchanged(Decays decays) {
  return decays == Decays::Key ? Decays::Value : decays == Decays::Value ? Decays::Key : decays;
}

at::Tensor sum_of_groups(const at::Tensor& x, int64_t kv_heads) {
  return x.size(1) == kv_heads ? x : x.unflatten(1, {kv_heads, x.size(1) / kv_heads}).sum(2);
}

}  // namespace

Scan scan_forward(const ScanArguments& at, DecayAxis axis, bool recurrent, std::vector<at::Tensor>* kept) {
  const c10::cuda::CUDAGuard device(at.q.device());
  if (std::exchange(*wrong_decays(), 0))
    fail_input("gated_scan: log_decay of an earlier call had an entry that is positive or NaN");
  const int64_t heads = at.q.size(1), dk = at.k.size(3), dv = at.v.size(3);
  const auto out = room(at.q, heads, dv, at.q.scalar_type());
  const auto state = at.state.contiguous();
  if (out.numel() == 0) return {out.narrow(3, 0, dv), state.clone()};
  const auto q = aligned(at.q), k = aligned(at.k), v = aligned(at.v), log_decay = aligned_decay(at.log_decay);
  const auto final = at::empty_like(state);
  const Decays decays = decays_of(log_decay, axis);
  auto scan = launch(at.q, false, q, k, v, decays, log_decay, dk, dv);
  if (recurrent) scan.recurrent = true, scan.segments = 1, scan.segment = scan.length;
  scan.initial = states(state, heads);
  const auto enter = entering(scan, state.options());
  scan.entering = states(enter, heads);
  scan.out = rows(out), scan.final = once(states(final, heads));
  start(scan);
  const Scan result = {out.narrow(3, 0, dv), final};
  if (kept) *kept = {enter, decays == Decays::Value ? result.out : at::Tensor()};
  return result;
}

ScanArguments scan_pull(const ScanArguments& at, DecayAxis axis, const at::Tensor& d_out, const at::Tensor& d_state,
                        const std::vector<at::Tensor>& kept) {
  const c10::cuda::CUDAGuard device(at.q.device());
  const int64_t batch = at.q.size(0), heads = at.q.size(1), kv_heads = at.k.size(1), length = at.q.size(2),
                dk = at.k.size(3), dv = at.v.size(3);
  if (at.q.numel() == 0) {
    return {at::zeros_like(at.q), at::zeros_like(at.k), at::zeros_like(at.v),
            at.log_decay.defined() ? at::zeros_like(at.log_decay) : at::Tensor(), d_state.clone()};
  }
  const auto type = at.q.scalar_type();
  const auto q = aligned(at.q), k = aligned(at.k), v = aligned(at.v), log_decay = aligned_decay(at.log_decay),
             cotangent = aligned(d_out.to(type)), state = at.state.contiguous(), d_final = d_state.contiguous();
  const Decays decays = decays_of(log_decay, axis), other = exchanged(decays);
  const bool decayed = decays != Decays::None, on_value = decays == Decays::Value;
  const auto element = type == at::kBFloat16 ? Element::BFloat16 : Element::Float32;
  // Sums over a group round once.
  const auto summed = heads == kv_heads ? type : at::kFloat;
  const auto dq = room(at.q, heads, dk, type), dk_rows = room(at.q, heads, dk, summed),
             dv_rows = room(at.q, heads, dv, summed);
  const auto d_initial = at::empty({batch, heads, dk, dv}, state.options());

  // States that enter segments: of the forward, and of the scans backwards, which all see the same.
  const auto forward = [&] {
    auto scan = launch(at.q, false, {}, k, v, decays, log_decay, dk, dv);
    scan.initial = states(state, heads);
    return scan;
  };
  at::Tensor enter = kept.empty() ? at::Tensor() : kept[0];
  if (!enter.defined()) enter = entering(forward(), state.options());
  auto scan = launch(at.q, true, k, q, cotangent, decays, log_decay, dk, dv);
  scan.initial = once(states(d_final, heads));
  const auto d_enter = entering(scan, state.options());

  // The decays' gradient begins anew at boundaries, from what crosses them.
  at::Tensor boundaries, crossings;
  const int64_t count = (length + kBoundary - 1) / kBoundary, width = on_value ? dv : dk;
  if (decayed) {
    boundaries = at::empty({on_value ? boundary_size(element, batch * kv_heads, int(length), int(dk), int(dv))
                                     : boundary_size(element, batch * kv_heads, int(length), int(dv), int(dk))},
                           state.options().dtype(at::kByte));
    crossings = at::empty({batch, heads, count, width}, state.options());
  }
  const auto leave = [&](ScanLaunch& scan) {
    scan.boundaries = boundaries.data_ptr(), scan.boundary_group = scan.heads / int(kv_heads);
  };
  const auto cross = [&](ScanLaunch& scan) {
    leave(scan);
    scan.crosses = true, scan.crossings = crossings.data_ptr<float>();
  };
  const auto give = [](ScanLaunch& scan, const at::Tensor& to) {
    scan.out = rows(to), scan.out_float32 = to.scalar_type() == at::kFloat;
    start(scan);
  };

  // d_v; on the value axis its scan meets the forward's states at the boundaries, which are run for that.
  if (on_value) {
    auto again = forward();
    again.heads = int(kv_heads), again.k.group = again.v.group = again.log_decay.group = 1;
    again.initial = states(state, kv_heads), again.entering = states(enter, kv_heads);
    leave(again);
    start(again);
    cross(scan);
  }
  scan.entering = states(d_enter, heads), scan.final = states(d_initial, heads);
  give(scan, dv_rows);

  scan = launch(at.q, false, cotangent, v, k, other, log_decay, dv, dk);
  scan.initial = states(state, heads, true), scan.entering = states(enter, heads, true);
  if (decayed && !on_value) leave(scan);
  give(scan, dq);

  scan = launch(at.q, true, v, cotangent, q, other, log_decay, dv, dk);
  scan.initial = once(states(d_final, heads, true)), scan.entering = states(d_enter, heads, true);
  if (decayed && !on_value) cross(scan);
  give(scan, dk_rows);

  const auto d_k = sum_of_groups(dk_rows, kv_heads).to(type), d_v = sum_of_groups(dv_rows, kv_heads).to(type);
  ScanArguments d;
  if (decayed) {
    const bool scalar = decays == Decays::Scalar;
    const auto out = !on_value ? at::Tensor() : kept.empty() ? scan_forward(at, axis, false, nullptr).out : kept[1];
    const auto plus = on_value ? aligned(out) : q, minus = on_value ? v : k, d_plus = on_value ? cotangent : dq,
               d_minus = on_value ? d_v : d_k;
    const auto gradient = scalar ? at::empty_like(log_decay, log_decay.options(), at::MemoryFormat::Contiguous)
                                 : room(at.k, kv_heads, width, at::kFloat);
    DecayGradientLaunch launch{};
    launch.element = element;
    launch.batch = int(batch), launch.heads = int(kv_heads), launch.group = int(heads / kv_heads),
    launch.length = int(length);
    launch.width = int(width), launch.scalar = scalar;
    launch.plus = rows(plus), launch.d_plus = rows(d_plus), launch.minus = rows(minus), launch.d_minus = rows(d_minus);
    launch.crossings = crossings.data_ptr<float>(), launch.gradient = rows(gradient);
    launch_decay_gradient(launch, c10::cuda::getCurrentCUDAStream().stream());
    check_launch();
    d.log_decay = gradient.narrow(3, 0, scalar ? 1 : width);
  }
  d.q = dq.narrow(3, 0, dk), d.k = d_k.narrow(3, 0, dk), d.v = d_v.narrow(3, 0, dv);
  d.state = sum_of_groups(d_initial, kv_heads);
  return d;
}

}  // namespace unbend::cuda
