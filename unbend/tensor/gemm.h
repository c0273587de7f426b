// Matrix products on plain memory by the BLAS that LibTorch brings: no tensors around them.
#pragma once

#include <cstdint>

namespace unbend {

/// C = op(A) op(B) + beta C, all row by row: op(A) is m x k, op(B) k x n, C m x n; lda, ldb and ldc are the distances
/// between rows as stored. With beta 0, C need not be set. Threaded as LibTorch's products are. T: float or double.
template <class T>
void gemm(bool transpose_a, bool transpose_b, std::int64_t m, std::int64_t n, std::int64_t k, const T* a,
          std::int64_t lda, const T* b, std::int64_t ldb, T beta, T* c, std::int64_t ldc);

}  // namespace unbend
