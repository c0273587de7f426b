// What is wrong with a grammar, in words: libllama itself writes it to standard error and tells nobody.
#pragma once

#include <string>

#include "unbend/engine/tokenizer.h"

namespace unbend::serve {

/// ApiError 400 that says what is wrong and where, unless `grammar` is GBNF with a rule `root`.
void check_grammar(const std::string& grammar, const engine::Tokenizer& tokenizer);

}  // namespace unbend::serve
