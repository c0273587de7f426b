#include <span>

#include "python/bindings/bindings.h"
#include "unbend/base/error.h"
#include "unbend/optimize/bridge/linearized.h"
#include "unbend/optimize/implicit_ftrl.h"

namespace py = pybind11;

namespace unbend {
namespace {

using namespace optimize;  // NOLINT(google-build-using-namespace)

template <class T>
std::span<const T> numbers(const at::Tensor& t) {
  return {t.const_data_ptr<T>(), static_cast<std::size_t>(t.numel())};
}

/// Rows of a matrix in compressed form: the features of row i are indices[starts[i]] .. indices[starts[i + 1] - 1].
struct SparseRows {
  at::Tensor starts, indices, values;  // int64, int64, float64

  std::int64_t size() const { return starts.size(0) - 1; }
  void check(std::int64_t dimension) const {
    require(starts.dim() == 1 && size() >= 0 && indices.dim() == 1 && indices.sizes() == values.sizes(),
            "rows need starts [n + 1], and as many indices as values");
    const auto ends = numbers<std::int64_t>(starts);
    require(ends.front() == 0 && ends.back() == indices.numel() && std::ranges::is_sorted(ends),
            "starts of rows must not fall, from 0 to the number of indices");
    for (const std::int64_t i : numbers<std::int64_t>(indices))
      require(i >= 0 && i < dimension, "feature {} of a learner of {} features", i, dimension);
  }
};

/// Calls body(i, row) for every row; equal indices of a row are joined.
template <class Body>
void for_rows(const SparseRows& rows, std::int64_t dimension, Body&& body) {
  rows.check(dimension);
  const auto starts = numbers<std::int64_t>(rows.starts), indices = numbers<std::int64_t>(rows.indices);
  const auto values = numbers<double>(rows.values);
  Rows one;
  for (std::int64_t i = 0; i < rows.size(); ++i) {
    one.clear();
    const auto end = static_cast<std::size_t>(starts[static_cast<std::size_t>(i) + 1]);
    for (auto k = static_cast<std::size_t>(starts[static_cast<std::size_t>(i)]); k < end; ++k)
      one.add(static_cast<std::uint32_t>(indices[k]), values[k]);
    one.end_row(0, 1);
    body(static_cast<std::size_t>(i), one[0]);
  }
}

void learn(Ftrl& learner, const SparseRows& rows, const at::Tensor& labels, const at::Tensor& weights) {
  require(labels.dim() == 1 && labels.size(0) == rows.size() && weights.sizes() == labels.sizes(),
          "{} rows need as many labels and weights", rows.size());
  const auto label = numbers<double>(labels), weight = numbers<double>(weights);
  for_rows(rows, learner.dimension(), [&](std::size_t i, Row row) {
    row.label = label[i], row.weight = weight[i];
    learner.learn(row);
  });
}

at::Tensor predict(const Ftrl& learner, const SparseRows& rows) {
  const auto models = std::ssize(learner.options().rates);
  auto result = at::empty({rows.size(), models, learner.options().classes}, at::kDouble);
  auto* to = result.mutable_data_ptr<double>();
  std::vector<double> margins;
  for_rows(rows, learner.dimension(), [&](std::size_t, const Row& row) {
    learner.predict(row, margins);
    to = std::ranges::copy(margins, to).out;
  });
  return result;
}

void bind_online(py::module_& m) {
  py::class_<Tally>(m, "Tally")
      .def_readonly("weight", &Tally::weight)
      .def_readonly("mistakes", &Tally::mistakes)
      .def_readonly("gain", &Tally::gain)
      .def_readonly("diverged_at", &Tally::diverged_at)
      .def_property_readonly("mean_loss", &Tally::mean_loss);
  py::class_<SparseRows>(m, "SparseRows").def(py::init<at::Tensor, at::Tensor, at::Tensor>());
  py::class_<Ftrl>(m, "Ftrl")
      .def(py::init([](std::int64_t dimension, const std::string& loss, double parameter, const std::string& update,
                       const std::string& schedule, const std::vector<double>& rates, double lambda1, double epsilon,
                       const std::string& domain, double low, double high, double radius, double l1, int classes,
                       bool softmax, bool zero_one, bool average) {
        require(dimension >= 1 && dimension <= std::int64_t{1} << 32, "a learner of {} features", dimension);
        FtrlOptions o;
        o.loss = loss_named(loss, parameter), o.update = update_named(update), o.schedule = schedule_named(schedule);
        o.rates = rates, o.lambda1 = lambda1, o.epsilon = epsilon;
        o.geometry = {domain_named(domain), low, high, radius};
        o.l1 = l1, o.classes = classes, o.zero_one = zero_one, o.average = average;
        o.multiclass = softmax ? Multiclass::Softmax : Multiclass::OneVsRest;
        return Ftrl(o, dimension);
      }))
      .def_property_readonly("rows", &Ftrl::rows)
      .def_property_readonly("tallies", &Ftrl::tallies)
      .def_property_readonly("best", &Ftrl::best)
      .def("learn", &learn, Released())
      .def("predict", &predict, Released())
      .def("weights",
           [](const Ftrl& f, std::size_t rate, int label, bool average) {
             require(rate < f.options().rates.size() && label >= 0 && label < f.options().classes,
                     "no rate {} or class {}", rate, label);
             return tensor(average ? f.average(rate, label) : f.weights(rate, label));
           })
      .def("regret_bound",
           [](const Ftrl& f, const at::Tensor& u, std::size_t rate) {
             require(rate < f.options().rates.size() && u.numel() == f.dimension() * f.options().classes,
                     "u must be [classes, features], and {} rates are there", f.options().rates.size());
             const auto flat = u.detach().to(at::kCPU, at::kDouble).contiguous();
             const auto all = numbers<double>(flat);
             return f.regret_bound({all.begin(), all.end()}, rate);
           })
      .def("numbers",
           [](const Ftrl& f) {
             std::map<std::string, at::Tensor> result;
             for (const auto& [name, values] : f.numbers()) result.emplace(name, tensor(values));
             return result;
           })
      .def("set_numbers", [](Ftrl& f, const std::map<std::string, at::Tensor>& given) {
        std::map<std::string, std::vector<double>> result;
        for (const auto& [name, values] : given) {
          const auto flat = values.to(at::kCPU, at::kDouble).contiguous();
          const auto all = numbers<double>(flat);
          result.emplace(name, std::vector<double>(all.begin(), all.end()));
        }
        f.set_numbers(std::move(result));
      });
}

void bind_minimize(py::module_& m) {
  py::class_<Iteration>(m, "Iteration")
      .def_readonly("index", &Iteration::index)
      .def_readonly("value", &Iteration::value)
      .def_readonly("gradient_norm", &Iteration::gradient_norm)
      .def_readonly("gamma", &Iteration::gamma)
      .def_readonly("step", &Iteration::step)
      .def_readonly("probes", &Iteration::probes)
      .def_readonly("products", &Iteration::products)
      .def_readonly("decrease", &Iteration::decrease)
      .def_readonly("guaranteed", &Iteration::guaranteed);
  py::class_<Minimum>(m, "Minimum")
      .def_readonly("value", &Minimum::value)
      .def_readonly("gradient_norm", &Minimum::gradient_norm)
      .def_property_readonly("outcome", [](const Minimum& r) { return std::string(name(r.outcome)); })
      .def_property_readonly("converged", &Minimum::converged)
      .def_readonly("message", &Minimum::message)
      .def_readonly("gamma", &Minimum::gamma)
      .def_readonly("evaluations", &Minimum::evaluations)
      .def_readonly("products", &Minimum::products)
      .def_readonly("trace", &Minimum::trace);
  m.def(
      "minimize",
      [](Function f, const Tensors& start, bool gauss_newton, double power, double gamma, double gradient_tolerance,
         std::optional<double> least, double value_tolerance, int max_iterations,
         const std::function<bool(const Iteration&)>& progress) {
        MinimizeOptions o;
        o.gamma0 = gamma, o.gradient_tolerance = gradient_tolerance, o.value_tolerance = value_tolerance;
        o.max_iterations = max_iterations;
        if (least) o.f_star = *least;
        if (progress) o.callback = [&](const Iteration& i, const Vector&) { return progress(i); };
        const auto problem =
            gauss_newton ? gauss_newton_problem(std::move(f), start, power) : newton_problem(std::move(f), start);
        const auto minimum = minimize(problem, flatten(start), o);
        return std::pair(unflatten(minimum.x, start), minimum);
      },
      Released());
}

}  // namespace

void bind_optimize(py::module_& m) {
  bind_online(m);
  bind_minimize(m);
}

}  // namespace unbend
