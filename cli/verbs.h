// The verbs of the `unbend` command, in groups; each group is one file of this folder and parses and prints only.
//
// A verb is a subcommand whose callback does the work. It fails by throwing: unbend::Error for what the caller can
// mend, CLI::RuntimeError(code) to end with another exit code after it has printed its result. main() turns both into
// one line and an exit code. Each verb has a footer with examples.
#pragma once

#include <CLI/CLI.hpp>

#include "unbend/base/json.h"

namespace unbend {

void add_method_verbs(CLI::App& app);   ///< methods, study
void add_lm_verbs(CLI::App& app);       ///< language models
void add_serve_verb(CLI::App& app);     ///< serve
void add_vision_verbs(CLI::App& app);   ///< vision train, vision eval
void add_net_verbs(CLI::App& app);      ///< net
void add_gan_verbs(CLI::App& app);      ///< gan stability
void add_measure_verbs(CLI::App& app);  ///< measure: point clouds and angles as vectors
void add_online_verbs(CLI::App& app);   ///< online train, online predict, online sweep
void add_fit_verbs(CLI::App& app);      ///< fit logistic, fit softmax, fit least-squares
void add_control_verbs(CLI::App& app);  ///< control
void add_policy_verbs(CLI::App& app);   ///< policy train, policy eval, policy render

/// Prints to standard output, indented; invalid UTF-8 inside strings is replaced.
void print_json(const Json& json);

}  // namespace unbend
