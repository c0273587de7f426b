/* Unbend's engine for C and for every language that can call C: open a GGUF model, run or generate.
 *
 * Functions that can fail return an unbend_status; unbend_last_error() then says what was wrong. Results go through the
 * pointers at the end of a parameter list, which must not be null unless said so and are only written on success.
 * What comes through a pointer to a pointer is the caller's: arrays and texts go back through unbend_free(), handles
 * through their own functions. Texts in results are UTF-8 where the model's are, and have a zero byte behind them.
 *
 * A model may be used by any number of threads and engines at once. An engine is for one thread at a time; its own
 * threads it starts itself. A handle that was closed must not be used again.
 */
#ifndef UNBEND_CAPI_UNBEND_H_
#define UNBEND_CAPI_UNBEND_H_

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef enum unbend_status {
  UNBEND_OK = 0,
  UNBEND_USAGE = 2,       /* wrong use: a null pointer, an option of generating out of range */
  UNBEND_INPUT = 3,       /* a file, value, token or saved state that cannot be used */
  UNBEND_COMPUTATION = 4, /* valid input, but it failed: no memory, all sequences in use */
  UNBEND_BUG = 5          /* our mistake */
} unbend_status;

/* What went wrong in the last call of this thread that failed, in one line; "" if none did. Valid until the next
 * failure. */
const char* unbend_last_error(void);
/* Of this library, such as "0.1.0". */
const char* unbend_version(void);
/* Gives back an array or a text of a result. Null is allowed. */
void unbend_free(void* result);

/* ---- Models: weights, tokenizer and chat template of a GGUF file */

typedef struct unbend_model unbend_model;

typedef struct unbend_model_info {
  int32_t vocab; /* number of tokens: ids are 0 to vocab - 1 */
  int32_t layers;
  int64_t context; /* tokens that it was trained for */
  int32_t bos;     /* token that starts a text; -1 if none */
  int32_t eos;     /* token that ends a text; -1 if none */
} unbend_model_info;

/* Maps the file; its weights are checked, not read. A file without a tokenizer opens: what needs one then fails. */
unbend_status unbend_model_open(const char* path, unbend_model** model);
/* Engines of the model stay valid. Null is allowed. */
void unbend_model_close(unbend_model* model);
unbend_status unbend_model_describe(const unbend_model* model, unbend_model_info* info);

enum {
  UNBEND_BOS = 1,    /* put the token that starts a text in front, if the model wants one */
  UNBEND_SPECIAL = 2 /* texts such as "<|im_start|>" stand for special tokens (never for what strangers wrote) */
};

/* Tokens of `length` bytes; `flags` is a sum of the above. Bytes that are not UTF-8 are read as U+FFFD. */
unbend_status unbend_encode(const unbend_model* model, const char* text, size_t length, int flags, int32_t** ids,
                            size_t* count);
/* Text of tokens; of special tokens only with UNBEND_SPECIAL. `length` may be null. */
unbend_status unbend_decode(const unbend_model* model, const int32_t* ids, size_t count, int flags, char** text,
                            size_t* length);
/* Whether a token ends a generation: 1 or 0. */
unbend_status unbend_is_end(const unbend_model* model, int32_t id, int* end);

typedef struct unbend_message {
  const char* role; /* "system", "user", "assistant" */
  const char* content;
} unbend_message;

/* The conversation in the model's chat template, to be encoded with UNBEND_BOS | UNBEND_SPECIAL; with `answer` not 0 it
 * ends where the assistant's answer begins. `length` may be null. */
unbend_status unbend_chat(const unbend_model* model, const unbend_message* messages, size_t count, int answer,
                          char** text, size_t* length);

/* ---- Engines: sequences of tokens, each with what the model remembers of it */

typedef struct unbend_engine unbend_engine;

/* Of keys and values: ggml's numbers. */
enum { UNBEND_F32 = 0, UNBEND_F16 = 1, UNBEND_Q8_0 = 8 };

typedef struct unbend_engine_options {
  int32_t threads;    /* 1 */
  int32_t sequences;  /* 1: at most so many at a time */
  int64_t context;    /* 0 = the model's: tokens per sequence. Only softmax layers take memory for it */
  int64_t batch;      /* 512: tokens computed at once; longer inputs go in parts */
  int32_t cache_type; /* UNBEND_F16 */
} unbend_engine_options;

