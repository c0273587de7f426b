/* What tests/capi/c11_client.c offers to the tests. */
#ifndef TESTS_CAPI_C11_CLIENT_H_
#define TESTS_CAPI_C11_CLIENT_H_

#include "unbend/capi/unbend.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Answers `question` greedily with at most `tokens` tokens, appending to `answer` (a string in `capacity` bytes). */
unbend_status answer_in_c(const char* model_path, const char* question, int64_t tokens, char* answer, size_t capacity,
                          unbend_generation* generation);

#ifdef __cplusplus
}
#endif

#endif
