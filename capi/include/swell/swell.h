/*
 * C API of Swell, a storage engine for the keys and values of attention.
 *
 * Errors    Every fallible function returns a swell_code. On failure it also gives an error object through its last
 *           parameter, unless that is NULL; *error is overwritten, NULL on success, and is the caller's to destroy.
 *           A failed call changes nothing: it writes no output but the error, and every out-handle is NULL or 0.
 *           The message names the argument. Nothing throws, aborts, exits or prints.
 * Structs   A struct that a caller fills begins with struct_size, sizeof at the time the caller was compiled; arrays
 *           of structs have their element size in the args. Structs grow at the tail only. An older, smaller size
 *           leaves the fields beyond it at their defaults; a newer, larger one is accepted while the bytes that this
 *           library does not know are zero; less than the first version, or more than 4096, is refused (BAD_SIZE).
 *           Structs that never grow are marked so. SWELL_..._INIT sets the sizes and zeros the rest (storage FLOAT16,
 *           group 1). Reserved fields and unknown flags must be 0.
 * Pointers  No struct holds a pointer to the caller's arrays: they are parameters, so that memory of a
 *           garbage-collected language can be passed as it is. Every pointer must be aligned to its element and may be
 *           NULL only where said. Inputs are read during the call only. Outputs of one call must not overlap each
 *           other or its inputs.
 * Batches   put, attend, search and fetch take n_items items over different sequences, each item owning a run of rows
 *           of the flat arrays that the call names; n_rows is their capacity in rows. Items are independent: one that
 *           fails leaves the others alone. statuses [n_items] (may be NULL) receives one each; the call returns the
 *           first failure, and swell_error_item() says whose. A call refused as a whole (item -1) writes no statuses.
 * Threads   Each function says so where it is not "any thread, concurrently". Calls on different sequences run in
 *           parallel. put, truncate, release and fork of one sequence are serialised; attend, search and fetch work on
 *           the snapshot that they find when they start.
 * Units     Sizes and counts are int64_t, bytes uint64_t; strides count elements; [a, b] is a dense row-major shape.
 */
#ifndef SWELL_SWELL_H_
#define SWELL_SWELL_H_

#include <stddef.h>
#include <stdint.h>

#include "swell/version.h"

#if defined(__GNUC__)
#define SWELL_API __attribute__((visibility("default")))
#else
#define SWELL_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* --- version ------------------------------------------------------------------------------------------------------ */

/* Version of the library that is loaded, "major.minor.patch"; static memory. SWELL_VERSION is that of this header. */
SWELL_API const char* swell_version(void);
/* Number of the ABI of the library that is loaded; a program needs the one that it was compiled for, SWELL_ABI_VERSION.
 */
SWELL_API int32_t swell_abi_version(void);

/* --- codes and errors --------------------------------------------------------------------------------------------- */

/* What happened; numerically absl::StatusCode. */
typedef int32_t swell_code;
enum {
  SWELL_OK = 0,
  SWELL_CANCELLED = 1,
  SWELL_UNKNOWN = 2,
  SWELL_INVALID_ARGUMENT = 3,
  SWELL_DEADLINE_EXCEEDED = 4,
  SWELL_NOT_FOUND = 5,
  SWELL_ALREADY_EXISTS = 6,
  SWELL_PERMISSION_DENIED = 7,
  SWELL_RESOURCE_EXHAUSTED = 8,
  SWELL_FAILED_PRECONDITION = 9,
  SWELL_ABORTED = 10,
  SWELL_OUT_OF_RANGE = 11,
  SWELL_UNIMPLEMENTED = 12,
  SWELL_INTERNAL = 13,
  SWELL_UNAVAILABLE = 14,
  SWELL_DATA_LOSS = 15
};

