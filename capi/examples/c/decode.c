/* A prompt, attention over it, a fork that goes on: the same script as in the other languages' folders. C99. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "swell/swell.h"

enum { KV_HEADS = 2, GROUP = 2, HEADS = KV_HEADS * GROUP, HEAD_DIM = 32, PROMPT = 3000, CHUNK = 512, NEW = 5 };
enum { ROW = KV_HEADS * HEAD_DIM, QUERY = HEADS * HEAD_DIM };

/* Numbers that float16 holds exactly, from a fixed linear congruential generator. */
static uint64_t random_state = 1;
static void fill(float* to, size_t count) {
  for (size_t i = 0; i < count; ++i) {
    random_state = random_state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    to[i] = (float)((int)(random_state >> 56) - 128) / 64.0f;
  }
}

static double sum(const float* values, size_t count) {
  double total = 0;
  for (size_t i = 0; i < count; ++i) total += (double)values[i];
  return total;
}

/* Ends the program with the message of a call that should not have failed. */
static void check(swell_code code, swell_error** error) {
  if (code == SWELL_OK) return;
  fprintf(stderr, "%s: %s\n", swell_code_name(code), swell_error_message(*error));
  swell_error_destroy(error);
  exit(1);
}

static swell_code put(swell_engine* engine, swell_sequence sequence, int64_t position, int64_t tokens,
                      const float* keys, const float* values, swell_error** error) {
  swell_put_args args = SWELL_PUT_ARGS_INIT;
  swell_put_item item = {0, 0, 0, 0};
  args.dtype = SWELL_FLOAT32;
  args.n_items = 1;
  args.n_rows = tokens;
  item.sequence = sequence;
  item.position = position;
  item.tokens = tokens;
  return swell_put(engine, &args, &item, keys, values, NULL, NULL, NULL, error);
}

static void attend(swell_engine* engine, swell_sequence sequence, swell_attend_mode mode, const float* query,
                   float* output) {
  swell_attend_args args = SWELL_ATTEND_ARGS_INIT;
  swell_attend_item item = {0, 1, 0, NULL, 0, 0};
  swell_certificate certificates[HEADS];
  float lse[HEADS];
  swell_error* error = NULL;
  args.query_dtype = SWELL_FLOAT32;
  args.output_dtype = SWELL_FLOAT32;
  args.n_items = 1;
  args.n_rows = 1;
  item.sequence = sequence;
  item.mode = mode;
  check(swell_attend(engine, &args, &item, query, output, lse, certificates, NULL, &error), &error);
  printf("attend %s: output %.4f lse %.4f read %lld of %lld\n", mode == SWELL_ATTEND_EXACT ? "exact" : "wave",
         sum(output, QUERY), sum(lse, HEADS), (long long)certificates[0].tokens_read,
         (long long)certificates[0].tokens_visible);
}

static void print_length(swell_engine* engine, const char* name, swell_sequence sequence) {
  int64_t tokens = 0;
  swell_error* error = NULL;
  check(swell_sequence_length(engine, sequence, 0, &tokens, &error), &error);
  printf("%s: %lld tokens\n", name, (long long)tokens);
}

/* Fetches some tokens and compares them bit by bit with what was put. */
static void fetch(swell_engine* engine, swell_sequence sequence, const float* keys, const float* values) {
  const int64_t tokens[4] = {999, 0, 512, 7};
  float got_keys[4 * ROW];
  float got_values[4 * ROW];
  int equal = 1;
  swell_fetch_args args = SWELL_FETCH_ARGS_INIT;
  swell_fetch_item item = {0, 4, 0};
  swell_error* error = NULL;
  args.dtype = SWELL_FLOAT32;
  args.n_items = 1;
  args.n_rows = 4;
  item.sequence = sequence;
  check(swell_fetch(engine, &args, &item, tokens, got_keys, got_values, NULL, NULL, NULL, &error), &error);
  for (int i = 0; i < 4; ++i) {
    equal &= memcmp(got_keys + i * ROW, keys + tokens[i] * ROW, ROW * sizeof(float)) == 0;
    equal &= memcmp(got_values + i * ROW, values + tokens[i] * ROW, ROW * sizeof(float)) == 0;
  }
  printf("fetch: %s\n", equal ? "equal" : "different");
}

static void print_stats(swell_engine* engine) {
  swell_engine_stats stats = SWELL_ENGINE_STATS_INIT;
  swell_error* error = NULL;
  check(swell_engine_get_stats(engine, &stats, &error), &error);
  printf("stats: sequences %lld put %lld attends %lld visible %lld read %lld\n", (long long)stats.sequences,
         (long long)stats.tokens_put, (long long)stats.attend_calls, (long long)stats.tokens_visible,
         (long long)stats.tokens_read);
}

int main(void) {
  static float keys[PROMPT * ROW];
  static float values[PROMPT * ROW];
  static float more[2 * NEW * ROW];
  float query[QUERY];
  float exact[QUERY];
  float wave[QUERY];
  float worst = 0;
  swell_error* error = NULL;
  swell_engine* engine = NULL;
  swell_sequence prompt = 0;
  swell_sequence fork = 0;
  swell_engine_options options = SWELL_ENGINE_OPTIONS_INIT;
  options.layers = 1;
  options.kv_heads = KV_HEADS;
  options.group = GROUP;
  options.head_dim = HEAD_DIM;
  options.threads = 2;
  options.flags = SWELL_ENGINE_DETERMINISTIC;
  printf("abi %d\n", (int)swell_abi_version());
  check(swell_engine_open(&options, &engine, &error), &error);
  check(swell_sequence_create(engine, NULL, NULL, &prompt, &error), &error);

  fill(keys, PROMPT * ROW);
  fill(values, PROMPT * ROW);
  fill(query, QUERY);
  fill(more, 2 * NEW * ROW);
  for (int64_t first = 0; first < PROMPT; first += CHUNK) {
    const int64_t tokens = first + CHUNK < PROMPT ? CHUNK : PROMPT - first;
    check(put(engine, prompt, first, tokens, keys + first * ROW, values + first * ROW, &error), &error);
  }
  print_length(engine, "prompt", prompt);
  attend(engine, prompt, SWELL_ATTEND_EXACT, query, exact);
  attend(engine, prompt, SWELL_ATTEND_RETRIEVE, query, wave);
  for (int i = 0; i < QUERY; ++i) worst = fmaxf(worst, fabsf(wave[i] - exact[i]));
  printf("largest difference %.4f\n", (double)worst);

  check(swell_sequence_fork(engine, prompt, &fork, &error), &error);
  check(put(engine, fork, PROMPT, NEW, more, more + NEW * ROW, &error), &error);
  print_length(engine, "prompt", prompt);
  print_length(engine, "fork", fork);
  attend(engine, fork, SWELL_ATTEND_EXACT, query, exact);
  check(swell_sequence_truncate(engine, fork, 1000, &error), &error);
  print_length(engine, "fork", fork);
  fetch(engine, fork, keys, values);

  if (put(engine, fork, 1001, NEW, more, more + NEW * ROW, &error) != SWELL_OK) {
    printf("error: %s %s item %lld: %s\n", swell_code_name(swell_error_code(error)),
           swell_detail_name(swell_error_detail(error)), (long long)swell_error_item(error),
           swell_error_message(error));
    swell_error_destroy(&error);
  }
  print_stats(engine);
  check(swell_sequence_release(engine, fork, &error), &error);
  check(swell_sequence_release(engine, prompt, &error), &error);
  swell_engine_close(&engine);
  return 0;
}