/* The values named above. */
unbend_engine_options unbend_engine_defaults(void);

/* `options`: null for the defaults. */
unbend_status unbend_engine_create(const unbend_model* model, const unbend_engine_options* options,
                                   unbend_engine** engine);
/* Ends all its sequences. Null is allowed. */
void unbend_engine_destroy(unbend_engine* engine);

/* A new, empty sequence. */
unbend_status unbend_begin(unbend_engine* engine, int* sequence);
unbend_status unbend_end(unbend_engine* engine, int sequence);
/* A new sequence that remembers what `sequence` does: a prompt that many generations share is computed once. */
unbend_status unbend_fork(unbend_engine* engine, int sequence, int* copy);
/* Tokens that it has seen, and bytes of memory that it takes for them. Either pointer may be null. */
unbend_status unbend_sequence_size(const unbend_engine* engine, int sequence, int64_t* tokens, int64_t* bytes);

/* What a sequence remembers, as bytes. They fit engines of the same model and options on the same kind of machine. */
unbend_status unbend_save(const unbend_engine* engine, int sequence, void** bytes, size_t* size);
/* A new sequence out of such bytes. */
unbend_status unbend_restore(unbend_engine* engine, const void* bytes, size_t size, int* sequence);

/* Tokens to add to a sequence, and of how many of the last ones logits are wanted. */
typedef struct unbend_feed {
  int sequence;
  const int32_t* ids;
  size_t count;
  size_t logits;
} unbend_feed;

/* Adds tokens to sequences, each at most once in `feeds`; if anything is wrong with one feed, none is added.
 * `logits`: [wanted, vocab] in the order of the feeds, the engine's own: valid until the next call that runs it. Null
 * if none were wanted. */
unbend_status unbend_run(unbend_engine* engine, const unbend_feed* feeds, size_t count, const float** logits);

/* ---- Generating text */

typedef struct unbend_generate_options {
  int64_t max_tokens;      /* 256 */
  double temperature;      /* 0.8; 0 = always the likeliest token */
  int32_t top_k;           /* 40; 0 = off */
  double top_p;            /* 0.95; 1 = off */
  double repeat_penalty;   /* 1 = off; over the last 64 tokens */
  uint32_t seed;           /* 0 */
  int32_t ignore_end;      /* 0; else go on after a token that ends the text */
  const char* grammar;     /* null; GBNF with the rule `root` that the text must follow */
  const char* const* stop; /* null; `stop_count` texts that end the generation and are not part of it */
  size_t stop_count;
} unbend_generate_options;

/* The values named above. */
unbend_generate_options unbend_generate_defaults(void);

typedef enum unbend_reason {
  UNBEND_ENDED = 0,    /* by the model */
  UNBEND_STOPPED = 1,  /* by a stop text */
  UNBEND_LENGTH = 2,   /* by max_tokens */
  UNBEND_CANCELLED = 3 /* by the caller's function */
} unbend_reason;

typedef struct unbend_generation {
  unbend_reason reason;
  int64_t prompt_tokens;
  int64_t tokens;                         /* generated; without the one that ended the text */
  double prefill_seconds, decode_seconds; /* the latter of the tokens behind the first; 0 if cancelled */
} unbend_generation;

/* Gets text as soon as it is certain: whole UTF-8 characters, never part of a stop text, with a zero byte behind it.
 * Another result than 0 cancels the generation. It must neither run nor destroy the engine. */
typedef int (*unbend_stream)(const char* text, size_t length, void* user);

enum { UNBEND_NEW_SEQUENCE = -1 };

/* Continues `prompt` in a sequence, which remembers it and the generated tokens afterwards (the last one only if
 * unbend_sequence_size() counts it), or in a new one that ends with the call (UNBEND_NEW_SEQUENCE).
 * `options`: null for the defaults. `result` may be null. */
unbend_status unbend_generate(unbend_engine* engine, int sequence, const int32_t* prompt, size_t count,
                              const unbend_generate_options* options, unbend_stream stream, void* user,
                              unbend_generation* result);

#ifdef __cplusplus
}
#endif

#endif /* UNBEND_CAPI_UNBEND_H_ */
