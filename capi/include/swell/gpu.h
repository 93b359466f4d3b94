/*
 * C API of Swell on one GPU: keys, values and queries in device memory, decode steps that a CUDA graph can hold.
 * Errors, structs and pointers are as in swell.h.
 *
 * Device    Arrays of rows, queries and outputs are memory of the engine's CUDA device, 16-byte aligned; another
 * pointer is INVALID_ARGUMENT. Without a GPU, or with a driver that is too old, swell_gpu_open says UNAVAILABLE; in a
 *           library that was built without CUDA, UNIMPLEMENTED.
 * Streams   A stream is a cudaStream_t; NULL is the default one. Calls enqueue on it and are ordered with nothing else:
 *           use one stream for everything that touches a sequence, or order streams by events.
 * Graphs    swell_gpu_append and swell_gpu_attend wait for nothing and can be captured. The graph stays valid while
 *           sequences grow, are sealed, forked and released, and when the batch is set anew. Every other call refuses a
 *           stream that is being captured (FAILED_PRECONDITION).
 * Threads   Any thread; calls of one engine and its batches take turns. Closing and destroying: the only call on the
 *           handle.
 * Lost      When a kernel has failed, calls say UNAVAILABLE, "device lost". Close the engine; the process may need a
 * new start before the device serves it again.
 */
#ifndef SWELL_GPU_H_
#define SWELL_GPU_H_

#include "swell/swell.h"