/* Finer cause, to branch on. New ones may appear. */
typedef int32_t swell_detail;
enum {
  SWELL_DETAIL_NONE = 0,
  SWELL_DETAIL_STALE_HANDLE = 1, /* the id was released, or never belonged to this engine */
  SWELL_DETAIL_OUT_OF_ORDER = 2, /* tokens of a layer must arrive in order, without gaps */
  SWELL_DETAIL_NO_MEMORY = 3,    /* the allocator refused */
  SWELL_DETAIL_OVER_BUDGET = 4,  /* a byte budget of the engine would be exceeded */
  SWELL_DETAIL_NON_FINITE = 5,   /* NaN or Inf where only finite numbers are allowed */
  SWELL_DETAIL_BAD_SIZE = 6,     /* struct_size, shape or count does not fit or overflows */
  SWELL_DETAIL_MISALIGNED = 7,   /* a pointer is not aligned to its element */
  SWELL_DETAIL_NULL_POINTER = 8, /* a required pointer is NULL */
  SWELL_DETAIL_UNKNOWN_DTYPE = 9 /* a dtype that this library does not know */
};

/* Name without prefix, "INVALID_ARGUMENT", "STALE_HANDLE"; "?" for a value that this library does not know. */
SWELL_API const char* swell_code_name(swell_code code);
SWELL_API const char* swell_detail_name(swell_detail detail);

/* Outcome of one item of a batch. Never grows. */
typedef struct swell_status {
  swell_code code;
  swell_detail detail;
} swell_status;

/* Why a call failed. Immutable. The accessors accept NULL and then say SWELL_OK, SWELL_DETAIL_NONE, "" and -1. */
typedef struct swell_error swell_error;
SWELL_API swell_code swell_error_code(const swell_error* error);
SWELL_API swell_detail swell_error_detail(const swell_error* error);
/* ASCII or the caller's own bytes, zero-terminated; valid until the error is destroyed. */
SWELL_API const char* swell_error_message(const swell_error* error);
/* Index of the batch item that failed first; -1 when the call as a whole was refused or was no batch, and where there
 * was no memory for an error object of its own. */
SWELL_API int64_t swell_error_item(const swell_error* error);
/* Destroys *error and sets it to NULL; a NULL or an address of NULL does nothing. */
SWELL_API void swell_error_destroy(swell_error** error);

/* --- engine ------------------------------------------------------------------------------------------------------- */

/* Element type. */
typedef int32_t swell_dtype;
enum {
  SWELL_FLOAT32 = 0,
  SWELL_FLOAT16 = 1,
  SWELL_BFLOAT16 = 2,
  SWELL_INT8 = 3 /* one float scale per row (token, KV head, tensor): value = scale * element */
};

/* Receives warnings (a background build that failed, ...) from any thread. It returns, and does not call the engine. */
typedef void (*swell_log_function)(void* context, const char* message);

/* Results do not depend on threads or timing: put and truncate seal before they return. */
#define SWELL_ENGINE_DETERMINISTIC 1u

typedef struct swell_engine_options {
  uint32_t struct_size;
  int32_t layers;             /* 1..4096, all alike */
  int32_t kv_heads;           /* 1..1024 */
  int32_t group;              /* query heads that share a KV head, 1..16; heads = kv_heads * group */
  int32_t head_dim;           /* 16..256, multiple of 16 */
  float scale;                /* of q . k; 0: 1 / sqrt(head_dim) */
  swell_dtype storage;        /* of keys and values */
  int32_t threads;            /* 0: all that this process may use */
  uint64_t host_budget_bytes; /* for keys, values and indexes; 0: no limit */
  uint32_t flags;             /* SWELL_ENGINE_... */
  uint32_t reserved;
  swell_log_function log; /* may be NULL */
  void* log_context;      /* handed to log; never dereferenced */
  /* > 0: of every head, the 1st, 2nd, 4th, 8th ... and then every so many-th retrieving call is computed again exactly,
   * in the background (at once when deterministic), to calibrate the predicted error; 0: none */
  int64_t audit_interval;
} swell_engine_options;
#define SWELL_ENGINE_OPTIONS_INIT \
  { (uint32_t)sizeof(swell_engine_options), 0, 0, 1, 0, 0.0f, SWELL_FLOAT16, 0, 0, 0, 0, NULL, NULL, 0 }

