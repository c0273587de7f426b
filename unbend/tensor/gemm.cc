#include "unbend/tensor/gemm.h"

// The Fortran names under which every BLAS, LibTorch's too, has them: all by reference.
extern "C" {
void sgemm_(const char* transpose_a, const char* transpose_b, const int* m, const int* n, const int* k,
            const float* alpha, const float* a, const int* lda, const float* b, const int* ldb, const float* beta,
            float* c, const int* ldc);
void dgemm_(const char* transpose_a, const char* transpose_b, const int* m, const int* n, const int* k,
            const double* alpha, const double* a, const int* lda, const double* b, const int* ldb, const double* beta,
            double* c, const int* ldc);
}

namespace unbend {
namespace {

template <auto kRoutine, class T>
void call(bool transpose_a, bool transpose_b, std::int64_t m, std::int64_t n, std::int64_t k, const T* a,
          std::int64_t lda, const T* b, std::int64_t ldb, T beta, T* c, std::int64_t ldc) {
  if (m == 0 || n == 0) return;
  // BLAS counts by columns: it sees the transposes of all three, so C^T = op(B)^T op(A)^T.
  const auto number = [](std::int64_t value) { return static_cast<int>(value); };
  const int rows = number(n), columns = number(m), inner = number(k);
  const int a_stride = number(lda), b_stride = number(ldb), c_stride = number(ldc);
  const char first = transpose_b ? 'T' : 'N', second = transpose_a ? 'T' : 'N';
  const T one = 1;
  kRoutine(&first, &second, &rows, &columns, &inner, &one, b, &b_stride, a, &a_stride, &beta, c, &c_stride);
}

}  // namespace

template <>
void gemm(bool transpose_a, bool transpose_b, std::int64_t m, std::int64_t n, std::int64_t k, const float* a,
          std::int64_t lda, const float* b, std::int64_t ldb, float beta, float* c, std::int64_t ldc) {
  call<sgemm_>(transpose_a, transpose_b, m, n, k, a, lda, b, ldb, beta, c, ldc);
}

template <>
void gemm(bool transpose_a, bool transpose_b, std::int64_t m, std::int64_t n, std::int64_t k, const double* a,
          std::int64_t lda, const double* b, std::int64_t ldb, double beta, double* c, std::int64_t ldc) {
  call<dgemm_>(transpose_a, transpose_b, m, n, k, a, lda, b, ldb, beta, c, ldc);
}

}  // namespace unbend
