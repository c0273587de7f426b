#include "unbend/lm/distill.h"

#include <torch/types.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cmath>
#include <cstring>
#include <ctime>
#include <fstream>
#include <optional>
#include <span>
#include <typeinfo>

#include "unbend/base/error.h"
#include "unbend/base/files.h"
#include "unbend/base/interrupt.h"
#include "unbend/base/progress.h"
#include "unbend/nets/head.h"
#include "unbend/tensor/adamw.h"
#include "unbend/tensor/check.h"
#include "unbend/tensor/checkpoint.h"
#include "unbend/tensor/safetensors.h"
#include "unbend/tensor/schedule.h"

namespace unbend::lm {
namespace {

double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }
constexpr double kLeastRate = 1e-5;  // that a plateau leads to (HazyResearch/lolcats, Liger)

double cpu_now() { return static_cast<double>(std::clock()) / CLOCKS_PER_SEC; }

bool ends_with_any(const std::string& name, const std::vector<std::string>& endings) {
  for (const auto& ending : endings)
    if (name.ends_with(ending)) return true;
  return false;
}

/// JSON has no NaN: checkpoints have null in its place.
double number(const Json& json) { return json.is_number() ? json.get<double>() : NAN; }

/// Everything that a checkpoint brings back.
struct Place {
  std::int64_t stage = 0, step = 0, tokens = 0, stage_tokens = 0, total_steps = 0, skipped = 0;
  double seconds = 0, cpu_seconds = 0, stage_seconds = 0, validation = -1, first_loss = NAN;
  bool trained = false;        // some loss of this stage had a gradient
  std::vector<double> recent;  // finite losses of this stage, at most the last tenth is reported
  Json finished = Json::array();
  Json plateau, source;