/* Sequences of keys and values, and attention over them. */
typedef struct swell_engine swell_engine;

/* INVALID_ARGUMENT names the option. The engine is the caller's to close. */
SWELL_API swell_code swell_engine_open(const swell_engine_options* options, swell_engine** engine, swell_error** error);
/* Releases every sequence, waits for background work, frees *engine and sets it to NULL, so that a second close of the
 * same variable does nothing; NULL or an address of NULL does nothing. Not concurrent with another call on *engine. */
SWELL_API void swell_engine_close(swell_engine** engine);

typedef struct swell_engine_shape {
  uint32_t struct_size;
  int32_t layers;
  int32_t kv_heads;
  int32_t group;
  int32_t head_dim;
  float scale; /* resolved, never 0 */
  swell_dtype storage;
  uint32_t reserved;
} swell_engine_shape;
#define SWELL_ENGINE_SHAPE_INIT \
  { (uint32_t)sizeof(swell_engine_shape), 0, 0, 0, 0, 0.0f, 0, 0 }

/* What the engine was opened with. Fills the fields that shape->struct_size covers. */
SWELL_API swell_code swell_engine_get_shape(const swell_engine* engine, swell_engine_shape* shape, swell_error** error);

typedef struct swell_engine_stats {
  uint32_t struct_size;
  uint32_t reserved;
  int64_t sequences;
  uint64_t bytes_in_use; /* rows and indexes, each shared block once */
  uint64_t bytes_peak;
  uint64_t budget_bytes;  /* 0: no limit */
  int64_t tokens_put;     /* per layer */
  int64_t attend_calls;   /* query positions x layers */
  int64_t head_steps;     /* query positions x layers x KV heads */
  int64_t tokens_visible; /* summed over head steps, as the next two */
  int64_t tokens_read;
  int64_t bytes_read;
  int64_t segments_sealed;
  int64_t segments_compacted;
  int64_t builds_failed;     /* background builds given up (memory, budget); their tokens stay exact */
  int64_t audited_answers;   /* query heads whose answer was computed again exactly (audit_interval) */
  int64_t audited_within_2;  /* of them, those whose error was within a factor of 2 of the predicted one */
  int64_t audited_within_3;  /* ... of 3 */
  double audited_factor_sum; /* sum of these factors, each 1 or more */
} swell_engine_stats;
#define SWELL_ENGINE_STATS_INIT \
  { (uint32_t)sizeof(swell_engine_stats), 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0.0 }

SWELL_API swell_code swell_engine_get_stats(const swell_engine* engine, swell_engine_stats* stats, swell_error** error);

/* The same as text for Prometheus (exposition format 0.0.4), ended by a zero byte, into buffer [capacity]; *size is the
 * bytes that it takes, the zero included. With a capacity of 0, when buffer may be NULL, only *size is written; with
 * one that is positive and too small, OUT_OF_RANGE (BAD_SIZE), *size as well. Numbers grow: the next text may be longer
 * by some bytes. */
SWELL_API swell_code swell_engine_metrics(const swell_engine* engine, char* buffer, int64_t capacity, int64_t* size,
                                          swell_error** error);

/* --- settings ----------------------------------------------------------------------------------------------------- */

typedef int32_t swell_index_kind;
enum {
  SWELL_INDEX_FLAT = 0, /* no clusters: every row is read exactly */
  SWELL_INDEX_WAVE = 1, /* k-means clusters with an 8-bit meta index */
  /* Clusters that are estimated, and single tokens that are read, found among all keys of a head ... */
  SWELL_INDEX_GRAPH = 2, /* ... by a graph drawn from the queries of calls of several positions */
  SWELL_INDEX_SCAN = 3   /* ... by comparing with every key: to compare with */
};

