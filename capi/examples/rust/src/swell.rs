//! A safe face of the C API, as far as the example needs it: an engine that closes itself, calls that return Result.
use crate::ffi;
use std::ffi::CStr;
use std::mem::size_of;
use std::os::raw::c_char;
use std::ptr::{null, null_mut};

/// What a failed call reported.
#[derive(Debug)]
pub struct Error {
    pub code: String,
    pub detail: String,
    pub item: i64,
    pub message: String,
}

fn text(from: *const c_char) -> String {
    // The library's strings are zero-terminated and live at least as long as the error they belong to.
    unsafe { CStr::from_ptr(from) }.to_string_lossy().into_owned()
}

/// Runs one call; takes over its error object.
fn call(function: impl FnOnce(*mut *mut ffi::Error) -> i32) -> Result<(), Error> {
    let mut error: *mut ffi::Error = null_mut();
    if function(&mut error) == ffi::OK {
        return Ok(());
    }
    unsafe {
        let report = Error {
            code: text(ffi::swell_code_name(ffi::swell_error_code(error))),
            detail: text(ffi::swell_detail_name(ffi::swell_error_detail(error))),
            item: ffi::swell_error_item(error),
            message: text(ffi::swell_error_message(error)),
        };
        ffi::swell_error_destroy(&mut error);
        Err(report)
    }
}

pub fn abi_version() -> i32 {
    unsafe { ffi::swell_abi_version() }
}

/// One layer of attention, shapes as the example needs them: rows of `row` floats, queries of `query` floats.
pub struct Engine {
    handle: *mut ffi::Engine,
    row: usize,
    heads: usize,
    query: usize,
}

pub struct Answer {
    pub output: Vec<f32>,
    pub lse: Vec<f32>,
    pub certificates: Vec<ffi::Certificate>,
}

impl Engine {
    pub fn open(kv_heads: usize, group: usize, head_dim: usize) -> Result<Engine, Error> {
        let options = ffi::EngineOptions {
            struct_size: size_of::<ffi::EngineOptions>() as u32,
            layers: 1,
            kv_heads: kv_heads as i32,
            group: group as i32,
            head_dim: head_dim as i32,
            scale: 0.0,
            storage: ffi::FLOAT16,
            threads: 2,
            host_budget_bytes: 0,
            flags: ffi::DETERMINISTIC,
            reserved: 0,
            log: None,
            log_context: null_mut(),
        };
        let mut handle = null_mut();
        call(|error| unsafe { ffi::swell_engine_open(&options, &mut handle, error) })?;
        let heads = kv_heads * group;
        Ok(Engine { handle, row: kv_heads * head_dim, heads, query: heads * head_dim })
    }

    pub fn create(&self) -> Result<u64, Error> {
        let mut sequence = 0;
        call(|error| unsafe { ffi::swell_sequence_create(self.handle, null(), null(), &mut sequence, error) })?;
        Ok(sequence)
    }

    pub fn fork(&self, sequence: u64) -> Result<u64, Error> {
        let mut fork = 0;
        call(|error| unsafe { ffi::swell_sequence_fork(self.handle, sequence, &mut fork, error) })?;
        Ok(fork)
    }

    pub fn truncate(&self, sequence: u64, tokens: i64) -> Result<(), Error> {
        call(|error| unsafe { ffi::swell_sequence_truncate(self.handle, sequence, tokens, error) })
    }

    pub fn release(&self, sequence: u64) -> Result<(), Error> {
        call(|error| unsafe { ffi::swell_sequence_release(self.handle, sequence, error) })
    }

    pub fn length(&self, sequence: u64) -> Result<i64, Error> {
        let mut tokens = 0;
        call(|error| unsafe { ffi::swell_sequence_length(self.handle, sequence, 0, &mut tokens, error) })?;
        Ok(tokens)
    }

    pub fn put(&self, sequence: u64, position: i64, keys: &[f32], values: &[f32]) -> Result<(), Error> {
        assert_eq!(keys.len(), values.len());
        let tokens = (keys.len() / self.row) as i64;
        let args = ffi::PutArgs {
            struct_size: size_of::<ffi::PutArgs>() as u32,
            item_size: size_of::<ffi::PutItem>() as u32,
            dtype: ffi::FLOAT32,
            n_items: 1,
            n_rows: tokens,
            ..Default::default()
        };
        let item = ffi::PutItem { sequence, position, tokens, first_row: 0 };
        call(|error| unsafe {
            let (keys, values) = (keys.as_ptr().cast(), values.as_ptr().cast());
            ffi::swell_put(self.handle, &args, &item, keys, values, null(), null(), null_mut(), error)
        })
    }

    pub fn attend(&self, sequence: u64, mode: i32, query: &[f32]) -> Result<Answer, Error> {
        assert_eq!(query.len(), self.query);
        let mut answer = Answer {
            output: vec![0.0; self.query],
            lse: vec![0.0; self.heads],
            certificates: vec![Default::default(); self.heads],
        };
        let args = ffi::AttendArgs {
            struct_size: size_of::<ffi::AttendArgs>() as u32,
            item_size: size_of::<ffi::AttendItem>() as u32,
            layer: 0,
            query_dtype: ffi::FLOAT32,
            output_dtype: ffi::FLOAT32,
            certificate_size: size_of::<ffi::Certificate>() as u32,
            n_items: 1,
            n_rows: 1,
        };
        let item = ffi::AttendItem { sequence, n_queries: 1, first_row: 0, retrieval: null(), mode, reserved: 0 };
        call(|error| unsafe {
            ffi::swell_attend(
                self.handle,
                &args,
                &item,
                query.as_ptr().cast(),
                answer.output.as_mut_ptr().cast(),
                answer.lse.as_mut_ptr(),
                answer.certificates.as_mut_ptr(),
                null_mut(),
                error,
            )
        })?;
        Ok(answer)
    }

    /// Keys and values of the given tokens.
    pub fn fetch(&self, sequence: u64, tokens: &[i64]) -> Result<(Vec<f32>, Vec<f32>), Error> {
        let mut keys = vec![0.0f32; tokens.len() * self.row];
        let mut values = vec![0.0f32; tokens.len() * self.row];
        let args = ffi::FetchArgs {
            struct_size: size_of::<ffi::FetchArgs>() as u32,
            item_size: size_of::<ffi::FetchItem>() as u32,
            layer: 0,
            dtype: ffi::FLOAT32,
            n_items: 1,
            n_rows: tokens.len() as i64,
        };
        let item = ffi::FetchItem { sequence, n_tokens: tokens.len() as i64, first_row: 0 };
        call(|error| unsafe {
            let (keys, values) = (keys.as_mut_ptr().cast(), values.as_mut_ptr().cast());
            let none = null_mut();
            ffi::swell_fetch(self.handle, &args, &item, tokens.as_ptr(), keys, values, none, none, null_mut(), error)
        })?;
        Ok((keys, values))
    }

    pub fn stats(&self) -> Result<ffi::EngineStats, Error> {
        let mut stats = ffi::EngineStats { struct_size: size_of::<ffi::EngineStats>() as u32, ..Default::default() };
        call(|error| unsafe { ffi::swell_engine_get_stats(self.handle, &mut stats, error) })?;
        Ok(stats)
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        unsafe { ffi::swell_engine_close(&mut self.handle) }
    }
}
