// Verbs on the table of methods: methods, study.
#include <fmt/format.h>

#include <memory>
#include <vector>

#include "cli/verbs.h"
#include "studies/kept.h"
#include "studies/study.h"
#include "unbend/base/error.h"
#include "unbend/base/methods.h"

namespace unbend {
namespace {

void list_methods(bool as_json) {
  if (as_json) {
    Json list = Json::array();
    for (const Method& m : methods()) {
      list.push_back({{"slug", m.slug},
                      {"name", m.name},
                      {"title", m.title},
                      {"authors", m.authors},
                      {"venue", m.venue},
                      {"arxiv", m.arxiv},
                      {"foundation", to_string(m.foundation)},
                      {"status", to_string(m.status)}});
    }
    print_json({{"methods", std::move(list)}});
    return;
  }
  Table table{"", {"slug", "foundation", "status", "paper"}, {}};
  for (const Method& m : methods()) {
    table.rows.push_back({std::string(m.slug), std::string(to_string(m.foundation)), std::string(to_string(m.status)),
                          fmt::format("{}, {}, arXiv {}", m.authors, m.venue, m.arxiv)});
  }
  fmt::print("{}", to_text(table));
}

StudyFunction study_named(const std::string& slug) {
  if (const StudyFunction study = find_study(slug)) return study;
  if (find_method(slug) != nullptr) {
    fail_usage("the method '{}' is planned and has no study yet; 'unbend methods' shows what works", slug);
  }
  std::vector<std::string> slugs{"hybrid"};  // the project's own recipe has a study too
  for (const Method& m : methods()) slugs.emplace_back(m.slug);
  const std::string near = nearest(slug, slugs);
  fail_usage("there is no method '{}'{}; 'unbend methods' lists them", slug,
             near.empty() ? "" : fmt::format(", did you mean '{}'?", near));
}

void run_study(const std::string& slug, const StudyOptions& options, bool as_json) {
  const StudyFunction study = study_named(slug);
  const StudyResult result = study(options);
  if (as_json) {
    print_json(study_json(result, options));
  } else {
    fmt::print("{}", study_text(result, options));
  }
  if (!options.out.empty()) {
    std::filesystem::create_directories(options.out);
    write_json(options.out / (slug + ".json"), study_json(result, options));
    study_report(result, options).write(options.out / (slug + ".html"));
  }
  if (!passed(result)) throw CLI::RuntimeError(1);
}

}  // namespace

void add_method_verbs(CLI::App& app) {
  CLI::App* list = app.add_subcommand("methods", "List the methods: paper, foundation, status");
  auto list_json = std::make_shared<bool>(false);
  list->add_flag("--json", *list_json, "Print JSON");
  list->footer("Examples:\n  unbend methods\n  unbend methods --json");
  list->callback([=] { list_methods(*list_json); });

  struct Arguments {
    std::string slug;
    StudyOptions options;
    int seeds = 0;
    std::string keep;
    bool json = false;
  };
  auto arguments = std::make_shared<Arguments>();
  CLI::App* study = app.add_subcommand("study", "Check a method's published claims; exit code 1 when a bar is missed");
  study->add_option("SLUG", arguments->slug, "The method, as 'unbend methods' names it")->required();
  study->add_flag("--full", arguments->options.full, "Run the whole study, not its quick form");
  study->add_option("--seeds", arguments->seeds, "Number of seeds (default: 1, with --full 3)")
      ->check(CLI::Range(1, 1000))
      ->type_name("N");
  study->add_option("--out", arguments->options.out, "Write SLUG.json and SLUG.html into this folder")
      ->type_name("DIR");
  study
      ->add_option("--keep", arguments->keep,
                   "Keep trained models in this folder: the same command goes on from there after an interruption")
      ->type_name("DIR");
  study->add_flag("--json", arguments->json, "Print JSON");
  study->add_flag("--quiet", arguments->options.quiet, "Show no progress");
  study->footer(
      "Examples:\n"
      "  unbend study liger\n"
      "  unbend study liger --full --seeds 3 --out build/studies --keep build/kept");
  study->callback([=] {
    arguments->options.seeds = arguments->seeds > 0 ? arguments->seeds : (arguments->options.full ? 3 : 1);
    const auto& options = arguments->options;
    if (!arguments->keep.empty())
      arguments->options.kept = std::make_shared<KeptTrainings>(
          arguments->keep,
          fmt::format("{}, {}, {} seeds", arguments->slug, options.full ? "full" : "quick", options.seeds));
    run_study(arguments->slug, arguments->options, arguments->json);
  });
}

}  // namespace unbend