/* How a sequence is stored and indexed. Start from swell_preset(). */
typedef struct swell_sequence_options {
  uint32_t struct_size;
  swell_index_kind index;
  int32_t cluster_tokens; /* mean tokens of a cluster, 1..4096 */
  int32_t iterations;     /* of k-means, 1..100 */
  int32_t sink_tokens;    /* first tokens, always exact, 0..1024 */
  int32_t window_tokens;  /* latest tokens, always exact, 0..65536 */
  int32_t seal_tokens;    /* tail beyond the window is sealed in runs of this many, 16..65536 */
  int32_t segment_tokens; /* sealed runs are compacted to segments of this many; multiple of seal_tokens, <= 65536 */
} swell_sequence_options;
#define SWELL_SEQUENCE_OPTIONS_INIT \
  { (uint32_t)sizeof(swell_sequence_options), 0, 0, 0, 0, 0, 0, 0 }

/* What the budget of exactly read clusters counts. */
typedef int32_t swell_budget_unit;
enum {
  SWELL_BUDGET_TOKENS = 0,  /* whole clusters, best first, until the share of the tokens is spent */
  SWELL_BUDGET_CLUSTERS = 1 /* a share of the clusters, whatever their sizes */
};

/* How clusters are ranked for reading, from l = scale * q . centroid and sigma = the spread of l in the cluster. */
typedef int32_t swell_ranking;
enum {
  SWELL_RANKING_OPTIMISTIC = 0, /* softmax of l + kappa * sigma per query head, maximum over the group */
  SWELL_RANKING_MASS = 1,       /* softmax of l per query head, summed over the group */
  SWELL_RANKING_SHARE = 2       /* exp(l + kappa * sigma) over the mass of all tokens, maximum over the group */
};

/* Second-order correction of the estimate. */
#define SWELL_RETRIEVAL_CORRECT 1u

/* What attention reads exactly, what it estimates, what it drops. Start from swell_preset(). */
typedef struct swell_retrieval_options {
  uint32_t struct_size;
  swell_budget_unit unit;
  swell_ranking ranking;
  uint32_t flags;       /* SWELL_RETRIEVAL_... */
  float retrieve_share; /* (0, 1] of the clustered tokens (or clusters) of a KV head */
  float estimate_share; /* [0, 1] of all clusters: how many of those not read are estimated */
  float kappa;          /* weight of sigma in the ranking, >= 0 */
  /* Clusters are read of which a token may hold more than this share of the attention mass of a query head, as far as
   * the budget reaches; [0, 1), needs SWELL_RANKING_SHARE when above 0. 0: until the budget is spent. */
  float retrieve_above;
  int64_t retrieve_tokens;     /* > 0: fixed number of tokens instead of the share */
  int64_t max_retrieve_tokens; /* > 0: ceiling on either */
  int64_t floor_tokens;        /* contexts up to so many tokens are read whole; the budget reaches as far in any case */
  int64_t max_open_tokens;     /* > 0: ceiling on the tokens that open_share opens */
  /* Clusters are scored where their super-cluster is opened: (0, 1] of the clustered tokens, at least four times those
   * that are read; a super-cluster that stays closed is estimated as one cluster. 1: every cluster is scored. */
  float open_share;
  uint32_t reserved_2;
} swell_retrieval_options;
#define SWELL_RETRIEVAL_OPTIONS_INIT \
  { (uint32_t)sizeof(swell_retrieval_options), 0, 0, 0, 0.0f, 0.0f, 0.0f, 0, 0, 0, 0, 0, 0.0f, 0 }

/* Fills the settings of a name: "swell" (the defaults) or "retroinfer" (those of the paper, arXiv 2505.02922).
 * sequence or retrieval may be NULL; their struct_size must be set. NOT_FOUND for another name. */
SWELL_API swell_code swell_preset(const char* name, swell_sequence_options* sequence,
                                  swell_retrieval_options* retrieval, swell_error** error);