  Json to_json(const std::string& identity) const {
    return {{"identity", identity},
            {"stage", stage},
            {"step", step},
            {"tokens", tokens},
            {"stage_tokens", stage_tokens},
            {"total_steps", total_steps},
            {"skipped", skipped},
            {"seconds", seconds},
            {"cpu_seconds", cpu_seconds},
            {"stage_seconds", stage_seconds},
            {"validation", validation},
            {"first_loss", first_loss},
            {"trained", trained},
            {"recent", recent},
            {"finished", finished},
            {"plateau", plateau},
            {"source", source}};
  }
  /// Input error that names `file` for what no run of so many stages has written.
  static Place from_json(const Json& j, std::size_t stages, const std::string& file) {
    Place p;
    const auto count = [&](const char* key) {
      const auto value = json_get<std::int64_t>(j, key, file);
      require(value >= 0, "{}: {} is {}", file, key, value);
      return value;
    };
    p.stage = count("stage"), p.step = count("step"), p.tokens = count("tokens");
    require(p.stage <= static_cast<std::int64_t>(stages), "{}: stage {} of {}", file, p.stage, stages);
    p.stage_tokens = count("stage_tokens"), p.total_steps = count("total_steps"), p.skipped = count("skipped");
    p.seconds = json_get<double>(j, "seconds", file), p.cpu_seconds = json_get<double>(j, "cpu_seconds", file);
    p.stage_seconds = json_get<double>(j, "stage_seconds", file);
    p.validation = number(json_get<Json>(j, "validation", file));
    p.first_loss = number(json_get<Json>(j, "first_loss", file));
    for (const auto& loss : json_get<Json>(j, "recent", file))
      if (loss.is_number()) p.recent.push_back(loss.get<double>());
    p.trained = json_get<bool>(j, "trained", file, true);
    p.finished = json_get<Json>(j, "finished", file), p.plateau = json_get<Json>(j, "plateau", file);
    p.source = json_get<Json>(j, "source", file);
    return p;
  }
};

double mean_of_last_tenth(const std::vector<double>& losses) {
  if (losses.empty()) return NAN;
  const auto count = std::max<std::size_t>(1, losses.size() / 10);
  double sum = 0;
  for (std::size_t i = losses.size() - count; i < losses.size(); ++i) sum += losses[i];
  return sum / static_cast<double>(count);
}

bool contains(const std::vector<std::string>& list, const std::string& item) {
  return std::ranges::find(list, item) != list.end();
}

/// Endings of the decoder's own weights that a stage trains.
std::vector<std::string> own_weights(const Stage& stage, const TrainOptions& options) {
  if (stage.kind == Stage::Kind::Transfer) {
    std::vector<std::string> all;
    for (const auto& part : stage.projections) all.push_back(part == "o" ? ".output.weight" : ".qkv.weight");
    return all;
  }
  auto all = options.also;
  all.insert(all.end(), stage.also.begin(), stage.also.end());
  return all;
}

/// The same of all stages.
std::vector<std::string> own_weights(const std::vector<Stage>& stages, const TrainOptions& options) {
  std::vector<std::string> all;
  for (const auto& stage : stages) {
    const auto more = own_weights(stage, options);
    all.insert(all.end(), more.begin(), more.end());
  }
  return all;
}

/// The same projection, without a gradient to the rows of parts that are not in `parts`.
Projection training_only(Projection projection, const std::vector<std::string>& parts) {
  std::vector<at::Tensor> rows;
  std::int64_t first = 0;
  for (const auto& part : projection.parts) {
    const auto weight = projection.weight.narrow(0, first, part.rows);
    rows.push_back(contains(parts, part.name) ? weight : weight.detach());
    first += part.rows;
  }
  projection.weight = at::cat(rows);
  return projection;
}

/// Tokens that are no padding, bool [B, T] (those up to a row's last target and the token that it asks for); undefined
/// where all are.
at::Tensor real_tokens(const Batch& batch, at::Device device) {
  const auto asked = batch.targets.ge(0);
  if (!asked.any().item<bool>()) return {};
  const auto places = at::arange(batch.ids.size(1), asked.options().dtype(at::kLong));
  const auto last = asked.to(at::kLong).mul(places).amax(1, true);
  const auto real = places.le(last + 1);
  return real.all().item<bool>() ? at::Tensor() : real.to(device);
}

/// Mean squared difference of [B, T, ..] over the tokens in `real`.
at::Tensor mean_square(const at::Tensor& a, const at::Tensor& b, const at::Tensor& real) {
  return real.defined() ? at::mse_loss(a.index({real}), b.index({real})) : at::mse_loss(a, b);
}

/// The first layer whose heads are not finite, or that refuses its input, as gates do where it is not.
std::optional<std::int64_t> first_bad_layer(const Decoder& student, const at::Tensor& ids) {
  const at::NoGradGuard no_grad;
  if (ids.ge(student.config.vocab).any().item<bool>()) return {};  // no layer sees them
  std::optional<std::int64_t> bad;
  std::int64_t next = 0;
  try {
    student.hidden(ids, Form::Chunked, [&](std::int64_t layer, const MixerInput&, const at::Tensor& heads) {
      next = layer + 1;
      if (!bad && !at::isfinite(heads).all().item<bool>()) bad = layer;
    });
  } catch (const Error&) {
    if (!bad) bad = next;
  }
  return bad;
}

class Trainer {
 public:
  Trainer(const Decoder& teacher, Decoder& student, const std::vector<Stage>& stages, BatchSource& source,
          const TrainOptions& options)
      : teacher_(teacher),
        student_(student),
        stages_(stages),
        source_(source),
        options_(options),
        teacher_head_(freeze_head(teacher.head)),
        teacher_name_(options.targets.empty() ? "" : name_of(teacher)) {}

