//! A prompt, attention over it, a fork that goes on: the same script as in the other languages' folders.
mod ffi;
mod swell;

use swell::{Engine, Error};

const KV_HEADS: usize = 2;
const GROUP: usize = 2;
const HEAD_DIM: usize = 32;
const ROW: usize = KV_HEADS * HEAD_DIM;
const QUERY: usize = KV_HEADS * GROUP * HEAD_DIM;
const PROMPT: usize = 3000;
const CHUNK: usize = 512;
const NEW: usize = 5;

/// Numbers that float16 holds exactly, from a fixed linear congruential generator.
struct Random(u64);

impl Random {
    fn fill(&mut self, count: usize) -> Vec<f32> {
        (0..count)
            .map(|_| {
                self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                ((self.0 >> 56) as i32 - 128) as f32 / 64.0
            })
            .collect()
    }
}

fn sum(values: &[f32]) -> f64 {
    values.iter().map(|&value| value as f64).sum()
}

fn attend(engine: &Engine, sequence: u64, mode: i32, query: &[f32]) -> Result<Vec<f32>, Error> {
    let answer = engine.attend(sequence, mode, query)?;
    let first = answer.certificates[0];
    println!(
        "attend {}: output {:.4} lse {:.4} read {} of {}",
        if mode == ffi::EXACT { "exact" } else { "wave" },
        sum(&answer.output),
        sum(&answer.lse),
        first.tokens_read,
        first.tokens_visible
    );
    Ok(answer.output)
}

fn print_length(engine: &Engine, name: &str, sequence: u64) -> Result<(), Error> {
    println!("{}: {} tokens", name, engine.length(sequence)?);
    Ok(())
}

/// Fetches some tokens and compares them bit by bit with what was put.
fn fetch(engine: &Engine, sequence: u64, keys: &[f32], values: &[f32]) -> Result<(), Error> {
    let tokens = [999i64, 0, 512, 7];
    let (got_keys, got_values) = engine.fetch(sequence, &tokens)?;
    let same = |got: &[f32], put: &[f32]| {
        tokens.iter().enumerate().all(|(i, &token)| {
            let token = token as usize;
            let (got, put) = (&got[i * ROW..(i + 1) * ROW], &put[token * ROW..(token + 1) * ROW]);
            got.iter().zip(put).all(|(a, b)| a.to_bits() == b.to_bits())
        })
    };
    let equal = same(&got_keys, keys) && same(&got_values, values);
    println!("fetch: {}", if equal { "equal" } else { "different" });
    Ok(())
}

fn main() -> Result<(), Error> {
    println!("abi {}", swell::abi_version());
    let engine = Engine::open(KV_HEADS, GROUP, HEAD_DIM)?;
    let prompt = engine.create()?;

    let mut random = Random(1);
    let keys = random.fill(PROMPT * ROW);
    let values = random.fill(PROMPT * ROW);
    let query = random.fill(QUERY);
    let more = random.fill(2 * NEW * ROW);
    let (more_keys, more_values) = more.split_at(NEW * ROW);
    let chunks = keys.chunks(CHUNK * ROW).zip(values.chunks(CHUNK * ROW));
    for (i, (chunk_keys, chunk_values)) in chunks.enumerate() {
        engine.put(prompt, (i * CHUNK) as i64, chunk_keys, chunk_values)?;
    }
    print_length(&engine, "prompt", prompt)?;
    let exact = attend(&engine, prompt, ffi::EXACT, &query)?;
    let wave = attend(&engine, prompt, ffi::RETRIEVE, &query)?;
    let worst = wave.iter().zip(&exact).fold(0.0f32, |worst, (a, b)| worst.max((a - b).abs()));
    println!("largest difference {:.4}", worst);

    let fork = engine.fork(prompt)?;
    engine.put(fork, PROMPT as i64, more_keys, more_values)?;
    print_length(&engine, "prompt", prompt)?;
    print_length(&engine, "fork", fork)?;
    attend(&engine, fork, ffi::EXACT, &query)?;
    engine.truncate(fork, 1000)?;
    print_length(&engine, "fork", fork)?;
    fetch(&engine, fork, &keys, &values)?;

    if let Err(error) = engine.put(fork, 1001, more_keys, more_values) {
        println!("error: {} {} item {}: {}", error.code, error.detail, error.item, error.message);
    }
    let stats = engine.stats()?;
    println!(
        "stats: sequences {} put {} attends {} visible {} read {}",
        stats.sequences, stats.tokens_put, stats.attend_calls, stats.tokens_visible, stats.tokens_read
    );
    engine.release(fork)?;
    engine.release(prompt)
}