/* A retrieve_share of its own for some heads; -1 means every layer or every KV head; later entries win. Never grows. */
typedef struct swell_budget_override {
  int32_t layer;
  int32_t kv_head;
  float retrieve_share; /* (0, 1] */
} swell_budget_override;

/* Retrieval options together with their overrides: immutable, for any engine, any number of sequences and calls. */
typedef struct swell_retrieval swell_retrieval;

/* overrides [n_overrides]: NULL only if n_overrides is 0. Ranges are checked where the retrieval is used. */
SWELL_API swell_code swell_retrieval_create(const swell_retrieval_options* options,
                                            const swell_budget_override* overrides, int64_t n_overrides,
                                            swell_retrieval** retrieval, swell_error** error);
/* Frees *retrieval and sets it to NULL; NULL or an address of NULL does nothing. Sequences keep copies; a call that is
 * using it must have returned. */
SWELL_API void swell_retrieval_destroy(swell_retrieval** retrieval);

/* --- sequences ---------------------------------------------------------------------------------------------------- */

/* A sequence is a 64-bit id that its engine checks: a released or foreign id is an error (STALE_HANDLE), never a crash.
 * 0 is no sequence. */
typedef uint64_t swell_sequence;

/* options NULL: the preset "swell"; retrieval NULL: likewise. */
SWELL_API swell_code swell_sequence_create(swell_engine* engine, const swell_sequence_options* options,
                                           const swell_retrieval* retrieval, swell_sequence* sequence,
                                           swell_error** error);
/* A sequence with the same tokens, sharing memory until one side writes. Costs O(layers). */
SWELL_API swell_code swell_sequence_fork(swell_engine* engine, swell_sequence sequence, swell_sequence* fork,
                                         swell_error** error);
/* Keeps the first `tokens` tokens of every layer that has more. */
SWELL_API swell_code swell_sequence_truncate(swell_engine* engine, swell_sequence sequence, int64_t tokens,
                                             swell_error** error);
/* Ends the sequence. A second release is an error (STALE_HANDLE) and does nothing. Memory that forks share stays. */
SWELL_API swell_code swell_sequence_release(swell_engine* engine, swell_sequence sequence, swell_error** error);
/* *tokens = how many tokens `layer` holds. */
SWELL_API swell_code swell_sequence_length(const swell_engine* engine, swell_sequence sequence, int32_t layer,
                                           int64_t* tokens, swell_error** error);
/* Waits until nothing of the sequence is being sealed or compacted. */
SWELL_API swell_code swell_sequence_wait_sealed(swell_engine* engine, swell_sequence sequence, swell_error** error);

typedef struct swell_layer_info {
  uint32_t struct_size;
  uint32_t segment_size; /* in: sizeof(swell_segment_info) */
  int64_t tokens;
  int64_t sealed_tokens;
  int64_t tail_tokens; /* sinks not included */
  int64_t n_segments;  /* all of them, whatever the capacity */
  int32_t sealing;     /* 1: a background build is under way */
  uint32_t reserved;
} swell_layer_info;
#define SWELL_LAYER_INFO_INIT \
  { (uint32_t)sizeof(swell_layer_info), (uint32_t)sizeof(swell_segment_info), 0, 0, 0, 0, 0, 0 }

typedef struct swell_segment_info {
  int64_t first_token;
  int64_t tokens;
  int64_t clusters;     /* of all KV heads */
  uint64_t row_bytes;   /* keys and values */
  uint64_t index_bytes; /* order and meta index */
  int64_t owners;       /* lists of segments that hold it; forks share one until they seal or are cut */
} swell_segment_info;

/* What a layer consists of. segments [capacity] receives the first of info->n_segments; NULL only if capacity is 0. */
SWELL_API swell_code swell_sequence_inspect(const swell_engine* engine, swell_sequence sequence, int32_t layer,
                                            swell_layer_info* info, swell_segment_info* segments, int64_t capacity,
                                            swell_error** error);