  TrainReport run() {
    for (const auto& stage : stages_) all_tokens_ += stage.tokens;
    for (const auto& stage : stages_)
      if (stage.steps > 0) all_tokens_ = 0;  // unknown: the source decides how many tokens a step has
    if (!options_.log.empty()) {
      log_.open(options_.log, std::ios::app);
      if (!log_) fail_usage("cannot write {}: {}", options_.log.string(), std::strerror(errno));
    }
    auto checkpoint = resume();
    if (checkpoint && place_.stage == std::ssize(stages_)) {  // finished: no stage will take the weights
      assign(parameters(trainables(student_, Stage::Kind::EndToEnd, own_weights(stages_, options_))),
             tensors_under(checkpoint->tensors, "student."), "checkpoint");
      if (student_.config.tied) student_.head = student_.embedding;
    }
    Progress progress(options_.title, all_tokens_, "tokens", options_.quiet);
    progress_ = &progress;
    while (place_.stage < static_cast<std::int64_t>(stages_.size()) && !stopped_) {
      run_stage(stages_[place_.stage], checkpoint ? &*checkpoint : nullptr);
      checkpoint.reset();
    }
    progress.finish();
    TrainReport report;
    report.tokens = place_.tokens;
    report.steps = place_.total_steps;
    report.skipped = place_.skipped;
    report.seconds = place_.seconds;
    report.cpu_seconds = place_.cpu_seconds;
    report.validation = place_.validation;
    report.stages = place_.finished;
    report.loss = mean_of_last_tenth(place_.recent);
    for (const auto& stage : report.stages)
      if (stage.at("steps").get<std::int64_t>() > 0) report.loss = number(stage.at("last_loss"));
    report.interrupted = stopped_;
    return report;
  }

 private:
  std::optional<Checkpoint> resume() {
    if (options_.checkpoints.empty()) return {};
    const auto file = latest_checkpoint(options_.checkpoints);
    if (!file) return {};
    auto checkpoint = load_checkpoint(*file);
    require(checkpoint.state.value("identity", "") == options_.identity,
            "{}: this checkpoint belongs to another run (other model, texts, recipe or options): use another folder",
            file->string());
    place_ = Place::from_json(checkpoint.state, stages_.size(), file->string());
    source_.restore(place_.source);
    if (!options_.quiet) fmt::print(stderr, "going on from {} ({} tokens done)\n", file->string(), place_.tokens);
    return checkpoint;
  }

  std::vector<Parameter> parameters(const Trainables& t) const {
    auto all = t.mixer;
    all.insert(all.end(), t.weights.begin(), t.weights.end());
    return all;
  }

