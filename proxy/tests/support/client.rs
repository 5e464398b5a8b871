//! A client that speaks bytes.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use super::{PATIENCE, encoded};

/// A connection with TLS, and what was read of it ahead.
pub struct Client {
    pub stream: TlsStream<TcpStream>,
    seen: Vec<u8>,
}

impl Client {
    pub fn over(stream: TlsStream<TcpStream>) -> Self {
        Self { stream, seen: Vec::new() }
    }

    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).await.unwrap();
        self.stream.flush().await.unwrap();
    }

    /// Reads one line, without its end; empty at the end of the stream.
    pub async fn line(&mut self) -> String {
        tokio::time::timeout(PATIENCE, async {
            loop {
                if let Some(at) = self.seen.windows(2).position(|pair| pair == b"\r\n") {
                    let rest = self.seen.split_off(at + 2);
                    let line = std::mem::replace(&mut self.seen, rest);
                    return String::from_utf8_lossy(&line[..at]).into_owned();
                }
                let mut more = vec![0; 65_536];
                match self.stream.read(&mut more).await {
                    Ok(0) | Err(_) => return String::new(),
                    Ok(n) => self.seen.extend_from_slice(&more[..n]),
                }
            }
        })
        .await
        .expect("no answer in time")
    }

    pub async fn lines(&mut self, count: usize) -> Vec<String> {
        let mut lines = Vec::with_capacity(count);
        for _ in 0..count {
            lines.push(self.line().await);
        }
        lines
    }

    /// Reads one whole reply: `+…`, `-…`, `:…`, a bulk as its text, `(nil)`, `[a b]` for aggregates.
    pub async fn reply(&mut self) -> String {
        let line = self.line().await;
        let (marker, rest) = line.split_at(line.len().min(1));
        match (marker, rest) {
            ("$" | "*", "-1") | ("_", _) => "(nil)".to_owned(),
            ("$" | "=", length) => self.exact(length.parse().unwrap()).await,
            ("*" | "~" | ">" | "%", count) => {
                let count: usize = count.parse().unwrap();
                let mut items = Vec::new();
                for _ in 0..if marker == "%" { 2 * count } else { count } {
                    items.push(Box::pin(self.reply()).await);
                }
                format!("{}[{}]", if marker == ">" { ">" } else { "" }, items.join(" "))
            }
            _ => line,
        }
    }

    /// Reads so many bytes and the end of a line.
    async fn exact(&mut self, length: usize) -> String {
        tokio::time::timeout(PATIENCE, async {
            while self.seen.len() < length + 2 {
                let mut more = vec![0; 65_536];
                match self.stream.read(&mut more).await {
                    Ok(0) | Err(_) => return String::new(),
                    Ok(n) => self.seen.extend_from_slice(&more[..n]),
                }
            }
            let rest = self.seen.split_off(length + 2);
            let mut bytes = std::mem::replace(&mut self.seen, rest);
            bytes.truncate(length);
            String::from_utf8_lossy(&bytes).into_owned()
        })
        .await
        .expect("no answer in time")
    }

    /// Sends a command of these words and reads its whole reply.
    pub async fn command(&mut self, words: &[&str]) -> String {
        self.send(encoded(words)).await;
        self.reply().await
    }

    /// Sends, and reads so many lines.
    pub async fn lines_of(&mut self, bytes: &str, count: usize) -> Vec<String> {
        self.send(bytes).await;
        self.lines(count).await
    }

    /// Sends, and reads a line, also where the other side stops listening halfway.
    pub async fn line_after(&mut self, bytes: &[u8]) -> String {
        let _ = self.stream.write_all(bytes).await;
        let _ = self.stream.flush().await;
        self.line().await
    }

    /// Sends an inline command and reads one line.
    pub async fn ask(&mut self, command: &str) -> String {
        self.send(format!("{command}\r\n")).await;
        self.line().await
    }

    /// Whether the stream ends, with whatever comes before.
    pub async fn rest(&mut self) -> String {
        let read = async {
            let mut rest = std::mem::take(&mut self.seen);
            let _ = self.stream.read_to_end(&mut rest).await;
            String::from_utf8_lossy(&rest).into_owned()
        };
        tokio::time::timeout(PATIENCE, read).await.expect("the stream does not end")
    }
}
