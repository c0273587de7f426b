// JSON schemas as grammars, by llama.cpp's converter.
#pragma once

#include <string>

#include "unbend/base/json.h"

namespace unbend::serve {

/// GBNF of the JSON values that `schema` allows, properties in their order. ApiError 400 for what is no schema, and for
/// a keyword that the grammar would not enforce, which the converter alone would skip.
std::string schema_grammar(const Json& schema);

}  // namespace unbend::serve