  void run_stage(const Stage& stage, const Checkpoint* from) {
    // Parameters of earlier stages are part of every checkpoint too: all that any stage may have changed.
    std::vector<Parameter> changed =
        parameters(trainables(student_, Stage::Kind::EndToEnd, own_weights(stages_, options_)));
    const auto t = trainables(student_, stage.kind, own_weights(stage, options_));
    if (from) assign(changed, tensors_under(from->tensors, "student."), "checkpoint");
    std::vector<ParameterGroup> groups;
    double largest_rate = kLeastRate;
    for (const auto& [list, rate] :
         {std::pair{&t.mixer, stage.mixer_learning_rate}, {&t.weights, stage.learning_rate}}) {
      if (rate == 0) continue;  // frozen: their gradients must not decide over the clipping of others
      ParameterGroup matrices{{}, rate, stage.weight_decay, stage.beta1, stage.beta2},
          others{{}, rate, 0, stage.beta1, stage.beta2};
      for (const auto& p : *list) {
        *p.tensor = p.tensor->detach().clone().requires_grad_(true);  // never the teacher's own storage
        (p.tensor->dim() >= 2 ? matrices : others).parameters.push_back(*p.tensor);
      }
      for (auto* group : {&matrices, &others})
        if (!group->parameters.empty()) {
          largest_rate = std::max(largest_rate, rate);
          groups.push_back(std::move(*group));
        }
    }
    if (student_.config.tied) student_.head = student_.embedding;
    if (!student_.head.requires_grad())
      student_head_ =
          student_.head.const_data_ptr() == teacher_.head.const_data_ptr() ? teacher_head_ : freeze_head(student_.head);
    AdamW optimizer(std::move(groups));
    PlateauSchedule plateau;
    plateau.floor = kLeastRate / largest_rate;
    if (from && place_.step > 0) {
      optimizer.load_state(tensors_under(from->tensors, "adamw."));
      plateau.load_state(place_.plateau);
    }
    saved_at_ = now();
    stage_start_ = now() - place_.stage_seconds;
    const double elapsed_before = place_.seconds - place_.stage_seconds, cpu_start = cpu_now() - place_.cpu_seconds;
    std::int64_t later_tokens = 0;
    for (std::size_t i = place_.stage; i < stages_.size(); ++i) later_tokens += stages_[i].tokens;
    const bool timed = options_.seconds > 0;  // then all budgets are in tokens
    const double stage_time = timed ? (options_.seconds - elapsed_before) * static_cast<double>(stage.tokens) /
                                          static_cast<double>(later_tokens)
                                    : 0;

    const auto store = [&] {
      if (options_.checkpoints.empty()) return;
      place_.plateau = plateau.state();
      place_.source = source_.state();
      Checkpoint checkpoint;
      std::map<std::string, at::Tensor> tensors;
      for (const auto& p : changed) tensors[p.name] = p.tensor->detach();
      add_under(checkpoint.tensors, "student.", tensors);
      add_under(checkpoint.tensors, "adamw.", optimizer.state());
      checkpoint.state = place_.to_json(options_.identity);
      save_checkpoint(options_.checkpoints, place_.total_steps, checkpoint);
      saved_at_ = now();
    };

    const auto done = [&] {
      double fraction = stage.steps > 0 ? static_cast<double>(place_.step) / static_cast<double>(stage.steps)
                                        : static_cast<double>(place_.stage_tokens) / static_cast<double>(stage.tokens);
      if (timed) fraction = std::max(fraction, stage_time > 0 ? place_.stage_seconds / stage_time : 1);
      return fraction;
    };
    while (done() < 1 - 1e-9) {
      if (interrupted()) {
        stopped_ = true;
        store();
        break;
      }
      step(stage, optimizer, plateau, done());
      place_.stage_seconds = now() - stage_start_;
      place_.seconds = elapsed_before + place_.stage_seconds;
      place_.cpu_seconds = cpu_now() - cpu_start;
      if (now() - saved_at_ > options_.checkpoint_seconds) store();
    }
    for (const auto& p : parameters(t)) *p.tensor = p.tensor->detach();
    if (student_.config.tied) student_.head = student_.embedding;
    if (stopped_) return;
    place_.finished.push_back(
        {{"name", stage.name},
         {"tokens", place_.stage_tokens},
         {"steps", place_.step},
         {"tokens_per_second", static_cast<double>(place_.stage_tokens) / std::max(1e-9, place_.stage_seconds)},
         {"first_loss", place_.first_loss},
         {"last_loss", mean_of_last_tenth(place_.recent)}});
    if (place_.step > 0 && !place_.trained) place_.finished.back()["idle"] = true;
    ++place_.stage;
    place_.step = place_.stage_tokens = 0;
    place_.stage_seconds = 0;
    place_.first_loss = NAN;
    place_.trained = false;
    place_.recent.clear();
    store();
  }

