#include "tests/other_device.h"

#include <ATen/EmptyTensor.h>
#include <ATen/detail/PrivateUse1HooksInterface.h>
#include <ATen/native/CPUFallback.h>
#include <ATen/ops/_reshape_alias_native.h>
#include <ATen/ops/as_strided_native.h>
#include <ATen/ops/resize_native.h>
#include <ATen/ops/unfold_native.h>
#include <ATen/ops/view_native.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <sys/mman.h>
#include <torch/library.h>

#include <algorithm>
#include <cstring>
#include <mutex>

#include "unbend/base/error.h"

namespace unbend::test {
namespace {

using at::IntArrayRef, at::Tensor;
using std::optional;

constexpr c10::DeviceType kType = c10::DeviceType::PrivateUse1;  // LibTorch's place for devices that it does not know

// Pages that can be read and written while somebody has them open.
class Block {
 public:
  explicit Block(size_t bytes)
      : bytes_(std::max<size_t>(bytes, 1)),
        data_(mmap(nullptr, bytes_, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)) {
    if (data_ == MAP_FAILED) fail_computation("the other device: no memory for {} bytes", bytes);
  }
  Block(const Block&) = delete;
  Block& operator=(const Block&) = delete;
  ~Block() { munmap(data_, bytes_); }

  void* data() const { return data_; }
  void open() { change(1); }
  void close() { change(-1); }

 private:
  void change(int by) {
    const std::lock_guard lock(mutex_);
    users_ += by;
    if (mprotect(data_, bytes_, users_ > 0 ? PROT_READ | PROT_WRITE : PROT_NONE) != 0)
      fail_computation("the other device: mprotect failed");
  }
  size_t bytes_;
  void* data_;
  int users_ = 0;
  std::mutex mutex_;
};

struct Memory : c10::Allocator {
  at::DataPtr allocate(size_t bytes) override {
    auto* const block = new Block(bytes);  // NOLINT(cppcoreguidelines-owning-memory): the pointer's context
    return {block->data(), block, [](void* context) { delete static_cast<Block*>(context); }, at::Device(kType, 0)};
  }
  void copy_data(void*, const void*, size_t) const override { fail_usage("the other device: bytes are not copied"); }
};
Memory memory;

// The numbers of a tensor of the device as one of the CPU, or a tensor of the CPU as it is.
class Opened {
 public:
  explicit Opened(const Tensor& t) : tensor(t) {
    if (t.device().type() != kType || t.numel() == 0) return;
    block_ = static_cast<Block*>(t.storage().data_ptr().get_context());
    block_->open();
    auto* const first = static_cast<char*>(block_->data()) + static_cast<size_t>(t.storage_offset()) * t.itemsize();
    tensor = at::from_blob(first, t.sizes(), t.strides(), at::TensorOptions(t.scalar_type()));
  }
  Opened(const Opened&) = delete;
  Opened& operator=(const Opened&) = delete;
  ~Opened() {
    if (block_ != nullptr) block_->close();
  }
  Tensor tensor;

