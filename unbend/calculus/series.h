// Functions of one number by Taylor series instead of nested reverse passes.
#pragma once

#include "unbend/calculus/fn.h"
#include "unbend/calculus/jet.h"

namespace unbend::functional {

using Series = Jet<at::Tensor>;

/// A leaf R -> R whose derivatives of every order come from one pass with series:
///   series_leaf([](const auto& x) { return exp(-(x * x)); })
Fn series_leaf(std::function<Series(const Series&)> code, LeafOptions options = {});

/// Value and derivatives 0..order of f: R -> R at points x, each of the shape of x. Input error if f has a leaf that
/// cannot take a series (series_leaf can) or anything else that has none.
Tensors derivatives(const Fn& f, const at::Tensor& x, int order);

}  // namespace unbend::functional