  void step(const Stage& stage, AdamW& optimizer, PlateauSchedule& plateau, double fraction) {
    double loss = 0;
    std::int64_t tokens = 0;
    at::Tensor bad;  // the first batch whose loss is not finite
    optimizer.zero_grad();
    for (std::int64_t i = 0; i < options_.accumulate; ++i) {
      const auto batch = source_.next();
      tokens += batch.ids.numel();
      loss += loss_of(stage, batch) / static_cast<double>(options_.accumulate);
      if (!std::isfinite(loss) && !bad.defined()) bad = batch.ids;
    }
    bad_steps_ = bad.defined() ? bad_steps_ + 1 : 0;
    if (bad_steps_ >= 3) {
      const auto layer = first_bad_layer(student_, bad);
      fail_computation(
          "{}: the loss of stage {} is {} at step {}; {} is the first with a non-finite value: lower the learning "
          "rate{}",
          options_.title, stage.name, loss, place_.step, layer ? fmt::format("layer {}", *layer) : "no layer's heads",
          why_);
    }
    // With a budget in tokens the schedule counts steps of the stage as if all were of this size.
    const auto per_stage =
        stage.steps > 0 ? stage.steps : std::max<std::int64_t>(1, (stage.tokens + tokens - 1) / tokens);
    const double rate =
        stage.schedule == Stage::Schedule::Cosine
            ? warmup_cosine(static_cast<std::int64_t>(std::llround(fraction * static_cast<double>(per_stage))),
                            per_stage, stage.warmup, stage.floor)
            : plateau.scale;
    if (!std::isfinite(loss) ||
        !optimizer.step(rate, stage.clip > 0 ? stage.clip : std::numeric_limits<double>::infinity()))
      ++place_.skipped;
    if (std::isfinite(loss)) {
      if (place_.recent.empty()) place_.first_loss = loss;
      place_.recent.push_back(loss);
    }
    ++place_.step;
    ++place_.total_steps;
    place_.tokens += tokens;
    place_.stage_tokens += tokens;
    if (options_.validate && options_.validate_every > 0 && place_.step % options_.validate_every == 0) {
      place_.validation = options_.validate(student_);
      plateau.update(place_.validation);
    }
    progress_->update(place_.tokens, place_.validation >= 0 ? fmt::format("{} loss {:.4f} validation ppl {:.2f}",
                                                                          stage.name, loss, std::exp(place_.validation))
                                                            : fmt::format("{} loss {:.4f}", stage.name, loss));
    if (log_.is_open())
      log_ << Json{{"stage", stage.name},
                   {"step", place_.step},
                   {"tokens", place_.tokens},
                   {"loss", loss},
                   {"rate", rate},
                   {"grad_norm", optimizer.grad_norm()},
                   {"validation", place_.validation},
                   {"seconds", now() - stage_start_}}
                  .dump()
           << "\n"
           << std::flush;
  }

  /// The batch's loss, its gradients added; NaN where a layer refuses what the layers before it made.
  double loss_of(const Stage& stage, const Batch& batch) {
    try {
      return stage.kind == Stage::Kind::Transfer ? transfer(stage, batch) : end_to_end(stage, batch);
    } catch (const Error& error) {
      const bool learnt = place_.total_steps > 0;  // what was wrong from the start is something else
      if (error.kind() != ErrorKind::Input || !learnt || !first_bad_layer(student_, batch.ids)) throw;
      why_ = fmt::format(" ({})", error.what());
      return NAN;
    }
  }

  /// Heads of each converted layer against the teacher's, on the teacher's inputs; gradients stay within the layer.
  double transfer(const Stage& stage, const Batch& batch) {
    require(batch.ids.size(1) >= 2, "{}: a sequence of {} token teaches a mixer nothing: give at least 2",
            options_.title, batch.ids.size(1));
    double total = 0;
    std::int64_t layers = 0;
    const auto real = real_tokens(batch, teacher_.device());
    const at::NoGradGuard no_grad;
    teacher_.hidden(
        batch.ids, Form::Chunked, [&](std::int64_t layer, const MixerInput& input, const at::Tensor& heads) {
          auto& mixer = *student_.layers[layer].mixer;
          const Mixer& original = *teacher_.layers[layer].mixer;
          const bool kept = typeid(mixer) == typeid(original);  // such a layer has nothing to learn
          if (mixer.parameters().empty() && (kept || stage.projections.empty())) return;
          const at::AutoGradMode grad(true);
          const auto error =
              stage.projections.empty()
                  ? mean_square(mixer.forward(input, Form::Chunked).transpose(1, 2), heads.transpose(1, 2), real)
                  : mean_square(student_output(stage, layer, input),
                                teacher_.layers[layer].output(heads.transpose(1, 2).flatten(2)), real);
          const auto loss = error * (stage.mse_scale / static_cast<double>(options_.accumulate));
          if (loss.requires_grad()) loss.backward(), place_.trained = true;
          total += loss.item<double>() * static_cast<double>(options_.accumulate);
          ++layers;
        });
    return total / static_cast<double>(std::max<std::int64_t>(1, layers));
  }

