// A tokenizer without a training text: one token per byte.
#pragma once

#include <string>
#include <vector>

#include "unbend/engine/tokenizer.h"

namespace unbend::engine {

/// GGUF metadata entries (encode_entry) of a tokenizer whose ids 0 to 255 are the bytes and 256 ends a text; ids from
/// 257 on, if `size` is larger, are unused. It is a byte-level BPE vocabulary without merges, so that every program
/// that reads GGUF files knows it; it asks for no BOS. Input error for a size below 257.
std::vector<std::string> byte_vocabulary(int size = 257);

/// That tokenizer.
Tokenizer byte_tokenizer(int size = 257);

}  // namespace unbend::engine
