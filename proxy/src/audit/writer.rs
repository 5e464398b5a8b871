//! The thread behind the queue. Several processes may append to one file: each batch of whole lines is one
//! `write` of a file opened for appending.
//!
//! Waking a thread costs the session that sends more than all else about an event, so the thread waits a moment
//! after the first one, and those that come meanwhile wake nobody.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::queue::Queue;
use crate::metrics::Metrics;

/// How long lines are gathered before they are written.
const GATHER: Duration = Duration::from_millis(10);
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

/// Takes lines. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Sink {
    queue: Arc<Queue>,
    metrics: Arc<Metrics>,
}

impl Sink {
    /// Queues the whole line of an event; where too many wait it is dropped and counted.
    pub fn send(&self, line: &[u8]) {
        self.count(self.queue.add_event(line), 1);
    }

    /// Queues so many whole lines of commands; where too much waits they are dropped and counted.
    pub fn send_lines(&self, lines: &[u8], count: u64) {
        self.count(self.queue.add_commands(lines), count);
    }

    fn count(&self, queued: bool, lines: u64) {
        let counter = if queued { &self.metrics.audit_events } else { &self.metrics.audit_dropped };
        counter.add(lines);
    }
}

/// The thread; [`Writer::finish`] waits until everything is written.
#[derive(Debug)]
pub struct Writer {
    queue: Arc<Queue>,
    thread: JoinHandle<()>,
}

impl Writer {
    /// Opens the target and starts the thread.
    ///
    /// # Errors
    /// When the file cannot be opened or the thread cannot be started.
    pub fn start(target: &Target, metrics: Arc<Metrics>) -> io::Result<(Self, Sink)> {
        let out = match target {
            Target::Stdout => Out::Stdout(io::stdout()),
            Target::File(path) => Out::File(OpenOptions::new().append(true).create(true).open(path)?),
        };
        let queue = Arc::<Queue>::default();
        let sink = Sink { queue: Arc::clone(&queue), metrics: Arc::clone(&metrics) };
        let lines = Arc::clone(&queue);
        let thread = std::thread::Builder::new()
            .name("audit".to_owned())
            .spawn(move || write_all(&lines, out, &metrics))?;
        Ok((Self { queue, thread }, sink))
    }

    /// Writes what waits and ends the thread. Events that are sent later are dropped.
    pub fn finish(self) {
        self.queue.end();
        let _ = self.thread.join();
    }
}

/// The open target.
#[derive(Debug)]
enum Out {
    Stdout(io::Stdout),
    File(File),
}

impl Write for Out {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Stdout(out) => out.write(bytes),
            Self::File(file) => file.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Stdout(out) => out.flush(),
            Self::File(file) => file.flush(),
        }
    }
}

fn write_all(queue: &Queue, mut out: impl Write, metrics: &Metrics) {
    let mut batch = Vec::new();
    let mut torn = false;
    let (mut told_at, mut lost) = (None, 0);
    while queue.take(GATHER, &mut batch) {
        let mut written = 0;
        if let Err(error) =
            end_torn(&mut out, &mut torn).and_then(|()| write_out(&mut out, &batch, &mut written))
        {
            let (done, rest) = batch.split_at_checked(written).unwrap_or_default();
            torn |= done.last().is_some_and(|byte| *byte != b'\n');
            let lines = rest.iter().filter(|byte| **byte == b'\n').count() as u64;
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
        queue.done();
    }
}

/// What is on the disk of a line that did not fit must not swallow the next one.
fn end_torn(out: &mut impl Write, torn: &mut bool) -> io::Result<()> {
    if *torn {
        write_out(out, b"\n", &mut 0)?;
        *torn = false;
    }
    Ok(())
}

/// Writes a batch; `written` is how many bytes of it were taken.
fn write_out(out: &mut impl Write, batch: &[u8], written: &mut usize) -> io::Result<()> {
    while let Some(rest @ [_, ..]) = batch.get(*written..) {
        match out.write(rest) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(length) => *written += length,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    out.flush()
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[test]
    fn everything_that_was_sent_is_written_and_the_rest_is_counted() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.jsonl");
        let metrics = Arc::<Metrics>::default();
        let (writer, sink) = Writer::start(&Target::File(path.clone()), Arc::clone(&metrics)).unwrap();
        let mut expected = Vec::new();
        for number in 0..1_000 {
            let line = format!("{number}\n");
            sink.send(line.as_bytes());
            sink.send_lines(b"a command\n", 1);
            expected.extend_from_slice(line.as_bytes());
            expected.extend_from_slice(b"a command\n");
        }
        writer.finish();
        assert_eq!(std::fs::read(&path).unwrap(), expected);
        sink.send(b"too late\n");
        assert_eq!((metrics.audit_events.value(), metrics.audit_dropped.value()), (2_000, 1));
    }

    #[test]
    fn lines_that_cannot_be_written_are_counted() {
        let metrics = Arc::<Metrics>::default();
        let full = Target::File(PathBuf::from("/dev/full"));
        let (writer, sink) = Writer::start(&full, Arc::clone(&metrics)).unwrap();
        sink.send(b"an event\n");
        sink.send_lines(b"a command\nanother\n", 2);
        writer.finish();
        assert_eq!(metrics.audit_dropped.value(), 3);
    }

    /// A disk that is full after so many bytes, and has room again after so many tries.
    struct Disk {
        bytes: Arc<Mutex<Vec<u8>>>,
        room: usize,
        fails: u32,
    }

    impl Write for Disk {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if self.room == 0 && self.fails > 0 {
                self.fails -= 1;
                return Err(io::ErrorKind::StorageFull.into());
            }
            let length = if self.room == 0 { bytes.len() } else { bytes.len().min(self.room) };
            self.room = self.room.saturating_sub(length);
            self.bytes.lock().unwrap().extend_from_slice(&bytes[..length]);
            Ok(length)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_line_that_was_torn_swallows_none_of_those_behind_it() {
        // The disk is full in the middle of a line, at the end of one, and before the first.
        for (room, fails, expected, dropped) in [
            (8, 1, "first\nse\nthird\nfourth\n", 1),
            // The line's end does not fit either: the third is lost, too.
            (8, 2, "first\nse\nfourth\n", 2),
            (6, 1, "first\nthird\nfourth\n", 1),
            (6, 2, "first\nfourth\n", 2),
        ] {
            let bytes = Arc::<Mutex<Vec<u8>>>::default();
            let (queue, metrics) = (Queue::default(), Metrics::default());
            let disk = Disk { bytes: Arc::clone(&bytes), room, fails };
            std::thread::scope(|scope| {
                scope.spawn(|| write_all(&queue, disk, &metrics));
                for batch in ["first\nsecond\n", "third\n", "fourth\n"] {
                    queue.add_commands(batch.as_bytes());
                    while !queue.is_idle() {
                        std::thread::sleep(Duration::from_millis(1));
                    }
                }
                queue.end();
            });
            let bytes = bytes.lock().unwrap();
            assert_eq!(String::from_utf8_lossy(&bytes), expected, "{room} {fails}");
            assert_eq!(metrics.audit_dropped.value(), dropped, "{room} {fails}");
        }
    }
}
