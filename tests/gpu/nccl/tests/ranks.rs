//! Ranks as threads, each with a device and a stream, over the emulated NCCL. Its functions are called by their C interface.

use std::ffi::{c_int, c_void};
use std::ptr::null;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use cudarc::driver::{CudaContext, CudaStream, DevicePtr as _};
use emulated_cuda::testing::{load, load_beside};
use emulated_nccl::UniqueId;
use libloading::{Library, Symbol};

const RANKS: usize = 3;
const F32: c_int = 7;
const SUM: c_int = 0;
const IN_PROGRESS: c_int = 7;

type Comm = *const c_void;

fn nccl() -> &'static Library {
    static LIBRARY: OnceLock<Library> = OnceLock::new();
    LIBRARY.get_or_init(|| {
        load(RANKS as u32);
        load_beside("libemulated_nccl.so")
    })
}

/// Calls a function of the library by its name and type.
macro_rules! call {
    ($name:literal: fn($($type:ty),*), $($argument:expr),*) => {{
        // SAFETY: the function has this type, and the arguments are what it asks for.
        unsafe {
            let function: Symbol<'_, unsafe extern "C" fn($($type),*) -> c_int> = nccl().get($name).expect("a function");
            function($($argument),*)
        }
    }};
}

fn new_id() -> UniqueId {
    let mut id = std::mem::MaybeUninit::uninit();
    assert_eq!(call!(b"ncclGetUniqueId": fn(*mut UniqueId), id.as_mut_ptr()), 0);
    // SAFETY: the call succeeded.
    unsafe { id.assume_init() }
}

struct Rank {
    comm: Comm,
    stream: Arc<CudaStream>,
}

/// A configuration whose calls do not wait.
fn non_blocking() -> [u64; 16] {
    let mut config = [0; 16];
    config[0] = 128;
    config
}

impl Rank {
    fn join(number: usize, ranks: usize, id: UniqueId, blocking: bool) -> Self {
        let context = CudaContext::new(number).expect("a context");
        let stream = context.new_stream().expect("a stream");
        let (mut comm, config) = (null(), non_blocking());
        let config = if blocking { null() } else { config.as_ptr().cast() };
        let joined = call!(
            b"ncclCommInitRankConfig": fn(*mut Comm, c_int, UniqueId, c_int, Comm),
            &raw mut comm, ranks as c_int, id, number as c_int, config
        );
        let rank = Self { comm, stream };
        assert!(joined == 0 || !blocking && joined == IN_PROGRESS, "{joined}");
        rank
    }

    fn state(&self) -> c_int {
        let mut state = 0;
        assert_eq!(call!(b"ncclCommGetAsyncError": fn(Comm, *mut c_int), self.comm, &raw mut state), 0);
        state
    }

    fn settle(&self) -> c_int {
        let began = Instant::now();
        while self.state() == IN_PROGRESS {
            assert!(began.elapsed() < Duration::from_secs(30), "still in progress");
            std::thread::sleep(Duration::from_millis(1));
        }
        self.state()
    }

    fn all_reduce(&self, comm: Comm, values: &[f32]) -> Vec<f32> {
        let data = self.stream.clone_htod(values).expect("an upload");
        let (address, _guard) = data.device_ptr(&self.stream);
        let returned = call!(
            b"ncclAllReduce": fn(u64, u64, usize, c_int, c_int, Comm, *mut c_void),
            address, address, values.len(), F32, SUM, comm, self.stream.cu_stream().cast()
        );
        assert!(returned == 0 || returned == IN_PROGRESS, "{returned}");
        if returned == IN_PROGRESS {
            assert_eq!(self.settle(), 0);
        }
        self.stream.clone_dtoh(&data).expect("a download")
    }
}

/// Runs ranks as threads.
fn ranks(work: impl Fn(usize) + Sync) {
    std::thread::scope(|scope| {
        for number in 0..RANKS {
            let work = &work;
            scope.spawn(move || work(number));
        }
    });
}

