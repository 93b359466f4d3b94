// A prompt, attention over it, a fork that goes on: the same script as in the other languages' folders.
//
// Slices of Go memory are handed over as they are: no struct of the C API holds a pointer to the caller's arrays.
package main

// #cgo pkg-config: swell
// #include "swell/swell.h"
import "C"

import (
	"fmt"
	"math"
	"os"
	"unsafe"
)

const (
	kvHeads   = 2
	group     = 2
	heads     = kvHeads * group
	headDim   = 32
	rowSize   = kvHeads * headDim
	querySize = heads * headDim
	prompt    = 3000
	chunk     = 512
	added     = 5
)

// swellError is what a failed call reported.
type swellError struct {
	code, detail, message string
	item                  int64
}

func (e *swellError) Error() string { return e.code + ": " + e.message }

// failure takes over the error object of a call that returned code; nil if it went well.
func failure(code C.swell_code, object *C.swell_error) error {
	if code == C.SWELL_OK {
		return nil
	}
	defer C.swell_error_destroy(&object)
	return &swellError{
		code:    C.GoString(C.swell_code_name(C.swell_error_code(object))),
		detail:  C.GoString(C.swell_detail_name(C.swell_error_detail(object))),
		message: C.GoString(C.swell_error_message(object)),
		item:    int64(C.swell_error_item(object)),
	}
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// fill gives numbers that float16 holds exactly, from a fixed linear congruential generator.
var randomState uint64 = 1

func fill(count int) []float32 {
	values := make([]float32, count)
	for i := range values {
		randomState = randomState*6364136223846793005 + 1442695040888963407
		values[i] = float32(int(randomState>>56)-128) / 64
	}
	return values
}

func sum(values []float32) float64 {
	total := 0.0
	for _, value := range values {
		total += float64(value)
	}
	return total
}

func floats(values []float32) unsafe.Pointer { return unsafe.Pointer(&values[0]) }

type engine struct{ handle *C.swell_engine }

func open() engine {
	options := C.swell_engine_options{
		layers: 1, kv_heads: kvHeads, group: group, head_dim: headDim,
		storage: C.SWELL_FLOAT16, threads: 2, flags: C.SWELL_ENGINE_DETERMINISTIC,
	}
	options.struct_size = C.uint32_t(unsafe.Sizeof(options))
	var e engine
	var object *C.swell_error
	check(failure(C.swell_engine_open(&options, &e.handle, &object), object))
	return e
}

func (e engine) put(sequence C.swell_sequence, position int, keys, values []float32) error {
	item := C.swell_put_item{sequence: sequence, position: C.int64_t(position), tokens: C.int64_t(len(keys) / rowSize)}
	args := C.swell_put_args{dtype: C.SWELL_FLOAT32, n_items: 1, n_rows: item.tokens}
	args.struct_size = C.uint32_t(unsafe.Sizeof(args))
	args.item_size = C.uint32_t(unsafe.Sizeof(item))
	var object *C.swell_error
	return failure(C.swell_put(e.handle, &args, &item, floats(keys), floats(values), nil, nil, nil, &object), object)
}

func (e engine) attend(sequence C.swell_sequence, mode C.swell_attend_mode, query []float32) []float32 {
	output := make([]float32, querySize)
	lse := make([]float32, heads)
	certificates := make([]C.swell_certificate, heads)
	item := C.swell_attend_item{sequence: sequence, n_queries: 1, mode: mode}
	args := C.swell_attend_args{query_dtype: C.SWELL_FLOAT32, output_dtype: C.SWELL_FLOAT32, n_items: 1, n_rows: 1}
	args.struct_size = C.uint32_t(unsafe.Sizeof(args))
	args.item_size = C.uint32_t(unsafe.Sizeof(item))
	args.certificate_size = C.uint32_t(unsafe.Sizeof(certificates[0]))
	var object *C.swell_error
	check(failure(C.swell_attend(e.handle, &args, &item, floats(query), floats(output), (*C.float)(&lse[0]),
		&certificates[0], nil, &object), object))
	name := "wave"
	if mode == C.SWELL_ATTEND_EXACT {
		name = "exact"
	}
	fmt.Printf("attend %s: output %.4f lse %.4f read %d of %d\n", name, sum(output), sum(lse),
		certificates[0].tokens_read, certificates[0].tokens_visible)
	return output
}

func (e engine) printLength(name string, sequence C.swell_sequence) {
	var tokens C.int64_t
	var object *C.swell_error
	check(failure(C.swell_sequence_length(e.handle, sequence, 0, &tokens, &object), object))
	fmt.Printf("%s: %d tokens\n", name, tokens)
}

// fetch compares some tokens bit by bit with what was put.
func (e engine) fetch(sequence C.swell_sequence, keys, values []float32) {
	tokens := []int64{999, 0, 512, 7}
	gotKeys := make([]float32, len(tokens)*rowSize)
	gotValues := make([]float32, len(tokens)*rowSize)
	item := C.swell_fetch_item{sequence: sequence, n_tokens: C.int64_t(len(tokens))}
	args := C.swell_fetch_args{dtype: C.SWELL_FLOAT32, n_items: 1, n_rows: item.n_tokens}
	args.struct_size = C.uint32_t(unsafe.Sizeof(args))
	args.item_size = C.uint32_t(unsafe.Sizeof(item))
	var object *C.swell_error
	check(failure(C.swell_fetch(e.handle, &args, &item, (*C.int64_t)(&tokens[0]), floats(gotKeys), floats(gotValues),
		nil, nil, nil, &object), object))
	result := "equal"
	for i, token := range tokens {
		for d := 0; d < rowSize; d++ {
			at := int(token)*rowSize + d
			if math.Float32bits(gotKeys[i*rowSize+d]) != math.Float32bits(keys[at]) ||
				math.Float32bits(gotValues[i*rowSize+d]) != math.Float32bits(values[at]) {
				result = "different"
			}
		}
	}
	fmt.Printf("fetch: %s\n", result)
}

func (e engine) printStats() {
	var stats C.swell_engine_stats
	stats.struct_size = C.uint32_t(unsafe.Sizeof(stats))
	var object *C.swell_error
	check(failure(C.swell_engine_get_stats(e.handle, &stats, &object), object))
	fmt.Printf("stats: sequences %d put %d attends %d visible %d read %d\n", stats.sequences, stats.tokens_put,
		stats.attend_calls, stats.tokens_visible, stats.tokens_read)
}

func main() {
	fmt.Printf("abi %d\n", C.swell_abi_version())
	e := open()
	defer C.swell_engine_close(&e.handle)
	var first, fork C.swell_sequence
	var object *C.swell_error
	check(failure(C.swell_sequence_create(e.handle, nil, nil, &first, &object), object))

	keys := fill(prompt * rowSize)
	values := fill(prompt * rowSize)
	query := fill(querySize)
	more := fill(2 * added * rowSize)
	for at := 0; at < prompt; at += chunk {
		end := at + chunk
		if end > prompt {
			end = prompt
		}
		check(e.put(first, at, keys[at*rowSize:end*rowSize], values[at*rowSize:end*rowSize]))
	}
	e.printLength("prompt", first)
	exact := e.attend(first, C.SWELL_ATTEND_EXACT, query)
	wave := e.attend(first, C.SWELL_ATTEND_RETRIEVE, query)
	worst := 0.0
	for i := range wave {
		worst = math.Max(worst, math.Abs(float64(wave[i]-exact[i])))
	}
	fmt.Printf("largest difference %.4f\n", worst)

	check(failure(C.swell_sequence_fork(e.handle, first, &fork, &object), object))
	check(e.put(fork, prompt, more[:added*rowSize], more[added*rowSize:]))
	e.printLength("prompt", first)
	e.printLength("fork", fork)
	e.attend(fork, C.SWELL_ATTEND_EXACT, query)
	check(failure(C.swell_sequence_truncate(e.handle, fork, 1000, &object), object))
	e.printLength("fork", fork)
	e.fetch(fork, keys, values)

	if err, failed := e.put(fork, 1001, more[:added*rowSize], more[added*rowSize:]).(*swellError); failed {
		fmt.Printf("error: %s %s item %d: %s\n", err.code, err.detail, err.item, err.message)
	}
	e.printStats()
	check(failure(C.swell_sequence_release(e.handle, fork, &object), object))
	check(failure(C.swell_sequence_release(e.handle, first, &object), object))
}
