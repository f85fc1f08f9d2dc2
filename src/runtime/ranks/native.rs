//! The C++ shim over c10d: a store that all ranks reach, and Gloo.

use std::ffi::{CString, c_char, c_int, c_void};
use std::sync::Arc;
use std::time::Duration;

use tch::Tensor;

use super::place::Place;
use crate::runtime::native::{address, message};

unsafe extern "C" {
    fn atp_store_open(
        host: *const c_char,
        port: u16,
        is_server: c_int,
        listening: c_int,
        timeout_ms: i64,
        error: *mut *mut c_char,
    ) -> *mut c_void;
    fn atp_store_close(store: *mut c_void);
    fn atp_store_set(
        store: *mut c_void,
        key: *const c_char,
        bytes: *const u8,
        length: usize,
        error: *mut *mut c_char,
    ) -> c_int;
    fn atp_store_get(
        store: *mut c_void,
        key: *const c_char,
        length: *mut usize,
        error: *mut *mut c_char,
    ) -> *mut u8;
    fn atp_store_check(store: *mut c_void, key: *const c_char, error: *mut *mut c_char) -> c_int;
    fn atp_store_add(
        store: *mut c_void,
        key: *const c_char,
        by: i64,
        error: *mut *mut c_char,
    ) -> i64;
    fn atp_gloo_open(
        store: *mut c_void,
        rank: c_int,
        size: c_int,
        timeout_ms: i64,
        address: *const c_char,
        interface: *const c_char,
        error: *mut *mut c_char,
    ) -> *mut c_void;
    fn atp_gloo_close(group: *mut c_void);
    fn atp_gloo_sum(group: *mut c_void, tensor: *const c_void, error: *mut *mut c_char) -> c_int;
    fn atp_gloo_gather(
        group: *mut c_void,
        part: *const c_void,
        all: *const c_void,
        error: *mut *mut c_char,
    ) -> c_int;
    fn atp_gloo_broadcast(
        group: *mut c_void,
        tensor: *const c_void,
        root: c_int,
        error: *mut *mut c_char,
    ) -> c_int;
}

/// The first line of a message set by the shim.
fn taken(error: *mut c_char) -> String {
    let text = message(error);
    text.lines().next().unwrap_or_default().to_owned()
}

fn name(text: &str) -> Result<CString, String> {
    CString::new(text).map_err(|_| format!("`{text}` has a zero byte"))
}

/// The store that all ranks reach.
#[derive(Debug)]
pub struct Store(*mut c_void);

// SAFETY: a `TCPStore` serves one request at a time behind a lock of its own.
unsafe impl Send for Store {}
// SAFETY: as above.
unsafe impl Sync for Store {}

impl Store {
    /// Reach it, or be it; `listening` is a socket bound for it beforehand.
    pub fn open(
        host: &str,
        port: u16,
        server: bool,
        listening: Option<i32>,
        patience: Duration,
    ) -> Result<Self, String> {
        let mut error = std::ptr::null_mut();
        let host = name(host)?;
        let listening = listening.filter(|_| server).unwrap_or(-1);
        // SAFETY: a C string that lives through the call; what comes back is owned here.
        let store = unsafe {
            atp_store_open(
                host.as_ptr(),
                port,
                c_int::from(server),
                listening,
                patience.as_millis() as i64,
                &mut error,
            )
        };
        match store.is_null() {
            true => Err(taken(error)),
            false => Ok(Self(store)),
        }
    }

    /// Put bytes under a key.
    pub fn set(&self, key: &str, bytes: &[u8]) -> Result<(), String> {
        let (key, mut error) = (name(key)?, std::ptr::null_mut());
        // SAFETY: all point to live memory of the lengths given.
        let done = unsafe {
            atp_store_set(
                self.0,
                key.as_ptr(),
                bytes.as_ptr(),
                bytes.len(),
                &mut error,
            )
        };
        if done == 0 { Err(taken(error)) } else { Ok(()) }
    }

