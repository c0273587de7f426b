// Any bytes as a saved online learner: an Error, or a learner that learns on and whose numbers stay finite.
#include <cmath>
#include <cstdlib>

#include "unbend/base/error.h"
#include "unbend/optimize/ftrl_file.h"

extern "C" int LLVMFuzzerTestOneInput(const unsigned char* data, std::size_t size) {
  using namespace unbend::optimize;
  try {
    FtrlModel model = parse_ftrl({reinterpret_cast<const std::byte*>(data), size}, "input");
    Rows rows;
    rows.add(0, 1);
    rows.end_row(1, 1);
    model.learner.learn(rows[0]);
    for (const double x : model.learner.weights())
      if (std::isnan(x)) std::abort();
    std::vector<double> margins;
    model.learner.predict(rows[0], margins);
  } catch (const unbend::Error&) {
  }
  return 0;
}
