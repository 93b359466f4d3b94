//! The part of swell/swell.h that the example uses. Codes and modes are plain i32: a C enum is not a Rust enum.
use std::os::raw::{c_char, c_void};

pub const OK: i32 = 0;
pub const FLOAT32: i32 = 0;
pub const FLOAT16: i32 = 1;
pub const RETRIEVE: i32 = 0;
pub const EXACT: i32 = 1;
pub const DETERMINISTIC: u32 = 1;

/// Opaque handles.
#[repr(C)]
pub struct Engine {
    _private: [u8; 0],
}
#[repr(C)]
pub struct Error {
    _private: [u8; 0],
}
#[repr(C)]
pub struct Retrieval {
    _private: [u8; 0],
}

#[repr(C)]
pub struct Status {
    pub code: i32,
    pub detail: i32,
}

#[repr(C)]
pub struct EngineOptions {
    pub struct_size: u32,
    pub layers: i32,
    pub kv_heads: i32,
    pub group: i32,
    pub head_dim: i32,
    pub scale: f32,
    pub storage: i32,
    pub threads: i32,
    pub host_budget_bytes: u64,
    pub flags: u32,
    pub reserved: u32,
    pub log: Option<extern "C" fn(context: *mut c_void, message: *const c_char)>,
    pub log_context: *mut c_void,
}

#[repr(C)]
#[derive(Default)]
pub struct EngineStats {
    pub struct_size: u32,
    pub reserved: u32,
    pub sequences: i64,
    pub bytes_in_use: u64,
    pub bytes_peak: u64,
    pub budget_bytes: u64,
    pub tokens_put: i64,
    pub attend_calls: i64,
    pub head_steps: i64,
    pub tokens_visible: i64,
    pub tokens_read: i64,
    pub bytes_read: i64,
    pub segments_sealed: i64,
    pub segments_compacted: i64,
    pub builds_failed: i64,
}

#[repr(C)]
pub struct PutItem {
    pub sequence: u64,
    pub position: i64,
    pub tokens: i64,
    pub first_row: i64,
}

#[repr(C)]
#[derive(Default)]
pub struct PutArgs {
    pub struct_size: u32,
    pub item_size: u32,
    pub layer: i32,
    pub dtype: i32,
    pub n_items: i64,
    pub n_rows: i64,
    pub key_token_stride: i64,
    pub key_head_stride: i64,
    pub value_token_stride: i64,
    pub value_head_stride: i64,
}

#[repr(C)]
pub struct AttendItem {
    pub sequence: u64,
    pub n_queries: i64,
    pub first_row: i64,
    pub retrieval: *const Retrieval,
    pub mode: i32,
    pub reserved: u32,
}

#[repr(C)]
#[derive(Default, Clone, Copy)]
pub struct Certificate {
    pub tokens_visible: i64,
    pub tokens_read: i64,
    pub bytes_read: i64,
    pub estimated_share: f32,
    pub predicted_error: f32,
}

#[repr(C)]
pub struct AttendArgs {
    pub struct_size: u32,
    pub item_size: u32,
    pub layer: i32,
    pub query_dtype: i32,
    pub output_dtype: i32,
    pub certificate_size: u32,
    pub n_items: i64,
    pub n_rows: i64,
}

#[repr(C)]
pub struct FetchItem {
    pub sequence: u64,
    pub n_tokens: i64,
    pub first_row: i64,
}

#[repr(C)]
pub struct FetchArgs {
    pub struct_size: u32,
    pub item_size: u32,
    pub layer: i32,
    pub dtype: i32,
    pub n_items: i64,
    pub n_rows: i64,
}

extern "C" {
    pub fn swell_abi_version() -> i32;
    pub fn swell_code_name(code: i32) -> *const c_char;
    pub fn swell_detail_name(detail: i32) -> *const c_char;
    pub fn swell_error_code(error: *const Error) -> i32;
    pub fn swell_error_detail(error: *const Error) -> i32;
    pub fn swell_error_message(error: *const Error) -> *const c_char;
    pub fn swell_error_item(error: *const Error) -> i64;
    pub fn swell_error_destroy(error: *mut *mut Error);
    pub fn swell_engine_open(options: *const EngineOptions, engine: *mut *mut Engine, error: *mut *mut Error) -> i32;
    pub fn swell_engine_close(engine: *mut *mut Engine);
    pub fn swell_engine_get_stats(engine: *const Engine, stats: *mut EngineStats, error: *mut *mut Error) -> i32;
    pub fn swell_sequence_create(
        engine: *mut Engine,
        options: *const c_void,
        retrieval: *const Retrieval,
        sequence: *mut u64,
        error: *mut *mut Error,
    ) -> i32;
    pub fn swell_sequence_fork(engine: *mut Engine, sequence: u64, fork: *mut u64, error: *mut *mut Error) -> i32;
    pub fn swell_sequence_truncate(engine: *mut Engine, sequence: u64, tokens: i64, error: *mut *mut Error) -> i32;
    pub fn swell_sequence_release(engine: *mut Engine, sequence: u64, error: *mut *mut Error) -> i32;
    pub fn swell_sequence_length(
        engine: *const Engine,
        sequence: u64,
        layer: i32,
        tokens: *mut i64,
        error: *mut *mut Error,
    ) -> i32;
    pub fn swell_put(
        engine: *mut Engine,
        args: *const PutArgs,
        items: *const PutItem,
        keys: *const c_void,
        values: *const c_void,
        key_scales: *const f32,
        value_scales: *const f32,
        statuses: *mut Status,
        error: *mut *mut Error,
    ) -> i32;
    pub fn swell_attend(
        engine: *mut Engine,
        args: *const AttendArgs,
        items: *const AttendItem,
        queries: *const c_void,
        output: *mut c_void,
        lse: *mut f32,
        certificates: *mut Certificate,
        statuses: *mut Status,
        error: *mut *mut Error,
    ) -> i32;
    pub fn swell_fetch(
        engine: *mut Engine,
        args: *const FetchArgs,
        items: *const FetchItem,
        tokens: *const i64,
        keys: *mut c_void,
        values: *mut c_void,
        key_scales: *mut f32,
        value_scales: *mut f32,
        statuses: *mut Status,
        error: *mut *mut Error,
    ) -> i32;
}