  /// What the layer's attention adds to the residual stream with projections of the student's.
  at::Tensor student_output(const Stage& stage, std::int64_t index, const MixerInput& input) {
    const auto& layer = student_.layers[index];
    const MixerInput mine{input.config, input.rope, input.x, training_only(layer.qkv, stage.projections)(input.x),
                          input.position};
    return layer.output(layer.mixer->forward(mine, Form::Chunked).transpose(1, 2).flatten(2));
  }

  /// The teacher's likeliest tokens and their log-probabilities, [B * T, top_k]; kept in a file per batch if a folder
  /// was given.
  std::pair<at::Tensor, at::Tensor> teacher_predictions(const at::Tensor& ids, std::int64_t top_k) {
    const at::NoGradGuard no_grad;
    top_k = std::min(top_k, teacher_.config.vocab);
    std::filesystem::path file;
    if (!options_.targets.empty()) {
      const auto bytes =
          std::as_bytes(std::span(ids.const_data_ptr<std::int64_t>(), static_cast<std::size_t>(ids.numel())));
      const std::string key =
          fmt::format("{}:{}:{}:{}", sha256(bytes), teacher_name_, fmt::join(ids.sizes(), "x"), top_k);
      file = options_.targets / (sha256(std::as_bytes(std::span(key))).substr(0, 24) + ".safetensors");
      if (std::filesystem::exists(file)) {
        const auto stored = load_safetensors(file);
        return {stored.tensors.at("ids").to(teacher_.device()), stored.tensors.at("log_probs").to(teacher_.device())};
      }
    }
    const auto none = at::full({ids.numel()}, -1, at::TensorOptions(teacher_.device()).dtype(at::kLong));
    const auto scores =
        next_token_scores(teacher_.hidden(ids).reshape({-1, teacher_.config.hidden}), teacher_head_, none, top_k);
    if (!file.empty()) {
      std::filesystem::create_directories(options_.targets);
      save_safetensors(file, {{"ids", scores.top_ids}, {"log_probs", scores.top_log_probs}});
    }
    return {scores.top_ids, scores.top_log_probs};
  }

  /// What tells this teacher from others in the folder of its predictions: its weights' type and about a thousand
  /// numbers of each tensor.
  static std::string name_of(Decoder teacher) {
    auto all = weights(teacher);
    const auto more = adapter(teacher);
    all.insert(all.end(), more.begin(), more.end());
    std::vector<at::Tensor> samples;
    for (const auto& parameter : all) {
      const auto numbers = parameter.tensor->detach().flatten();
      const auto step = (numbers.numel() / 1024) | 1;  // odd, so as not to stay in a few columns
      samples.push_back(numbers.slice(0, 0, std::nullopt, step).to(at::kFloat));
    }
    const auto sample = at::cat(samples).to(at::kCPU).contiguous();
    return fmt::format(
        "{}-{}", toString(teacher.type()),
        sha256(std::as_bytes(std::span(sample.const_data_ptr<float>(), static_cast<std::size_t>(sample.numel())))));
  }

  double end_to_end(const Stage& stage, const Batch& batch) {
    require(batch.targets.ge(0).any().item<bool>(), "{}: a batch without a single target", options_.title);
    TokenTargets targets{batch.targets.reshape({-1}).to(student_.device()), {}, {}};
    if (stage.kl > 0) std::tie(targets.ids, targets.log_probs) = teacher_predictions(batch.ids, stage.top_k);
    const at::AutoGradMode grad(true);
    const auto hidden = student_.hidden(batch.ids).reshape({-1, student_.config.hidden});
    at::Tensor loss;
    if (student_.head.requires_grad()) {  // plain operations
      const auto logits = student_.logits(hidden);
      loss = at::cross_entropy_loss(logits, targets.next, {}, at::Reduction::Mean, -1) * stage.cross_entropy;
      if (stage.z_loss > 0)
        loss = loss + at::logsumexp(logits, {-1}).masked_select(targets.next >= 0).square().mean() * stage.z_loss;
    } else {
      loss = distillation_loss(hidden, student_head_, targets, stage.kl, stage.cross_entropy).loss;
    }
    if (loss.requires_grad())  // not where a short text leaves the trained part without work
      (loss / static_cast<double>(options_.accumulate)).backward(), place_.trained = true;
    return loss.item<double>();
  }

