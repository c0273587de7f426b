// What an action that must fail says.
#pragma once

#include <gtest/gtest.h>

#include <string>

#include "unbend/base/error.h"

namespace unbend {

/// The message of the unbend::Error of that kind which `action` throws; "no error" if it throws none.
template <class Action>
std::string error_message(Action&& action, ErrorKind kind = ErrorKind::Input) {
  try {
    action();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), kind);
    return error.what();
  }
  return "no error";
}

}  // namespace unbend
