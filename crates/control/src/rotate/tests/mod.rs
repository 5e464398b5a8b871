//! Tests of rotation: histories of failures in virtual time, single failures by name, and the figure.

mod failures;
mod figure;
mod histories;
mod history;
mod ticks;
mod twin;
