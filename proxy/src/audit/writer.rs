//! The queue and the thread behind it. Several processes may append to one file: each batch of whole lines
//! is one `write` of a file opened for appending.
//!
//! Waking a thread costs the session that sends more than all else about an event, so the thread sleeps a
//! moment after the first one, and those that come meanwhile wake nobody.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use keystile_model::audit::AuditEvent;

use crate::metrics::Metrics;

/// Messages that may wait: events, at some 700 bytes each, or the commands of one read.
const QUEUE: usize = 16_384;
/// Bytes of lines of commands that may wait: several seconds of a busy proxy. Events have no such bound, so that
/// those of one session with much to tell do not push out another's: theirs is the length of the queue.
const MOST_BYTES: usize = 32 * 1024 * 1024;
/// Bytes at which a batch is written although more lines wait.
const BATCH: usize = 64 * 1024;
/// How long lines are gathered before they are written.
const GATHER: Duration = Duration::from_millis(10);
/// Bytes of an event, so that its line need not grow while it is written.
const USUAL_EVENT: usize = 1_024;
/// How often lost lines are told of.
const TELL_EVERY: Duration = Duration::from_secs(10);

/// Where the lines go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// Standard output, for CloudWatch Logs.
    Stdout,
    /// Appended to a file.
    File(PathBuf),
}

enum Message {
    /// Whole lines, and how many.
    Lines(Vec<u8>, u64),
    Stop,
}

/// Takes events. Cheap to clone.
#[derive(Clone)]
pub struct Sink {
    queue: SyncSender<Message>,
    /// Bytes of lines that wait.
    waiting: Arc<AtomicUsize>,
    metrics: Arc<Metrics>,
}

impl std::fmt::Debug for Sink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sink").finish_non_exhaustive()
    }
}

impl Sink {
    /// Queues an event; where the queue is full it is dropped and counted.
    ///
    /// It becomes a line here: its many small strings go back to the thread that they came from, and the one
    /// behind the queue has bytes to copy and no more.
    pub fn send(&self, event: &AuditEvent) {
        let mut line = Vec::with_capacity(USUAL_EVENT);
        // Into a Vec nothing fails.
        let _ = serde_json::to_writer(&mut line, event);
        line.push(b'\n');
        self.waiting.fetch_add(line.len(), Ordering::Relaxed);
        self.queue(line, 1);
    }

    /// Queues so many whole lines; where the queue is full they are dropped and counted.
    pub fn send_lines(&self, lines: Vec<u8>, count: u64) {
        if self.waiting.fetch_add(lines.len(), Ordering::Relaxed) < MOST_BYTES {
            self.queue(lines, count);
        } else {
            self.waiting.fetch_sub(lines.len(), Ordering::Relaxed);
            self.metrics.audit_dropped.add(count);
        }
    }

    /// Queues lines whose bytes are among those that wait.
    fn queue(&self, lines: Vec<u8>, count: u64) {
        let bytes = lines.len();
        if self.queue.try_send(Message::Lines(lines, count)).is_ok() {
            self.metrics.audit_events.add(count);
        } else {
            self.waiting.fetch_sub(bytes, Ordering::Relaxed);
            self.metrics.audit_dropped.add(count);
        }
    }
}

/// The thread; [`Writer::finish`] waits until everything is written.
#[derive(Debug)]
pub struct Writer {
    queue: SyncSender<Message>,
    thread: JoinHandle<()>,
}

impl Writer {
    /// Opens the target and starts the thread.
    ///
    /// # Errors
    /// When the file cannot be opened or the thread cannot be started.
    pub fn start(target: &Target, metrics: Arc<Metrics>) -> io::Result<(Self, Sink)> {
        let file = match target {
            Target::Stdout => None,
            Target::File(path) => Some(OpenOptions::new().append(true).create(true).open(path)?),
        };
        let (queue, events) = sync_channel(QUEUE);
        let waiting = Arc::new(AtomicUsize::new(0));
        let sink =
            Sink { queue: queue.clone(), waiting: Arc::clone(&waiting), metrics: Arc::clone(&metrics) };
        let thread = std::thread::Builder::new()
            .name("audit".to_owned())
            .spawn(move || write_all(&events, file.as_ref(), &waiting, &metrics))?;
        Ok((Self { queue, thread }, sink))
    }