/* --- put ---------------------------------------------------------------------------------------------------------- */

/* Appends `tokens` rows, beginning at first_row, at `position`, the present length of the layer (OUT_OF_ORDER). */
typedef struct swell_put_item {
  swell_sequence sequence;
  int64_t position;
  int64_t tokens;
  int64_t first_row; /* first_row + tokens <= n_rows */
} swell_put_item;

typedef struct swell_put_args {
  uint32_t struct_size;
  uint32_t item_size; /* sizeof(swell_put_item) */
  int32_t layer;
  swell_dtype dtype; /* of keys and values; INT8 needs INT8 storage, the others are converted */
  int64_t n_items;
  int64_t n_rows;           /* of keys and values */
  int64_t key_token_stride; /* elements between tokens; 0: kv_heads * head_dim */
  int64_t key_head_stride;  /* elements between KV heads; 0: head_dim */
  int64_t value_token_stride;
  int64_t value_head_stride;
} swell_put_args;
#define SWELL_PUT_ARGS_INIT \
  { (uint32_t)sizeof(swell_put_args), (uint32_t)sizeof(swell_put_item), 0, 0, 0, 0, 0, 0, 0, 0 }

/* Appends tokens to one layer of each item's sequence. A sequence may stand once in a batch.
 * items   [n_items]
 * keys, values              row r of head h: data + r * token_stride + h * head_stride, head_dim elements
 * key_scales, value_scales  [n_rows, kv_heads] with INT8, else NULL
 * NaN, Inf, and numbers that the storage dtype cannot hold are refused (NON_FINITE). */
SWELL_API swell_code swell_put(swell_engine* engine, const swell_put_args* args, const swell_put_item* items,
                               const void* keys, const void* values, const float* key_scales, const float* value_scales,
                               swell_status* statuses, swell_error** error);

/* --- attend ------------------------------------------------------------------------------------------------------- */

typedef int32_t swell_attend_mode;
enum {
  SWELL_ATTEND_RETRIEVE = 0, /* the sequence's index and retrieval options */
  SWELL_ATTEND_EXACT = 1     /* every visible token */
};

/* Attention of the last n_queries positions: query i sees the tokens 0 .. length - n_queries + i. */
typedef struct swell_attend_item {
  swell_sequence sequence;
  int64_t n_queries;                /* 1 while decoding, more for a prefill chunk or speculative tokens */
  int64_t first_row;                /* of queries and of every output; runs of different items must not overlap */
  const swell_retrieval* retrieval; /* replaces the sequence's for this call; NULL: the sequence's */
  swell_attend_mode mode;
  uint32_t reserved;
} swell_attend_item;

/* What one (query position, query head) was answered from. */
typedef struct swell_certificate {
  int64_t tokens_visible;
  int64_t tokens_read;   /* exactly, by this head's KV head */
  int64_t bytes_read;    /* keys, values and meta index, by this head's KV head */
  float estimated_share; /* of the softmax mass */
  float predicted_error; /* relative error of the output, |o - exact| / |exact|, predicted: 0 or at least 0.001 */
} swell_certificate;

typedef struct swell_attend_args {
  uint32_t struct_size;
  uint32_t item_size; /* sizeof(swell_attend_item) */
  int32_t layer;
  swell_dtype query_dtype;   /* FLOAT32, FLOAT16 or BFLOAT16 */
  swell_dtype output_dtype;  /* FLOAT32, FLOAT16 or BFLOAT16 */
  uint32_t certificate_size; /* sizeof(swell_certificate) */
  int64_t n_items;
  int64_t n_rows; /* of queries and of every output */
} swell_attend_args;
#define SWELL_ATTEND_ARGS_INIT                                                         \
  {                                                                                    \
    (uint32_t)sizeof(swell_attend_args), (uint32_t)sizeof(swell_attend_item), 0, 0, 0, \
        (uint32_t)sizeof(swell_certificate), 0, 0                                      \
  }