 private:
  Block* block_ = nullptr;
};

constexpr c10::DispatchKeySet kKeys(c10::DispatchKey::PrivateUse1);

Tensor empty(IntArrayRef size, optional<at::ScalarType> type, optional<at::Layout>, optional<at::Device>,
             optional<bool>, optional<at::MemoryFormat> format) {
  return at::detail::empty_generic(size, &memory, kKeys, type.value_or(at::kFloat), format);
}

Tensor empty_strided(IntArrayRef size, IntArrayRef stride, optional<at::ScalarType> type, optional<at::Layout>,
                     optional<at::Device>, optional<bool>) {
  return at::detail::empty_strided_generic(size, stride, &memory, kKeys, type.value_or(at::kFloat));
}

Tensor copy_from(const Tensor& from, const Tensor& to, bool) {
  const Opened source(from), target(to);
  if (target.tensor.numel() > 0) target.tensor.copy_(source.tensor);
  return to;
}

Tensor copy_from_and_resize(const Tensor& from, const Tensor& to) {
  to.resize_(from.sizes());
  return copy_from(from, to, false);
}

at::Scalar number(const Tensor& t) { return Opened(t).tensor.item(); }

Tensor on_cpu(const Tensor& t) { return t.defined() ? t.to(at::kCPU) : t; }
Tensor on_device(const Tensor& t) { return t.defined() ? t.to(other_device()) : t; }

// LibTorch's form of it for all devices resizes a result, and warns of that.
Tensor mean_square(const Tensor& x, const Tensor& y, int64_t reduction) {
  return on_device(at::mse_loss(on_cpu(x), on_cpu(y), reduction));
}

Tensor convolution(const Tensor& x, const Tensor& weight, const optional<Tensor>& bias, IntArrayRef stride,
                   IntArrayRef padding, IntArrayRef dilation, bool transposed, IntArrayRef output_padding,
                   int64_t groups) {
  return on_device(at::convolution(on_cpu(x), on_cpu(weight), bias ? on_cpu(*bias) : Tensor(), stride, padding,
                                   dilation, transposed, output_padding, groups));
}

std::tuple<Tensor, Tensor, Tensor> convolution_backward(const Tensor& g, const Tensor& x, const Tensor& weight,
                                                        IntArrayRef stride, IntArrayRef padding, IntArrayRef dilation,
                                                        bool transposed, IntArrayRef output_padding, int64_t groups,
                                                        std::array<bool, 3> mask) {
  const auto [dx, dw, db] =
      at::convolution_backward(on_cpu(g), on_cpu(x), on_cpu(weight), at::OptionalIntArrayRef({weight.size(0)}), stride,
                               padding, dilation, transposed, output_padding, groups, mask);
  return {on_device(dx), on_device(dw), on_device(db)};
}

// Its schema does not say that it changes the running statistics.
std::tuple<Tensor, Tensor, Tensor> batch_norm(const Tensor& x, const optional<Tensor>& weight,
                                              const optional<Tensor>& bias, const optional<Tensor>& mean,
                                              const optional<Tensor>& variance, bool training, double momentum,
                                              double eps) {
  const auto moved = [](const optional<Tensor>& t) { return t ? on_cpu(*t) : Tensor(); };
  const auto new_mean = moved(mean), new_variance = moved(variance);
  const auto [y, saved_mean, saved_inverse] =
      at::native_batch_norm(on_cpu(x), moved(weight), moved(bias), new_mean, new_variance, training, momentum, eps);
  if (new_mean.defined()) copy_from(new_mean, *mean, false);
  if (new_variance.defined()) copy_from(new_variance, *variance, false);
  return {on_device(y), on_device(saved_mean), on_device(saved_inverse)};
}

// What LibTorch's engine asks of an accelerator: one stream, on which all is done at once.
struct Guard final : c10::impl::NoOpDeviceGuardImpl<kType> {
  at::Device exchangeDevice(at::Device) const override { return other_device(); }
  at::Device getDevice() const override { return other_device(); }
  c10::Stream getStream(at::Device) const noexcept override {
    return c10::Stream(c10::Stream::DEFAULT, other_device());
  }
  c10::Stream getNewStream(at::Device device, int) const override { return getStream(device); }
  c10::Stream exchangeStream(c10::Stream stream) const noexcept override { return stream; }
  void record(void**, const c10::Stream&, c10::DeviceIndex, c10::EventFlag) const override {}
  void block(void*, const c10::Stream&) const override {}
  bool queryEvent(void*) const override { return true; }
};

struct Hooks final : at::PrivateUse1HooksInterface {
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasPrimaryContext(c10::DeviceIndex) const override { return true; }
};

// LibTorch takes numbers, and indices, from the CPU on every device.
void refuse_mixed(const c10::OperatorHandle& operation, const torch::jit::Stack& stack) {
  const auto check = [&](const Tensor& t) {
    TORCH_CHECK(!t.defined() || t.dim() == 0 || t.device().type() == kType, operation.schema().name(),
                ": tensors on the CPU and on the other device");
  };
  const bool indices = operation.schema().name().find("index") != std::string::npos;
  const auto count = operation.schema().arguments().size();
  for (auto value = stack.end() - static_cast<std::ptrdiff_t>(count); value != stack.end(); ++value) {
    if (value->isTensor()) check(value->toTensor());
    if (value->isTensorList() && !indices) std::ranges::for_each(value->toTensorVector(), check);
  }
}

void fallback(const c10::OperatorHandle& operation, torch::jit::Stack* stack) {
  refuse_mixed(operation, *stack);
  at::native::cpu_fallback(operation, stack, /*error_on_views=*/true);
}

}  // namespace
}  // namespace unbend::test

namespace c10 {
C10_REGISTER_GUARD_IMPL(PrivateUse1, unbend::test::Guard);
}  // namespace c10

TORCH_LIBRARY_IMPL(_, PrivateUse1, m) {
  m.fallback(torch::CppFunction::makeFromBoxedFunction<&unbend::test::fallback>());
}

TORCH_LIBRARY_IMPL(aten, PrivateUse1, m) {
  namespace device = unbend::test;
  m.impl("empty.memory_format", device::empty);
  m.impl("empty_strided", device::empty_strided);
  m.impl("as_strided", at::native::as_strided_tensorimpl);
  m.impl("view", at::native::view);
  m.impl("_reshape_alias", at::native::_reshape_alias);
  m.impl("unfold", at::native::unfold);
  m.impl("resize_", at::native::resize_);
  m.impl("_copy_from", device::copy_from);
  m.impl("_copy_from_and_resize", device::copy_from_and_resize);
  m.impl("_local_scalar_dense", device::number);
  m.impl("native_batch_norm", device::batch_norm);
  m.impl("mse_loss", device::mean_square);
  m.impl("convolution_overrideable", device::convolution);
  m.impl("convolution_backward_overrideable", device::convolution_backward);
}

namespace unbend::test {

at::Device other_device() {
  [[maybe_unused]] static const bool known = [] {
    static Hooks hooks;
    c10::register_privateuse1_backend("other");
    at::RegisterPrivateUse1HooksInterface(&hooks);
    return true;
  }();
  return {kType, 0};
}

std::vector<at::Device> other_devices() {
  std::vector<at::Device> all{other_device()};
  if (at::hasCUDA()) all.emplace_back(at::kCUDA, 0);
  return all;
}

}  // namespace unbend::test