    /// Writes what waits and ends the thread. Events that are sent later are dropped.
    pub fn finish(self) {
        if self.queue.send(Message::Stop).is_ok() {
            let _ = self.thread.join();
        }
    }
}

fn write_all(events: &Receiver<Message>, file: Option<&File>, waiting: &AtomicUsize, metrics: &Metrics) {
    let mut batch = Vec::with_capacity(BATCH);
    let mut drained = true;
    let (mut told_at, mut lost) = (None, 0);
    while let Ok(first) = events.recv() {
        // Never while a full batch has left events behind, nor when this is the end.
        if drained && !matches!(first, Message::Stop) {
            std::thread::sleep(GATHER);
        }
        let mut next = Some(first);
        let mut stop = false;
        let mut lines = 0;
        while let Some(message) = next {
            match message {
                Message::Stop => stop = true,
                Message::Lines(bytes, count) => {
                    waiting.fetch_sub(bytes.len(), Ordering::Relaxed);
                    batch.extend_from_slice(&bytes);
                    lines += count;
                }
            }
            next = if batch.len() < BATCH { events.try_recv().ok() } else { None };
        }
        drained = batch.len() < BATCH;
        if let Err(error) = write_out(file, &batch) {
            metrics.audit_dropped.add(lines);
            lost += lines;
            // A full disk fails some hundred times a second.
            if told_at.is_none_or(|at: Instant| at.elapsed() >= TELL_EVERY) {
                tracing::error!(
                    %error,
                    lines = lost,
                    "audit lines could not be written and are lost: free the disk, or check standard output"
                );
                told_at = Some(Instant::now());
                lost = 0;
            }
        }
        batch.clear();
        if stop {
            return;
        }
    }
}

fn write_out(file: Option<&File>, batch: &[u8]) -> io::Result<()> {
    match file {
        Some(mut file) => file.write_all(batch),
        None => {
            let mut out = io::stdout().lock();
            out.write_all(batch)?;
            out.flush()
        }
    }
}

#[cfg(test)]
mod tests {
    use keystile_model::audit::EventKind;
    use time::OffsetDateTime;
    use uuid::Uuid;

    use super::*;

    fn sink(metrics: &Arc<Metrics>) -> (Sink, Receiver<Message>) {
        let (queue, events) = sync_channel(4);
        (Sink { queue, waiting: Arc::default(), metrics: Arc::clone(metrics) }, events)
    }

    #[test]
    fn lines_of_commands_push_out_no_event() {
        let metrics = Arc::<Metrics>::default();
        let (sink, events) = sink(&metrics);
        sink.send_lines(vec![b'x'; MOST_BYTES], 3);
        sink.send_lines(b"one more".to_vec(), 2);
        assert_eq!((metrics.audit_events.value(), metrics.audit_dropped.value()), (3, 2));
        let event = AuditEvent::new(
            EventKind::SessionStart,
            false,
            OffsetDateTime::UNIX_EPOCH,
            Uuid::nil(),
            "ks",
            "al",
        );
        (0..4).for_each(|_| sink.send(&event));
        assert_eq!(
            (metrics.audit_events.value(), metrics.audit_dropped.value()),
            (6, 3),
            "the queue is full"
        );
        let waiting = || sink.waiting.load(Ordering::Relaxed);
        let mut bytes = 0;
        while let Ok(Message::Lines(lines, _)) = events.try_recv() {
            bytes += lines.len();
        }
        assert_eq!(waiting(), bytes, "what was dropped does not wait");
    }

    #[test]
    fn an_event_is_one_line_of_json() {
        let metrics = Arc::<Metrics>::default();
        let (sink, events) = sink(&metrics);
        let at = OffsetDateTime::UNIX_EPOCH;
        let event = AuditEvent::new(EventKind::SessionEnd, true, at, Uuid::nil(), "ks", "a\n\"lice");
        sink.send(&event);
        let Ok(Message::Lines(line, 1)) = events.try_recv() else { panic!("no line") };
        assert_eq!(line.iter().filter(|byte| **byte == b'\n').count(), 1);
        assert_eq!(serde_json::from_slice::<AuditEvent>(&line).unwrap(), event);
    }
}