/* Attention over one layer of each item's sequence; heads = kv_heads * group; query head h reads KV head h / group.
 * items         [n_items]
 * queries       [n_rows, heads, head_dim]
 * output        [n_rows, heads, head_dim]
 * lse           [n_rows, heads], natural log of the softmax denominator; may be NULL
 * certificates  [n_rows, heads] of certificate_size bytes each; may be NULL
 * Rows that no item owns are not written, nor are those of an item that is refused. Where one fails later, for want of
 * memory or because FLOAT16 cannot hold its answer, its rows are undefined. */
SWELL_API swell_code swell_attend(swell_engine* engine, const swell_attend_args* args, const swell_attend_item* items,
                                  const void* queries, void* output, float* lse, swell_certificate* certificates,
                                  swell_status* statuses, swell_error** error);

/* --- search ------------------------------------------------------------------------------------------------------- */

typedef struct swell_search_item {
  swell_sequence sequence;
  int64_t row;                      /* of queries, tokens and logits; a different one for each item */
  const swell_retrieval* retrieval; /* replaces the sequence's for this call; NULL: the sequence's */
  swell_attend_mode mode;
  uint32_t reserved;
} swell_search_item;

typedef struct swell_search_args {
  uint32_t struct_size;
  uint32_t item_size; /* sizeof(swell_search_item) */
  int32_t layer;
  swell_dtype query_dtype; /* FLOAT32, FLOAT16 or BFLOAT16 */
  int64_t n_items;
  int64_t n_rows;
  int64_t top_k; /* 1.. */
} swell_search_args;
#define SWELL_SEARCH_ARGS_INIT \
  { (uint32_t)sizeof(swell_search_args), (uint32_t)sizeof(swell_search_item), 0, 0, 0, 0, 0 }

/* The best tokens of each query head among those that the index finds (all tokens for a flat index or EXACT), by logit,
 * best first. Unused places hold token -1 and -inf.
 * items    [n_items]
 * queries  [n_rows, heads, head_dim]
 * tokens   [n_rows, heads, top_k], positions
 * logits   [n_rows, heads, top_k]; may be NULL */
SWELL_API swell_code swell_search(swell_engine* engine, const swell_search_args* args, const swell_search_item* items,
                                  const void* queries, int64_t* tokens, float* logits, swell_status* statuses,
                                  swell_error** error);

/* --- fetch -------------------------------------------------------------------------------------------------------- */

typedef struct swell_fetch_item {
  swell_sequence sequence;
  int64_t n_tokens;
  int64_t first_row; /* of tokens and of every output; runs of different items must not overlap */
} swell_fetch_item;

typedef struct swell_fetch_args {
  uint32_t struct_size;
  uint32_t item_size; /* sizeof(swell_fetch_item) */
  int32_t layer;
  swell_dtype dtype; /* of keys and values: the storage dtype, bit for bit as stored, or FLOAT32 */
  int64_t n_items;
  int64_t n_rows;
} swell_fetch_args;
#define SWELL_FETCH_ARGS_INIT \
  { (uint32_t)sizeof(swell_fetch_args), (uint32_t)sizeof(swell_fetch_item), 0, 0, 0, 0 }

/* Rows of given tokens, all KV heads.
 * items         [n_items]
 * tokens        [n_rows], positions, any order, repeats allowed
 * keys, values  [n_rows, kv_heads, head_dim]; either may be NULL
 * key_scales, value_scales  [n_rows, kv_heads], required beside keys and values with INT8, else NULL */
SWELL_API swell_code swell_fetch(swell_engine* engine, const swell_fetch_args* args, const swell_fetch_item* items,
                                 const int64_t* tokens, void* keys, void* values, float* key_scales,
                                 float* value_scales, swell_status* statuses, swell_error** error);

#ifdef __cplusplus
}
#endif

#endif /* SWELL_SWELL_H_ */
