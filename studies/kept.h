// What a long study keeps on disk, so that it goes on where it was interrupted.
#pragma once

#include <filesystem>
#include <string>

namespace unbend {

/// Trainings of one run of a study, by their order, which is always the same. They are taken up only by the program
/// that made them, on the same form and seeds: another one starts anew, in a folder of its own.
class KeptTrainings {
 public:
  /// `run` says which run it is ("liger, full, 3 seeds").
  KeptTrainings(const std::filesystem::path& folder, const std::string& run);

  /// Folder of the next training.
  std::filesystem::path next();

 private:
  std::filesystem::path folder_;
  int count_ = 0;
};

}  // namespace unbend
