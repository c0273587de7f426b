// Handles of the C interface that close themselves, for its tests.
#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <memory>

#include "unbend/capi/unbend.h"

namespace unbend {

struct Close {
  void operator()(unbend_model* model) const { unbend_model_close(model); }
  void operator()(unbend_engine* engine) const { unbend_engine_destroy(engine); }
  void operator()(void* result) const { unbend_free(result); }
};
template <class T>
using Owned = std::unique_ptr<T, Close>;

inline Owned<unbend_model> open(const std::filesystem::path& path) {
  unbend_model* model = nullptr;
  EXPECT_EQ(unbend_model_open(path.c_str(), &model), UNBEND_OK) << unbend_last_error();
  return Owned<unbend_model>(model);
}

inline Owned<unbend_engine> make_engine(const unbend_model* model, const unbend_engine_options& options) {
  unbend_engine* engine = nullptr;
  EXPECT_EQ(unbend_engine_create(model, &options, &engine), UNBEND_OK) << unbend_last_error();
  return Owned<unbend_engine>(engine);
}

/// `call` gives `status`, and the message has its function and `text` in it.
#define EXPECT_FAILS(status, call, text)                                                                        \
  do {                                                                                                          \
    EXPECT_EQ((call), (status));                                                                                \
    EXPECT_THAT(unbend_last_error(), testing::AllOf(testing::StartsWith("unbend_"), testing::HasSubstr(text))); \
  } while (false)

}  // namespace unbend
