"""A prompt, attention over it, a fork that goes on: the same script as in the other languages' folders."""
import numpy

import swell

KV_HEADS, GROUP, HEAD_DIM, PROMPT, CHUNK, NEW = 2, 2, 32, 3000, 512, 5
random_state = 1


def fill(*shape):
    """Numbers that float16 holds exactly, from a fixed linear congruential generator."""
    global random_state
    values = numpy.empty(shape, numpy.float32)
    flat = values.reshape(-1)
    for i in range(flat.size):
        random_state = (random_state * 6364136223846793005 + 1442695040888963407) % 2**64
        flat[i] = ((random_state >> 56) - 128) / 64
    return values


def attend(engine, sequence, mode, query):
    output, lse, certificates = engine.attend(sequence, mode, query)
    print(f"attend {'exact' if mode == swell.EXACT else 'wave'}: output {output.sum(dtype=float):.4f} "
          f"lse {lse.sum(dtype=float):.4f} read {certificates[0].tokens_read} of {certificates[0].tokens_visible}")
    return output


def fetch(engine, sequence, keys, values):
    """Fetches some tokens and compares them bit by bit with what was put."""
    tokens = [999, 0, 512, 7]
    got_keys, got_values = engine.fetch(sequence, tokens)
    equal = got_keys.tobytes() == keys[tokens].tobytes() and got_values.tobytes() == values[tokens].tobytes()
    print(f"fetch: {'equal' if equal else 'different'}")


def main():
    print(f"abi {swell.abi_version()}")
    with swell.Engine(KV_HEADS, GROUP, HEAD_DIM) as engine:
        prompt = engine.create()
        keys = fill(PROMPT, KV_HEADS, HEAD_DIM)
        values = fill(PROMPT, KV_HEADS, HEAD_DIM)
        query = fill(KV_HEADS * GROUP, HEAD_DIM)
        more_keys, more_values = fill(2, NEW, KV_HEADS, HEAD_DIM)
        for first in range(0, PROMPT, CHUNK):
            engine.put(prompt, first, keys[first:first + CHUNK], values[first:first + CHUNK])
        print(f"prompt: {engine.length(prompt)} tokens")
        exact = attend(engine, prompt, swell.EXACT, query)
        wave = attend(engine, prompt, swell.RETRIEVE, query)
        print(f"largest difference {numpy.abs(wave - exact).max():.4f}")

        fork = engine.fork(prompt)
        engine.put(fork, PROMPT, more_keys, more_values)
        print(f"prompt: {engine.length(prompt)} tokens")
        print(f"fork: {engine.length(fork)} tokens")
        attend(engine, fork, swell.EXACT, query)
        engine.truncate(fork, 1000)
        print(f"fork: {engine.length(fork)} tokens")
        fetch(engine, fork, keys, values)

        try:
            engine.put(fork, 1001, more_keys, more_values)
        except swell.Error as error:
            print(f"error: {error.code} {error.detail} item {error.item}: {error.message}")
        stats = engine.stats()
        print(f"stats: sequences {stats.sequences} put {stats.tokens_put} attends {stats.attend_calls} "
              f"visible {stats.tokens_visible} read {stats.tokens_read}")
        engine.release(fork)
        engine.release(prompt)


if __name__ == "__main__":
    main()
