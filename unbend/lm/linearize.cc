#include "unbend/lm/linearize.h"

#include <torch/types.h>

#include <algorithm>
#include <cmath>

#include "unbend/base/error.h"
#include "unbend/base/progress.h"
#include "unbend/lm/batch_source.h"
#include "unbend/lm/generate.h"

namespace unbend::lm {
namespace {

double perplexity(const at::Tensor& nats) { return std::exp(nats.mean().item<double>()); }

std::string bucket_name(std::pair<std::int64_t, std::int64_t> bucket) {
  return fmt::format("{}-{}", bucket.first, bucket.second - 1);
}

std::string where(const AskedTask& task) {
  return task.by_distance ? fmt::format("{} tokens back", task.size) : fmt::format("in {} tokens", task.size);
}

/// What a model needs no memory beyond the window for: ", 25 % within the window".
std::string near(const AskedTask& task) {
  if (!task.within) return ", may be within the window";
  return *task.within > 0 ? fmt::format(", {:.3g} % within the window", 100 * *task.within) : "";
}

/// With so many digits, or by its power of ten where that would fill a column.
std::string figure(double x, int digits) {
  return x < 1e4 ? fmt::format("{:.{}f}", x, digits) : fmt::format("{:.1e}", x);
}

std::string with_error(const Estimate& e, int digits) {
  return fmt::format("{:.{}f} +- {:.{}f}", e.mean, digits, e.error, digits);
}

/// The curve of the models' i-th one, whose colour is the same in every plot.
Series curve_of(const std::vector<ModelComparison>& models, const ModelComparison& model) {
  Series series{model.name, {}, {}};
  series.color = static_cast<int>(&model - models.data());
  return series;
}

/// Values by position in bins, the last one may be shorter: x at the middle of each bin.
Series by_position(Series series, const at::Tensor& values, std::int64_t bin) {
  for (std::int64_t at = 0; at < values.size(1); at += bin) {
    const auto here = values.slice(1, at, at + bin);
    series.x.push_back(static_cast<double>(at) + static_cast<double>(here.size(1)) / 2);
    series.y.push_back(here.mean().item<double>());
  }
  return series;
}

/// A question as the model knows questions, or, where it knows none, a text to continue.
std::vector<engine::TokenId> prompt_ids(const engine::Tokenizer& tokenizer, const std::string& prompt) {
  if (tokenizer.has_chat_template()) return tokenizer.encode(tokenizer.chat({{"user", prompt}}), true);
  auto ids = tokenizer.encode(prompt);
  if (tokenizer.adds_bos()) ids.insert(ids.begin(), tokenizer.bos());
  return ids;
}

}  // namespace

Comparison compare(const std::vector<Contestant>& models, const engine::Tokenizer& tokenizer,
                   const ComparisonOptions& options) {
  const at::NoGradGuard no_grad;
  Comparison result;
  result.options = options;
  result.weight_bytes = weight_bytes(*models[0].decoder);
  std::vector<const Decoder*> decoders;
  for (const auto& model : models) {
    decoders.push_back(model.decoder);
    result.models.push_back({model.name, {}, {}, {}, {}, {}, model.trained_tokens, model.trained_per_second});
  }
  for (const auto& [name, windows] :
       {std::pair{"evaluate, short texts", options.short_windows}, {"evaluate, long texts", options.long_windows}}) {
    if (!windows.defined() || windows.size(0) == 0) continue;
    Progress progress(name, windows.numel() * static_cast<std::int64_t>(models.size()), "tokens", options.quiet);
    const auto scores =
        evaluate(decoders, behind_bos(windows, tokenizer), [&](std::int64_t done) { progress.update(done); });
    for (std::size_t m = 0; m < models.size(); ++m) result.models[m].scores.push_back(scores[m]);
  }
  const auto& long_source =
      options.long_windows.defined() && options.long_windows.size(0) > 0 ? options.long_windows : options.short_windows;
  if (options.recall_texts > 0) {
    Progress progress("recall", std::ssize(options.tasks), "tasks", options.quiet);
    for (const auto& name : options.tasks) {
      const auto& task = find_task(name);
      const auto size = size_beyond(task, options.window, models[0].decoder->config.context, tokenizer.size());
      std::vector<Probe> probes;
      try {
        probes = recall_probes(name, tokenizer, long_source, options.recall_texts, size, 1);
      } catch (const Error& error) {  // a tokenizer without such words, too little text
        if (error.kind() != ErrorKind::Input) throw;
        result.notes.push_back(error.what());
        continue;
      }
      if (std::ssize(probes) < options.recall_texts)
        result.notes.push_back(fmt::format("task {}: {} of {} texts, more do not fit into the text side by side", name,
                                           options.recall_texts - std::ssize(probes), options.recall_texts));
      const bool by_distance = task.measure == Task::Measure::Distance;
      result.tasks.push_back({name, by_distance, size, share_within(probes, options.window)});
      for (std::size_t m = 0; m < models.size(); ++m) result.models[m].recall.push_back(ask(*decoders[m], probes));
      progress.update(static_cast<std::int64_t>(result.models[0].recall.size()));
    }
  }
  if (models.size() > 1) {
    const auto windows = long_source.slice(0, 0, std::min<std::int64_t>(2, long_source.size(0)));
    Progress progress("fidelity per layer", windows.size(0), "texts", options.quiet);
    const auto errors =
        head_fidelity(*decoders[0], {decoders.begin() + 1, decoders.end()}, behind_bos(windows, tokenizer));
    progress.update(windows.size(0));
    for (std::size_t m = 1; m < models.size(); ++m) result.models[m].fidelity = errors[m - 1];
  }
  if (!options.prompts.empty()) {
    Progress progress("generate", static_cast<std::int64_t>(models.size() * options.prompts.size()), "texts",
                      options.quiet);
    GenerateOptions generation;
    generation.max_tokens = options.prompt_tokens;
    generation.sampler.temperature = 0;
    std::int64_t done = 0;
    for (std::size_t m = 0; m < models.size(); ++m)
      for (const auto& prompt : options.prompts) {
        const auto ids = prompt_ids(tokenizer, prompt);
        result.models[m].texts.push_back(options.write ? options.write(m, tokenizer, ids, generation)
                                                       : generate(*decoders[m], tokenizer, ids, generation).text);
        progress.update(++done);
      }
  }
  if (!options.contexts.empty()) {
    Progress progress("decoding speed", static_cast<std::int64_t>(models.size() * options.contexts.size()), "contexts",
                      options.quiet);
    std::int64_t done = 0;
    for (std::size_t m = 0; m < models.size(); ++m) {
      const auto tick = [&] { progress.update(++done); };
      result.models[m].speed =
          options.speed ? options.speed(m) : decode_speed(*decoders[m], options.contexts, options.speed_tokens, tick);
      progress.update(done = static_cast<std::int64_t>((m + 1) * options.contexts.size()));
    }
  }
  return result;
}

Table comparison_table(const Comparison& c) {
  Table table{"Model and surrogate", {"measure"}, {}};
  for (const auto& model : c.models) table.columns.push_back(model.name);
  const auto row = [&](const std::string& name, const std::function<std::string(const ModelComparison&)>& cell) {
    std::vector<std::string> cells{name};
    for (const auto& model : c.models) cells.push_back(cell(model));
    table.rows.push_back(std::move(cells));
  };
  const auto& teacher = c.models[0];
  for (std::size_t s = 0; s < teacher.scores.size(); ++s) {
    const auto length = teacher.scores[s].nats.size(1) + 1;
    row(fmt::format("perplexity at {} tokens", length),
        [&](const auto& m) { return fmt::format("{:.3f}", perplexity(m.scores[s].nats)); });
    row(fmt::format("  ratio to the teacher's"), [&](const auto& m) {
      return fmt::format("{:.4f}", perplexity(m.scores[s].nats) / perplexity(teacher.scores[s].nats));
    });
    for (const auto& bucket : position_buckets(length - 1))
      row(fmt::format("  nats per token at {}", bucket_name(bucket)),
          [&](const auto& m) { return with_error(mean_over(m.scores[s].nats, bucket.first, bucket.second), 4); });
    row("  top-1 agreement",
        [&](const auto& m) { return fmt::format("{:.4f}", m.scores[s].agreement.mean().template item<double>()); });
    row("  KL from the teacher (nats)",
        [&](const auto& m) { return fmt::format("{:.4f}", m.scores[s].kl.mean().template item<double>()); });
  }
  for (std::size_t t = 0; t < teacher.recall.size(); ++t) {
    row(fmt::format("recall '{}' {}{}", c.tasks[t].name, where(c.tasks[t]), near(c.tasks[t])), [&](const auto& m) {
      return with_error({m.recall[t].accuracy, m.recall[t].accuracy_error}, 3);
    });
    row("  by chance", [&](const auto& m) { return fmt::format("{:.3f}", m.recall[t].chance); });
    row("  nats per token", [&](const auto& m) { return fmt::format("{:.3f}", m.recall[t].nats); });
  }
  for (std::size_t i = 0; i < teacher.speed.size(); ++i) {
    const auto context = teacher.speed[i].context;
    row(fmt::format("decode after {} tokens (tokens/s)", context),
        [&](const auto& m) { return fmt::format("{:.1f}", m.speed[i].tokens_per_second); });
    row("  state (MB)",
        [&](const auto& m) { return fmt::format("{:.1f}", static_cast<double>(m.speed[i].state_bytes) / 1e6); });
    row("  peak memory of the process (MB)", [&](const auto& m) {
      return fmt::format("{:.0f}", static_cast<double>(m.speed[i].peak_resident_bytes) / 1e6);
    });
  }
  return table;
}

Table summary_table(const Comparison& c) {
  Table table{"Recipes side by side", {"model"}, {}};
  for (const auto& model : c.models) table.rows.push_back({model.name});
  const auto column = [&](const std::string& name, const std::function<std::string(const ModelComparison&)>& cell) {
    table.columns.push_back(name);
    for (std::size_t m = 0; m < c.models.size(); ++m) table.rows[m].push_back(cell(c.models[m]));
  };
  const auto& teacher = c.models[0];
  for (std::size_t s = 0; s < teacher.scores.size(); ++s) {
    column(fmt::format("ppl {}", teacher.scores[s].nats.size(1) + 1),
           [&](const auto& m) { return figure(perplexity(m.scores[s].nats), 2); });
    column("ratio",
           [&](const auto& m) { return figure(perplexity(m.scores[s].nats) / perplexity(teacher.scores[s].nats), 3); });
    column("KL", [&](const auto& m) { return fmt::format("{:.3f}", m.scores[s].kl.mean().template item<double>()); });
    column("top-1",
           [&](const auto& m) { return fmt::format("{:.3f}", m.scores[s].agreement.mean().template item<double>()); });
  }
  for (std::size_t t = 0; t < c.tasks.size(); ++t)
    column(c.tasks[t].name + near(c.tasks[t]) + " (chance)",
           [&](const auto& m) { return fmt::format("{:.3f} ({:.3f})", m.recall[t].accuracy, m.recall[t].chance); });
  column("train tok/s",
         [](const auto& m) { return m.trained_tokens > 0 ? fmt::format("{:.0f}", m.trained_per_second) : "-"; });
  if (!teacher.speed.empty()) {
    column("decode tok/s", [](const auto& m) { return fmt::format("{:.1f}", m.speed.back().tokens_per_second); });
    column("state MB",
           [](const auto& m) { return fmt::format("{:.2f}", static_cast<double>(m.speed.back().state_bytes) / 1e6); });
  }
  return table;
}

Table position_table(const Comparison& c) {
  Table table{"Nats per token by position", {"model"}, {}};
  for (const auto& model : c.models) table.rows.push_back({model.name});
  const auto& teacher = c.models[0];
  for (std::size_t s = 0; s < teacher.scores.size(); ++s) {
    const auto length = teacher.scores[s].nats.size(1) + 1;
    for (const auto& bucket : position_buckets(length - 1)) {
      table.columns.push_back(fmt::format("{} of {}", bucket_name(bucket), length));
      for (std::size_t m = 0; m < c.models.size(); ++m)
        table.rows[m].push_back(
            fmt::format("{:.3f}", mean_over(c.models[m].scores[s].nats, bucket.first, bucket.second).mean));
    }
  }
  return table;
}

Json to_json(const Comparison& c) {
  Json json;
  if (c.weight_bytes > 0) json["weight_bytes"] = c.weight_bytes;
  json["notes"] = c.notes;
  json["models"] = Json::array();
  const auto estimate = [](const Estimate& e) { return Json{{"mean", e.mean}, {"error", e.error}}; };
  for (const auto& model : c.models) {
    Json entry{{"name", model.name}, {"texts", model.texts}};
    for (const auto& scores : model.scores) {
      const auto positions = scores.nats.size(1);
      Json part{{"tokens", positions + 1},
                {"windows", scores.nats.size(0)},
                {"perplexity", perplexity(scores.nats)},
                {"nats", estimate(mean_over(scores.nats, 0, positions))},
                {"agreement", scores.agreement.mean().item<double>()},
                {"kl", scores.kl.mean().item<double>()}};
      for (const auto& bucket : position_buckets(positions))
        part["nats_by_position"][bucket_name(bucket)] = estimate(mean_over(scores.nats, bucket.first, bucket.second));
      entry["held_out"].push_back(part);
    }
    for (std::size_t t = 0; t < model.recall.size(); ++t)
      entry["recall"][c.tasks[t].name] = {{c.tasks[t].by_distance ? "distance" : "length", c.tasks[t].size},
                                          {"within_window", c.tasks[t].within ? Json(*c.tasks[t].within) : Json()},
                                          {"accuracy", model.recall[t].accuracy},
                                          {"error", model.recall[t].accuracy_error},
                                          {"chance", model.recall[t].chance},
                                          {"nats", model.recall[t].nats},
                                          {"questions", model.recall[t].questions}};
    if (model.trained_tokens > 0)
      entry["training"] = {{"tokens", model.trained_tokens}, {"tokens_per_second", model.trained_per_second}};
    for (const auto& p : model.speed)
      entry["decode"].push_back({{"context", p.context},
                                 {"tokens_per_second", p.tokens_per_second},
                                 {"state_bytes", p.state_bytes},
                                 {"peak_resident_bytes", p.peak_resident_bytes}});
    json["models"].push_back(entry);
  }
  return json;
}

HtmlReport comparison_report(const Comparison& c, const std::string& title, const std::vector<std::string>& notes) {
  HtmlReport report(title, "Linearization report: what a linear-time surrogate gains and loses");
  const auto &teacher = c.models.front(), &surrogate = c.models.back();
  std::vector<KeyFigure> figures;
  if (!teacher.speed.empty()) {
    const auto &a = teacher.speed.back(), &b = surrogate.speed.back();
    figures.push_back({fmt::format("{:.1f}x", b.tokens_per_second / a.tokens_per_second),
                       fmt::format("decoding speed after {} tokens", a.context),
                       fmt::format("{:.1f} against {:.1f} tokens/s", b.tokens_per_second, a.tokens_per_second)});
    figures.push_back({fmt::format("1/{:.0f}", static_cast<double>(a.state_bytes) / static_cast<double>(b.state_bytes)),
                       "of the teacher's state there",
                       fmt::format("{:.1f} against {:.0f} MB", static_cast<double>(b.state_bytes) / 1e6,
                                   static_cast<double>(a.state_bytes) / 1e6)});
  }
  for (std::size_t s = 0; s < teacher.scores.size(); ++s)
    figures.push_back({fmt::format("{:.3f}", perplexity(surrogate.scores[s].nats) / perplexity(teacher.scores[s].nats)),
                       fmt::format("perplexity ratio at {} tokens", teacher.scores[s].nats.size(1) + 1),
                       c.models.size() > 2 ? fmt::format("control: {:.3f}", perplexity(c.models[1].scores[s].nats) /
                                                                                perplexity(teacher.scores[s].nats))
                                           : ""});
  if (c.models.size() > 3)
    report.table(summary_table(c)).table(position_table(c));
  else
    report.key_figures(figures);
  for (const auto& note : notes) report.paragraph(note);
  for (const auto& note : c.notes) report.paragraph("Left out: " + note);

  report.heading("Speed and memory");
  LinePlot speed{"Decoding speed", {"context (tokens)", Scale::Log2}, {"tokens per second", Scale::Log10}, {}};
  LinePlot memory{"Memory of the state", {"context (tokens)", Scale::Log2}, {"MB", Scale::Log10}, {}};
  for (const auto& model : c.models) {
    auto rate = curve_of(c.models, model), size = rate;
    for (const auto& p : model.speed) {
      rate.x.push_back(static_cast<double>(p.context));
      rate.y.push_back(p.tokens_per_second);
      size.x.push_back(static_cast<double>(p.context));
      size.y.push_back(static_cast<double>(p.state_bytes) / 1e6);
    }
    if (rate.x.empty()) continue;
    speed.series.push_back(rate);
    memory.series.push_back(size);
  }
  speed.caption = "One sequence, token by token. The state is made up, not filled by reading a text of that length.";
  memory.caption = "KV cache for the teacher; ring of the window, sinks and recurrent states for the others.";
  if (!speed.series.empty()) report.plot(speed).plot(memory);

  report.heading("Fidelity");
  for (std::size_t s = 0; s < teacher.scores.size(); ++s) {
    const auto length = teacher.scores[s].nats.size(1) + 1;
    const std::int64_t bin = std::max<std::int64_t>(16, length / 32);
    LinePlot nats{
        fmt::format("Loss by position, texts of {} tokens", length), {"position (tokens)"}, {"nats per token"}, {}};
    LinePlot kl{fmt::format("Divergence from the teacher by position, texts of {} tokens", length),
                {"position (tokens)"},
                {"KL (nats per token)"},
                {}};
    for (const auto& model : c.models) {
      nats.series.push_back(by_position(curve_of(c.models, model), model.scores[s].nats, bin));
      if (&model != &teacher) kl.series.push_back(by_position(curve_of(c.models, model), model.scores[s].kl, bin));
    }
    nats.caption = kl.caption =
        fmt::format("Means over {} held-out texts in bins of {} positions.", teacher.scores[s].nats.size(0), bin);
    report.plot(nats);
    if (!kl.series.empty()) report.plot(kl);
  }
  LinePlot layers{"Error of the attention heads by layer", {"layer"}, {"relative squared error", Scale::Log10}, {}};
  LinePlot positions{"Error of the attention heads by position", {"position (tokens)"}, {"relative squared error"}, {}};
  for (const auto& model : c.models) {
    if (!model.fidelity.defined()) continue;
    const std::int64_t first = std::min(c.options.window, model.fidelity.size(1) - 1);
    const auto beyond = model.fidelity.slice(1, first).mean(1);
    auto series = curve_of(c.models, model);
    for (std::int64_t i = 0; i < beyond.size(0); ++i) {
      series.x.push_back(static_cast<double>(i));
      series.y.push_back(std::max(1e-9, beyond[i].item<double>()));
    }
    layers.series.push_back(series);
    positions.series.push_back(by_position(curve_of(c.models, model), model.fidelity,
                                           std::max<std::int64_t>(16, model.fidelity.size(1) / 32)));
  }
  layers.caption = "Each mixer against the teacher's on the teacher's own inputs, positions beyond the window.";
  positions.caption = "The same, mean over layers.";
  if (!layers.series.empty()) report.plot(layers).plot(positions);

  report.heading("All figures");
  report.table(comparison_table(c));
  if (!c.options.prompts.empty()) {
    report.heading("The same prompts");
    for (std::size_t p = 0; p < c.options.prompts.size(); ++p)
      for (const auto& model : c.models)
        report.text_block(fmt::format("{}: {}", model.name, c.options.prompts[p]), model.texts[p]);
  }
  return report;
}

}  // namespace unbend::lm
