// Verbs on images: vision train, vision eval.
#include <ATen/Parallel.h>
#include <fmt/format.h>
#include <torch/types.h>

#include <chrono>
#include <cmath>

#include "cli/device.h"
#include "cli/verbs.h"
#include "unbend/base/error.h"
#include "unbend/base/files.h"
#include "unbend/base/interrupt.h"
#include "unbend/nets/classifier.h"
#include "unbend/nets/pyramid_file.h"
#include "unbend/report/table.h"

namespace unbend {
namespace {

constexpr const char* kDataHelp =
    "folder with a folder of PNG or JPEG pictures per class, or with images.npy and labels.npy";

constexpr double kBiased = 1e-2;  // a residual of inverses above which their gradients are not to be trusted

void set_threads(int threads) {
  if (threads < 0) fail_usage("--threads must be at least 0, not {}", threads);
  if (threads > 0) at::set_num_threads(threads);
}

struct TrainArguments {
  std::string data, out, attention = "soft++", landmarks = "mean", solver = "cholesky", device = "cpu";
  ClassifierShape shape{.side = 32, .channels = 0};
  std::int64_t epochs = 10, batch = 64, shift = 0;
  double learning_rate = 1e-3, held_out = .2;
  std::uint64_t seed = 0;
  int threads = 0;
  bool quiet = false, json = false;
};

void train(TrainArguments a) {
  if (!(a.held_out >= 0 && a.held_out < 1)) fail_usage("--held-out {}: expected a share from 0 to below 1", a.held_out);
  if (!(a.learning_rate > 0)) fail_usage("--learning-rate {} is not above 0", a.learning_rate);
  check_output(a.out);
  set_threads(a.threads);
  const auto device = cli::device_named(a.device);
  a.shape.normalize = a.attention == "soft++";
  a.shape.mixing = a.attention == "softmax"  ? TokenMixing::Softmax
                   : a.attention == "linear" ? TokenMixing::Linear
                   : a.attention == "none"   ? TokenMixing::None
                                             : TokenMixing::Soft;
  a.shape.sampling = a.landmarks == "convolution" ? LandmarkSampling::Convolution
                     : a.landmarks == "random"    ? LandmarkSampling::Random
                                                  : LandmarkSampling::Mean;
  const bool soft = a.shape.mixing == TokenMixing::Soft;
  if (!soft && a.solver != "cholesky")
    fail_usage("--solver {} is for soft and soft++: --attention {} inverts nothing", a.solver, a.attention);
  a.shape.solver = a.solver == "newton" ? InverseSolver::Newton : InverseSolver::Cholesky;
  classifier_config(a.shape);  // refuses a side before any image is read
  const auto data = read_images(a.data, {a.shape.side, a.shape.channels});
  const auto classes = std::ssize(data.classes);
  if (classes < 2) fail_input("{}: one class, '{}', cannot be told from others", a.data, data.classes.front());
  Random random(a.seed);
  const auto held_out = std::llround(a.held_out * static_cast<double>(data.set.size()));
  const auto [training, rest] = split(data.set, data.set.size() - held_out, random);
  if (training.size() < 1) fail_input("{}: {} images leave none to train on", a.data, data.set.size());
  const auto batch = std::min(a.batch, training.size()), steps = a.epochs * (training.size() / batch);
  a.shape.channels = data.set.images.size(1), a.shape.classes = classes;

  catch_interrupts();
  const auto begin = std::chrono::steady_clock::now();
  auto source = shuffled(training, batch, a.seed);
  if (a.shift > 0) source = shifted(std::move(source), a.shift, a.seed);
  std::optional<double> residual;
  auto net = train_classifier(classifier_config(a.shape), source, {"train", steps, a.learning_rate, device}, a.seed,
                              a.quiet, &residual);
  if (a.shape.solver == InverseSolver::Newton && residual.value_or(0) > kBiased)
    fmt::print(stderr,
               "unbend: warning: Newton's iteration left a residual of {:.2g}, so gradients through the inverse are "
               "biased: use --solver cholesky\n",
               *residual);
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - begin;
  std::int64_t weights = 0;
  for (const auto& p : parameters(net)) weights += p.tensor->numel();
  Json about{{"classes", data.classes},
             {"side", a.shape.side},
             {"attention", a.attention},
             {"landmarks", soft ? Json(a.landmarks) : Json(nullptr)},
             {"solver", soft ? Json(a.solver) : Json(nullptr)},
             {"inverse_residual", residual ? Json(*residual) : Json(nullptr)},
             {"training", training.size()},
             {"held_out", rest.size()},
             {"epochs", a.epochs},
             {"batch", batch},
             {"shift", a.shift},
             {"learning_rate", a.learning_rate},
             {"seed", a.seed},
             {"interrupted", interrupted()},
             {"accuracy", rest.size() > 0 ? Json(accuracy(net, rest)) : Json(nullptr)}};
  save_pyramid(a.out, net.to(at::kCPU, at::kFloat), about);
  if (a.json) {
    about.update({{"out", a.out}, {"weights", weights}, {"seconds", seconds.count()}});
    print_json(about);
  } else {
    fmt::print("{}: {} weights, {} classes, {} images in {:.0f} s\n", a.out, weights, classes, training.size(),
               seconds.count());
    if (rest.size() > 0)
      fmt::print("{:.1f} % of {} held-out images are right\n", about["accuracy"].get<double>(), rest.size());
    if (interrupted()) fmt::print("interrupted: the network did not train to its end\n");
  }
  if (interrupted()) throw CLI::RuntimeError(static_cast<int>(ErrorKind::Computation));
}

struct EvalArguments {
  std::string net, data, device = "cpu";
  int threads = 0;
  bool json = false;
};

void eval(const EvalArguments& a) {
  set_threads(a.threads);
  const auto device = cli::device_named(a.device);
  const auto stored = load_pyramid(a.net);
  const auto classes = json_get<std::vector<std::string>>(stored.about, "classes", a.net);
  const auto side = json_get<std::int64_t>(stored.about, "side", a.net);
  const std::int64_t multiple = stored.net.side_multiple();
  require(std::ssize(classes) == stored.net.config.classes && side >= 1 && side <= 4096 && side % multiple == 0,
          "{}: {} names and images of side {} for a network of {} classes and sides of a multiple of {}", a.net,
          classes.size(), side, stored.net.config.classes, multiple);
  const auto data = read_images(a.data, {side, stored.net.config.channels}, classes);
  const auto guesses = predicted(stored.net.to(device, at::kFloat), data.set.images);
  const auto& labels = data.set.labels;
  Table table{"", {"class", "images", "right (%)", "most often taken for"}, {}};
  Json per_class = Json::array();
  for (std::int64_t i = 0; i < std::ssize(classes); ++i) {
    const auto here = guesses.masked_select(labels == i);
    if (here.numel() == 0) continue;
    auto counts = at::bincount(here, {}, std::ssize(classes));
    const auto right = counts[i].item<std::int64_t>();
    counts[i] = 0;
    const auto other =
        right < here.numel() ? classes[static_cast<std::size_t>(counts.argmax().item<std::int64_t>())] : std::string();
    const double percent = 100. * static_cast<double>(right) / static_cast<double>(here.numel());
    const auto& name = classes[static_cast<std::size_t>(i)];
    table.rows.push_back(
        {name, std::to_string(here.numel()), fmt::format("{:.1f}", percent), other.empty() ? "-" : other});
    per_class.push_back({{"class", name},
                         {"images", here.numel()},
                         {"accuracy", percent},
                         {"taken_for", other.empty() ? Json(nullptr) : Json(other)}});
  }
  const double all = 100 * (guesses == labels).to(at::kDouble).mean().item<double>();
  if (a.json) return print_json({{"images", data.set.size()}, {"accuracy", all}, {"classes", per_class}});
  fmt::print("{}\n{:.1f} % of {} images are right\n", to_text(table), all, data.set.size());
}

}  // namespace

void add_vision_verbs(CLI::App& app) {
  auto* vision = app.add_subcommand("vision", "image classifiers with softmax-free attention");
  vision->require_subcommand(1);
  vision->footer(
      "Examples:\n  unbend vision train pictures/ --out net.safetensors\n"
      "  unbend vision eval net.safetensors more-pictures/");
  {
    auto* verb = vision->add_subcommand("train", "a small classifier from scratch (SOFT, SOFT++ or softmax)");
    auto a = std::make_shared<TrainArguments>();
    verb->add_option("data", a->data, kDataHelp)->required();
    verb->add_option("--out", a->out, "network to write (.safetensors)")->required();
    verb->add_option("--attention", a->attention,
                     "soft++, soft (both in linear time), softmax, linear (elu + 1), or none")
        ->check(CLI::IsMember({"soft++", "soft", "softmax", "linear", "none"}))
        ->capture_default_str();
    verb->add_option("--landmarks", a->landmarks,
                     "of soft and soft++: mean of the queries of a cell (learns sooner), convolution (the published "
                     "default), or random queries")
        ->check(CLI::IsMember({"mean", "convolution", "random"}))
        ->capture_default_str();
    verb->add_option("--solver", a->solver,
                     "of soft and soft++: how the kernel of the landmarks is inverted, by cholesky (exact), or by "
                     "newton (published; warns where it does not converge)")
        ->check(CLI::IsMember({"cholesky", "newton"}))
        ->capture_default_str();
    verb->add_option("--side", a->shape.side,
                     "images become squares of so many pixels: a multiple of 2, or of 4, 8 with 2, 3 stages. soft and "
                     "soft++ keep about 49 landmarks (16 to 196) whatever the side, so they are linear in the number "
                     "of tokens; a side whose grids have no fitting divisor is refused, with the nearest ones that fit")
        ->check(CLI::Range(4, 1024))
        ->capture_default_str();
    verb->add_option("--channels", a->shape.channels, "1 or 3; 0: as the images have")
        ->check(CLI::IsMember({0, 1, 3}))
        ->capture_default_str();
    verb->add_option("--stages", a->shape.stages, "each later one has half the side and twice the width")
        ->check(CLI::Range(1, 4))
        ->capture_default_str();
    verb->add_option("--depth", a->shape.depth, "blocks per stage")->check(CLI::Range(1, 64))->capture_default_str();
    verb->add_option("--width", a->shape.width, "channels of the first stage")
        ->check(CLI::Range(1, 4096))
        ->capture_default_str();
    verb->add_option("--heads", a->shape.heads, "of the first stage")->check(CLI::Range(1, 256))->capture_default_str();
    verb->add_option("--value-filter", a->shape.value_filter, "side of the local filter beside attention; 0: none")
        ->check(CLI::Range(0, 31))
        ->capture_default_str();
    verb->add_option("--epochs", a->epochs, "times that every image is seen")
        ->check(CLI::Range(1, 100000))
        ->capture_default_str();
    verb->add_option("--batch", a->batch, "images per step")->check(CLI::Range(1, 65536))->capture_default_str();
    verb->add_option("--shift", a->shift, "move training images by up to so many pixels, at random")
        ->check(CLI::Range(0, 1024))
        ->capture_default_str();
    verb->add_option("--learning-rate", a->learning_rate)->capture_default_str();
    verb->add_option("--held-out", a->held_out, "share of the images, drawn at random, to measure on")
        ->capture_default_str();
    verb->add_option("--seed", a->seed, "of the start, the order and what is held out")->capture_default_str();
    verb->add_option("--threads", a->threads, "0 = one per core")->capture_default_str();
    cli::add_device_option(*verb, a->device);
    verb->add_flag("--quiet", a->quiet, "show no progress");
    verb->add_flag("--json", a->json, "print JSON");
    verb->footer(
        "Examples:\n  unbend vision train pictures/ --out net.safetensors\n"
        "  unbend vision train pictures/ --attention softmax --side 64 --stages 2 --epochs 30 --out net.safetensors\n"
        "  unbend vision train build/data/digits --side 28 --out digits.safetensors --json");
    verb->callback([a] { train(*a); });
  }
  {
    auto* verb = vision->add_subcommand("eval", "how many images a classifier gets right, by class");
    auto a = std::make_shared<EvalArguments>();
    verb->add_option("net", a->net, "network from `unbend vision train`")->required();
    verb->add_option("data", a->data, kDataHelp)->required();
    verb->add_option("--threads", a->threads, "0 = one per core")->capture_default_str();
    cli::add_device_option(*verb, a->device);
    verb->add_flag("--json", a->json, "print JSON");
    verb->footer(
        "Examples:\n  unbend vision eval net.safetensors pictures/\n"
        "  unbend vision eval digits.safetensors build/data/digits --json");
    verb->callback([a] { eval(*a); });
  }
}

}  // namespace unbend