#ifdef __cplusplus
extern "C" {
#endif

/* --- engine ------------------------------------------------------------------------------------------------------- */

typedef struct swell_gpu_options {
  uint32_t struct_size;
  int32_t device;         /* CUDA's number */
  int32_t layers;         /* 1..4096, all alike */
  int32_t kv_heads;       /* 1..1024 */
  int32_t group;          /* query heads that share a KV head, 1..16; heads = kv_heads * group */
  int32_t head_dim;       /* 64, 128 or 256 */
  float scale;            /* of q . k; 0: 1 / sqrt(head_dim) */
  swell_dtype storage;    /* FLOAT16 or BFLOAT16 */
  int32_t max_sequences;  /* 1..4096 */
  int32_t sink_tokens;    /* first tokens, always exact, 0..1024 */
  int32_t window_tokens;  /* latest tokens, always exact, 0..65536 */
  int32_t segment_tokens; /* what lies before the window is sealed in runs of this many, 16..2048; 0: 1024 */
  int32_t cluster_tokens; /* mean tokens of a cluster, segment_tokens / 256 .. 4096; 0: 8 */
  int32_t iterations;     /* of k-means, 1..100; 0: 5 */
  swell_dtype home;       /* of rows in host memory: the storage dtype or INT8; unused without home_bytes */
  uint32_t flags;         /* 0 */
  /* > 0: sealed rows live in so many bytes of pinned host memory, their index and a cache of cache_bytes on the device.
   * Steps of all batches are then to be enqueued on one stream. 0: everything is in device memory. */
  uint64_t home_bytes;
  uint64_t cache_bytes;
} swell_gpu_options;
#define SWELL_GPU_OPTIONS_INIT \
  { (uint32_t)sizeof(swell_gpu_options), 0, 0, 0, 1, 0, 0.0f, SWELL_FLOAT16, 1, 4, 64, 0, 0, 0, SWELL_FLOAT16, 0, 0, 0 }

/* Sequences of keys and values on a device. */
typedef struct swell_gpu swell_gpu;

SWELL_API swell_code swell_gpu_open(const swell_gpu_options* options, swell_gpu** gpu, swell_error** error);
/* Sets *gpu to NULL. What it holds is freed when its last batch is destroyed too. NULL or an address of NULL does
 * nothing. */
SWELL_API void swell_gpu_close(swell_gpu** gpu);

typedef struct swell_gpu_stats {
  uint32_t struct_size;
  uint32_t reserved;
  int64_t sequences;
  int64_t batches;
  int64_t sealed_tokens;  /* of all layers; what forks share once */
  uint64_t segment_bytes; /* device memory: sealed rows (unless they are at home) and indexes */
  uint64_t tail_bytes;    /* device memory reserved for what is not sealed yet */
  uint64_t batch_bytes;   /* device memory of plans and workspaces */
  uint64_t cache_bytes;   /* device memory of the host tier's cache */
  uint64_t home_bytes;    /* pinned host memory */
} swell_gpu_stats;
#define SWELL_GPU_STATS_INIT \
  { (uint32_t)sizeof(swell_gpu_stats), 0, 0, 0, 0, 0, 0, 0, 0, 0 }

SWELL_API swell_code swell_gpu_get_stats(const swell_gpu* gpu, swell_gpu_stats* stats, swell_error** error);

/* --- sequences ---------------------------------------------------------------------------------------------------- */

/* Ids are those of this engine alone; released and unknown ones are STALE_HANDLE. RESOURCE_EXHAUSTED beyond
 * max_sequences. */
SWELL_API swell_code swell_gpu_sequence_create(swell_gpu* gpu, swell_sequence* sequence, swell_error** error);
/* Shares what is sealed; the rest is copied on the stream. */
SWELL_API swell_code swell_gpu_sequence_fork(swell_gpu* gpu, swell_sequence sequence, void* stream,
                                             swell_sequence* fork, swell_error** error);
/* Keeps the first `tokens` tokens of every layer that has more; waits for the stream. A sealed segment that is cut
 * returns to what is not sealed yet (rows that were INT8 at home as they were read there); forks keep it whole. */
SWELL_API swell_code swell_gpu_sequence_truncate(swell_gpu* gpu, swell_sequence sequence, int64_t tokens, void* stream,
                                                 swell_error** error);
/* FAILED_PRECONDITION while a batch names the sequence. Steps that are under way keep what they read. */
SWELL_API swell_code swell_gpu_sequence_release(swell_gpu* gpu, swell_sequence sequence, swell_error** error);
/* *tokens = how many tokens `layer` holds. Waits for the stream. */
SWELL_API swell_code swell_gpu_sequence_length(const swell_gpu* gpu, swell_sequence sequence, int32_t layer,
                                               void* stream, int64_t* tokens, swell_error** error);

/* --- prompts ------------------------------------------------------------------------------------------------------ */

typedef struct swell_gpu_put_args {
  uint32_t struct_size;
  int32_t layer;
  swell_sequence sequence;
  int64_t position; /* the present length of the layer (OUT_OF_ORDER) */
  int64_t tokens;
  int64_t token_stride; /* elements, multiple of 8; 0: kv_heads * head_dim */
  int64_t head_stride;  /* elements, multiple of 8; 0: head_dim */
} swell_gpu_put_args;
#define SWELL_GPU_PUT_ARGS_INIT \
  { (uint32_t)sizeof(swell_gpu_put_args), 0, 0, 0, 0, 0, 0 }

/* Appends rows to a layer, builds the index of what lies before the window, and waits for the stream.
 * keys, values  row t of head h: data + t * token_stride + h * head_stride, head_dim elements of the storage dtype
 * Rows that are sealed must be finite (NON_FINITE). */
SWELL_API swell_code swell_gpu_put(swell_gpu* gpu, const swell_gpu_put_args* args, const void* keys, const void* values,
                                   void* stream, swell_error** error);

/* Seals what the tails of all sequences hold beyond the window, and brings batches up to date; waits for the stream. To
 * be called at least every segment_tokens steps, between two replays. DATA_LOSS when it was not, and a step found no
 * room for its token. RESOURCE_EXHAUSTED: what found no memory stays exact, and is tried again the next time. */
SWELL_API swell_code swell_gpu_seal(swell_gpu* gpu, void* stream, swell_error** error);

/* --- steps -------------------------------------------------------------------------------------------------------- */

/* Every token is read; no retrieval may be given. */
#define SWELL_GPU_BATCH_EXACT 1u

typedef struct swell_gpu_batch_options {
  uint32_t struct_size;
  int32_t max_sequences;
  int64_t max_tokens;          /* of all sequences of the batch, in one layer */
  int64_t max_sequence_tokens; /* of one; 0: max_tokens */
  uint32_t flags;              /* SWELL_GPU_BATCH_... */
  uint32_t reserved;
} swell_gpu_batch_options;
#define SWELL_GPU_BATCH_OPTIONS_INIT \
  { (uint32_t)sizeof(swell_gpu_batch_options), 1, 0, 0, 0, 0 }

/* Sequences that are answered together, with the workspace of a step. Steps of one batch follow one another. */
typedef struct swell_gpu_batch swell_gpu_batch;

/* retrieval NULL: that of the preset "swell". Names no sequence yet. */
SWELL_API swell_code swell_gpu_batch_create(swell_gpu* gpu, const swell_gpu_batch_options* options,
                                            const swell_retrieval* retrieval, swell_gpu_batch** batch,
                                            swell_error** error);
/* Waits for the steps that use it. *batch becomes NULL; NULL or an address of NULL does nothing. */
SWELL_API void swell_gpu_batch_destroy(swell_gpu_batch** batch);
/* sequences [n_sequences], each once: whom steps answer from now on, in this order; 0 sequences release all.
 * RESOURCE_EXHAUSTED when a limit of the options is exceeded. */
SWELL_API swell_code swell_gpu_batch_set(swell_gpu_batch* batch, const swell_sequence* sequences, int64_t n_sequences,
                                         void* stream, swell_error** error);

/* Adds one token to `layer` of each sequence.
 * keys, values  [n_sequences, kv_heads, head_dim] */
SWELL_API swell_code swell_gpu_append(swell_gpu_batch* batch, int32_t layer, const void* keys, const void* values,
                                      void* stream, swell_error** error);
/* The attention of each sequence's latest position over everything that its layer holds.
 * queries               [n_sequences, heads, head_dim] of the storage dtype; query head h reads KV head h / group
 * output                [n_sequences, heads, head_dim]
 * lse, predicted_error  [n_sequences, heads], natural log of the softmax denominator, and as in swell_certificate; each
 *                       may be NULL */
SWELL_API swell_code swell_gpu_attend(swell_gpu_batch* batch, int32_t layer, const void* queries, float* output,
                                      float* lse, float* predicted_error, void* stream, swell_error** error);

#ifdef __cplusplus
}
#endif

#endif /* SWELL_GPU_H_ */
