// Verb net regions: local complexity around the user's points, and the linear regions on a plane through three of them.
#include <ATen/Parallel.h>
#include <fmt/format.h>

#include <algorithm>
#include <optional>

#include "cli/device.h"
#include "cli/net.h"
#include "cli/verbs.h"
#include "unbend/base/error.h"
#include "unbend/base/files.h"
#include "unbend/nets/network_file.h"
#include "unbend/report/drawing.h"
#include "unbend/report/html.h"
#include "unbend/tangent/local_complexity.h"
#include "unbend/tangent/regions.h"
#include "unbend/tensor/check.h"
#include "unbend/tensor/npy.h"

namespace unbend {
namespace {

struct Arguments {
  std::string model, input, out, picture, device = "cpu";
  std::vector<double> radii = {.01, .05, .1, .5};
  std::int64_t directions = 20, most = 50000;
  std::vector<std::int64_t> slice;
  std::vector<std::string> layers;
  double margin = .15;
  std::uint64_t seed = 0;
  int threads = 0;
  bool include_output = false, include_centre = false, random_directions = false, json = false;
};

struct Measured {
  double radius;
  LocalComplexity complexity;
};

struct Picture {
  std::vector<std::int64_t> points;  // rows of the input
  LinearRegions regions;
  std::vector<Segment> boundary;
  std::vector<std::int64_t> near;  // regions within the smallest radius of each point
};

std::vector<Measured> measure(const Network& net, const at::Tensor& points, const Arguments& a) {
  const auto device = cli::device_named(a.device);
  const auto network = to(net, at::TensorOptions(device));
  const auto x = points.to(device);
  const std::int64_t d = x.numel() / x.size(0);
  const auto frame = a.random_directions ? random_directions(d, std::min(a.directions, d), a.seed)
                                         : orthoplex_frame(d, std::min(a.directions, d), a.seed);
  std::vector<Measured> all;
  for (const double radius : a.radii)
    all.push_back({radius, local_complexity(network, x, frame,
                                            {.radius = radius,
                                             .include_output = a.include_output,
                                             .include_centre = a.include_centre,
                                             .layers = a.layers})});
  for (auto& [radius, complexity] : all)
    for (auto& layer : complexity.layers) layer.crossings = layer.crossings.to(at::kCPU);
  return all;
}

Picture slice(const Network& network, const at::Tensor& x, const Arguments& a) {
  Picture p;
  p.points = a.slice.empty() ? std::vector<std::int64_t>{0, 1, 2} : a.slice;
  std::vector<at::Tensor> rows;
  for (const auto i : p.points) {
    require(i >= 0 && i < x.size(0), "--slice: there is no point {}: {} has {}", i, a.input, x.size(0));
    rows.push_back(x[i]);
  }
  p.regions = linear_regions(network, slice_through(at::stack(rows), a.margin), a.most);
  p.boundary = decision_boundary(p.regions);
  const double nearest = *std::ranges::min_element(a.radii);
  for (const auto& mark : p.regions.slice.marks) p.near.push_back(regions_near(p.regions, mark, nearest));
  return p;
}

Drawing drawing(const Picture& p) {
  std::vector<std::string> labels;
  for (const auto i : p.points) labels.push_back(fmt::format("{}", i));
  return draw(p.regions, fmt::format("Plane through points {}", fmt::join(p.points, ", ")), labels);
}

Table complexity_table(const std::vector<Measured>& all) {
  Table table{"Local complexity: neurons that fold the input space around a point, means over points",
              {"radius", "layer", "neurons", "crossed", "%"},
              {}};
  for (const auto& [radius, complexity] : all) {
    std::int64_t neurons = 0;
    for (const auto& layer : complexity.layers) {
      neurons += layer.neurons;
      table.rows.push_back({fmt::format("{:g}", radius), layer.name, fmt::format("{}", layer.neurons),
                            fmt::format("{:.2f}", layer.mean()), fmt::format("{:.2f}", 100 * layer.fraction())});
    }
    table.rows.push_back({fmt::format("{:g}", radius), "all", fmt::format("{}", neurons),
                          fmt::format("{:.2f}", complexity.mean()),
                          fmt::format("{:.2f}", 100 * complexity.mean() / static_cast<double>(neurons))});
  }
  return table;
}

std::vector<std::string> warnings(const std::vector<Measured>& all) {
  std::vector<std::string> lines;
  for (const auto& [radius, complexity] : all)
    for (const auto& line : complexity.warnings()) lines.push_back(fmt::format("radius {:g}: {}", radius, line));
  return lines;
}

std::string summary(const Picture& p, const Arguments& a) {
  return fmt::format(
      "{} linear regions on the plane through points {} (side {:.4g}); within {:g} of them {}; decision boundary of "
      "length {:.4g}",
      p.regions.count(), fmt::join(p.points, ", "), 2 * p.regions.slice.unit, *std::ranges::min_element(a.radii),
      fmt::join(p.near, ", "), length(p.boundary) * p.regions.slice.unit);
}

Json to_json(const std::vector<Measured>& all, const std::optional<Picture>& p, const std::string& why_not) {
  Json radii = Json::array();
  for (const auto& [radius, complexity] : all) {
    Json layers = Json::array();
    for (const auto& layer : complexity.layers)
      layers.push_back({{"layer", layer.name},
                        {"neurons", layer.neurons},
                        {"crossed", layer.mean()},
                        {"fraction", layer.fraction()}});
    const auto total = complexity.total().contiguous();
    const auto* counts = total.const_data_ptr<std::int64_t>();
    radii.push_back({{"radius", radius},
                     {"complexity", complexity.mean()},
                     {"layers", layers},
                     {"points", std::vector<std::int64_t>(counts, counts + total.numel())}});
  }
  Json json{{"radii", radii}, {"warnings", warnings(all)}};
  if (p) {
    json["slice"] = {{"points", p->points},
                     {"side", 2 * p->regions.slice.unit},
                     {"regions", p->regions.count()},
                     {"regions_near_points", p->near},
                     {"boundary_length", length(p->boundary) * p->regions.slice.unit}};
  } else {
    json["slice"] = nullptr, json["no_slice"] = why_not;
  }
  return json;
}

LinePlot complexity_plot(const std::vector<Measured>& all) {
  LinePlot plot{"Local complexity against the radius",
                {"radius (units of the input)", Scale::Log10},
                {"crossed neurons, mean over points"},
                {}};
  auto sorted = all;
  std::ranges::sort(sorted, {}, &Measured::radius);
  for (std::size_t i = 0; i < sorted.front().complexity.layers.size(); ++i) {
    Series series{sorted.front().complexity.layers[i].name, {}, {}};
    for (const auto& [radius, complexity] : sorted) {
      series.x.push_back(radius);
      series.y.push_back(complexity.layers[i].mean());
    }
    plot.series.push_back(std::move(series));
  }
  return plot;
}

void write_report(const std::vector<Measured>& all, const std::optional<Picture>& p, const std::string& why_not,
                  std::int64_t points, const Arguments& a) {
  HtmlReport report("Linear regions of " + std::filesystem::path(a.model).filename().string(),
                    fmt::format("{} points of {}, {} directions", points, a.input, a.directions));
  std::vector<KeyFigure> figures;
  for (const auto& [radius, complexity] : all)
    figures.push_back({fmt::format("{:.1f}", complexity.mean()), fmt::format("folds within {:g}", radius)});
  report.heading("Local complexity").key_figures(figures).plot(complexity_plot(all)).table(complexity_table(all));
  if (const auto lines = warnings(all); !lines.empty()) report.list(lines);
  report.heading("Linear regions");
  if (p) {
    report.paragraph(summary(*p, a) + ".").drawing(drawing(*p));
  } else {
    report.paragraph("No picture: " + why_not + ".");
  }
  report.write(a.out);
}

void regions(Arguments a) {
  if (a.threads > 0) at::set_num_threads(a.threads);
  cli::device_named(a.device);  // before anything is read
  check_output(a.picture);
  check_output(a.out);
  std::ranges::sort(a.radii);
  if (std::ranges::adjacent_find(a.radii) != a.radii.end()) fail_usage("--radius: the same radius twice");
  const auto network = read_network(a.model);
  const auto x = load_npy(a.input);
  check_floating(x, a.input);
  require(x.dim() >= 2 && x.size(0) >= 1, "{}: points of shape {}, expected [points, ..]", a.input,
          shape_string(x.sizes()));
  const auto all = measure(network, x, a);
  std::optional<Picture> picture;
  std::string why_not;
  const bool asked = !a.slice.empty() || !a.picture.empty();
  if (!asked && x.size(0) < 3) {
    why_not = fmt::format("{} of the three points that lay a plane", x.size(0));
  } else {
    try {
      picture = slice(network, x, a);
    } catch (const Error& error) {
      if (asked) throw;
      why_not = error.what();
    }
  }
  if (!a.picture.empty()) write_file(a.picture, to_svg(drawing(*picture)));
  if (!a.out.empty()) write_report(all, picture, why_not, x.size(0), a);
  if (a.json) return print_json(to_json(all, picture, why_not));
  fmt::print("{}\n", to_text(complexity_table(all)));
  for (const auto& line : warnings(all)) fmt::print("{}\n", line);
  fmt::print("{}\n", picture ? summary(*picture, a) : "no picture: " + why_not);
}

}  // namespace

void add_net_regions_verb(CLI::App& net) {
  auto* verb = net.add_subcommand("regions", "folds around points (local complexity), exact regions on a plane");
  auto a = std::make_shared<Arguments>();
  verb->add_option("--model", a->model, "TorchScript file of the network")->required();
  verb->add_option("--input", a->input, "points as the network takes them, .npy [points, ..]")->required();
  verb->add_option("--radius", a->radii, "radii of the neighbourhoods, in units of the input")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  verb->add_option("--directions", a->directions, "of the neighbourhood's orthonormal frame; at most the input's size")
      ->check(CLI::Range(1, 1000000))
      ->capture_default_str();
  verb->add_option("--seed", a->seed, "of the frame")->capture_default_str();
  verb->add_flag("--random-directions", a->random_directions, "unit vectors that are not orthogonal");
  verb->add_flag("--include-output", a->include_output, "count the last layer too, as the paper's code does");
  verb->add_flag("--include-centre", a->include_centre, "the point itself is a vertex too");
  verb->add_option("--layers", a->layers, "names of the layers to look at instead of all before activations");
  verb->add_option("--slice", a->slice, "numbers of the three points of the plane (default: 0 1 2)")->expected(3);
  verb->add_option("--margin", a->margin, "share of the picture around the three points")
      ->check(CLI::Range(0., .49))
      ->capture_default_str();
  verb->add_option("--most", a->most, "regions on the plane before it is given up")
      ->check(CLI::Range(1, 10000000))
      ->capture_default_str();
  verb->add_option("--report", a->out, "report to write (.html)");
  verb->add_option("--picture", a->picture, "picture of the regions to write (.svg)");
  verb->add_option("--threads", a->threads, "0 = one per core")->check(CLI::Range(0, 4096))->capture_default_str();
  cli::add_device_option(*verb, a->device);
  verb->add_flag("--json", a->json, "print JSON");
  verb->footer(
      "Examples:\n  unbend net regions --model net.pt --input x.npy\n"
      "  unbend net regions --model net.pt --input x.npy --radius 0.02 0.2 --slice 0 5 9 --report regions.html\n"
      "  unbend net regions --model net.pt --input x.npy --layers encoder.0 --json");
  verb->callback([a] { regions(*a); });
}

}  // namespace unbend
