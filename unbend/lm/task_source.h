// The texts of a task as an endless supply of training batches.
#pragma once

#include <memory>

#include "unbend/lm/distill.h"
#include "unbend/lm/recall.h"

namespace unbend::lm {

/// `rows` texts of `task` a batch, each made anew: ids padded on the right with 0 to the longest, and targets only
/// where the task asks. Needles lie anywhere unless options.depth says where; options.count is not used.
/// Input error if such texts cannot be made.
std::unique_ptr<BatchSource> task_source(const Task& task, TaskText text, const TaskOptions& options,
                                         std::int64_t rows);

}  // namespace unbend::lm