#[test]
fn ranks_sum_and_split() {
    let _library = nccl();
    for blocking in [true, false] {
        let id = new_id();
        ranks(|number| {
            let rank = Rank::join(number, RANKS, id, blocking);
            assert_eq!(rank.settle(), 0);
            for step in 0..5 {
                let sum = rank.all_reduce(rank.comm, &[number as f32 + 1.0, step as f32]);
                assert_eq!(sum, [6.0, 3.0 * step as f32]);
            }
            // The first and the last rank, in the opposite order.
            let mut child: Comm = null();
            let color = if number == 1 { -1 } else { 4 };
            let split = call!(
                b"ncclCommSplit": fn(Comm, c_int, c_int, *mut Comm, Comm),
                rank.comm, color, -(number as c_int), &raw mut child, null()
            );
            assert_eq!((split, child.is_null()), (0, number == 1));
            if number != 1 {
                let mut place = -1;
                assert_eq!(call!(b"ncclCommUserRank": fn(Comm, *mut c_int), child, &raw mut place), 0);
                assert_eq!(place, if number == 2 { 0 } else { 1 });
                assert_eq!(rank.all_reduce(child, &[number as f32]), [2.0]);
                assert_eq!(call!(b"ncclCommDestroy": fn(Comm), child), 0);
            }
            assert_eq!(call!(b"ncclCommDestroy": fn(Comm), rank.comm), 0);
        });
    }
}

#[test]
fn ranks_send_to_each_other_in_a_group() {
    let _library = nccl();
    let id = new_id();
    ranks(|number| {
        let rank = Rank::join(number, RANKS, id, true);
        let mine = rank.stream.clone_htod(&[number as f32]).expect("an upload");
        let other = rank.stream.alloc_zeros::<f32>(1).expect("memory");
        let ((from, _a), (into, _b)) = (mine.device_ptr(&rank.stream), other.device_ptr(&rank.stream));
        let (next, before) = (((number + 1) % RANKS) as c_int, ((number + RANKS - 1) % RANKS) as c_int);
        let stream: *mut c_void = rank.stream.cu_stream().cast();
        assert_eq!(call!(b"ncclGroupStart": fn(),), 0);
        type Message = unsafe extern "C" fn(u64, usize, c_int, c_int, Comm, *mut c_void) -> c_int;
        // SAFETY: the functions have this type.
        let [send, receive] =
            [&b"ncclSend"[..], b"ncclRecv"].map(|name| unsafe { *nccl().get::<Message>(name).expect("a function") });
        // SAFETY: the memory is that of the device, and lives until the stream is done.
        unsafe {
            assert_eq!(receive(into, 1, F32, before, rank.comm, stream), 0);
            assert_eq!(send(from, 1, F32, next, rank.comm, stream), 0);
        }
        assert_eq!(call!(b"ncclGroupEnd": fn(),), 0);
        assert_eq!(rank.stream.clone_dtoh(&other).expect("a download"), [before as f32]);
    });
}

/// A rank that is missing, or gone, leaves the others waiting until they are aborted.
#[test]
fn an_abort_wakes_a_rank_that_waits() {
    let _library = nccl();
    let id = new_id();
    let rank = Rank::join(0, 2, id, false);
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(rank.state(), IN_PROGRESS, "rank 1 is missing");
    assert_eq!(call!(b"ncclCommAbort": fn(Comm), rank.comm), 0);

    let id = new_id();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let rank = Rank::join(1, 2, id, true);
            assert_eq!(call!(b"ncclCommAbort": fn(Comm), rank.comm), 0);
        });
        let rank = Rank::join(0, 2, id, true);
        let data = rank.stream.clone_htod(&[1.0_f32]).expect("an upload");
        let (address, _guard) = data.device_ptr(&rank.stream);
        let returned = call!(
            b"ncclAllReduce": fn(u64, u64, usize, c_int, c_int, Comm, *mut c_void),
            address, address, 1, F32, SUM, rank.comm, rank.stream.cu_stream().cast()
        );
        assert_eq!(returned, 0);
        let began = Instant::now();
        let comm = rank.comm as usize;
        scope.spawn(move || {
            std::thread::sleep(Duration::from_millis(100));
            assert_eq!(call!(b"ncclCommAbort": fn(Comm), comm as Comm), 0);
        });
        rank.stream.synchronize().expect("the stream goes on");
        assert!(began.elapsed() >= Duration::from_millis(90), "the sum did not wait for the rank that is gone");
    });
}
