//! Streams and events. A stream is a thread that does one piece of work after the other.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crate::context::Device;
use crate::order::{Clock, StreamId, Ticket};
use crate::status::Status;

/// A piece of work. A captured one runs at each launch of its graph.
pub(crate) type Work = Arc<dyn Fn(&Ticket) -> Result<(), Status> + Send + Sync>;

/// What the host knows to have ended.
static HOST: Mutex<Clock> = Mutex::new(Clock::EMPTY);
static NEXT_STREAM: AtomicU64 = AtomicU64::new(1);

/// State that callers change.
#[derive(Default)]
struct Submitted {
    count: u64,
    /// What has ended before the stream's next piece of work, apart from the stream's own work.
    before: Arc<Clock>,
    capture: Option<Vec<Work>>,
}

struct Progress {
    done: Mutex<u64>,
    changed: Condvar,
}

pub(crate) struct Stream {
    pub(crate) id: StreamId,
    pub(crate) device: Arc<Device>,
    queue: Sender<(Work, Ticket)>,
    submitted: Mutex<Submitted>,
    progress: Arc<Progress>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Stream {
    pub(crate) fn new(device: Arc<Device>) -> Arc<Self> {
        let (queue, work) = channel::<(Work, Ticket)>();
        let progress = Arc::new(Progress { done: Mutex::new(0), changed: Condvar::new() });
        let (of_thread, on) = (progress.clone(), device.clone());
        std::thread::spawn(move || {
            // The thread ends with the stream, after the work that is queued.
            while let Ok((work, ticket)) = work.recv() {
                // After a fault, a device does nothing more.
                if on.error().is_none()
                    && let Err(status) = work(&ticket)
                {
                    on.set_error(status);
                }
                *lock(&of_thread.done) += 1;
                of_thread.changed.notify_all();
            }
        });
        let id = NEXT_STREAM.fetch_add(1, Ordering::Relaxed);
        Arc::new(Self { id, device, queue, submitted: Mutex::default(), progress })
    }

    /// Queues work, or captures it.
    pub(crate) fn submit(&self, work: Work) -> Result<(), Status> {
        if let Some(error) = self.device.error() {
            return Err(error);
        }
        let mut submitted = lock(&self.submitted);
        if let Some(captured) = &mut submitted.capture {
            captured.push(work);
            return Ok(());
        }
        submitted.count += 1;
        let host = lock(&HOST);
        if !submitted.before.includes(&host) {
            Arc::make_mut(&mut submitted.before).merge(&host);
        }
        drop(host);
        let ticket = Ticket { stream: self.id, number: submitted.count, before: submitted.before.clone() };
        self.queue.send((work, ticket)).map_err(|_| Status::INVALID_HANDLE)
    }

    /// Waits for all work, and for what it says.
    pub(crate) fn synchronize(&self) -> Result<(), Status> {
        if self.is_capturing() {
            return Err(Status::CAPTURE_UNSUPPORTED);
        }
        let (count, mut clock) = {
            let submitted = lock(&self.submitted);
            (submitted.count, Clock::clone(&submitted.before))
        };
        self.wait_for(count);
        clock.set(self.id, count);
        lock(&HOST).merge(&clock);
        self.device.error().map_or(Ok(()), Err)
    }

    fn wait_for(&self, count: u64) {
        let mut done = lock(&self.progress.done);
        while *done < count {
            done = self.progress.changed.wait(done).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn has_done(&self, count: u64) -> bool {
        *lock(&self.progress.done) >= count
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.has_done(lock(&self.submitted).count)
    }

    pub(crate) fn is_capturing(&self) -> bool {
        lock(&self.submitted).capture.is_some()
    }

    pub(crate) fn begin_capture(&self) -> Result<(), Status> {
        let mut submitted = lock(&self.submitted);
        if submitted.capture.is_some() {
            return Err(Status::CAPTURE_UNMATCHED);
        }
        submitted.capture = Some(Vec::new());
        Ok(())
    }

    pub(crate) fn end_capture(&self) -> Result<Vec<Work>, Status> {
        lock(&self.submitted).capture.take().ok_or(Status::CAPTURE_UNMATCHED)
    }
}

/// A point in a stream's work.
#[derive(Default)]
struct Point {
    stream: Option<Arc<Stream>>,
    count: u64,
    clock: Clock,
}

/// An event.
#[derive(Default)]
pub(crate) struct Event {
    point: Mutex<Point>,
    time: Arc<Mutex<Option<Instant>>>,
}

impl Event {
    /// Puts the event behind the work that `stream` has got so far.
    pub(crate) fn record(&self, stream: &Arc<Stream>) -> Result<(), Status> {
        let time = self.time.clone();
        stream.submit(Arc::new(move |_| {
            *lock(&time) = Some(Instant::now());
            Ok(())
        }))?;
        let submitted = lock(&stream.submitted);
        let mut clock = Clock::clone(&submitted.before);
        clock.set(stream.id, submitted.count);
        *lock(&self.point) = Point { stream: Some(stream.clone()), count: submitted.count, clock };
        Ok(())
    }

    /// Makes the later work of `stream` wait for the event.
    pub(crate) fn hold_up(&self, stream: &Stream) -> Result<(), Status> {
        let point = lock(&self.point);
        let Some(other) = point.stream.clone() else { return Ok(()) };
        let count = point.count;
        stream.submit(Arc::new(move |_| {
            other.wait_for(count);
            Ok(())
        }))?;
        let mut submitted = lock(&stream.submitted);
        if submitted.capture.is_none() {
            Arc::make_mut(&mut submitted.before).merge(&point.clock);
        }
        Ok(())
    }

    pub(crate) fn has_happened(&self) -> bool {
        let point = lock(&self.point);
        let happened = point.stream.as_ref().is_none_or(|stream| stream.has_done(point.count));
        if happened {
            lock(&HOST).merge(&point.clock);
        }
        happened
    }

    pub(crate) fn synchronize(&self) -> Result<(), Status> {
        let (stream, count) = {
            let point = lock(&self.point);
            (point.stream.clone(), point.count)
        };
        if let Some(stream) = stream {
            stream.wait_for(count);
            lock(&HOST).merge(&lock(&self.point).clock);
            return stream.device.error().map_or(Ok(()), Err);
        }
        Ok(())
    }

    /// Returns the milliseconds from `self` to `later`.
    pub(crate) fn milliseconds_to(&self, later: &Self) -> Result<f32, Status> {
        let (from, to) = (*lock(&self.time), *lock(&later.time));
        match (from, to) {
            (Some(from), Some(to)) => Ok(to.saturating_duration_since(from).as_secs_f32() * 1e3),
            _ => Err(Status::NOT_READY),
        }
    }
}