    /// The bytes under a key, once it is there.
    pub fn get(&self, key: &str) -> Result<Vec<u8>, String> {
        let (key, mut error, mut length) = (name(key)?, std::ptr::null_mut(), 0);
        // SAFETY: as above; the bytes are copied and freed once.
        unsafe {
            let bytes = atp_store_get(self.0, key.as_ptr(), &mut length, &mut error);
            if bytes.is_null() {
                return Err(taken(error));
            }
            let copied = std::slice::from_raw_parts(bytes, length).to_vec();
            libc::free(bytes.cast());
            Ok(copied)
        }
    }

    /// Whether a key is there.
    pub fn has(&self, key: &str) -> Result<bool, String> {
        let (key, mut error) = (name(key)?, std::ptr::null_mut());
        // SAFETY: as above.
        match unsafe { atp_store_check(self.0, key.as_ptr(), &mut error) } {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(taken(error)),
        }
    }

    /// Add to the number under a key, which begins at 0; gives what it is then.
    pub fn add(&self, key: &str, by: i64) -> Result<i64, String> {
        let (key, mut error) = (name(key)?, std::ptr::null_mut());
        // SAFETY: as above.
        let sum = unsafe { atp_store_add(self.0, key.as_ptr(), by, &mut error) };
        if error.is_null() {
            Ok(sum)
        } else {
            Err(taken(error))
        }
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        // SAFETY: ours, closed once.
        unsafe { atp_store_close(self.0) };
    }
}

/// All ranks, connected to each other.
#[derive(Debug)]
pub struct Gloo {
    group: *mut c_void,
    size: usize,
    /// It must outlive the group.
    _store: Arc<Store>,
}

impl Gloo {
    /// Connect this rank to the others, which all must call it.
    pub fn connect(store: Arc<Store>, place: &Place, patience: Duration) -> Result<Self, String> {
        let interface = std::env::var("GLOO_SOCKET_IFNAME")
            .ok()
            .filter(|i| !i.is_empty());
        let interface = interface.as_deref().map(name).transpose()?;
        let address = match place.is_local() {
            true => Some(name("127.0.0.1")?),
            false => None,
        };
        let pointer =
            |text: &Option<CString>| text.as_ref().map_or(std::ptr::null(), |t| t.as_ptr());
        let mut error = std::ptr::null_mut();
        // SAFETY: the store lives; the strings live through the call.
        let group = unsafe {
            atp_gloo_open(
                store.0,
                place.rank as c_int,
                place.size as c_int,
                patience.as_millis() as i64,
                pointer(&address),
                pointer(&interface),
                &mut error,
            )
        };
        match group.is_null() {
            true => Err(taken(error)),
            false => Ok(Self {
                group,
                size: place.size,
                _store: store,
            }),
        }
    }

    /// Sum a contiguous tensor over all ranks, in place.
    pub fn sum(&self, tensor: &Tensor) -> Result<(), String> {
        let mut error = std::ptr::null_mut();
        // SAFETY: group and tensor live; the call returns when the work is done.
        let done = unsafe { atp_gloo_sum(self.group, address(tensor), &mut error) };
        if done == 0 { Err(taken(error)) } else { Ok(()) }
    }

    /// The same-sized tensors `(n)` of all ranks as `(ranks, n)`.
    pub fn gather(&self, part: &Tensor) -> Result<Tensor, String> {
        let all = Tensor::zeros(
            [self.size as i64, part.numel() as i64],
            (part.kind(), part.device()),
        );
        let flat = all.view([-1]);
        let mut error = std::ptr::null_mut();
        // SAFETY: as above; both are contiguous.
        let done =
            unsafe { atp_gloo_gather(self.group, address(part), address(&flat), &mut error) };
        if done == 0 {
            Err(taken(error))
        } else {
            Ok(all)
        }
    }

    /// The tensor of rank `root` into everybody's of the same size.
    pub fn broadcast(&self, tensor: &Tensor, root: usize) -> Result<(), String> {
        let mut error = std::ptr::null_mut();
        // SAFETY: as above.
        let done =
            unsafe { atp_gloo_broadcast(self.group, address(tensor), root as c_int, &mut error) };
        if done == 0 { Err(taken(error)) } else { Ok(()) }
    }
}

impl Drop for Gloo {
    fn drop(&mut self) {
        // SAFETY: ours, closed once.
        unsafe { atp_gloo_close(self.group) };
    }
}