  const Decoder& teacher_;
  Decoder& student_;
  const std::vector<Stage>& stages_;
  BatchSource& source_;
  const TrainOptions& options_;
  FrozenHead teacher_head_, student_head_;
  std::string teacher_name_;
  std::ofstream log_;
  std::string why_;  // a layer refused its input last time
  Place place_;
  Progress* progress_ = nullptr;
  std::int64_t all_tokens_ = 0, bad_steps_ = 0;
  double saved_at_ = 0, stage_start_ = 0;
  bool stopped_ = false;
};

}  // namespace

Trainables trainables(Decoder& student, Stage::Kind kind, const std::vector<std::string>& also) {
  Trainables t;
  for (const auto& p : adapter(student)) {
    const bool mixer = p.name.find(".mixer.") != std::string::npos;
    if (mixer)
      t.mixer.push_back(p);
    else if (kind == Stage::Kind::EndToEnd)
      t.weights.push_back(p);
  }
  if (!also.empty())
    for (const auto& p : weights(student))
      if (ends_with_any(p.name, also)) t.weights.push_back(p);
  return t;
}

TrainReport train(const Decoder& teacher, Decoder& student, const std::vector<Stage>& stages, BatchSource& source,
                  const TrainOptions& options) {
  require(options.accumulate >= 1, "distill: accumulate must be at least 1, not {}", options.accumulate);
  std::vector<Stage> active;
  std::vector<std::string> idle;
  for (const auto& stage : stages) {
    const auto own = own_weights(stage, options);
    require(own.empty() || student.type() != at::kBFloat16,
            "distill: stage {} trains the model's own weights, which needs them in float32 (--type f32)", stage.name);
    for (const auto& part : stage.projections)
      require(stage.kind == Stage::Kind::Transfer && contains({"q", "k", "v", "o"}, part),
              "distill: stage {}: '{}' is no projection that trains in a transfer (q, k, v, o)", stage.name, part);
    const bool head = ends_with_any(student.config.tied ? "embedding" : "head", own);
    require(stage.kl == 0 || !head, "distill: stage {} trains the head, on next tokens only: kl must be 0, not {}",
            stage.name, stage.kl);
    require(stage.z_loss == 0 || head, "distill: stage {} has a z_loss, which needs a head that trains", stage.name);
    require(stage.tokens > 0 || stage.steps > 0, "distill: stage {} has a budget of {} tokens", stage.name,
            stage.tokens);
    require(stage.steps == 0 || options.seconds == 0,
            "distill: stage {} has a budget of {} steps, which does not go with a time budget", stage.name,
            stage.steps);
    require(stage.kind == Stage::Kind::Transfer || stage.kl > 0 || stage.cross_entropy > 0,
            "distill: stage {} has no loss", stage.name);
    const auto trained = trainables(student, stage.kind, own);
    const bool trains = (!trained.mixer.empty() && stage.mixer_learning_rate > 0) || !trained.weights.empty();
    trains ? active.push_back(stage) : idle.push_back(stage.name);
  }
  require(!active.empty(),
          "distill: there is nothing to train in stage {}: no converted layer has a mixer with parameters, or low-rank "
          "corrections, that the stage trains; see the options keep_every, softmax_layers and lora_rank",
          fmt::join(idle, ", "));
  auto report = Trainer(teacher, student, active, source, options).run();
  for (const auto& name : idle) report.stages.push_back({{"name", name}, {"tokens", 0}, {"steps", 0}, {"idle", true}});
  return report;
}

TrainReport train(const Decoder& teacher, Student& student, const std::vector<Stage>& stages, BatchSource& source,
                  const TrainOptions& options) {
  const auto report = train(teacher, student.decoder, stages, source, options);
  const auto endings = own_weights(stages, options);
  for (const auto& weight : weights(student.decoder))
    if (ends_with_any(weight.name, endings) && !contains(student.own, weight.name)) student.own.push_back(weight.name);
  return report;
}

}  // namespace unbend::lm
